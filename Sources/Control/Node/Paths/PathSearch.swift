// How large an inner packet reaches one peer, found out by sending some (RFC 8899, "packetization layer path MTU
// discovery for datagram transports"). A probe is a UDP datagram to a port of the peer's tunnel address that nobody
// listens on; the peer's kernel answers with ICMP, which proves that the whole of it arrived.
//
//   confirm ─ the size in use arrives ──────────────────────────────────► it stays
//      │  ├─ only small ones do ─► search ─► … ─► verify ─ still too much ─► narrow: the largest that arrived
//      │  └─ nothing does ────────────────────► no evidence: it stays      └ arrives ─► full
//   raise (a narrow path, some minutes later) ─ more arrives ─► full, or search above it

/// The times of probing.
public struct PathTiming: Sendable {
    /// How long an answer is waited for before any was seen.
    public var firstTimeout = Duration.milliseconds(500)
    /// The range of that wait once the round-trip time is known: three of them. The least covers what a busy peer
    /// takes.
    public var timeouts = Duration.milliseconds(250)...Duration.seconds(2)
    /// Between two probes to one peer, so that the answer to a larger one spares the smaller ones: Linux sends one
    /// ICMP error a second to one address, six at first (`net.ipv4.icmp_ratelimit`).
    public var spacing = Duration.milliseconds(20)
    /// How often each size is tried before it counts as too large: MAX_PROBES of RFC 8899.
    public var attempts = 3
    /// How often the path to a peer that packets go to is looked at. A path that became narrower in silence is found
    /// after so long at worst; a probe a minute is 0.2 kbit/s.
    public var confirmInterval = Duration.seconds(60)
    /// How long after a path was found narrow it is asked whether it became wider (PMTU_RAISE_TIMER): pods' kernels
    /// keep what they were told for ten minutes, so that asking more often than in half of that would gain nothing.
    public var raiseInterval = Duration.seconds(300)
    /// How long a peer may be sent to and not heard before it is asked whether it is there.
    public var unheardLimit = Duration.seconds(10)

    /// The usual times.
    public init() {}

    /// The times for `--path-probe-interval`: the raise timer is five of it.
    public init(confirmInterval: Duration) {
        self.confirmInterval = confirmInterval
        raiseInterval = confirmInterval * 5
    }
}

/// The search on one path: no socket and no clock in it, only what is sent, answered and what time it is.
///
/// All sizes are inner packets' in bytes.
struct PathSearch: Sendable {
    /// What is known.
    enum Finding: Sendable, Hashable {
        /// Nothing: the full size is used.
        case unknown
        /// The full size arrives.
        case full
        /// So much arrives, and no more.
        case narrow(Int)
    }

    /// What to do now.
    enum Step: Sendable, Hashable {
        /// Nothing is looked for.
        case idle
        /// Send a probe; `sequence` is 0 to 63 and names it.
        case send(sequence: Int, size: Int)
        /// Ask again then.
        case wait(until: ContinuousClock.Instant)
        /// It is over; `isAnswered` says whether anything came back at all.
        case ended(isAnswered: Bool)
    }

    /// So many of the last probes are known again when their answer comes.
    static let sequences = 64

    private enum Purpose {
        case confirm
        case raise
        case search(floor: Int, ceiling: Int)
        case verify(floor: Int)
    }

    /// Several sizes, each tried up to `PathTiming.attempts` times.
    private struct Round {
        var purpose: Purpose
        /// The largest first.
        var sizes: [Int]
        /// Sizes up to this one only show that the peer answers at all: they wait for the second attempt.
        var controlLimit: Int
        /// The largest of `sizes` that arrived; 0 for none.
        var best = 0
        var attempt = 0
        /// The place in `sizes` of the next to send in this attempt.
        var next = 0
    }

    private struct Sent {
        var size: Int
        var time: ContinuousClock.Instant
    }

    private let timing: PathTiming
    private let overhead: Int
    private let smallest: Int
    private(set) var finding = Finding.unknown
    /// The largest that is ever used.
    private(set) var fullSize: Int
    private var hint: Int?
    private var round: Round?
    private var sent: [Sent?] = Array(repeating: nil, count: PathSearch.sequences)
    private var sequence = 0
    private var lastSent: ContinuousClock.Instant?
    private var roundTripTime: Duration?

    /// Begins with nothing known.
    ///
    /// - Parameters:
    ///   - fullSize: the largest inner packet that is used, in bytes.
    ///   - overhead: the bytes that the outer headers of a packet take.
    ///   - smallest: the smallest probe.
    ///   - found: the size that somebody else has found, and that is less than the full one; nil for none.
    init(fullSize: Int, overhead: Int, smallest: Int, timing: PathTiming, found: Int? = nil) {
        if let found, found < fullSize { finding = .narrow(found) }
        self.overhead = overhead
        self.smallest = smallest
        self.fullSize = fullSize
        self.timing = timing
    }

