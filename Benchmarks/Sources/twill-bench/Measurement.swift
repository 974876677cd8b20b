import Foundation

/// Something that is measured over a running candidate; it yields the values of its metrics, in their order.
struct Measurement: Sendable {
    let name: String
    let metrics: [Metric]
    /// Whether the daemons must run with the library that counts their copies; they do for nothing else.
    var countsCopies = false
    /// How long it takes, about, where each run takes `seconds`.
    let estimatedSeconds: @Sendable (_ seconds: Double) -> Double
    let run: @Sendable (_ running: RunningCandidate, _ seconds: Double) throws -> [Double]
}

extension Measurement {
    /// Everything that the harness measures, in the order in which a turn runs it.
    static let all = all(streams: [1, 4, 16])

    /// The same with TCP over other numbers of streams.
    static func all(streams: [Int]) -> [Measurement] {
        [roundTrip("rtt", title: "RTT", isHeadline: true)]
            + streams.map { tcp("tcp-\($0)", title: "TCP \($0)", streams: $0, isHeadline: $0 <= 4) }
            + [
                tcp("tcp-1-reverse", title: "TCP 1 reverse", streams: 1, flags: ["-R"], isHeadline: false),
                tcp(
                    "tcp-4-both", title: "TCP 4 both ways", streams: 4, flags: ["--bidir"], isHeadline: false),
            ]
            + [64, 256, 1400].flatMap { size in
                [1, 16].flatMap { [flood(size: size, flows: $0), search(size: size, flows: $0)] }
            }
            + [roundTrip("rtt-bulk", title: "RTT beside TCP", isHeadline: false, besideStreams: 1)]
            + streams.filter { $0 > 1 }.map {
                roundTrip(
                    "rtt-bulk-\($0)", title: "RTT beside TCP \($0)", isHeadline: false, besideStreams: $0)
            }
            + [connects] + known + [peers, memory, Copies.measurement]
    }

    /// Words that stand for several measurements.
    static func groups(streams: [Int]) -> [String: [String]] {
        [
            "all": all(streams: streams).map(\.name), "usual": usual(streams: streams),
            "known": known.map(\.name),
        ]
    }

