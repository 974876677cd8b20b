import Foundation

/// The table on the terminal: a row a candidate, a column a metric, the ratio to the reference beside each median;
/// folded to the terminal's width.
struct TerminalTable {
    let summary: Summary

    private var results: Results { summary.results }

    func text(_ underlay: Underlay, width: Int) -> String {
        let headlines = summary.metrics(underlay).filter(\.isHeadline)
        return FoldedTable(
            headings: [["\(underlay) underlay", ""]]
                + headlines.map { metric in
                    // A cell ends with the place of a ratio: the heading stands over the figure.
                    [metric.title, "\(metric.unit) \(metric.moreIsBetter ? "▲" : "▼")".trimmingBlanks]
                },
            isText: [true] + headlines.map { _ in false },
            rows: results.candidates.map { candidate in
                [candidate.label] + headlines.map { cell($0, candidate, underlay) }
            }
        ).text(width: width)
    }

    /// What the signs and the columns mean that do not explain themselves.
    func legend(width: Int) -> String {
        var sentences = ["▲ more is better, ▼ less is better."]
        if results.candidates.contains(where: { $0.name == summary.reference }) {
            sentences.append(
                "× is the ratio to \(summary.reference): the median of the ratios within a round. "
                    + "\(results.settings.roundsInWords) of \(results.settings.seconds.brief) s.")
        }
        let headlines = results.settings.underlays.flatMap { summary.metrics($0).filter(\.isHeadline) }
        for (title, meaning) in Metric.meanings where headlines.contains(where: { $0.title == title }) {
            sentences.append("\(title): \(meaning).")
        }
        return sentences.flatMap { Terminal.fold($0, width: width, indent: 2) }.joined(separator: "\n")
    }

    private func cell(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> String {
        let hasRatios = results.candidates.contains {
            summary.figure(metric, $0, underlay)?.ratio != nil
        }
        let blank = hasRatios ? "       " : ""
        guard let figure = summary.figure(metric, candidate, underlay) else {
            return summary.absence(candidate, underlay) + blank
        }
        guard let ratio = figure.ratio else { return metric.format(figure.median) + blank }
        return metric.format(figure.median) + String(format: " ×%-5.2f", ratio)
    }
}

/// What a run prints at its end: first what takes from its worth, then the tables, then what they come to.
struct TerminalReport {
    let summary: Summary

    func text(width: Int) -> String {
        let table = TerminalTable(summary: summary)
        var parts: [String] = []
        func add(_ sentences: [String], mark: String = "") {
            let lines = sentences.flatMap { Terminal.fold(mark + $0, width: width, indent: 2) }
            if !lines.isEmpty { parts.append(lines.joined(separator: "\n")) }
        }
        add(summary.warnings, mark: "! ")
        add(Array(summary.conditions.prefix(2)))
        parts += summary.results.settings.underlays.map { table.text($0, width: width) }
        parts.append(table.legend(width: width))
        add(summary.inShort)
        return parts.joined(separator: "\n\n")
    }
}

extension Metric {
    /// What stands behind titles that a reader of the trade may not know; by title.
    static let meanings = [
        (
            "daemon's memory",
            "what a daemon has resident after the loads; what runs in the kernel alone has none"
        ),
        (
            "crossings a node",
            "how often a byte crosses between kernel and user space on one node; 2 is the least for a daemon "
                + "that reads and sends"
        ),
        ("user-space copies a node", "how often a daemon copies a byte beside that"),
        ("syscalls", "system calls of the daemons for a MB carried"),
        (
            "responsiveness under load",
            "round trips a minute of new connections while 16 streams fill the path"
        ),
        ("UDP 64 B no loss", "the highest rate at which less than 0.1 % is lost"),
    ]
}

extension Candidate {
    /// The name, marked where it encrypts.
    var label: String { encrypts == true ? "\(name) (encrypts)" : name }
}

extension String {
    fileprivate var trimmingBlanks: String { trimmingCharacters(in: .whitespaces) }
}
