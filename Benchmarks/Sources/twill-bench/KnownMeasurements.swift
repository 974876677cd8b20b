import Foundation

/// Measurements under the names that the trade knows: netperf's STREAM, RR and CRR as Cilium's tables have them, the
/// non-drop and partial drop rates of FD.io, the responsiveness of the IETF's draft.
extension Measurement {
    static let known: [Measurement] =
        [1, 32].flatMap {
            [stream($0), transactions($0, connectsEach: false), transactions($0, connectsEach: true)]
        }
        + [mlrSearch, responsiveness]

    private static func metric(
        _ name: String, _ title: String, _ unit: String, more: Bool, decimals: Int
    ) -> Metric {
        Metric(
            name: name, title: title, unit: unit, moreIsBetter: more, isHeadline: true, decimals: decimals)
    }

    /// The rates at which processor time is compared: what every candidate reaches, the plainest too.
    private static let fixedMegabits = 400
    private static let fixedTransactions = 2000
    private static let fixedConnects = 500

    /// TCP_STREAM: bulk over so many connections, then a fixed rate, at which only its cost differs.
    private static func stream(_ connections: Int) -> Measurement {
        let name = "stream-\(connections)"
        let title = "STREAM \(connections)"
        return Measurement(
            name: name,
            metrics: [
                metric("\(name).throughput", title, "Gbit/s", more: true, decimals: 2),
                metric(
                    "\(name).fixed-cpu", "\(title), CPU at \(fixedMegabits) Mbit/s", "% of a CPU",
                    more: false,
                    decimals: 0),
            ],
            estimatedSeconds: { 2 * $0 + 1.2 },
            run: { running, seconds in
                let whole = ["-t", "\(Int(seconds.rounded(.up)))", "-P", "\(connections)"]
                let free = try IperfReport.run(running, whole)
                let rate = fixedMegabits * 1000 / connections
                let cost = try processorShare(running) {
                    let fixed = try IperfReport.run(running, whole + ["-b", "\(rate)K"])
                    guard fixed.bitsPerSecond > 0.9e6 * Double(fixedMegabits) else {
                        throw CommandError(description: "does not reach \(fixedMegabits) Mbit/s")
                    }
                }
                return [free.bitsPerSecond / 1e9, cost]
            })
    }

    /// TCP_RR: a byte there and a byte back, over so many connections at once; TCP_CRR: each over a connection of its
    /// own.
    private static func transactions(_ connections: Int, connectsEach: Bool) -> Measurement {
        let name = (connectsEach ? "crr-" : "rr-") + "\(connections)"
        let title = (connectsEach ? "CRR " : "RR ") + "\(connections)"
        let rate = connectsEach ? fixedConnects : fixedTransactions
        return Measurement(
            name: name,
            metrics: [
                metric("\(name).rate", title, "/s", more: true, decimals: 0),
                metric("\(name).p99", "\(title) p99", "µs", more: false, decimals: 0),
                metric(
                    "\(name).fixed-cpu", "\(title), CPU at \(rate) /s", "% of a CPU", more: false, decimals: 0
                ),
            ],
            estimatedSeconds: { 2 * $0 + 0.2 },
            run: { running, seconds in
                let flags =
                    ["--seconds", "\(seconds)", "--connections", "\(connections)"]
                    + (connectsEach ? ["--connect-each"] : [])
                let free = try TrafficReport.transactions(running, flags)
                let cost = try processorShare(running) {
                    let fixed = try TrafficReport.transactions(running, flags + ["--rate", "\(rate)"])
                    guard fixed["per_second", default: 0] > 0.9 * Double(rate) else {
                        throw CommandError(description: "does not reach \(rate) transactions a second")
                    }
                }
                return [free["per_second", default: 0], free["p99_us", default: .infinity], cost]
            })
    }

    /// Processor time of the whole machine while something runs, in percent of one processor.
    private static func processorShare(_ running: RunningCandidate, _ body: () throws -> Void) throws
        -> Double
    {
        let before = ProcessorTime.now(running)
        let start = Date.now
        try body()
        let elapsed = Date.now.timeIntervalSince(start)
        return ProcessorTime.now(running).since(before).machineSeconds / elapsed * 100
    }

