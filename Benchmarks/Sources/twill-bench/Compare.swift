import ArgumentParser
import Foundation

/// What got better or worse between two runs.
struct Compare: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says what got better or worse from one run to another, beyond what chance does.",
        discussion: """
            Both runs need three rounds or more (five find smaller changes), and a machine that nobody else used. A \
            figure is judged as its ratio to the reference of the same round; a change is told where it is certainly \
            greater than 5 %, and of two runs of one \
            program anything at all is told once in twenty comparisons (docs/adr/0086).

            Exit status: 0 nothing got worse, 1 something did, 2 no judgement: a file cannot be read, or the runs \
            cannot be compared.
            """)

    @Argument(help: "results.json of the older run, or its folder.")
    var old: String

    @Argument(help: "results.json of the newer run, or its folder.")
    var new: String

    @Option(help: ArgumentHelp("The candidate that ratios are taken to.", valueName: "candidate"))
    var reference = "vxlan"

    @Flag(help: "Judge although others used the machine: slower hours may look like slower programs.")
    var despiteLoad = false

    /// 1 says that something got worse.
    private static let failureStatus: Int32 = 2

    func run() throws {
        let (before, after): (Results, Results)
        do {
            (before, after) = (try Results(path: old), try Results(path: new))
        } catch {
            ProgressLine.note("Error: \(error)")
            throw ExitCode(Self.failureStatus)
        }
        let report = CompareReport(before, after, reference: reference, despiteLoad: despiteLoad)
        let text = report.text(width: Terminal.width)
        print(Terminal.isColoured ? Terminal.coloured(text) : text)
        guard report.isJudged else { throw ExitCode(Self.failureStatus) }
        if report.isWorse { throw ExitCode(1) }
    }
}

/// What a comparison says.
struct CompareReport {
    private let before: Results
    private let after: Results
    private let comparability: Comparability
    private let despiteLoad: Bool
    private let judgement: Judgement?
    private let reference: String

    init(_ before: Results, _ after: Results, reference: String, despiteLoad: Bool) {
        self.before = before
        self.after = after
        self.reference = reference
        self.despiteLoad = despiteLoad
        comparability = Comparability(before, after)
        let isComparable =
            comparability.obstacles.isEmpty && (despiteLoad || comparability.loads.isEmpty)
        judgement = isComparable ? Judgement(from: before, to: after, reference: reference) : nil
    }

    /// Whether anything could be said.
    var isJudged: Bool { judgement.map { !$0.rows.isEmpty } ?? false }
    var isWorse: Bool { judgement?.rows.contains { $0.verdict == .worse } ?? false }

    func text(width: Int) -> String {
        let obstacles =
            comparability.obstacles + (despiteLoad ? [] : comparability.loads)
        let cautions = comparability.cautions + (despiteLoad ? comparability.loads : [])
        var lines = ["old: \(Self.name(before))", "new: \(Self.name(after))"]
        lines += (obstacles + cautions).flatMap { Terminal.fold("! \($0)", width: width, indent: 2) }
        guard let judgement, !judgement.rows.isEmpty else {
            let reason =
                obstacles.isEmpty ? "The runs have no figure in common that could be judged" : "Not judged"
            let remedy =
                obstacles.isEmpty || !comparability.obstacles.isEmpty
                ? "." : ": measure on a quiet machine, or add --despite-load."
            lines += Terminal.fold(reason + remedy, width: width, indent: 0)
            return lines.joined(separator: "\n")
        }
        let changed = judgement.rows.filter { $0.verdict != .level }
        if !changed.isEmpty { lines += ["", table(changed, width: width)] }
        lines += [""] + Terminal.fold(sentence(judgement), width: width, indent: 0)
        return lines.joined(separator: "\n")
    }

    private static func name(_ results: Results) -> String {
        let rounds = results.completeRounds
        let date = results.machine.date.formatted(.iso8601)
        return "\(date), commit \(results.machine.commit), \(rounds) \(rounds == 1 ? "round" : "rounds")"
    }

    private func table(_ rows: [Judgement.Row], width: Int) -> String {
        FoldedTable(
            headings: [
                ["", "where"], ["", "what"], ["", "old"], ["", "new"], ["", "change"], ["", "95 % interval"],
            ],
            isText: [true, true, false, false, false, false],
            rows: rows.map { row in
                [
                    "\(row.verdict == .better ? "better" : "WORSE ") \(row.candidate), \(row.underlay)",
                    row.metric.titleWithUnit,
                    row.metric.format(row.old), row.metric.format(row.new),
                    Self.change(row.change.middle, row), Self.interval(row),
                ]
            }
        ).text(width: width)
    }

    private static func change(_ value: Double, _ row: Judgement.Row) -> String {
        row.change.isShare
            ? String(format: "%+.0f %%", value * 100) : String(format: "%+.\(row.metric.decimals)f", value)
    }

    private static func interval(_ row: Judgement.Row) -> String {
        "\(change(row.change.low, row)) to \(change(row.change.high, row))"
    }

    /// What has come out.
    private func sentence(_ judgement: Judgement) -> String {
        let count = judgement.rows.count
        let worse = judgement.rows.filter { $0.verdict == .worse }.count
        let better = judgement.rows.filter { $0.verdict == .better }.count
        let share = Int(Judgement.leastShare * 100)
        guard worse + better > 0 else {
            return
                "Nothing got better or worse: none of \(count) figures changed by more than \(share) % beyond chance."
        }
        let changes = judgement.rows.contains {
            $0.verdict != .level && $0.change.isShare && !$0.metric.isCounted
        }
        return "\(worse == 0 ? "Nothing got worse" : "\(worse) of \(count) figures got WORSE"), "
            + "\(better == 0 ? "none" : "\(better)") got better, \(count - worse - better) are as they were within "
            + "\(share) % and chance."
            + (changes ? " A change is that of the ratio to \(reference), where it was measured." : "")
    }
}

extension Metric {
    /// `RTT p50, µs`
    var titleWithUnit: String { unit.isEmpty ? title : "\(title), \(unit)" }
}
