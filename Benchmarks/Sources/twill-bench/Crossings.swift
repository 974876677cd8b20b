import Foundation

/// Counts how often the bytes of a bulk transfer cross between kernel and user space on a node, and with how many
/// operations: once by what the daemons count themselves, once by the kernel's tracepoints.
enum Crossings {
    /// Enough for the start of the transfer to be lost in it, little enough for the slowest candidate and for
    /// perf's buffers.
    private static let transferMegabytes = 64

    static let measurement = Measurement(
        name: "crossings",
        metrics: [
            metric("daemons", "crossings a node, by daemons' counters", "", decimals: 2),
            metric("kernel", "crossings a node", "", headline: true, decimals: 2),
            metric("difference", "the two counts differ by", "%", decimals: 1),
            metric("syscalls", "syscalls", "/MB", headline: true, decimals: 0),
            metric("ring", "ring operations", "/MB", decimals: 0),
        ],
        estimatedSeconds: { _ in 6 },
        run: run)

    private static func metric(
        _ quantity: String, _ title: String, _ unit: String, headline: Bool = false, decimals: Int
    ) -> Metric {
        Metric(
            name: "crossings.\(quantity)", title: title, unit: unit, moreIsBetter: false,
            isHeadline: headline,
            decimals: decimals)
    }

    @Sendable
    private static func run(_ running: RunningCandidate, _ seconds: Double) throws -> [Double] {
        guard !running.daemons.isEmpty else {
            // Nothing of the kernel's own forwarding passes through user space.
            return [0, 0, 0, 0, 0]
        }
        let counts = try countEvents(running)
        let megabytes = Double(transferMegabytes) * 2
        let (byKernel, byDaemons) = try sumBytes(running)
        let difference = byDaemons.map { abs($0 - byKernel) / byKernel * 100 }
        return [
            byDaemons ?? .nan, byKernel, difference ?? .nan, counts["raw_syscalls:sys_enter"]! / megabytes,
            counts["io_uring:io_uring_submit_req"]! / megabytes,
        ]
    }

    private static func transfer(_ running: RunningCandidate) throws {
        try Lab.run(
            on: 1, ["iperf3", "-c", running.address, "-C", "cubic", "-n", "\(transferMegabytes)M", "-J"])
    }

    /// How often each event happened in both daemons during one transfer, by `perf stat`.
    private static func countEvents(_ running: RunningCandidate) throws -> [String: Double] {
        let events = ["raw_syscalls:sys_enter", "io_uring:io_uring_submit_req"]
        let path = "\(Lab.folder)/perf-stat"
        let perf = try startPerf(
            ["stat", "-x", ",", "-e", events.joined(separator: ","), "-o", path], running)
        try transfer(running)
        try end(perf)
        var counts: [String: Double] = [:]
        for line in contents(path).split(separator: "\n") {
            let fields = line.split(separator: ",", omittingEmptySubsequences: false)
            guard fields.count > 2, let count = Double(fields[0]) else { continue }
            counts[String(fields[2])] = count
        }
        guard counts.count == events.count else {
            throw CommandError(description: "perf stat counted no tracepoints: \(contents(path))")
        }
        return counts
    }

