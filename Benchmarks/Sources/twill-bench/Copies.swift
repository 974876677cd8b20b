import Foundation

/// Counts how often the bytes of a bulk transfer are copied on their way through a node, and with how many operations:
/// once by what the daemons say of themselves, once by somebody else. Crossings between kernel and user space
/// and operations are seen by the kernel's tracepoints; copies within user space by a library that stands in for
/// `memcpy` in the daemons.
enum Copies {
    /// For the tracepoints that are recorded one by one: little enough for the slowest candidate and for perf's buffers.
    private static let recordedMegabytes = 48
    private static let smallPacketBytes = 64
    private static let secondsOfSmallPackets = 0.3

    static let measurement = Measurement(
        name: "copies",
        metrics: [
            metric("kernel", "crossings a node", "", headline: true, decimals: 2),
            metric("user", "user-space copies a node", "", headline: true, decimals: 2),
            metric("own", "copies a node, by daemons' counters", "", decimals: 2),
            metric("difference", "copies: the two counts differ by", "%", decimals: 1),
            metric("read", "bytes read from the device for each that left by it", "", decimals: 2),
            metric("send", "bytes sent for each", "", decimals: 2),
            metric("receive", "bytes received for each that came in by the device", "", decimals: 2),
            metric("write", "bytes written for each", "", decimals: 2),
            metric("syscalls", "syscalls", "/MB", headline: true, decimals: 0),
            metric("own-syscalls", "syscalls, by daemons' counters", "/MB", decimals: 0),
            metric("ring", "ring operations", "/MB", decimals: 0),
            metric("own-ring", "ring operations, by daemons' counters", "/MB", decimals: 0),
            metric("operations-difference", "operations: the two counts differ by", "%", decimals: 1),
            metric("small-syscalls", "syscalls for 1000 packets of 64 B", "", decimals: 0),
            metric("small-ring", "ring operations for 1000 packets of 64 B", "", decimals: 0),
        ],
        countsCopies: true,
        estimatedSeconds: { _ in 6 },
        run: run)

    private static func metric(
        _ quantity: String, _ title: String, _ unit: String, headline: Bool = false, decimals: Int
    ) -> Metric {
        Metric(
            name: "copies.\(quantity)", title: title, unit: unit, moreIsBetter: false, isHeadline: headline,
            decimals: decimals)
    }

    @Sendable
    private static func run(_ running: RunningCandidate, _ seconds: Double) throws -> [Double] {
        guard !running.daemons.isEmpty else {
            // Nothing of the kernel's own forwarding passes through user space.
            return measurement.metrics.map { _ in 0 }
        }
        let bytes = try countBytes(running)
        let bulk = try countOperations(running, while: { try transfer(running, ["-t", "1"]) })
        var packets = 0.0
        let small = try countOperations(
            running,
            while: {
                packets = try TrafficReport.run(
                    "send", running,
                    ["--size", "\(smallPacketBytes)", "--seconds", "\(secondsOfSmallPackets)"]
                )["received", default: 0]
            })
        // A megabyte of payload passes two devices, one a node.
        let megabytes = bulk.passedBytes / 2 / 1e6
        let thousands = packets / 1000
        func share(_ own: Double?, of seen: Double) -> Double {
            guard let own, seen > 0 else { return .nan }
            return abs(own - seen) / seen * 100
        }
        // The engines count the calls that move packets; the rest of a daemon makes others, which are few.
        let syscallsOfEngine =
            bulk.events[enterEvent, default: 0] > 0 ? bulk.events[enterEvent] : bulk.events[syscallEvent]
        let operationsDifference = [
            share(bulk.ownSyscalls, of: syscallsOfEngine ?? 0),
            share(bulk.ownCompletions, of: bulk.events[completionEvent, default: 0]),
        ].filter(\.isFinite).max()
        return [
            bytes.crossings, bytes.copiedInUserSpace ?? .nan, bytes.own ?? .nan,
            share(bytes.own, of: bytes.crossings + (bytes.copiedInUserSpace ?? 0)),
            bytes.read, bytes.send, bytes.receive, bytes.write,
            bulk.events[syscallEvent, default: .nan] / megabytes, (bulk.ownSyscalls ?? .nan) / megabytes,
            bulk.events[completionEvent, default: .nan] / megabytes,
            // An engine of plain calls completes its operations without a ring.
            bulk.events[completionEvent] == 0 ? 0 : (bulk.ownCompletions ?? .nan) / megabytes,
            operationsDifference ?? .nan,
            small.events[syscallEvent, default: .nan] / thousands,
            small.events[completionEvent, default: .nan] / thousands,
        ]
    }

