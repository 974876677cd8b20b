import Foundation

/// Something that is measured over a running candidate; it yields the values of its metrics, in their order.
struct Measurement: Sendable {
    let name: String
    let metrics: [Metric]
    /// How long it takes, about, where each run takes `seconds`.
    let estimatedSeconds: @Sendable (_ seconds: Double) -> Double
    let run: @Sendable (_ running: RunningCandidate, _ seconds: Double) throws -> [Double]
}

extension Measurement {
    /// Everything that the harness measures, in the order in which a turn runs it.
    static let all: [Measurement] =
        [
            roundTrip("rtt", title: "RTT", isHeadline: true, besideBulk: false),
            tcp("tcp-1", title: "TCP 1", streams: 1),
            tcp("tcp-4", title: "TCP 4", streams: 4),
            tcp("tcp-16", title: "TCP 16", streams: 16, isHeadline: false),
            tcp("tcp-1-reverse", title: "TCP 1 reverse", streams: 1, flags: ["-R"], isHeadline: false),
            tcp("tcp-4-both", title: "TCP 4 both ways", streams: 4, flags: ["--bidir"], isHeadline: false),
        ]
        + [64, 256, 1400].flatMap { [flood(size: $0, flows: 1), search(size: $0, flows: 1)] }
        + [flood(size: 64, flows: 16), search(size: 64, flows: 16)]
        + [
            roundTrip("rtt-bulk", title: "RTT beside TCP", isHeadline: false, besideBulk: true),
            connects,
            Crossings.measurement,
        ]

    /// What is measured where nothing is asked for by name.
    static let usual = ["rtt", "tcp-1", "tcp-4", "udp-64", "udp-64-lossless", "crossings"]

    static func tcp(
        _ name: String, title: String, streams: Int, flags: [String] = [], isHeadline: Bool = true
    ) -> Measurement {
        func metric(
            _ quantity: String, _ suffix: String, _ unit: String, more: Bool = false, headline: Bool = false,
            decimals: Int = 2
        ) -> Metric {
            Metric(
                name: "\(name).\(quantity)", title: title + suffix, unit: unit, moreIsBetter: more,
                isHeadline: headline, decimals: decimals)
        }
        return Measurement(
            name: name,
            metrics: [
                metric("throughput", "", "Gbit/s", more: true, headline: isHeadline),
                metric("cpu", " CPU", "s/GB", headline: name == "tcp-1"),
                metric("daemon-cpu", " daemons' CPU", "s/GB"),
                metric("context-switches", " switches", "/GB", decimals: 0),
                metric("retransmits", " retransmits", "", decimals: 0),
            ],
            estimatedSeconds: { $0 + 0.5 },
            run: { running, seconds in
                let before = ProcessorTime.now(running)
                let report = try iperf(
                    running, ["-t", "\(Int(seconds.rounded(.up)))", "-P", "\(streams)"] + flags)
                let used = ProcessorTime.now(running).since(before)
                let gigabytes = report.bytes / 1e9
                return [
                    report.bitsPerSecond / 1e9, used.machineSeconds / gigabytes,
                    used.daemonSeconds / gigabytes, used.contextSwitches / gigabytes, report.retransmits,
                ]
            })
    }

    static func flood(size: Int, flows: Int) -> Measurement {
        let name = "udp-\(size)" + (flows > 1 ? "-\(flows)-flows" : "")
        let title = "UDP \(size) B" + (flows > 1 ? " ×\(flows)" : "")
        return Measurement(
            name: name,
            metrics: [
                Metric(
                    name: "\(name).delivered", title: title, unit: "kpps", moreIsBetter: true,
                    isHeadline: size == 64 && flows == 1, decimals: 0),
                Metric(
                    name: "\(name).sent", title: title + " sent", unit: "kpps", moreIsBetter: true,
                    isHeadline: false, decimals: 0),
                Metric(
                    name: "\(name).cpu", title: title + " CPU", unit: "s/Mpkt", moreIsBetter: false,
                    isHeadline: false, decimals: 2),
                Metric(
                    name: "\(name).reordered", title: title + " reordered", unit: "", moreIsBetter: false,
                    isHeadline: false, decimals: 0),
            ],
            estimatedSeconds: { $0 + 0.2 },
            run: { running, seconds in
                let before = ProcessorTime.now(running)
                let report = try traffic(
                    "send", running, ["--size", "\(size)", "--flows", "\(flows)", "--seconds", "\(seconds)"])
                let used = ProcessorTime.now(running).since(before)
                let packets = report["received"] ?? 0
                return [
                    (report["received_per_second"] ?? 0) / 1000, (report["sent_per_second"] ?? 0) / 1000,
                    packets > 0 ? used.machineSeconds / packets * 1e6 : .infinity, report["reordered"] ?? 0,
                ]
            })
    }