    /// What is measured where nothing is asked for by name.
    static func usual(streams: [Int]) -> [String] {
        ["rtt"] + streams.filter { $0 <= 4 }.map { "tcp-\($0)" }
            + ["udp-64", "udp-64-lossless", "rtt-bulk"]
            + streams.filter { $0 > 1 }.map { "rtt-bulk-\($0)" } + ["crr-1", "memory", "copies"]
    }

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
                metric("context-switches", " context switches", "/GB", decimals: 0),
                metric("wake-ups", " wake-ups", "/GB", decimals: 0),
                metric("retransmits", " retransmits", "", decimals: 0),
                metric("reordered", " segments out of order", "/GB", decimals: 1),
                metric("socket-drops", " datagrams without room in a socket", "", decimals: 0),
                metric("underlay-drops", " frames without room on the underlay", "", decimals: 0),
            ],
            estimatedSeconds: { $0 + 0.6 },
            run: { running, seconds in
                let countsBefore = try KernelCounts.now()
                let before = ProcessorTime.now(running)
                let report = try IperfReport.run(
                    running, ["-t", "\(Int(seconds.rounded(.up)))", "-P", "\(streams)"] + flags)
                let used = ProcessorTime.now(running).since(before)
                let counts = try KernelCounts.now().since(countsBefore)
                let gigabytes = report.bytes / 1e9
                guard gigabytes > 0 else {
                    throw CommandError(description: "nothing of the streams arrived")
                }
                return [
                    report.bitsPerSecond / 1e9, used.machineSeconds / gigabytes,
                    used.daemonSeconds / gigabytes, used.contextSwitches / gigabytes,
                    used.wakeUps / gigabytes, report.retransmits, counts.outOfOrder / gigabytes,
                    counts.socketDrops, counts.underlayDrops,
                ]
            })
    }

    static func flood(size: Int, flows: Int) -> Measurement {
        let name = "udp-\(size)" + (flows > 1 ? "-\(flows)-flows" : "")
        let title = "UDP \(size) B" + (flows > 1 ? " ×\(flows)" : "")
        func metric(
            _ quantity: String, _ suffix: String, _ unit: String, more: Bool = false, headline: Bool = false,
            decimals: Int = 0
        ) -> Metric {
            Metric(
                name: "\(name).\(quantity)", title: title + suffix, unit: unit, moreIsBetter: more,
                isHeadline: headline, decimals: decimals)
        }
        return Measurement(
            name: name,
            metrics: [
                metric("delivered", "", "kpps", more: true, headline: size == 64 && flows == 1),
                metric("sent", " sent", "kpps", more: true),
                metric("cpu", " CPU", "s/Mpkt", decimals: 2),
                metric("daemon-cpu", " daemons' CPU", "s/Mpkt", decimals: 2),
                metric("context-switches", " context switches", "/Mpkt"),
                metric("wake-ups", " wake-ups", "/Mpkt"),
                metric("reordered", " reordered", ""),
                .limit(name),
            ],
            estimatedSeconds: { $0 + 0.2 },
            run: { running, seconds in
                let before = ProcessorTime.now(running)
                let report = try TrafficReport.run(
                    "send", running, ["--size", "\(size)", "--flows", "\(flows)", "--seconds", "\(seconds)"])
                let used = ProcessorTime.now(running).since(before)
                let millions = (report["received"] ?? 0) / 1e6
                guard millions > 0 else {
                    throw CommandError(description: "nothing of the flood arrived")
                }
                return [
                    report["received_per_second", default: 0] / 1000,
                    report["sent_per_second", default: 0] / 1000, used.machineSeconds / millions,
                    used.daemonSeconds / millions, used.contextSwitches / millions, used.wakeUps / millions,
                    report["reordered", default: 0], report.limit,
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
                    isHeadline: size == 64 && flows == 1, decimals: 0),
                .limit(name),
            ],
            estimatedSeconds: { trialSeconds($0) * 12 + 1 },
            run: { running, seconds in
                let report = try TrafficReport.run(
                    "search", running,
                    [
                        "--size", "\(size)", "--flows", "\(flows)", "--seconds", "\(trialSeconds(seconds))",
                    ])
                return [report["received_per_second", default: 0] / 1000, report.limit]
            })
    }

    /// A search is a dozen trials; a trial of half a second holds thousands of packets at any rate of interest.
    private static func trialSeconds(_ seconds: Double) -> Double { min(0.5, seconds / 4) }

    static func roundTrip(
        _ name: String, title: String, isHeadline: Bool, besideStreams: Int = 0
    ) -> Measurement {
        let percentiles = [
            ("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p99_9_us"), ("max", "max_us"),
        ]
        let besideBulk = besideStreams > 0
        // What the streams had of it, from the first request to the last.
        let beside = Metric(
            name: "\(name).beside", title: "TCP \(besideStreams) beside RTT", unit: "Gbit/s",
            moreIsBetter: true,
            isHeadline: false, decimals: 2)
        return Measurement(
            name: name,
            metrics: percentiles.map { percentile, _ in
                Metric(
                    name: "\(name).\(percentile)", title: "\(title) \(percentile)", unit: "µs",
                    moreIsBetter: false,
                    isHeadline: isHeadline && (percentile == "p50" || percentile == "p99"),
                    decimals: 0)
            } + (besideBulk ? [beside] : []),
            estimatedSeconds: { besideBulk ? $0 + 1.5 : $0 },
            run: { running, seconds in
                guard besideBulk else {
                    let report = try TrafficReport.run("round-trip", running, ["--seconds", "\(seconds)"])
                    try report.requireAnswers()
                    return percentiles.map { report[$0.1, default: .infinity] }
                }
                var report: TrafficReport?
                let gigabitsPerSecond = try Self.besideBulk(running, streams: besideStreams, seconds: seconds)
                {
                    // Beside a flow answers wait behind its bursts: requests that waited for them would see one long
                    // wait for hundreds of short ones, wherever the flow pauses.
                    report = try TrafficReport.run(
                        "round-trip", running, ["--seconds", "\(seconds)", "--interval", "1000"])
                }
                try report?.requireAnswers()
                return percentiles.map { report?[$0.1] ?? .infinity } + [gigabitsPerSecond]
            })
    }

    /// Calls `body` while so many TCP streams fill the path, and returns what they had of it meanwhile, Gbit/s.
    static func besideBulk(
        _ running: RunningCandidate, streams: Int, seconds: Double, _ body: () throws -> Void
    ) throws -> Double {
        let flags = ["-c", running.address, "-P", "\(streams)", "-t", "\(Int(seconds.rounded(.up)) + 1)"]
        let bulk = try Lab.start(atEndOf: 1, IperfReport.command(flags), label: "bulk")
        defer { bulk.stop() }
        usleep(300_000)
        let bytesBefore = try Lab.underlayBytesReceived(on: 2)
        let began = Date()
        try body()
        let bits = try (Lab.underlayBytesReceived(on: 2) - bytesBefore) * 8
        let gigabitsPerSecond = bits / 1e9 / Date().timeIntervalSince(began)
        if let status = bulk.exitStatusIfEnded() {
            throw CommandError(
                description:
                    "iperf3 ended before the round trips beside it, status \(status): \(bulk.lastWords)")
        }
        // A client that is stopped leaves its server waiting for what the network still holds.
        try wait(seconds: 20, for: "iperf3 to end") { bulk.exitStatusIfEnded() != nil }
        return gigabitsPerSecond
    }

    static let connects = Measurement(
        name: "connects",
        metrics: [
            Metric(
                name: "connects.rate", title: "TCP connects", unit: "/s", moreIsBetter: true,
                isHeadline: false, decimals: 0)
        ],
        estimatedSeconds: { $0 },
        run: { running, seconds in
            let report = try TrafficReport.run("connect", running, ["--seconds", "\(seconds)"])
            return [report["per_second", default: 0]]
        })

    /// A flood over all of a candidate's peers, while its forwarding table changes as often as it does.
    static let peers = Measurement(
        name: "peers",
        metrics: [
            Metric(
                name: "peers.delivered", title: "64 B to all peers", unit: "kpps", moreIsBetter: true,
                isHeadline: true, decimals: 0),
            Metric(
                name: "peers.cost", title: "daemons' CPU", unit: "ns/packet", moreIsBetter: false,
                isHeadline: true, decimals: 0),
            Metric(
                name: "peers.changes", title: "table changes", unit: "/s", moreIsBetter: true,
                isHeadline: true, decimals: 0),
        ],
        estimatedSeconds: { $0 + 0.3 },
        run: { running, seconds in
            guard let peers = running.candidate.peers else { return [.nan, .nan, .nan] }
            let own = running.counters()
            let start = Date.now
            let before = ProcessorTime.now(running)
            let report = try TrafficReport.run(
                "send", running,
                [
                    "--size", "64", "--seconds", "\(seconds)", "--destinations",
                    "\(peers)",
                ])
            let used = ProcessorTime.now(running).since(before)
            let elapsed = Date.now.timeIntervalSince(start)
            let changes = running.counters().growth(of: OwnCounters.changes, since: own)
            return [
                report["received_per_second", default: 0] / 1000,
                used.daemonSeconds / report["received", default: 0] * 1e9,
                // Of each daemon.
                (changes ?? 0) / elapsed / Double(max(running.daemons.count, 1)),
            ]
        })

    /// The servers that the measurements talk to.
    static func startServers() throws -> [Child] {
        let iperf = try (2...Lab.layout.nodes).map {
            try Lab.start(atEndOf: $0, IperfReport.command(["-s"]), label: "iperf3-server")
        }
        let sink = [sibling("traffic"), "receive", "--bind", "0.0.0.0:\(TrafficReport.port)"]
        return iperf + [try Lab.start(atEndOf: 2, sink, label: "sink")]
    }
}

