import FoundationEssentials
import NetworkNamespaces

extension LabHost {
    /// What the kernel counts here of IP, UDP and TCP: `UdpRcvbufErrors`, `TcpInCsumErrors`, … (nstat's names).
    public func kernelCounters() async throws -> [String: Int] {
        let text = try await namespace.run {
            try String(contentsOfFile: "/proc/thread-self/net/snmp", encoding: .utf8)
        }
        var counters: [String: Int] = [:]
        // For each protocol a line of names, then one of numbers.
        let lines = text.split(separator: "\n").map { $0.split(separator: " ") }
        for (names, numbers) in zip(lines, lines.dropFirst()) where names.first == numbers.first {
            let name = names.first?.dropLast() ?? ""
            for (counter, number) in zip(names, numbers).dropFirst() {
                if let value = Int(number) { counters["\(name)\(counter)"] = value }
            }
        }
        return counters
    }

    /// What the kernel dropped here so far outside of twilld, by the place: devices, queues, sockets, IP.
    public func kernelDrops() async throws -> [String: Int] {
        var drops: [String: Int] = [:]
        for interface in try await interfaces() {
            drops["\(interface.name):rx_dropped"] = interface.receiveDrops
            drops["\(interface.name):tx_dropped"] = interface.transmitDrops
        }
        let text = try await run("tc -s -j qdisc show")
        for queue in try JSONDecoder().decode([Queue].self, from: Data(text.utf8)) {
            drops["\(queue.dev):\(queue.kind)\(queue.parent ?? "")", default: 0] += queue.drops ?? 0
        }
        let counters = try await kernelCounters()
        for name in [
            "UdpRcvbufErrors", "UdpSndbufErrors", "IpReasmFails", "IpFragFails", "IpInDiscards",
            "IpOutDiscards",
        ] { drops[name] = counters[name] ?? 0 }
        return drops
    }
}

private struct Queue: Decodable, Sendable {
    let kind: String
    let dev: String
    let parent: String?
    let drops: Int?
}
