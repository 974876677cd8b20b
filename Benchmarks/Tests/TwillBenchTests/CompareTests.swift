import Foundation
import Testing

@testable import twill_bench

/// Figures drawn from a seed.
struct SeededNoise {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    /// In 0 to 1, without 0.
    mutating func uniform() -> Double {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        var bits = state
        bits = (bits ^ bits >> 33) &* 0xFF51_AFD7_ED55_8CCD
        return (Double((bits ^ bits >> 33) >> 11) + 1) / 9_007_199_254_740_994
    }

    mutating func normal() -> Double { (-2 * log(uniform())).squareRoot() * cos(2 * .pi * uniform()) }

    /// How the rounds of one program differ: as logarithms.
    enum Shape: CaseIterable, Sendable {
        case even
        /// One round of ten is disturbed, and far off.
        case disturbed
        /// The program runs in one of two ways, as the scheduler places it.
        case twoWays
    }

    mutating func next(_ shape: Shape) -> Double {
        switch shape {
        case .even: normal() * 0.06
        case .disturbed: normal() * 0.04 + (uniform() < 0.1 ? -0.6 * uniform() : 0)
        case .twoWays: (uniform() < 0.5 ? 0.08 : -0.08) + normal() * 0.01
        }
    }
}

/// A run of nothing, with as many figures as a real one has.
enum SyntheticRun {
    static let candidates =
        [Candidate.veth, .vxlan] + ["twill", "baseline"].map { Candidate(name: $0, start: ["x"]) }
    static let metrics = Measurement.all(streams: [1, 4]).filter {
        Measurement.usual(streams: [1, 4]).contains($0.name)
    }.flatMap(\.metrics)
    static let machine = Machine(
        date: .init(timeIntervalSince1970: 0), kernel: "6.18.0", processor: "AMD EPYC", processors: 2,
        memoryGiB: 24, loadBefore: 0, commit: "abc", virtualization: nil)

    /// - Parameters:
    ///   - slowdown: what `twill` loses, as a share: of what more is better of it has so much less.
    ///   - change: changes a figure of `twill` further.
    static func results(
        rounds: Int, _ noise: inout SeededNoise, shape: SeededNoise.Shape = .even, slowdown: Double = 0,
        change: (Metric, Double) -> Double = { $1 }
    ) -> Results {
        var results = Results(
            machine: machine,
            settings: Results.Settings(
                underlays: Underlay.allCases, nodes: 2, mtu: 1500, isPinned: false, seconds: 1,
                rounds: rounds,
                twilldFlags: [], commandLine: []),
            candidates: candidates, metrics: metrics)
        results.othersProcessors = 0.02
        for underlay in Underlay.allCases {
            for round in 1...rounds {
                // The machine is now faster, now slower, for everybody alike.
                let hour = noise.normal() * 0.2
                for candidate in candidates {
                    for metric in metrics {
                        var value = 100 * exp(noise.next(shape) + (metric.moreIsBetter ? hour : -hour))
                        if metric.isCounted {
                            value = metric.quantity == "user" ? 0 : 2.04 * (1 + 0.002 * noise.normal())
                        }
                        if candidate.name == "twill" {
                            if !metric.isCounted {
                                value *= metric.moreIsBetter ? 1 - slowdown : 1 / (1 - slowdown)
                            }
                            value = change(metric, value)
                        }
                        results.samples.append(
                            Sample(
                                underlay: underlay, round: round, candidate: candidate.name,
                                metric: metric.name,
                                value: value))
                    }
                }
            }
        }
        return results
    }
}

@Suite("How compare judges")
struct JudgementTests {
    private static let comparisons = 120

    @Test(
        "Two runs of one program are told apart once in twenty comparisons, at most",
        arguments: SeededNoise.Shape.allCases, [3, 5])
    func falseAlarms(_ shape: SeededNoise.Shape, _ rounds: Int) {
        var noise = SeededNoise(seed: UInt64(rounds))
        var alarms = 0
        for _ in 0..<Self.comparisons {
            let old = SyntheticRun.results(rounds: rounds, &noise, shape: shape)
            let new = SyntheticRun.results(rounds: rounds, &noise, shape: shape)
            let rows = Judgement(from: old, to: new, reference: "vxlan").rows
            #expect(rows.count > 40)
            if rows.contains(where: { $0.verdict != .level }) { alarms += 1 }
        }
        // The seed is fixed, and so is the number; a rule that holds one in twenty has more than this once in a
        // thousand.
        #expect(alarms <= Self.comparisons / 8)
    }

