import Foundation
import TextTable

/// The table on the terminal: a row a candidate, a column a metric, the ratio to the reference beside each median.
struct TerminalTable {
    let summary: Summary

    private var results: Results { summary.results }

    func text(_ underlay: Underlay) -> String {
        let headlines = summary.metrics(underlay).filter(\.isHeadline)
        let table = TextTable<Candidate> { candidate in
            [Column(title: "\(underlay) underlay", value: candidate.label)]
                + headlines.map { metric in
                    Column(
                        title: metric.unit.isEmpty ? metric.title : "\(metric.title) \(metric.unit)",
                        value: cell(metric, candidate, underlay), align: .right)
                }
        }
        return table.string(for: results.candidates, style: Style.simple) ?? ""
    }

    private func cell(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> String {
        guard let figure = summary.figure(metric, candidate, underlay) else {
            return summary.absence(candidate, underlay) + "       "
        }
        guard let ratio = figure.ratio else { return metric.format(figure.median) + "       " }
        return metric.format(figure.median) + String(format: " ×%-5.2f", ratio)
    }
}

extension Candidate {
    /// The name, marked where it encrypts.
    var label: String { encrypts == true ? "\(name) (encrypts)" : name }
}