    /// Bytes that crossed during one transfer for each byte that passed the TUN devices: by the kernel's
    /// tracepoints, and by the daemons' own counters where they have them.
    private static func sumBytes(
        _ running: RunningCandidate
    ) throws -> (byKernel: Double, byDaemons: Double?) {
        let path = "\(Lab.folder)/perf-data"
        let events =
            "skb:skb_copy_datagram_iovec,sock:sock_recv_length,sock:sock_send_length,net:netif_receive_skb"
        let perf = try startPerf(["record", "-q", "-m", "16M", "-e", events, "-o", path], running)
        let passedBefore = try bytesPassed(running.devices)
        let countedBefore = running.countedBytes()
        try transfer(running)
        let countedAfter = running.countedBytes()
        let passed = try bytesPassed(running.devices) - passedBefore
        try end(perf)
        // Reads of the TUN are seen as skb_copy_datagram_iovec. So are receives of skbs in several fragments, but
        // not of linear ones, which sock_recv_length sees as well as those: a copy with a receive of the same
        // length right behind it on its thread was that receive's. Writes to the TUN are what arrives from it.
        let sum = try output(of: [
            "sh", "-c",
            """
            perf script -i \(path) -F tid,event,trace 2>/dev/null | awk '
                { thread = $1; size = $0; sub(/.*(len=|length = )/, "", size); size += 0 }
                /skb_copy_datagram_iovec/ { sum += size; copied[thread] = size; next }
                /sock_recv_length/ && /protocol = 0x11/ && size > 0 { if (copied[thread] != size) sum += size }
                /sock_send_length/ && /protocol = 0x11/ && size > 0 { sum += size }
                /netif_receive_skb/ && /dev=(\(running.devices.joined(separator: "|"))) / { sum += size }
                { copied[thread] = 0 }
                END { printf "%.0f", sum }'
            """,
        ])
        unlink(path)
        guard let crossed = Double(sum.trimmingCharacters(in: .whitespacesAndNewlines)), crossed > 0 else {
            throw CommandError(description: "perf record saw no copies; is \(Lab.tracefs) mounted?")
        }
        let counted = countedBefore.flatMap { before in countedAfter.map { $0 - before } }
        return (crossed / passed, counted.map { $0 / passed })
    }

    /// Bytes in and out of the TUN devices of both nodes, as the devices count them.
    private static func bytesPassed(_ devices: [String]) throws -> Double {
        try devices.enumerated().reduce(0) { sum, device in
            let folder = "/sys/class/net/\(device.element)/statistics"
            let text = try Lab.run(
                on: device.offset + 1, ["cat", "\(folder)/rx_bytes", "\(folder)/tx_bytes"])
            return sum + text.split(separator: "\n").compactMap { Double($0) }.reduce(0, +)
        }
    }

    private static func startPerf(_ words: [String], _ running: RunningCandidate) throws -> Child {
        let processes = running.daemons.map { "\($0.processIdentifier)" }.joined(separator: ",")
        let perf = try Child(
            ["perf"] + words + ["-p", processes], outputPath: "\(Lab.folder)/perf.output",
            errorPath: "\(Lab.folder)/perf.error")
        // perf has no word for "attached"; it takes about a tenth of this.
        usleep(300_000)
        if let status = perf.exitStatusIfEnded() {
            throw CommandError(description: "perf ended with status \(status): \(perf.lastWords)")
        }
        return perf
    }

    private static func end(_ perf: Child) throws {
        kill(perf.processIdentifier, SIGINT)
        _ = perf.wait()
    }
}

extension RunningCandidate {
    /// Bytes that the daemons say went into and out of user space; nil where they do not say.
    func countedBytes() -> Double? {
        let names: Set = [
            "bytes_to_user", "bytes_to_kernel",  // the plain forwarder's
            "tunnel_bytes", "bytes_sent", "bytes_received", "bytes_delivered",  // twilld's
        ]
        var sum: Double?
        for counters in daemons.map({ $0.counters() }) {
            for (name, value) in counters where names.contains(name) { sum = (sum ?? 0) + value }
        }
        return sum
    }
}

extension Child {
    /// The name=value lines that the daemon prints on SIGUSR1; empty where it prints none within a second.
    func counters() -> [String: Double] {
        let before = contents(errorPath).utf8.count
        kill(processIdentifier, SIGUSR1)
        var values: [String: Double] = [:]
        var previousCount = 0
        for _ in 0..<50 {
            usleep(20_000)
            let text = String(decoding: contents(errorPath).utf8.dropFirst(before), as: UTF8.self)
            for line in text.split(separator: "\n") {
                let parts = line.split(separator: "=")
                if parts.count == 2, let value = Double(parts[1]) { values[String(parts[0])] = value }
            }
            // Complete once two looks in a row see the same lines.
            if !values.isEmpty && text.utf8.count == previousCount { break }
            previousCount = text.utf8.count
        }
        return values
    }
}
