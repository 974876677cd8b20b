internal import Leases

/// What is asked of an API server.
enum APIRequest: String, CaseIterable, Comparable {
    case pod, ownNode, list, watch, patch

    static func < (left: APIRequest, right: APIRequest) -> Bool { left.rawValue < right.rawValue }
}

/// When an API server may be asked again after a failure: a pause that grows, with jitter, for each kind of request
/// by itself, and never shorter than the server wants.
struct RequestPauses {
    // 250 ms, 500 ms, … 5 s, each times 0.5 to 1.5: a server that comes back has every node within 8 seconds, and a
    // thousand nodes ask it 200 times a second.
    private static let first = Duration.milliseconds(250)
    private static let longest = Duration.seconds(5)
    /// Where somebody has to change something before the answer is another one.
    private static let longestAfterRefusal = Duration.seconds(30)

    private var failures: [APIRequest: Int] = [:]
    private var pausedUntil: [APIRequest: ContinuousClock.Instant] = [:]

    /// Until when a request is not to be made; nil: it may be made now.
    func end(_ request: APIRequest, now: ContinuousClock.Instant) -> ContinuousClock.Instant? {
        pausedUntil[request].flatMap { $0 > now ? $0 : nil }
    }

    mutating func succeeded(_ request: APIRequest) {
        failures[request] = nil
        pausedUntil[request] = nil
    }

    /// Notes a failure.
    ///
    /// - Returns: how many there were before it, since the last success.
    @discardableResult
    mutating func failed(
        _ request: APIRequest, _ failure: APIFailure, now: ContinuousClock.Instant,
        using random: inout SplitMix64
    ) -> Int {
        let count = failures[request, default: 0]
        failures[request] = count &+ 1
        // The token's file is read anew for each request: it may have been swapped a moment ago.
        if failure.kind == .unauthorized, count == 0 { return count }
        let isRefusal: Bool =
            switch failure.kind {
            case .unauthorized, .forbidden, .notFound, .credentials, .certificate: true
            default: false
            }
        let pause = min(
            isRefusal ? Self.longestAfterRefusal : Self.longest, Self.first * (1 << min(count, 10)))
        let jittered = pause * Double.random(in: 0.5...1.5, using: &random)
        let wanted = failure.retryAfter.map { $0 * Double.random(in: 1...1.25, using: &random) }
        pausedUntil[request] = now + max(jittered, wanted ?? .zero)
        return count
    }
}

/// What may happen often now and then, and seldom for long: five at once, then one each ten seconds.
struct TokenBucket {
    private static let size = 5
    private static let refill = Duration.seconds(10)

    private var tokens = TokenBucket.size
    private var refilled: ContinuousClock.Instant

    init(now: ContinuousClock.Instant) { refilled = now }

    /// Takes a token.
    ///
    /// - Returns: nil where there was one, else when there is one again.
    mutating func take(now: ContinuousClock.Instant) -> ContinuousClock.Instant? {
        while tokens < Self.size, refilled + Self.refill <= now {
            tokens += 1
            refilled += Self.refill
        }
        if tokens == Self.size { refilled = now }
        guard tokens > 0 else { return refilled + Self.refill }
        tokens &-= 1
        return nil
    }

    /// Whether there is none.
    var isEmpty: Bool { tokens == 0 }
}
