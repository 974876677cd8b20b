import Foundation

/// `report.md`: one table an underlay, a row a metric, a column a candidate.
struct MarkdownReport {
    let summary: Summary

    var text: String {
        let results = summary.results
        var text = "# twill-bench, \(results.machine.date.formatted(.iso8601))\n\n\(summary.conditions)\n"
        for warning in summary.warnings { text += "\n> \(warning)\n" }
        for underlay in results.settings.underlays {
            text += "\n## \(underlay.rawValue.capitalized) underlay: \(underlay.meaning)\n\n"
            text += "| | " + results.candidates.map(\.label).joined(separator: " | ") + " |\n"
            text += "|---|" + results.candidates.map { _ in "--:|" }.joined() + "\n"
            for metric in summary.metrics(underlay) {
                let unit = metric.unit.isEmpty ? "" : ", \(metric.unit)"
                let cells = results.candidates.map { cell(metric, $0, underlay) }
                text += "| \(metric.title)\(unit) | " + cells.joined(separator: " | ") + " |\n"
            }
        }
        text += """

            Beside each median: half the range of the rounds, the ratio to \(summary.reference), the ratio to baseline; \
            a ratio is the median of those within a round.

            """
        return text
    }

    private func cell(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> String {
        guard let figure = summary.figure(metric, candidate, underlay) else {
            return summary.absence(candidate, underlay)
        }
        let ratios = [figure.ratio, figure.ratioToBaseline].compactMap { ratio in
            ratio.map { String(format: "×%.2f", $0) }
        }
        return metric.format(figure.median) + String(format: " ±%.0f %% ", figure.spread * 100)
            + ratios.joined(separator: " · ")
    }
}
