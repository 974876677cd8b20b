import Foundation

/// `report.md`: one table an underlay, a row a metric, a column a candidate.
struct MarkdownReport {
    let summary: Summary

    var text: String {
        let results = summary.results
        var text = "# twill-bench, \(results.machine.date.formatted(.iso8601))\n"
        for warning in summary.warnings { text += "\n> \(warning)\n" }
        text += "\n" + (summary.conditions + summary.inShort).joined(separator: "\n\n") + "\n"
        for underlay in results.settings.underlays {
            text += "\n## \(underlay.rawValue.capitalized) underlay: \(underlay.meaning)\n\n"
            text += "| | " + results.candidates.map(\.label).joined(separator: " | ") + " |\n"
            text += "|---|" + results.candidates.map { _ in "--:|" }.joined() + "\n"
            for metric in summary.metrics(underlay) {
                let cells = results.candidates.map { cell(metric, $0, underlay) }
                let direction = metric.moreIsBetter ? "▲" : "▼"
                text += "| \(metric.titleWithUnit) \(direction) | " + cells.joined(separator: " | ") + " |\n"
            }
        }
        return text + "\n▲ more is better, ▼ less is better. \(summary.meaningOfIntervals) × is the ratio to "
            + "\(summary.reference), then the ratio to baseline; a ratio is the median of those within a round.\n"
    }

    private func cell(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> String {
        guard let figure = summary.figure(metric, candidate, underlay) else {
            return summary.absence(candidate, underlay)
        }
        let ratios = [
            figure.ratio.map { "×\($0.asRatio) \(summary.ratioInterval(figure))" },
            figure.ratioToBaseline.map { "×\($0.asRatio)" },
        ].compactMap { $0?.trimmingCharacters(in: .whitespaces) }
        let parts = [
            metric.format(figure.median), summary.interval(figure, metric), ratios.joined(separator: " · "),
        ]
        return parts.filter { !$0.isEmpty }.joined(separator: " ")
    }
}
