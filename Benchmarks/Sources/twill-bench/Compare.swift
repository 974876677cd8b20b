import ArgumentParser
import Foundation
import TextTable

/// What got better or worse between two runs.
struct Compare: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says what got better or worse from one run to another, beyond the spread of both.",
        discussion: "Exits with status 1 where something got worse.")

    @Argument(help: "results.json of the older run, or its folder.")
    var old: String

    @Argument(help: "results.json of the newer run, or its folder.")
    var new: String

    func run() throws {
        let changes = Change.all(from: try Results(path: old), to: try Results(path: new))
        guard !changes.isEmpty else {
            print("nothing differs by more than the spread of both runs")
            return
        }
        let table = TextTable<Change> { change in
            [
                Column(title: "", value: change.isBetter ? "better" : "WORSE"),
                Column(title: "underlay", value: change.underlay),
                Column(title: "candidate", value: change.candidate),
                Column(title: "metric", value: change.metric.title),
                Column(title: "old", value: change.metric.format(change.old), align: .right),
                Column(title: "new", value: change.metric.format(change.new), align: .right),
                Column(title: "", value: String(format: "%+.0f %%", change.share * 100), align: .right),
            ]
        }
        print(table.string(for: changes, style: Style.simple) ?? "")
        if changes.contains(where: { !$0.isBetter }) { throw ExitCode(1) }
    }
}

/// A metric of a candidate whose rounds lie apart in the two runs.
struct Change {
    let underlay: Underlay
    let candidate: String
    let metric: Metric
    let old: Double
    let new: Double

    /// The change as a share of the old median.
    var share: Double { (new - old) / abs(old) }
    var isBetter: Bool { (new > old) == metric.moreIsBetter }

    /// Smaller changes say nothing even where the rounds do not overlap: two runs are minutes or days apart.
    static let leastShare = 0.05

    /// The changes beyond the spread: every round of one run lies above every round of the other, and the medians
    /// lie `leastShare` apart. A metric that got its unit from zero counts as changed.
    static func all(from old: Results, to new: Results) -> [Change] {
        var changes: [Change] = []
        for underlay in new.settings.underlays {
            for metric in new.metrics where old.metrics.contains(metric) {
                for candidate in new.candidates.map(\.name) {
                    let before = old.values(metric, candidate, underlay).filter(\.isFinite)
                    let after = new.values(metric, candidate, underlay).filter(\.isFinite)
                    guard let oldMedian = before.median, let newMedian = after.median,
                        after.min()! > before.max()! || after.max()! < before.min()!
                    else { continue }
                    let change = Change(
                        underlay: underlay, candidate: candidate, metric: metric, old: oldMedian,
                        new: newMedian)
                    if abs(newMedian - oldMedian) > leastShare * abs(oldMedian) { changes.append(change) }
                }
            }
        }
        return changes
    }
}

extension Results {
    /// Reads `results.json`, or that of a folder.
    init(path: String) throws {
        let file = path.hasSuffix(".json") ? path : path + "/results.json"
        do {
            self = try Results.decoder.decode(
                Results.self, from: Data(contentsOf: URL(fileURLWithPath: file)))
        } catch {
            throw CommandError(description: "\(file): \(error)")
        }
        guard format == Results.currentFormat else {
            throw CommandError(
                description: "\(file) has format \(format), this twill-bench reads \(Results.currentFormat)")
        }
    }

    private static let decoder: JSONDecoder = {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        return decoder
    }()

    /// Writes `results.json`, `report.md` and `report.html` into a folder of its own and returns the folder.
    func write(under parent: String, reference: String) throws -> String {
        let formatter = DateFormatter()
        formatter.dateFormat = "yyyy-MM-dd-HHmmss"
        let folder = "\(parent)/\(formatter.string(from: machine.date))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        encoder.dateEncodingStrategy = .iso8601
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        let summary = Summary(results: self, reference: reference)
        func write(_ data: Data, _ name: String) throws {
            try data.write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
        }
        try write(encoder.encode(self), "results.json")
        try write(Data(MarkdownReport(summary: summary).text.utf8), "report.md")
        try write(Data(HTMLReport(summary: summary).text.utf8), "report.html")
        return folder
    }
}
