import Foundation

/// Everything that one run of the harness measured: what `results.json` holds.
struct Results: Codable {
    /// The shape of the file, and how its figures were measured; `compare` refuses another.
    static let currentFormat = 3

    var format = Results.currentFormat
    var machine: Machine
    var settings: Settings
    var candidates: [Candidate]
    var metrics: [Metric]
    var samples: [Sample] = []
    var failures: [Failure] = []
    /// What could not be measured at all, and why.
    var remarks: [String] = []
    /// How much of the machine's time its host gave to others during the run; nil before its end.
    var stolenShare: Double?
    /// Processors that programs outside of the lab kept busy while something was measured, on average; nil before the
    /// run's end, and in files from before it was noted.
    var othersProcessors: Double?

    /// How the run was asked for.
    struct Settings: Codable {
        var underlays: [Underlay]
        var nodes: Int
        var mtu: Int
        /// Whether each node's processes stay on the node's share of the processors.
        var isPinned: Bool
        /// Whether traffic went from pod to pod; nil in files from before that could be asked for.
        var hasPods: Bool?
        var seconds: Double
        var rounds: Int
        /// The congestion control of every TCP measurement.
        var congestionControl = IperfReport.congestionControl
        var twilldFlags: [String]
        var commandLine: [String]
    }

    /// The raw figures of a metric, in the order of the rounds.
    func values(_ metric: Metric, _ candidate: String, _ underlay: Underlay) -> [Double] {
        samples.filter {
            $0.metric == metric.name && $0.candidate == candidate && $0.underlay == underlay
        }.map(\.value)
    }

    /// `candidate` divided by `reference` in the same round; a ratio for each round that has both.
    func ratios(
        _ metric: Metric, _ candidate: String, to reference: String, _ underlay: Underlay
    ) -> [Double] {
        guard candidate != reference else { return [] }
        let rounds = samples.filter { $0.metric == metric.name && $0.underlay == underlay }
        let ofReference = Dictionary(
            rounds.filter { $0.candidate == reference }.map { ($0.round, $0.value) },
            uniquingKeysWith: { first, _ in first })
        return rounds.filter { $0.candidate == candidate }.compactMap { sample in
            ofReference[sample.round].flatMap { $0 > 0 ? sample.value / $0 : nil }
        }
    }
}

extension [Double] {
    /// The middle value, or the mean of the two in the middle; nil where there is none.
    var median: Double? {
        guard !isEmpty else { return nil }
        let ordered = sorted()
        let middle = count / 2
        return count % 2 == 1 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2
    }

    /// Half of what lies between the least and the greatest value, as a share of the median; nil where a single value
    /// says nothing of it.
    var spread: Double? {
        guard count > 1, let median, median != 0, let least = self.min(), let greatest = self.max() else {
            return nil
        }
        return (greatest - least) / 2 / abs(median)
    }

    /// Where the median of all that could have been measured lies, with the probability that it does: by the order of
    /// the values alone, whatever their distribution. The narrowest interval of 95 %, or all that the values span
    /// where they are fewer than six; nil for a single value.
    var medianInterval: (low: Double, high: Double, probability: Double)? {
        guard count > 1 else { return nil }
        let ordered = sorted()
        // The median lies below the k-th value where fewer than k of `count` coins show heads.
        var below = 0.0
        var ways = 1.0
        var best = (low: ordered[0], high: ordered[count - 1], probability: 1 - 2 * pow(0.5, Double(count)))
        for place in 0..<count / 2 {
            below += ways * pow(0.5, Double(count))
            ways *= Double(count - place) / Double(place + 1)
            guard 1 - 2 * below >= 0.95 else { break }
            best = (ordered[place], ordered[count - 1 - place], 1 - 2 * below)
        }
        return best
    }
}

extension Metric {
    func format(_ value: Double) -> String {
        value.isFinite ? String(format: "%.\(decimals)f", value) : "–"
    }
}