    static func search(size: Int, flows: Int) -> Measurement {
        let name = "udp-\(size)" + (flows > 1 ? "-\(flows)-flows" : "") + "-lossless"
        let title = "UDP \(size) B" + (flows > 1 ? " ×\(flows)" : "") + " no loss"
        return Measurement(
            name: name,
            metrics: [
                Metric(
                    name: "\(name).delivered", title: title, unit: "kpps", moreIsBetter: true,
                    isHeadline: size == 64 && flows == 1, decimals: 0)
            ],
            estimatedSeconds: { trialSeconds($0) * 12 + 1 },
            run: { running, seconds in
                let report = try traffic(
                    "search", running,
                    [
                        "--size", "\(size)", "--flows", "\(flows)", "--seconds", "\(trialSeconds(seconds))",
                    ])
                return [(report["received_per_second"] ?? 0) / 1000]
            })
    }

    /// A search is a dozen trials; a trial of half a second holds thousands of packets at any rate of interest.
    private static func trialSeconds(_ seconds: Double) -> Double { min(0.5, seconds / 4) }

    static func roundTrip(_ name: String, title: String, isHeadline: Bool, besideBulk: Bool) -> Measurement {
        let percentiles = [
            ("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p99_9_us"), ("max", "max_us"),
        ]
        return Measurement(
            name: name,
            metrics: percentiles.map { percentile, _ in
                Metric(
                    name: "\(name).\(percentile)", title: "\(title) \(percentile)", unit: "µs",
                    moreIsBetter: false,
                    isHeadline: isHeadline && (percentile == "p50" || percentile == "p99"),
                    decimals: 0)
            },
            estimatedSeconds: { besideBulk ? $0 + 1 : $0 },
            run: { running, seconds in
                var bulk: Child?
                if besideBulk {
                    bulk = try Lab.start(
                        on: 1,
                        [
                            "iperf3", "-c", running.address, "-C", "cubic", "-t",
                            "\(Int(seconds.rounded(.up)) + 5)",
                        ], label: "bulk")
                    usleep(300_000)
                }
                defer { bulk?.stop() }
                // Beside a flow answers wait behind its bursts: requests that waited for them would see one long
                // wait for hundreds of short ones, wherever the flow pauses.
                let pace = besideBulk ? ["--interval", "1000"] : []
                let report = try traffic("round-trip", running, ["--seconds", "\(seconds)"] + pace)
                if let bulk, let status = bulk.exitStatusIfEnded() {
                    throw CommandError(
                        description:
                            "iperf3 ended before the round trips beside it, status \(status): \(bulk.lastWords)"
                    )
                }
                return percentiles.map { report[$0.1] ?? .infinity }
            })
    }

    static let connects = Measurement(
        name: "connects",
        metrics: [
            Metric(
                name: "connects.rate", title: "TCP connects", unit: "/s", moreIsBetter: true,
                isHeadline: false,
                decimals: 0)
        ],
        estimatedSeconds: { $0 },
        run: { running, seconds in
            let report = try traffic("connect", running, ["--seconds", "\(seconds)"])
            return [report["per_second"] ?? 0]
        })

    /// The servers that the measurements talk to, on node 2.
    static func startServers() throws -> [Child] {
        [
            try Lab.start(on: 2, ["iperf3", "-s"], label: "iperf3-server"),
            try Lab.start(
                on: 2, [sibling("traffic"), "receive", "--bind", "0.0.0.0:\(trafficPort)"], label: "sink"),
        ]
    }

    private static let trafficPort = 7000

    private static func traffic(
        _ subcommand: String, _ running: RunningCandidate, _ flags: [String]
    ) throws -> [String: Double] {
        let text = try Lab.run(
            on: 1, [sibling("traffic"), subcommand, "--to", "\(running.address):\(trafficPort)"] + flags)
        let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] ?? [:]
        return object.compactMapValues { ($0 as? NSNumber)?.doubleValue }
    }

    /// What iperf3's JSON says of all streams together; both ways added up where both were measured.
    private static func iperf(
        _ running: RunningCandidate, _ flags: [String]
    ) throws -> (bitsPerSecond: Double, bytes: Double, retransmits: Double) {
        // Namespaces can start with BBR, whose pacing would be what is measured.
        let text = try Lab.run(on: 1, ["iperf3", "-c", running.address, "-C", "cubic", "-J"] + flags)
        let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] ?? [:]
        let end = object["end"] as? [String: Any] ?? [:]
        func number(_ section: String, _ key: String) -> Double {
            ((end[section] as? [String: Any])?[key] as? NSNumber)?.doubleValue ?? 0
        }
        return (
            number("sum_received", "bits_per_second")
                + number("sum_received_bidir_reverse", "bits_per_second"),
            number("sum_received", "bytes") + number("sum_received_bidir_reverse", "bytes"),
            number("sum_sent", "retransmits") + number("sum_sent_bidir_reverse", "retransmits")
        )
    }
}
