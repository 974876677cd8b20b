package import Health

/// How often a store is asked, whatever fails: a budget for all requests together, and a growing pause with
/// jitter after a failure, for each kind of request by itself.
struct RequestPacing {
    /// What a machine asks of a store.
    enum Request: CaseIterable {
        case snapshot, watch, write
    }

    // Four at once, two a second after that: a start takes three (snapshot, watch, create).
    private static let burst = 4
    private static let refill = Duration.milliseconds(500)
    // 250 ms, 500 ms, … 5 s, each times 0.5 to 1.5: a store that comes back has every node within 8 seconds,
    // and a thousand nodes ask it 200 times a second.
    private static let firstPause = Duration.milliseconds(250)
    private static let longestPause = Duration.seconds(5)

    private var tokens = Self.burst
    private var refilled: ContinuousClock.Instant
    private var failures: [Request: Int] = [:]
    private var pausedUntil: [Request: ContinuousClock.Instant] = [:]

    init(now: ContinuousClock.Instant) { refilled = now }

    /// Takes from the budget; nil where the request may go now, else when to ask again.
    mutating func take(_ request: Request, now: ContinuousClock.Instant) -> ContinuousClock.Instant? {
        while tokens < Self.burst, refilled + Self.refill <= now {
            tokens += 1
            refilled += Self.refill
        }
        if tokens == Self.burst { refilled = now }
        if let until = pausedUntil[request], until > now { return until }
        guard tokens > 0 else { return refilled + Self.refill }
        tokens -= 1
        return nil
    }

    mutating func succeeded(_ request: Request) {
        failures[request] = nil
        pausedUntil[request] = nil
    }

    mutating func failed(
        _ request: Request, now: ContinuousClock.Instant, using random: inout SplitMix64
    ) {
        let count = failures[request, default: 0]
        failures[request] = count &+ 1
        let pause = min(Self.longestPause, Self.firstPause * (1 << min(count, 10)))
        pausedUntil[request] = now + pause * Double.random(in: 0.5...1.5, using: &random)
    }
}

/// How often one message is logged, whatever happens: what a store, a link or another node does again and again must
/// not fill a disk.
package struct ReportPacing {
    // Fifty at once (a store with as many broken entries), then one a minute: at most 1,490 lines a day for each
    // event, of which there are some thirty.
    static let burst = 50
    static let refill = Duration.seconds(60)

    private struct Budget {
        var tokens = ReportPacing.burst
        var refilled: ContinuousClock.Instant
        var suppressed = 0
    }

    private var budgets: [EventName: Budget] = [:]

    /// Makes full budgets.
    package init() {}

    /// Takes from an event's budget.
    ///
    /// - Returns: how many were left out since the last one that was not; nil where this one is to be left out.
    package mutating func take(_ event: EventName, now: ContinuousClock.Instant) -> Int? {
        var budget = budgets[event] ?? Budget(refilled: now)
        defer { budgets[event] = budget }
        let periods = (now - budget.refilled) / Self.refill
        if periods >= 1 {
            let whole = min(periods.rounded(.down), Double(Self.burst))
            budget.tokens = min(Self.burst, budget.tokens &+ (Int(exactly: whole) ?? 0))
            budget.refilled = whole < Double(Self.burst) ? budget.refilled + Self.refill * whole : now
        }
        guard budget.tokens > 0 else {
            budget.suppressed += 1
            return nil
        }
        budget.tokens -= 1
        defer { budget.suppressed = 0 }
        return budget.suppressed
    }
}

/// A small generator of random numbers that a test can seed (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", 2014).
package struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
