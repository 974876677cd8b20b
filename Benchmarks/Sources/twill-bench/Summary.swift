import Foundation

/// What the reports say of one run, apart from how they look.
struct Summary {
    let results: Results
    let reference: String

    /// A metric's middle figure for a candidate, with how far its rounds lie apart and how it compares.
    struct Figure {
        let median: Double
        /// Half the range, as a share of the median.
        let spread: Double
        /// To the reference candidate, round by round; nil for itself.
        let ratio: Double?
        /// To `baseline`, round by round; nil for itself.
        let ratioToBaseline: Double?
    }

    func figure(_ metric: Metric, _ candidate: Candidate, _ underlay: Underlay) -> Figure? {
        let values = results.values(metric, candidate.name, underlay).filter(\.isFinite)
        guard let median = values.median else { return nil }
        func ratio(to other: String) -> Double? {
            other == candidate.name ? nil : results.ratio(metric, candidate.name, to: other, underlay)
        }
        return Figure(
            median: median, spread: values.spread, ratio: ratio(to: reference),
            ratioToBaseline: ratio(to: "baseline"))
    }

    /// The metrics that have a figure on an underlay.
    func metrics(_ underlay: Underlay) -> [Metric] {
        results.metrics.filter { metric in
            results.candidates.contains { figure(metric, $0, underlay) != nil }
        }
    }

    /// What a reader must know before believing the figures: noise, differences between two ways of counting,
    /// candidates that failed.
    var warnings: [String] {
        var warnings: [String] = []
        let machine = results.machine
        if machine.loadBefore > 0.5 {
            warnings.append(
                String(format: "The machine was busy before the run: load %.1f.", machine.loadBefore))
        }
        for underlay in results.settings.underlays {
            if let throughput = results.metrics.first(where: { $0.name == "tcp-1.throughput" }) {
                let spread = results.values(throughput, "veth", underlay).spread
                if spread > 0.1 {
                    warnings.append(
                        String(
                            format: "Noisy on \(underlay): veth itself varies by ±%.0f %% between rounds.",
                            spread * 100))
                }
            }
            guard let metric = results.metrics.first(where: { $0.name == "crossings.difference" }) else {
                continue
            }
            for candidate in results.candidates {
                let values = results.values(metric, candidate.name, underlay).filter(\.isFinite)
                guard let difference = values.median, difference > 2 else { continue }
                warnings.append(
                    String(
                        format:
                            "\(candidate.name) on \(underlay): its own counters and the kernel's tracepoints "
                            + "differ by %.1f %%.", difference))
            }
        }
        warnings += results.failures.map {
            "\($0.candidate) failed on \($0.underlay), round \($0.round): \($0.message)"
        }
        return warnings
    }

    /// The machine and the settings, in one paragraph.
    var conditions: String {
        let machine = results.machine
        let settings = results.settings
        let flags =
            settings.twilldFlags.isEmpty ? "" : ", twilld \(settings.twilldFlags.joined(separator: " "))"
        return String(
            format: """
                Linux \(machine.kernel), \(machine.processor), \(machine.processors) processors, %.0f GiB\
                \(machine.virtualization.map { ", \($0)" } ?? ""), commit \(machine.commit). Two nodes in network \
                namespaces on this machine, MTU \(settings.mtu). TCP \(settings.congestionControl). Medians of \
                \(settings.rounds) interleaved rounds of %g s\(flags); ratios are medians of the ratios within a round.
                """, machine.memoryGiB, settings.seconds)
    }
}

extension Underlay {
    /// What a reader must know of it.
    var meaning: String {
        switch self {
        case .plain:
            "segmented in software before the wire, GRO behind it: a NIC without tunnel and UDP offloads"
        case .offload: "a veth as it comes: a super-packet crosses it unsegmented, which flatters everybody"
        }
    }
}
