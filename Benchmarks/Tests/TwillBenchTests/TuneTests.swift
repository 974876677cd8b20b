import Foundation
import Testing

@testable import twill_bench

private func turn(_ score: Double, otherLoad: Double = 0) -> TuneTurn {
    TuneTurn(score: score, figures: [:], otherLoad: otherLoad)
}

/// Plays a search over one flag: `score` gives what a value comes to in a round, counted from 0.
private func play(
    _ trial: inout TuneTrial, score: (_ value: String?, _ round: Int) -> Double?
) -> [[String]] {
    var asked: [[String]] = []
    while let values = trial.nextValues {
        let round = asked.count
        asked.append(values)
        var byValue: [String: TuneTurn] = [:]
        for value in values {
            if let score = score(value, round) {
                byValue[value] = turn(score)
            } else {
                trial.fail(value, "does not start")
            }
        }
        trial.add(TuneRound(byDefault: turn(score(nil, round)!), byValue: byValue))
    }
    return asked
}

private let batch = TunedFlag(name: "batch", defaultValue: "64", values: ["16", "32"])

@Suite("Tuning search")
struct TuneTests {
    @Test(
        "Better is: in every round, and by more than the rounds lie apart",
        arguments: [
            ([1.10, 1.11, 1.12], true),
            ([1.03, 1.03], true),
            ([1.01, 1.01, 1.01], false),
            ([0.99, 1.20, 1.20], false),
            ([1.01, 1.04, 1.30], false),
            ([1.50], false),
            ([], false),
            ([0.9, 0.9, 0.9], false),
        ])
    func better(_ ratios: [Double], _ isBetter: Bool) {
        #expect(Comparison(ratios: ratios).isBetter == isBetter)
    }

    @Test("A round's scores are divided by the default's of the same round: drift cancels")
    func drift() {
        var trial = TuneTrial(batch, rounds: 3)
        // The machine slows down to a third; 32 is a tenth better throughout.
        let asked = play(&trial) { value, round in
            (value == "32" ? 1.1 : value == "16" ? 0.95 : 1) / (1 + 0.4 * Double(round))
        }
        #expect(asked == Array(repeating: ["16", "32"], count: 3) + Array(repeating: ["32"], count: 3))
        #expect(trial.chosen == "32")
        #expect(trial.comparison("32").ratios.count == 6)
        #expect(trial.comparison("32").text == "×1.10 ±0.00")
        #expect(trial.comparison("16").text == "×0.95 ±0.00")
    }

    @Test("The best of several that are better is confirmed and chosen")
    func best() {
        var trial = TuneTrial(batch, rounds: 2)
        let asked = play(&trial) { value, _ in ["16": 1.2, "32": 1.1][value ?? ""] ?? 1 }
        #expect(asked.last == ["16"])
        #expect(trial.chosen == "16")
    }

    @Test("What looks better once and not again is not chosen")
    func luck() {
        var trial = TuneTrial(batch, rounds: 3)
        let asked = play(&trial) { value, round in value == "32" && round < 3 ? 1.1 : 1 }
        #expect(asked.count == 6)
        #expect(trial.chosen == nil)
    }

    @Test("Nothing better: no round is spent on confirming")
    func defaultStays() {
        var trial = TuneTrial(batch, rounds: 3)
        let asked = play(&trial) { value, _ in value == nil ? 1 : 0.9 }
        #expect(asked.count == 3)
        #expect(trial.chosen == nil)
    }

    @Test("A value that fails is not measured again, and the others go on")
    func failing() {
        var trial = TuneTrial(batch, rounds: 2)
        let asked = play(&trial) { value, round in value == "16" && round == 1 ? nil : value == nil ? 1 : 1.2
        }
        #expect(asked == [["16", "32"], ["16", "32"], ["32"], ["32"]])
        #expect(trial.failures == ["16": "does not start"])
        #expect(trial.chosen == "32")
    }

    @Test("A disturbed round is measured anew, but not for ever")
    func disturbed() {
        var trial = TuneTrial(batch, rounds: 2)
        for _ in 0..<4 {
            #expect(trial.nextValues == ["16", "32"])
            trial.add(
                TuneRound(
                    byDefault: turn(1), byValue: ["16": turn(1), "32": turn(1, otherLoad: 0.5)]))
        }
        #expect(trial.repeatedRounds == 2)
        #expect(trial.nextValues == nil)
    }