extension Metric {
    /// Who was the limit of a measurement, where it was not the candidate: `TrafficLimit`.
    fileprivate static func limit(_ measurement: String) -> Metric {
        Metric(
            name: "\(measurement).limit", title: "the harness's own limit", unit: "", moreIsBetter: false,
            isHeadline: false,
            decimals: 0)
    }

    /// Whether it says of other figures how they are to be read, and is no figure itself.
    var isLimit: Bool { name.hasSuffix(".limit") }
}

/// Who kept a measurement of packets from going higher, where it was the harness itself.
enum TrafficLimit: Double {
    case none = 0
    case generator, sink
}

/// What `traffic` printed.
struct TrafficReport {
    static let port = 7000

    /// Throws where no request was answered: a time of 0 is none.
    fileprivate func requireAnswers() throws {
        guard self["count", default: 0] > 0 else {
            throw CommandError(description: "no request was answered")
        }
    }
    private var values: [String: Double]
    private let bottleneck: String?

    static func run(
        _ subcommand: String, _ running: RunningCandidate, _ flags: [String]
    ) throws -> TrafficReport {
        let text = try running.run(
            atEndOf: 1, [sibling("traffic"), subcommand, "--to", "\(running.address):\(port)"] + flags)
        let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] ?? [:]
        return TrafficReport(
            values: object.compactMapValues { ($0 as? NSNumber)?.doubleValue },
            bottleneck: object["bottleneck"] as? String)
    }

    subscript(_ name: String) -> Double? { values[name] }
    subscript(_ name: String, default value: Double) -> Double { values[name] ?? value }

    var limit: Double {
        switch bottleneck {
        case "generator": TrafficLimit.generator.rawValue
        case "sink": TrafficLimit.sink.rawValue
        default: TrafficLimit.none.rawValue
        }
    }
}