    /// NDR and PDR of packets of 64 bytes.
    private static let mlrSearch = Measurement(
        name: "udp-64-mlr",
        metrics: [
            metric("udp-64-mlr.ndr", "UDP 64 B NDR (none lost)", "kpps", more: true, decimals: 0),
            metric("udp-64-mlr.pdr", "UDP 64 B PDR (0.5 % lost)", "kpps", more: true, decimals: 0),
        ],
        estimatedSeconds: { trialSeconds($0) * 36 + 4 },
        run: { running, seconds in
            func trial(rate: Double) throws -> TrafficReport {
                try TrafficReport.run(
                    "send", running,
                    ["--size", "64", "--seconds", "\(trialSeconds(seconds))", "--rate", "\(rate)"])
            }
            let flood = try trial(rate: 0)
            let maximum = flood["sent_per_second", default: 0]
            guard maximum > 0 else { throw CommandError(description: "nothing of the flood arrived") }
            var search = MLRSearch()
            func rate(_ goal: MLRSearch.Goal) throws -> Double {
                try search.conditionalThroughput(goal, maximumLoad: maximum, minimumLoad: maximum / 200) {
                    load in
                    let report = try trial(rate: load)
                    // What was never offered has not got across either.
                    let offered = report["sent_per_second", default: 0] >= load * 0.97
                    return offered ? max(report["lost_share", default: 1], 0) : 1
                }
            }
            let partial = try rate(.partialDrop)
            return [try rate(.nonDrop) / 1000, partial / 1000]
        })

    private static func trialSeconds(_ seconds: Double) -> Double { min(0.5, seconds / 4) }

    /// Round trips a minute of those who come anew while sixteen streams fill the path.
    private static let responsiveness = Measurement(
        name: "responsiveness",
        metrics: [
            metric("responsiveness.round-trips", "responsiveness under load", "RPM", more: true, decimals: 0),
            Metric(
                name: "responsiveness.beside", title: "TCP 16 beside responsiveness", unit: "Gbit/s",
                moreIsBetter: true, isHeadline: false, decimals: 2),
        ],
        estimatedSeconds: { $0 + 1.5 },
        run: { running, seconds in
            var report: TrafficReport?
            let gigabits = try besideBulk(running, streams: 16, seconds: seconds) {
                report = try .transactions(
                    running,
                    ["--seconds", "\(seconds)", "--connections", "8", "--connect-each", "--rate", "100"])
            }
            // A probe is two round trips: the handshake, and a request on the fresh connection.
            guard let mean = report?["trimmed_mean_us"], mean > 0 else {
                throw CommandError(description: "no probe was answered")
            }
            return [60e6 / (mean / 2), gigabits]
        })

    /// After the loads: what was touched once stays resident.
    static let memory = Measurement(
        name: "memory",
        metrics: [
            metric("memory.resident", "daemon's memory", "MiB", more: false, decimals: 0),
            Metric(
                name: "memory.host", title: "memory of the host", unit: "MiB", moreIsBetter: false,
                isHeadline: false, decimals: 0),
        ],
        estimatedSeconds: { _ in 0 },
        run: { running, _ in
            let sizes = running.daemons.map { daemon in
                let status = contents("/proc/\(daemon.processIdentifier)/status").split(separator: "\n")
                let line = status.first { $0.hasPrefix("VmRSS:") }?.split(separator: " ")
                return (line.flatMap { $0.count > 1 ? Double($0[$0.count - 2]) : nil } ?? .nan) / 1024
            }
            return [
                sizes.isEmpty ? 0 : sizes.reduce(0, +) / Double(sizes.count),
                running.availableMebibytesBefore - HostMemory.availableMebibytes,
            ]
        })
}

extension TrafficReport {
    /// Requests over TCP to the sink's echo.
    fileprivate static func transactions(_ running: RunningCandidate, _ flags: [String]) throws
        -> TrafficReport
    {
        try run("transactions", running, flags)
    }
}