    private static func transfer(_ running: RunningCandidate, _ amount: [String]) throws {
        try running.run(atEndOf: 1, IperfReport.command(["-c", running.address, "-J"] + amount))
    }

    // MARK: Operations

    private static let syscallEvent = "raw_syscalls:sys_enter"
    private static let enterEvent = "syscalls:sys_enter_io_uring_enter"
    private static let completionEvent = "io_uring:io_uring_complete"

    private struct Operations {
        /// By the kernel's tracepoints, in the daemons.
        var events: [String: Double]
        /// By the daemons' counters, where they have them.
        var ownSyscalls: Double?
        var ownCompletions: Double?
        /// Bytes in and out of the devices of all nodes.
        var passedBytes: Double
    }

    /// What happened in all daemons during `load`, by `perf stat`.
    private static func countOperations(
        _ running: RunningCandidate, while load: () throws -> Void
    ) throws -> Operations {
        let events = [syscallEvent, enterEvent, completionEvent]
        let path = "\(Lab.folder)/perf-stat"
        let ownBefore = running.counters()
        let passedBefore = try bytesPassed(running.devices).reduce(0) { $0 + $1.out + $1.in }
        let perf = try startPerf(
            ["stat", "-x", ",", "-e", events.joined(separator: ","), "-o", path], running)
        try load()
        try end(perf)
        let own = running.counters()
        let passed = try bytesPassed(running.devices).reduce(0) { $0 + $1.out + $1.in } - passedBefore
        var counts: [String: Double] = [:]
        for line in contents(path).split(separator: "\n") {
            let fields = line.split(separator: ",", omittingEmptySubsequences: false)
            guard fields.count > 2, let count = Double(fields[0]) else { continue }
            counts[String(fields[2])] = count
        }
        guard counts.count == events.count else {
            throw CommandError(description: "perf stat counted no tracepoints: \(contents(path))")
        }
        return Operations(
            events: counts, ownSyscalls: own.growth(of: OwnCounters.syscalls, since: ownBefore),
            ownCompletions: own.growth(of: OwnCounters.completions, since: ownBefore), passedBytes: passed)
    }

    // MARK: Bytes

    private struct Bytes {
        /// For each byte that passed a device, by the kernel's tracepoints.
        var crossings: Double
        /// For each byte that passed a device, by the preloaded library; nil where it could not be loaded.
        var copiedInUserSpace: Double?
        /// For each byte that passed a device, by the daemons' counters; nil where they have none.
        var own: Double?
        /// For each byte that left through a device: read there, and sent on the underlay.
        var read, send: Double
        /// For each byte that came in through a device: received on the underlay, and written there.
        var receive, write: Double
    }