    @Test("A slowdown is found", arguments: [(5, 0.4), (7, 0.25)])
    func power(_ rounds: Int, _ slowdown: Double) {
        var noise = SeededNoise(seed: 7)
        var found = 0
        for _ in 0..<40 {
            let old = SyntheticRun.results(rounds: rounds, &noise)
            let new = SyntheticRun.results(rounds: rounds, &noise, slowdown: slowdown)
            let rows = Judgement(from: old, to: new, reference: "vxlan").rows
            #expect(!rows.contains { $0.verdict == .better })
            if rows.contains(where: { $0.verdict == .worse && $0.candidate == "twill" }) { found += 1 }
        }
        #expect(found >= 38)
    }

    @Test("One more copy is found with three rounds, and nothing else is said")
    func copy() throws {
        var noise = SeededNoise(seed: 3)
        let old = SyntheticRun.results(rounds: 3, &noise)
        let new = SyntheticRun.results(rounds: 3, &noise) { metric, value in
            metric.name == "copies.user" ? 0.5 : value
        }
        let told = Judgement(from: old, to: new, reference: "vxlan").rows.filter { $0.verdict != .level }
        #expect(Set(told.map(\.metric.name)) == ["copies.user"])
        #expect(told.count == Underlay.allCases.count)
        #expect(told.allSatisfy { $0.verdict == .worse && !$0.change.isShare && $0.candidate == "twill" })
    }

    @Test("What is better is told by the metric's good direction")
    func direction() {
        var noise = SeededNoise(seed: 4)
        let old = SyntheticRun.results(rounds: 7, &noise, slowdown: 0.5)
        let new = SyntheticRun.results(rounds: 7, &noise)
        let told = Judgement(from: old, to: new, reference: "vxlan").rows.filter { $0.verdict != .level }
        #expect(
            told.contains { $0.metric.quantity == "throughput" }
                && told.contains { $0.metric.quantity == "p50" })
        #expect(told.allSatisfy { $0.verdict == .better })
    }

    @Test("A machine that is slower for everybody has changed nothing")
    func slowMachine() {
        var noise = SeededNoise(seed: 5)
        let old = SyntheticRun.results(rounds: 5, &noise)
        var new = SyntheticRun.results(rounds: 5, &noise)
        new.samples = new.samples.map { sample in
            let metric = new.metrics.first { $0.name == sample.metric }!
            guard !metric.isCounted else { return sample }
            return Sample(
                underlay: sample.underlay, round: sample.round, candidate: sample.candidate,
                metric: sample.metric,
                value: metric.moreIsBetter ? sample.value / 3 : sample.value * 3)
        }
        #expect(Judgement(from: old, to: new, reference: "vxlan").rows.allSatisfy { $0.verdict == .level })
        #expect(Judgement(from: old, to: new, reference: "none").rows.contains { $0.verdict == .worse })
    }

    @Test("What says why, and not how good, is not judged")
    func judged() {
        for name in ["udp-64.limit", "copies.difference", "tcp-1.wake-ups", "rtt.max", "copies.own"] {
            #expect(!(SyntheticRun.metrics.first { $0.name == name }?.isJudged ?? true), "\(name)")
        }
        for name in ["tcp-1.throughput", "rtt.p99", "copies.user", "udp-64-lossless.delivered"] {
            #expect(SyntheticRun.metrics.first { $0.name == name }?.isJudged ?? false, "\(name)")
        }
    }

    @Test(
        "Student's t has the tails of the tables",
        arguments: [
            (1, 12.706, 0.05), (2, 4.303, 0.05), (3, 3.182, 0.05), (4, 8.610, 0.001), (7, 2.365, 0.05),
            (8, 5.041, 0.001), (30, 2.750, 0.01),
        ])
    func tails(_ degrees: Int, _ value: Double, _ probability: Double) {
        let distribution = StudentDistribution(degreesOfFreedom: degrees)
        #expect(abs(distribution.tailProbability(value) / probability - 1) < 0.002)
        #expect(abs(distribution.bound(containing: 1 - probability) / value - 1) < 0.002)
        #expect(distribution.tailProbability(0) == 1)
    }

    @Test(
        "The interval of a median: all rounds up to five, 95 % by the order of six and more",
        arguments: [
            (2, 0, 1, 0.5), (3, 0, 2, 0.75), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (9, 1, 7, 0.9609375),
        ])
    func interval(_ count: Int, _ low: Int, _ high: Int, _ probability: Double) throws {
        let interval = try #require((0..<count).map(Double.init).medianInterval)
        #expect(interval.low == Double(low) && interval.high == Double(high))
        #expect(abs(interval.probability - probability) < 1e-9)
        #expect([1.0].medianInterval == nil)
        #expect([1.0].spread == nil)
    }
}

