import ArgumentParser
import Foundation

/// What a tuning search makes better.
enum TuneGoal: String, CaseIterable, Codable, ExpressibleByArgument {
    case throughput, latency, pps

    /// The measurements of a turn, by name.
    var measurementNames: [String] {
        switch self {
        case .throughput: ["tcp-1", "tcp-4"]
        case .latency: ["rtt", "rtt-bulk"]
        case .pps: ["udp-64", "udp-64-16-flows"]
        }
    }

    /// The metrics that make up the score. Each weighs the same, so that none is bought with another.
    var scoredMetricNames: [String] {
        switch self {
        case .throughput: ["tcp-1.throughput", "tcp-4.throughput"]
        case .latency: ["rtt.p50", "rtt.p99", "rtt-bulk.p50", "rtt-bulk.p99"]
        case .pps: ["udp-64.delivered", "udp-64-16-flows.delivered"]
        }
    }

    /// The score in words.
    var scoreMeaning: String {
        switch self {
        case .throughput: "geometric mean of TCP throughput with 1 and 4 streams"
        case .latency: "1 / geometric mean of round trips, p50 and p99, idle and beside a TCP stream"
        case .pps: "geometric mean of 64-byte packets a second that arrive of a flood, 1 and 16 flows"
        }
    }

    var measurements: [Measurement] {
        Measurement.all.filter { measurementNames.contains($0.name) }
    }

    /// More is better whatever the metrics are; nil where a scored figure is missing, zero or infinite: nothing
    /// got across.
    func score(_ figures: [String: Double], of metrics: [Metric]) -> Double? {
        var sum = 0.0
        for name in scoredMetricNames {
            guard let metric = metrics.first(where: { $0.name == name }), let figure = figures[name],
                figure > 0, figure.isFinite
            else { return nil }
            sum += metric.moreIsBetter ? log(figure) : -log(figure)
        }
        return exp(sum / Double(scoredMetricNames.count))
    }
}