    /// What was copied during one transfer.
    private static func countBytes(_ running: RunningCandidate) throws -> Bytes {
        let path = "\(Lab.folder)/perf-data"
        let events =
            "skb:skb_copy_datagram_iovec,sock:sock_recv_length,sock:sock_send_length,net:netif_receive_skb"
        let perf = try startPerf(["record", "-q", "-m", "16M", "-e", events, "-o", path], running)
        let passedBefore = try bytesPassed(running.devices)
        let ownBefore = running.counters()
        let copiedBefore = running.bytesCopiedInUserSpace()
        try transfer(running, ["-n", "\(recordedMegabytes)M"])
        let copied = running.bytesCopiedInUserSpace()
        let own = running.counters()
        let passedAfter = try bytesPassed(running.devices)
        try end(perf)
        // Reads of the device are seen as skb_copy_datagram_iovec. So are receives of skbs in several fragments, but
        // not of linear ones, which sock_recv_length sees as well as those: a copy with a receive of the same
        // length right behind it on its thread was that receive's. Writes to the device are what arrives from it.
        let text = try output(of: [
            "sh", "-c",
            """
            perf script -i \(path) -F tid,event,trace 2>/dev/null | awk '
                { thread = $1; size = $0; sub(/.*(len=|length = )/, "", size); size += 0 }
                /skb_copy_datagram_iovec/ { read += size; copied[thread] = size; next }
                /sock_recv_length/ && /protocol = 0x11/ && size > 0 {
                    receive += size; if (copied[thread] == size) read -= size }
                /sock_send_length/ && /protocol = 0x11/ && size > 0 { send += size }
                /netif_receive_skb/ && /dev=(\(running.devices.joined(separator: "|"))) / { write += size }
                { copied[thread] = 0 }
                END { printf "%.0f %.0f %.0f %.0f", read, send, receive, write }'
            """,
        ])
        unlink(path)
        let seen = text.split(separator: " ").compactMap { Double($0) }
        guard seen.count == 4, seen.allSatisfy({ $0 > 0 }) else {
            throw CommandError(description: "perf record saw no copies; is \(Lab.tracefs) mounted?")
        }
        var (out, into) = (0.0, 0.0)
        for (before, after) in zip(passedBefore, passedAfter) {
            out += after.out - before.out
            into += after.in - before.in
        }
        let passed = out + into
        return Bytes(
            crossings: seen.reduce(0, +) / passed,
            copiedInUserSpace: copied.flatMap { copied in copiedBefore.map { (copied - $0) / passed } },
            own: own.growth(of: OwnCounters.bytes, since: ownBefore).map { $0 / passed },
            read: seen[0] / out, send: seen[1] / out, receive: seen[2] / into, write: seen[3] / into)
    }

    /// Bytes that each device has counted: `out` of the node's kernel into the device, and `in` from it.
    private static func bytesPassed(_ devices: [String]) throws -> [(out: Double, in: Double)] {
        try devices.enumerated().map { index, device in
            let folder = "/sys/class/net/\(device)/statistics"
            let text = try Lab.run(on: index + 1, ["cat", "\(folder)/tx_bytes", "\(folder)/rx_bytes"])
            let values = text.split(separator: "\n").compactMap { Double($0) }
            guard values.count == 2 else { throw CommandError(description: "\(folder) has no counts") }
            return (values[0], values[1])
        }
    }

    // MARK: perf

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

/// What daemons say of themselves, all of them added up.
struct OwnCounters {
    /// Bytes that went into and out of user space.
    static let bytes: Set = [
        "bytes_to_user", "bytes_to_kernel",  // the plain forwarder's
        "tunnel_bytes", "bytes_sent", "bytes_received", "bytes_delivered",  // twilld's
    ]
    static let syscalls: Set = [
        "polls", "tun_reads", "tun_writes", "socket_sends", "socket_receives",  // the plain forwarder's
        "enters",  // twilld's
    ]
    /// Tables that the scale forwarder published.
    static let changes: Set = ["changes"]
    /// twilld's; the engine of plain calls completes without a ring.
    static let completions: Set = ["completions"]

    fileprivate var values: [String: Double] = [:]

    /// How much the sum of some counters has grown; nil where the daemons have none of them.
    func growth(of names: Set<String>, since earlier: OwnCounters) -> Double? {
        let own = names.filter { values[$0] != nil }
        guard !own.isEmpty else { return nil }
        return own.reduce(0) { $0 + values[$1, default: 0] - earlier.values[$1, default: 0] }
    }
}

extension RunningCandidate {
    /// The name=value lines that the daemons print on SIGUSR1, added up by name.
    func counters() -> OwnCounters {
        var sum = OwnCounters()
        guard candidate.printsCounters == true else { return sum }
        for daemon in daemons {
            for (name, value) in daemon.counters() { sum.values[name, default: 0] += value }
        }
        return sum
    }

    /// Bytes copied in all daemons; nil where one of them is not counted.
    fileprivate func bytesCopiedInUserSpace() -> Double? {
        var sum = 0.0
        for (daemon, count) in zip(daemons, copyCounts) {
            guard let bytes = count.bytes(in: daemon.processIdentifier) else { return nil }
            sum += bytes
        }
        return copyCounts.isEmpty ? nil : sum
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
