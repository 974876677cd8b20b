/// Where the time of packets went between two moments, from the samples that the workers took.
public struct TimeTrace: Codable, Sendable, Equatable {
    /// One stretch of a packet's way.
    public struct Stage: Codable, Sendable, Equatable {
        /// The histogram's name, as in `/metrics`.
        public var name: String
        /// From where to where.
        public var meaning: String
        /// Packets that were timed.
        public var samples: UInt64
        /// Seconds; nil where none was timed.
        public var mean: Double?
        /// Half of them took at most so many seconds; nil where none was timed, or where that is beyond the scale.
        public var median: Double?
        /// 99 of 100 took at most so many seconds; nil where none was timed, or where that is beyond the scale.
        public var percentile99: Double?
    }

    /// The form of the document.
    public var schema = NodeStatus.schemaVersion
    /// Seconds between the two moments.
    public var seconds: Double
    /// In the order of a packet's way out, and then in.
    public var stages: [Stage]

    /// What is traced, and what each stretch is called for people.
    static let stretches = [
        ("outbound_wait_time_seconds", "out  read from TUN → forwarded"),
        ("outbound_send_time_seconds", "out  forwarded → sent"),
        ("inbound_wait_time_seconds", "in   received → checked, coalesced"),
        ("inbound_write_time_seconds", "in   coalesced → written to TUN"),
    ]

    /// Compares two statuses of one daemon.
    public init(from earlier: NodeStatus, to later: NodeStatus) {
        seconds = later.uptimeSeconds - earlier.uptimeSeconds
        stages = TimeTrace.stretches.compactMap { name, _ in
            guard let after = later.histograms.first(where: { $0.name == name }) else { return nil }
            let before = earlier.histograms.first { $0.name == name && $0.bounds == after.bounds }
            let counts = after.counts.enumerated().map { index, count in
                let old = before.flatMap { $0.counts.dropFirst(index).first } ?? 0
                // Another data plane counts from zero.
                return count >= old ? count - old : count
            }
            let samples = counts.reduce(0, &+)
            let sum = after.sum - (before.map { $0.sum <= after.sum ? $0.sum : 0 } ?? 0)
            func quantile(_ share: Double) -> Double? {
                var seen: UInt64 = 0
                for (bound, count) in zip(after.bounds, counts) {
                    seen &+= count
                    if Double(seen) >= share * Double(samples) { return bound }
                }
                return nil
            }
            return Stage(
                name: name, meaning: after.meaning, samples: samples,
                mean: samples > 0 ? sum / Double(samples) : nil,
                median: samples > 0 ? quantile(0.5) : nil, percentile99: samples > 0 ? quantile(0.99) : nil)
        }
    }

    /// For a terminal.
    public var text: String {
        func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(1, width - text.count))
        }
        func row(_ columns: [String]) -> String {
            zip(columns, [38, 10, 11, 11]).map { padded($0, $1) }.joined() + (columns.last ?? "")
        }
        func time(_ seconds: Double?, _ prefix: String, beyond samples: UInt64) -> String {
            guard let seconds else { return samples > 0 ? "> 16 ms" : "-" }
            return prefix + TimeTrace.time(seconds)
        }
        var lines = [row(["WAY", "SAMPLES", "MEAN", "P50", "P99"])]
        for stage in stages {
            let name = TimeTrace.stretches.first { $0.0 == stage.name }?.1 ?? stage.name
            lines.append(
                row([
                    name, "\(stage.samples)", stage.mean.map { TimeTrace.time($0) } ?? "-",
                    time(stage.median, "≤ ", beyond: stage.samples),
                    time(stage.percentile99, "≤ ", beyond: stage.samples),
                ]))
        }
        lines.append(
            "Not in it: the wait in the TUN device's queue and in the socket's buffer, before the daemon.")
        return lines.joined(separator: "\n") + "\n"
    }

    /// `850 ns`, `12.3 µs`, `4.10 ms`.
    static func time(_ seconds: Double) -> String {
        let nanoseconds = seconds * 1e9
        guard let whole = Int(exactly: nanoseconds.rounded()), whole >= 0 else { return "?" }
        for (unit, size) in [("ms", 1_000_000), ("µs", 1_000)] where whole >= size {
            let hundredths = whole * 100 / size
            let places = hundredths >= 10_000 ? 0 : hundredths >= 1_000 ? 1 : 2
            let fraction = hundredths % 100
            switch places {
            case 0: return "\(hundredths / 100) \(unit)"
            case 1: return "\(hundredths / 100).\(fraction / 10) \(unit)"
            default: return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction) \(unit)"
            }
        }
        return "\(whole) ns"
    }
}