@Suite("What compare says")
struct CompareReportTests {
    private static func runs(rounds: Int, slowdown: Double = 0) -> (Results, Results) {
        var noise = SeededNoise(seed: 11)
        return (
            SyntheticRun.results(rounds: rounds, &noise),
            SyntheticRun.results(rounds: rounds, &noise, slowdown: slowdown)
        )
    }

    private static func report(_ runs: (Results, Results), despiteLoad: Bool = false) -> CompareReport {
        CompareReport(runs.0, runs.1, reference: "vxlan", despiteLoad: despiteLoad)
    }

    @Test("Fewer than three rounds are not judged, whatever is asked for")
    func fewRounds() {
        let report = Self.report(Self.runs(rounds: 1, slowdown: 0.9), despiteLoad: true)
        #expect(!report.isJudged && !report.isWorse)
        let text = report.text(width: 80)
        #expect(text.contains("1 round:"))
        #expect(text.contains("--repeats 5"))
        #expect(!text.contains("WORSE"))
    }

    @Test("A machine that others used is not judged, unless it is asked for")
    func load() {
        var runs = Self.runs(rounds: 5, slowdown: 0.6)
        runs.1.othersProcessors = 0.7
        #expect(!Self.report(runs).isJudged)
        #expect(Self.report(runs).text(width: 200).contains("other programs had 0.70 processors"))
        let asked = Self.report(runs, despiteLoad: true)
        #expect(asked.isJudged && asked.isWorse)
        #expect(asked.text(width: 200).contains("! In the newer run other programs had 0.70"))
    }

    @Test("A file from before others' load was noted is judged by the load before its run")
    func oldFile() {
        var runs = Self.runs(rounds: 3)
        runs.0.othersProcessors = nil
        #expect(Self.report(runs).isJudged)
        runs.0.stolenShare = 0.2
        #expect(!Self.report(runs).isJudged)
        #expect(Self.report(runs).text(width: 200).contains("the host took 20 %"))
    }

    @Test("Runs with another MTU or halt polling are not judged; another kernel is said")
    func conditions() {
        var runs = Self.runs(rounds: 3)
        runs.1.settings.mtu = 9000
        #expect(!Self.report(runs).isJudged)
        #expect(Self.report(runs).text(width: 200).contains("differ in the MTU: 1500, then 9000"))
        runs = Self.runs(rounds: 3)
        runs.0.machine.haltPollNanoseconds = 0
        runs.1.machine.haltPollNanoseconds = 200_000
        #expect(!Self.report(runs).isJudged)
    }

    @Test("Every row has a name and a unit, none says inf, and a sentence sums up", arguments: [60, 80, 120])
    func rows(_ width: Int) {
        let report = Self.report(Self.runs(rounds: 7, slowdown: 0.5))
        let text = report.text(width: width)
        #expect(report.isWorse)
        #expect(text.contains("TCP 1, Gbit/s"))
        #expect(text.contains("figures got WORSE, none got better"))
        #expect(!text.contains("inf") && !text.contains("nan"))
        // A first column with its second may be wider than a narrow terminal; sentences never are.
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= max(width, 80) })
    }

    @Test("Nothing changed: no row, a sentence")
    func nothing() {
        let report = Self.report(Self.runs(rounds: 5))
        #expect(report.isJudged && !report.isWorse)
        #expect(report.text(width: 80).contains("Nothing got better or worse: none of"))
        #expect(!report.text(width: 80).contains("WORSE"))
    }

    @Test("A file that cannot be read is named in plain words")
    func unreadable() throws {
        let folder = NSTemporaryDirectory() + "twill-bench-tests-\(getpid())-files"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        func words(_ text: String?) -> String {
            if let text { try? Data(text.utf8).write(to: URL(fileURLWithPath: folder + "/results.json")) }
            do {
                _ = try Results(path: text == nil ? folder + "/nope" : folder)
                return "read"
            } catch {
                return "\(error)"
            }
        }
        #expect(words(nil) == "\(folder)/nope/results.json: No such file or directory")
        #expect(words("{").hasSuffix("results.json is no results.json of twill-bench: it is not JSON"))
        #expect(words("{}").hasSuffix("\"format\" is missing"))
        #expect(words(#"{"format":"x"}"#).hasSuffix("a value of another kind is expected at format"))
    }
}