    var isBusy: Bool { round != nil }

    /// The largest that is used now.
    var size: Int {
        if case .narrow(let size) = finding { return size }
        return fullSize
    }

    /// Uses another full size from here on. What was found stays where it is less.
    mutating func change(fullSize: Int) {
        guard fullSize != self.fullSize else { return }
        self.fullSize = fullSize
        round = nil
        if case .narrow(let size) = finding, size < fullSize { return }
        finding = .unknown
    }

    /// Begins to look, unless it does already.
    ///
    /// - Parameters:
    ///   - raises: whether a narrow path is asked for more than it had.
    ///   - hint: what an ICMP error told.
    mutating func begin(raises: Bool, hint: Int?) {
        guard round == nil else { return }
        self.hint = hint
        guard raises, case .narrow(let size) = finding else {
            return start(.confirm, [self.size, smallest], controlLimit: smallest)
        }
        start(
            .raise,
            [fullSize] + [size + PathSizes.resolution, size, smallest].filter { $0 < fullSize },
            controlLimit: size)
    }

    /// Gives up what is under way: probes cannot be sent.
    mutating func abandon() { round = nil }

    private mutating func start(_ purpose: Purpose, _ sizes: [Int], controlLimit: Int) {
        round = Round(purpose: purpose, sizes: sizes, controlLimit: controlLimit)
    }

    /// Takes an answer: the probe of that sequence has arrived as a whole. Late ones count: what passed, passes.
    mutating func answered(sequence: Int, at now: ContinuousClock.Instant) {
        guard sent.indices.contains(sequence), let probe = sent[sequence] else { return }
        sent[sequence] = nil
        roundTripTime = now - probe.time
        guard var round else {
            if probe.size >= fullSize { finding = .full }
            return
        }
        round.best = max(round.best, round.sizes.first { $0 <= probe.size } ?? 0)
        self.round = round
    }

    /// Says what to do now. To be asked again after each step but `idle` and `ended`, which ends it.
    mutating func next(at now: ContinuousClock.Instant) -> Step {
        while var round {
            if round.best == round.sizes.first {
                if let step = conclude(round) { return step }
                continue
            }
            // What is smaller than what arrived needs no probe of its own.
            if round.next < round.sizes.count, round.sizes[round.next] > round.best,
                round.attempt > 0 || round.sizes[round.next] > round.controlLimit
            {
                if let lastSent, now < lastSent + timing.spacing {
                    return .wait(until: lastSent + timing.spacing)
                }
                let size = round.sizes[round.next]
                round.next += 1
                self.round = round
                return send(size, at: now)
            }
            let end = (lastSent ?? now) + timeout
            if now < end { return .wait(until: end) }
            round.attempt += 1
            round.next = 0
            self.round = round
            if round.attempt >= timing.attempts, let step = conclude(round) { return step }
        }
        return .idle
    }

    private var timeout: Duration {
        guard let roundTripTime else { return timing.firstTimeout }
        return min(max(roundTripTime * 3, timing.timeouts.lowerBound), timing.timeouts.upperBound)
    }

    private mutating func send(_ size: Int, at now: ContinuousClock.Instant) -> Step {
        sequence = (sequence + 1) % PathSearch.sequences
        sent[sequence] = Sent(size: size, time: now)
        lastSent = now
        return .send(sequence: sequence, size: size)
    }

    /// Draws the conclusion of a round, and begins the next or ends.
    private mutating func conclude(_ round: Round) -> Step? {
        self.round = nil
        guard round.best > 0 else { return .ended(isAnswered: false) }
        let isWhole = round.best == round.sizes.first
        switch round.purpose {
        case .confirm:
            if !isWhole { return search(above: round.best, below: size) }
            if finding == .unknown { finding = .full }
        case .raise:
            if isWhole {
                finding = .full
            } else if round.best > size {
                return search(above: round.best, below: fullSize)
            } else if round.best < size {
                return search(above: round.best, below: size)
            }
        case .search(_, let ceiling):
            let tooLarge = round.sizes.last { $0 > round.best } ?? ceiling
            return search(above: round.best, below: tooLarge)
        case .verify(let floor):
            finding = isWhole ? .full : .narrow(floor)
        }
        return .ended(isAnswered: true)
    }

    private mutating func search(above floor: Int, below ceiling: Int) -> Step? {
        let sizes = PathSizes.candidates(above: floor, below: ceiling, overhead: overhead, hint: hint)
        if sizes.isEmpty {
            // Three losses in a row can be chance, on a path full of traffic. Before it costs anything: once more.
            start(.verify(floor: floor), [fullSize, floor], controlLimit: floor)
        } else {
            start(.search(floor: floor, ceiling: ceiling), sizes + [floor], controlLimit: floor)
        }
        return nil
    }
}
