import Foundation

/// What the reports say of one run, apart from how they look.
struct Summary {
    let results: Results
    let reference: String

    /// A metric's middle figure for a candidate, with how far its rounds lie apart and how it compares.
    struct Figure {
        let median: Double
        /// Where the median of all that could have been measured lies; nil with one round, of which nothing is known.
        let interval: (low: Double, high: Double, probability: Double)?
        /// To the reference candidate, round by round; nil for itself.
        let ratio: Double?
        /// Where the median of such ratios lies, as `interval`: narrower than that of the figures where slow hours of the
        /// machine move both.
        let ratioInterval: (low: Double, high: Double, probability: Double)?
        /// To `baseline`, round by round; nil for itself.
        let ratioToBaseline: Double?
    }

    func figure(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> Figure? {
        let values = results.values(metric, candidate.name, underlay).filter(\.isFinite)
        guard let median = values.median else { return nil }
        func ratios(to other: String) -> [Double] {
            results.ratios(metric, candidate.name, to: other, underlay).filter(\.isFinite)
        }
        let toReference = ratios(to: reference)
        return Figure(
            median: median, interval: values.medianInterval, ratio: toReference.median,
            ratioInterval: toReference.medianInterval, ratioToBaseline: ratios(to: "baseline").median)
    }

    /// The metrics that have a figure on an underlay.
    func metrics(_ underlay: Underlay) -> [Metric] {
        results.metrics.filter { metric in
            !metric.isLimit
                && results.candidates.contains { figure(metric, $0, underlay) != nil }
        }
    }

    /// What a reader must know before believing the figures: noise, differences between two ways of counting,
    /// candidates that failed.
    var warnings: [String] {
        var warnings = results.remarks
        let machine = results.machine
        if machine.loadBefore > 0.5 {
            warnings.append(
                String(format: "The machine was busy before the run: load %.1f.", machine.loadBefore))
        }
        if let processors = results.othersProcessors, processors > TuneRound.toleratedLoad {
            warnings.append(
                String(format: "Other programs had %.2f processors while it measured.", processors))
        }
        if let stolen = results.stolenShare, stolen > 0.01 {
            warnings.append(
                String(
                    format: "Its host took %.1f %% of the machine's time during the run.", stolen * 100))
        }
        for underlay in results.settings.underlays {
            if let throughput = results.metrics.first(where: { $0.name == "tcp-1.throughput" }) {
                let spread = results.values(throughput, "veth", underlay).spread
                if let spread, spread > 0.1 {
                    warnings.append(
                        String(
                            format: "Noisy on \(underlay): veth itself varies by ±%.0f %% between rounds.",
                            spread * 100))
                }
            }
            warnings += differences(underlay) + limits(underlay)
        }
        warnings += results.failures.map {
            "\($0.candidate) failed on \($0.underlay), round \($0.round): \($0.message)"
        }
        return warnings
    }

    /// Where the daemons' own counts and those of others disagree.
    private func differences(_ underlay: Underlay) -> [String] {
        ["copies.difference": "copies", "copies.operations-difference": "operations"].sorted(by: <).flatMap {
            name, what -> [String] in
            guard let metric = results.metrics.first(where: { $0.name == name }) else { return [] }
            return results.candidates.compactMap { candidate in
                guard let difference = figure(metric, candidate, underlay)?.median, difference > 2 else {
                    return nil
                }
                return String(
                    format: "\(candidate.name) on \(underlay): its own counters and those who look on differ "
                        + "by %.1f %% on \(what).", difference)
            }
        }
    }

    /// Where the harness was the limit of what it measured.
    private func limits(_ underlay: Underlay) -> [String] {
        results.metrics.filter(\.isLimit).flatMap { metric in
            let names = [TrafficLimit.generator, .sink].compactMap { limit -> String? in
                let limited = results.candidates.map(\.name).filter {
                    results.values(metric, $0, underlay).contains(limit.rawValue)
                }
                guard !limited.isEmpty else { return nil }
                return "the \(limit) was the limit for \(limited.joined(separator: ", "))"
            }
            guard !names.isEmpty else { return [String]() }
            let measurement = metric.name.dropLast(".limit".count)
            return ["\(measurement) on \(underlay): \(names.joined(separator: ", "))."]
        }
    }

    /// What a metric's missing figure means for a candidate: that something failed, or that it does not have it.
    func absence(_ candidate: Candidate, _ underlay: Underlay) -> String {
        results.failures.contains { $0.candidate == candidate.name && $0.underlay == underlay }
            ? "failed" : "–"
    }
}

extension Underlay {
    /// What a reader must know of it.
    var meaning: String {
        switch self {
        case .plain:
            "segmented in software before the wire, GRO behind it: a NIC without tunnel and UDP offloads"
        case .offload: "a veth as it comes: a super-packet crosses it unsegmented, which flatters everybody"
        case .wire:
            "frames that an XDP program hands from veth to veth, no offload at all: a plain NIC with native XDP"
        }
    }
}