    @Test("A flag none of whose values works is done")
    func allFail() {
        var trial = TuneTrial(batch, rounds: 3)
        #expect(play(&trial) { value, _ in value == nil ? 1 : nil }.count == 1)
        #expect(trial.chosen == nil)
        #expect(trial.turnsLeft == 0)
    }

    @Test("Latency scores by how little it is, and what got nothing across has no score")
    func scores() {
        let metrics = ["rtt.p50", "rtt.p99", "rtt-bulk.p50", "rtt-bulk.p99"].map {
            Metric(name: $0, title: $0, unit: "µs", moreIsBetter: false, isHeadline: false, decimals: 0)
        }
        func score(_ figure: Double) -> Double? {
            TuneGoal.latency.score(
                Dictionary(uniqueKeysWithValues: metrics.map { ($0.name, figure) }), of: metrics)
        }
        #expect(abs(score(50)! / score(100)! - 2) < 1e-9)
        #expect(score(.infinity) == nil)
        #expect(TuneGoal.latency.score(["rtt.p50": 50], of: metrics) == nil)
    }

    @Test("Every goal scores metrics that its measurements yield", arguments: TuneGoal.allCases)
    func goals(_ goal: TuneGoal) {
        #expect(goal.measurements.count == goal.measurementNames.count)
        let names = goal.measurements.flatMap(\.metrics).map(\.name)
        #expect(Set(goal.scoredMetricNames).isSubset(of: names))
    }

    @Test("Values to try leave out the default, and flags that the daemon does not have")
    func flags() {
        let flags = TunedFlag.all(
            defaults: ["workers": "1", "udp-gso": "true", "mtu": "1472"], processors: 4)
        #expect(
            flags == [
                TunedFlag(name: "workers", defaultValue: "1", values: ["2", "4"]),
                TunedFlag(name: "udp-gso", defaultValue: "true", values: ["false"]),
            ])
    }
}

@Suite("Tuning report")
struct TuneReportTests {
    private static let machine = Machine(
        date: .now, kernel: "6.18.0", processor: "AMD EPYC", processors: 2, memoryGiB: 24, loadBefore: 0,
        commit: "abc", virtualization: nil)

    /// A search that found `batch = 32`; the found set comes to `together` in each of its rounds.
    private static func record(together: [Double]) -> TuneRecord {
        var record = TuneRecord(
            machine: machine,
            settings: TuneRecord.Settings(
                goal: .throughput, underlay: .plain, seconds: 1, rounds: 2, twilld: "/twilld", flags: [batch])
        )
        _ = play(&record.trials[0]) { value, _ in value == "32" ? 1.1 : 1 }
        for score in together {
            record.addTogether(
                TuneRound(byDefault: turn(1), byValue: [TuneRecord.foundKey: turn(score)]))
        }
        return record
    }

    /// The lines that a daemon acts on.
    private static func settings(_ record: TuneRecord) -> [Substring] {
        TuneReport(record: record).configuration().split(separator: "\n").filter { !$0.hasPrefix("#") }
    }

    @Test("The file sets what was found and proved itself as a whole")
    func proven() {
        let record = TuneReportTests.record(together: [1.1, 1.1, 1.1, 1.1])
        #expect(record.isComplete)
        #expect(TuneReportTests.settings(record) == ["batch = 32"])
        #expect(TuneReport(record: record).configuration().contains("# ×1.10 ±0.00 of the default, 64\n"))
    }

    @Test("What is no better as a whole is there as a comment")
    func unproven() {
        for together in [[1.1, 0.9, 1.1, 1.1], [1.0, 1.0, 1.0, 1.0], []] {
            let record = TuneReportTests.record(together: together)
            #expect(TuneReportTests.settings(record) == [])
            #expect(TuneReport(record: record).configuration().contains("\n# batch = 32\n"))
        }
    }

    @Test("A search reads back as it was written, and knows what is left")
    func resumes() throws {
        let record = TuneReportTests.record(together: [1.1])
        let path = NSTemporaryDirectory() + "twill-bench-tests-\(getpid()).json"
        defer { unlink(path) }
        try record.write(to: path)
        let read = try TuneRecord(path: path)
        #expect(read.settings == record.settings)
        #expect(read.together == record.together)
        #expect(read.found.map(\.value) == ["32"])
        #expect(!read.isComplete)
        #expect(read.turnsLeft == 6)
    }
}