/// What iperf3 said of all streams together; both ways added up where both were measured.
struct IperfReport {
    private(set) var bitsPerSecond = 0.0
    private(set) var bytes = 0.0
    private(set) var retransmits = 0.0

    /// Of every TCP measurement: what clusters run where nobody chose.
    static let congestionControl = "cubic"

    /// iperf3 whose sockets have the congestion control of every measurement from their first moment: a namespace can
    /// start with BBR, whose pacing stays with a socket that leaves BBR later, as `iperf3 -C` makes it do.
    static func command(_ flags: [String]) -> [String] {
        [
            "env", "LD_PRELOAD=\(sibling("libcongestion.so"))",
            "TCP_CONGESTION=\(congestionControl)", "iperf3",
        ] + flags
    }

    /// Sends from node 1 to every other node at the same time.
    static func run(_ running: RunningCandidate, _ flags: [String]) throws -> IperfReport {
        func command(_ address: String) -> [String] { Self.command(["-c", address, "-J"] + flags) }
        let further = try running.furtherAddresses.enumerated().map { index, address in
            try Lab.start(atEndOf: 1, command(address), label: "iperf3-\(index)")
        }
        var report = IperfReport()
        defer { for client in further { client.stop(within: 0) } }
        try report.add(try running.run(atEndOf: 1, command(running.address)))
        for client in further {
            guard client.wait() == 0 else {
                throw CommandError(description: "iperf3: \(client.lastWords)")
            }
            try report.add(contents(client.outputPath))
        }
        return report
    }

    private mutating func add(_ text: String) throws {
        let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] ?? [:]
        let end = object["end"] as? [String: Any] ?? [:]
        func number(_ section: String, _ key: String) -> Double {
            ((end[section] as? [String: Any])?[key] as? NSNumber)?.doubleValue ?? 0
        }
        for received in ["sum_received", "sum_received_bidir_reverse"] {
            bitsPerSecond += number(received, "bits_per_second")
            bytes += number(received, "bytes")
        }
        for sent in ["sum_sent", "sum_sent_bidir_reverse"] { retransmits += number(sent, "retransmits") }
    }
}
