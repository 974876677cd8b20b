import Foundation
import TextTable

/// The table on the terminal: a row a candidate, a column a metric, the ratio to `reference` beside each median.
struct TerminalTable {
    let results: Results
    let reference: String

    func text(_ underlay: Underlay) -> String {
        let headlines = results.metrics.filter(\.isHeadline)
        let table = TextTable<Candidate> { candidate in
            [Column(title: "\(underlay) underlay", value: candidate.label)]
                + headlines.map { metric in
                    Column(
                        title: metric.unit.isEmpty ? metric.title : "\(metric.title) \(metric.unit)",
                        value: cell(metric, candidate.name, underlay), align: .right)
                }
        }
        return table.string(for: results.candidates, style: Style.simple) ?? ""
    }

    private func cell(_ metric: Metric, _ candidate: String, _ underlay: Underlay) -> String {
        guard let median = results.values(metric, candidate, underlay).median else { return "–" }
        guard candidate != reference,
            let ratio = results.ratio(metric, candidate, to: reference, underlay)
        else { return metric.format(median) + "       " }
        return metric.format(median) + String(format: " ×%-5.2f", ratio)
    }
}

extension Candidate {
    /// The name, marked where it encrypts.
    var label: String { encrypts == true ? "\(name) (encrypts)" : name }
}
