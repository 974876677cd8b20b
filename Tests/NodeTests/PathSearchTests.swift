import Testing

@testable import Node

/// A path that carries so much one way, with everything else that happens to packets.
struct SimulatedPath {
    /// The largest inner packet that arrives.
    var limit: Int
    /// Whether the peer answers what arrives.
    var answers = true
    var roundTripTime = Duration.milliseconds(1)
    /// The answers that the peer has in stock, and gets one more of each second: `net.ipv4.icmp_ratelimit`.
    var tokens = 6.0
    /// Every so many packets one is lost; 0 for none.
    var losesEvery = 0
    /// So many probes of the first size are lost.
    var losesFirst = 0

    private(set) var sizes: [Int] = []
    private var refilled: ContinuousClock.Instant?

    init(limit: Int, answers: Bool = true) {
        self.limit = limit
        self.answers = answers
    }

    /// Whether the packet of that size is answered.
    mutating func carries(_ size: Int, at now: ContinuousClock.Instant) -> Bool {
        sizes.append(size)
        if losesFirst > 0, size == sizes[0] {
            losesFirst -= 1
            return false
        }
        if let refilled { tokens = min(6, tokens + (now - refilled) / .seconds(1)) }
        refilled = now
        guard answers, size <= limit, tokens >= 1, losesEvery == 0 || sizes.count % losesEvery != 0 else {
            return false
        }
        tokens -= 1
        return true
    }
}

@Suite struct PathSearchTests {
    private let start = ContinuousClock.now

    /// Runs a search to its end; gives whether anything was answered, and how long it took.
    private func run(
        _ search: inout PathSearch, on path: inout SimulatedPath, raises: Bool = false, hint: Int? = nil
    ) -> (isAnswered: Bool, time: Duration) {
        var now = start
        var answers: [(sequence: Int, time: ContinuousClock.Instant)] = []
        search.begin(raises: raises, hint: hint)
        while now < start + .seconds(120) {
            for answer in answers where answer.time <= now {
                search.answered(sequence: answer.sequence, at: answer.time)
            }
            answers.removeAll { $0.time <= now }
            switch search.next(at: now) {
            case .send(let sequence, let size):
                if path.carries(size, at: now) { answers.append((sequence, now + path.roundTripTime)) }
            case .wait(let until):
                now = min(until, answers.map(\.time).min() ?? until)
            case .ended(let isAnswered):
                return (isAnswered, now - start)
            case .idle:
                Issue.record("idle")
                return (false, .zero)
            }
        }
        Issue.record("no end")
        return (false, .zero)
    }

    @Test func aWidePathCostsOneProbe() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1472)
        let isAnswered = run(&search, on: &path).isAnswered
        #expect(isAnswered)
        #expect(search.finding == .full && path.sizes == [1472])
    }

    @Test(arguments: [
        1464, 1452, 1444, 1422, 1392, 1391, 1372, 1371, 1301, 1252, 1172, 972, 600, 524, 480, 100, 40,
    ])
    func aNarrowPathIsMeasured(limit: Int) {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: limit)
        let (isAnswered, time) = run(&search, on: &path)
        #expect(isAnswered)
        guard case .narrow(let size) = search.finding else {
            Issue.record("\(search.finding)")
            return
        }
        #expect(size <= limit && size > limit - PathSizes.resolution)
        #expect(time < .seconds(12))
        #expect(path.sizes.count < 120)
    }

    @Test(arguments: [1472, 2276, 4444, 8944, 8968]) func aJumboPathIsMeasured(limit: Int) {
        var search = PathSearch(fullSize: 8972, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: limit)
        let isAnswered = run(&search, on: &path).isAnswered
        #expect(isAnswered)
        guard case .narrow(let size) = search.finding else {
            Issue.record("\(search.finding)")
            return
        }
        #expect(size <= limit && size > limit - PathSizes.resolution)
    }

    @Test func aTrueHintShortensTheSearch() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1333)
        let (_, time) = run(&search, on: &path, hint: 1333)
        #expect(search.finding == .narrow(1333))
        #expect(time < .seconds(5))
    }

    @Test(arguments: [524, 40, -28, 1400, 1471, 5000]) func aForgedHintChangesNothing(hint: Int) {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1472)
        _ = run(&search, on: &path, hint: hint)
        #expect(search.finding == .full)
        path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path, hint: hint)
        #expect(search.finding == .narrow(1372))
    }

    @Test func aPeerThatAnswersNothingIsNoEvidence() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1472, answers: false)
        var isAnswered = run(&search, on: &path).isAnswered
        #expect(!isAnswered)
        #expect(search.finding == .unknown && path.sizes.count == 5)
        search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path)
        path.answers = false
        isAnswered = run(&search, on: &path).isAnswered
        #expect(!isAnswered)
        #expect(search.finding == .narrow(1372))
    }

    @Test func lossIsNotTakenForNarrowness() {
        for losesEvery in 2...5 {
            var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
            var path = SimulatedPath(limit: 1472)
            path.losesEvery = losesEvery
            for _ in 0..<20 { _ = run(&search, on: &path) }
            #expect(search.finding == .full)
        }
    }

    @Test func threeLossesInARowAreNotBelievedAtOnce() {
        // The three probes of the full size are lost, and nothing after them.
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1472)
        path.losesFirst = 3
        _ = run(&search, on: &path)
        #expect(search.finding == .full && path.sizes.count > 4)
    }

    @Test func slowPathsAreWaitedFor() {
        for milliseconds in [300, 600, 900] {
            var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
            var path = SimulatedPath(limit: 1372)
            path.roundTripTime = .milliseconds(milliseconds)
            let isAnswered = run(&search, on: &path).isAnswered
            #expect(isAnswered)
            guard case .narrow(let size) = search.finding else {
                Issue.record("\(milliseconds) ms: \(search.finding)")
                continue
            }
            #expect(size <= 1372 && size > 1368)
        }
    }

    @Test func aPathThatBecomesWideIsFound() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path)
        // Without the raise timer it is only confirmed, with one probe.
        path = SimulatedPath(limit: 1472)
        _ = run(&search, on: &path)
        #expect(search.finding == .narrow(1372) && path.sizes == [1372])
        path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path, raises: true)
        #expect(search.finding == .narrow(1372) && path.sizes.count < 12)
        path = SimulatedPath(limit: 1422)
        _ = run(&search, on: &path, raises: true)
        #expect(search.finding == .narrow(1422))
        path = SimulatedPath(limit: 1472)
        _ = run(&search, on: &path, raises: true)
        #expect(search.finding == .full)
        // And narrower than it was.
        path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path)
        path = SimulatedPath(limit: 1172)
        _ = run(&search, on: &path, raises: true)
        #expect(search.finding == .narrow(1172))
    }

    @Test func anotherTunnelMTUBeginsAnew() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        var path = SimulatedPath(limit: 1372)
        _ = run(&search, on: &path)
        search.change(fullSize: 1452)
        #expect(search.finding == .narrow(1372))
        search.change(fullSize: 1350)
        #expect(search.finding == .unknown && search.size == 1350)
    }

    @Test func whatIsNoAnswerIsPassedOver() {
        var search = PathSearch(fullSize: 1472, overhead: 28, smallest: 36, timing: PathTiming())
        for sequence in [-1, 0, 5, 63, 64, .max, .min] { search.answered(sequence: sequence, at: start) }
        let step = search.next(at: start)
        #expect(search.finding == .unknown && step == .idle)
    }
}
