import Foundation
import TextTable

/// What a tuning search says: the table on the terminal and the configuration file.
struct TuneReport {
    let record: TuneRecord

    // MARK: The terminal

    /// A row for each value that was tried.
    var table: String {
        struct Row {
            var flag = "", defaultValue = "", value = "", score = "", verdict = ""
        }
        var rows: [Row] = []
        for trial in record.trials {
            for (index, value) in trial.flag.values.enumerated() {
                var row = Row(value: shown(value), score: trial.comparison(value).text)
                if index == 0 { (row.flag, row.defaultValue) = (trial.flag.name, trial.flag.defaultValue) }
                if trial.failures[value] != nil {
                    row.verdict = "failed"
                } else if trial.chosen == value {
                    row.verdict = "chosen"
                }
                rows.append(row)
            }
        }
        let table = TextTable<Row> { row in
            [
                Column(title: "flag", value: row.flag),
                Column(title: "default", value: row.defaultValue, align: .right),
                Column(title: "tried", value: row.value, align: .right),
                Column(title: "score", value: row.score),
                Column(title: "", value: row.verdict),
            ]
        }
        return table.string(for: rows, style: Style.simple) ?? ""
    }

    /// Why values failed, a line each.
    var failures: [String] {
        record.trials.flatMap { trial in
            trial.flag.values.compactMap { value in
                trial.failures[value].map { "\(trial.flag.name) \(shown(value)): \($0)" }
            }
        }
    }

    /// Every metric of the found set beside the defaults; nil where they have not been measured.
    var tableTogether: String? {
        guard !record.together.isEmpty else { return nil }
        let metrics = record.settings.goal.measurements.flatMap(\.metrics).filter { !$0.isLimit }
        let table = TextTable<Metric> { metric in
            let pairs = record.together.compactMap { round -> (Double, Double)? in
                guard let found = round.byValue[TuneRecord.foundKey]?.figures[metric.name],
                    let standing = round.byDefault.figures[metric.name]
                else { return nil }
                return (standing, found)
            }
            func cell(_ value: Double?) -> String { value.map(metric.format) ?? "–" }
            let ratios = pairs.filter { $0.0 > 0 }.map { $0.1 / $0.0 }
            return [
                Column(title: "together", value: "\(metric.title) \(metric.unit)"),
                Column(title: "defaults", value: cell(pairs.map(\.0).median), align: .right),
                Column(title: "found", value: cell(pairs.map(\.1).median), align: .right),
                Column(title: "", value: ratios.isEmpty ? "" : Comparison(ratios: ratios).text),
            ]
        }
        return table.string(for: metrics, style: Style.simple)
    }

    /// What has come out, in a sentence.
    var verdict: String {
        let found = record.found
        if found.isEmpty {
            return record.isSearched
                ? "no flag is better than its default beyond the spread: keep the defaults"
                : "stopped before anything better than a default was found"
        }
        if let failure = record.togetherFailure {
            return "the found set does not work as a whole: \(failure)"
        }
        guard record.isComplete else {
            return "stopped early: the found set has not been measured as a whole"
        }
        let comparison = record.comparisonTogether
        return comparison.isBetter
            ? "all together: \(comparison.text) of the defaults' score in \(comparison.ratios.count) rounds"
            : "all together: \(comparison.text), no better than the defaults beyond the spread: keep the defaults"
    }

    /// How quiet the machine was; nil where nobody else took anything.
    var disturbance: String? {
        let counted = record.trials.flatMap { $0.screening + $0.confirmation } + record.together
        let disturbed = counted.filter(\.isDisturbed).count
        let repeated = record.trials.map(\.repeatedRounds).reduce(record.repeatedRoundsTogether, +)
        guard disturbed + repeated > 0 else { return nil }
        let kept =
            disturbed == 0
            ? "none of the \(counted.count) rounds that count is disturbed"
            : "\(disturbed) of the \(counted.count) rounds that count are disturbed all the same"
        return """
            others used the machine, more than \(TuneRound.toleratedLoad) of a processor: \
            \(repeated) disturbed rounds were thrown away and measured anew; \(kept)
            """
    }

    // MARK: The configuration file

    /// What `twilld --config` reads. Values that did not prove themselves as a whole are there as comments.
    func configuration(date: Date = .now) -> String {
        let settings = record.settings
        let machine = record.machine
        let isProven = record.comparisonTogether.isBetter && record.togetherFailure == nil
        var lines = [
            "# twilld --config of twill-bench tune --for \(settings.goal.rawValue), \(date.formatted(.iso8601))",
            "# Linux \(machine.kernel), \(machine.processor), \(machine.processors) processors, "
                + "commit \(machine.commit), \(settings.underlay.rawValue) underlay",
            "# score: \(settings.goal.scoreMeaning)",
            "# \(verdict)",
        ]
        if let disturbance { lines.append("# \(disturbance)") }
        for (trial, value) in record.found {
            let setting = "\(trial.flag.name) = \(shown(value))"
            lines += [
                "",
                "# \(trial.comparison(value).text) of the default, \(trial.flag.defaultValue)",
                isProven ? setting : "# \(setting)",
            ]
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// A value as node 1 has it.
    private func shown(_ value: String) -> String {
        value.replacing(Candidate.processorsPlaceholder, with: Lab.processors(ofNode: 1))
    }
}
