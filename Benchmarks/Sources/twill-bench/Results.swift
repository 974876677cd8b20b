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

    /// How the run was asked for.
    struct Settings: Codable {
        var underlays: [Underlay]
        var nodes: Int
        var mtu: Int
        /// Whether each node's processes stay on the node's share of the processors.
        var isPinned: Bool
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

    /// The median over rounds of `candidate` divided by `reference` in the same round; nil where no round has
    /// both.
    func ratio(_ metric: Metric, _ candidate: String, to reference: String, _ underlay: Underlay) -> Double? {
        let rounds = samples.filter { $0.metric == metric.name && $0.underlay == underlay }
        let ofReference = Dictionary(
            rounds.filter { $0.candidate == reference }.map { ($0.round, $0.value) },
            uniquingKeysWith: { first, _ in first })
        return rounds.filter { $0.candidate == candidate }.compactMap { sample in
            ofReference[sample.round].flatMap { $0 > 0 ? sample.value / $0 : nil }
        }.median
    }
}

/// What the figures were measured on.
struct Machine: Codable {
    let date: Date
    let kernel: String
    let processor: String
    let processors: Int
    let memoryGiB: Double
    let loadBefore: Double
    let commit: String
    let virtualization: String?

    static func current() -> Machine {
        let info = contents("/proc/cpuinfo").split(separator: "\n")
        let model = info.first { $0.hasPrefix("model name") }?.split(separator: ":").last
        let commit = try? output(of: ["git", "-C", Lab.repository, "describe", "--always", "--dirty"])
        return Machine(
            date: .now,
            kernel: contents("/proc/sys/kernel/osrelease").trimmingCharacters(in: .whitespacesAndNewlines),
            processor: model.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown",
            processors: ProcessInfo.processInfo.activeProcessorCount,
            memoryGiB: Double(ProcessInfo.processInfo.physicalMemory) / 1_073_741_824,
            loadBefore: Double(contents("/proc/loadavg").split(separator: " ").first ?? "0") ?? 0,
            commit: commit?.trimmingCharacters(in: .whitespacesAndNewlines) ?? "unknown",
            virtualization: info.contains { $0.hasPrefix("flags") && $0.contains(" hypervisor") }
                ? "guest" : nil)
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

    /// Half of what lies between the least and the greatest value, as a share of the median.
    var spread: Double {
        guard let median, median != 0, let least = self.min(), let greatest = self.max() else { return 0 }
        return (greatest - least) / 2 / abs(median)
    }
}

extension Metric {
    func format(_ value: Double) -> String {
        value.isFinite ? String(format: "%.\(decimals)f", value) : "–"
    }
}
