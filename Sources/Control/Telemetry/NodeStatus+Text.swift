import Health

extension NodeStatus {
    /// The status for a terminal.
    ///
    /// - Parameter peerLimit: how many peers are listed; the rest is counted.
    public func text(peerLimit: Int = .max) -> String {
        var lines = [
            "twilld \(version), process \(processIdentifier), up \(NodeStatus.duration(uptimeSeconds))",
            "state     \(isReady ? "ready" : "not ready"): \(state)",
        ]
        if !problems.isEmpty {
            lines.append("problems")
            lines += problems.map { "  \($0)" }
        }
        lines.append("store     \(store.name), \(storeState)")
        if let underlay {
            lines.append(
                "underlay  \(underlay.interface), bound to \(underlay.address), reached at "
                    + "\(underlay.endpoint), "
                    + "MTU \(underlay.mtu)")
        }
        if let tunnel {
            let backend = tunnel.backend.map { "\($0), " } ?? ""
            lines.append("tunnel    \(backend)\(tunnel.interface), \(tunnel.network), MTU \(tunnel.mtu)")
        }
        if let lease { lines.append(line(of: lease)) }
        lines += kernelLines
        lines += traffic
        lines += peerLines(limit: peerLimit)
        if !skipped.isEmpty {
            let entries = lease?.isAssigned == true ? "nodes of the cluster" : "entries of the store"
            lines.append("skipped   \(skipped.count) \(entries) are no peers")
            lines += skipped.map { "  \($0.key): \($0.reason)" }
        }
        let drops = counters.filter { $0.isDrop && $0.value > 0 }
        if !drops.isEmpty {
            lines.append("dropped   \(drops.reduce(0) { $0 &+ $1.value })")
            lines += drops.map { drop in
                let rate = drop.perSecond.map { ", \(NodeStatus.scaled($0, "pps"))" } ?? ""
                return "  \(drop.name) \(drop.value)\(rate): \(drop.meaning)"
            }
        }
        let fallbacks = counters.filter { $0.isFallback && $0.value > 0 }
        if !fallbacks.isEmpty {
            lines.append("fallbacks")
            lines += fallbacks.map { "  \($0.name) \($0.value): \($0.meaning)" }
        }
        // What a store, a file or a flag says must not steer the terminal.
        return lines.map(\.printable).joined(separator: "\n") + "\n"
    }

    private func line(of lease: Lease) -> String {
        let age = "\(lease.subnet), \(NodeStatus.duration(lease.ageSeconds)) old"
        if lease.isAssigned == true { return "subnet    \(age), assigned by the cluster" }
        let end =
            lease.expirySeconds.map { "ends in \(NodeStatus.duration($0)) unless renewed" }
            ?? "a reservation, never ends"
        return "lease     \(age), \(end)"
    }

    private var storeState: String {
        (store.isConnected
            ? "connected" : "not connected" + (tunnel == nil ? "" : "; packets flow without it"))
            + (store.reconnects == 0 ? "" : ", reconnected \(store.reconnects) times")
    }

    /// What of the kernel's state is not as it is wanted; nothing where all of it is.
    private var kernelLines: [String] {
        let items = kernel ?? []
        let wrong = items.filter { $0.state != "good" }
        if wrong.isEmpty { return [] }
        return ["kernel    \(wrong.count) of \(items.count) items not as wanted"]
            + wrong.map { item in
                let tries = item.retries == 0 ? "" : ", tried again \(item.retries) times"
                return "  \(item.item): \(item.state) for \(NodeStatus.duration(item.sinceSeconds))\(tries)"
                    + (item.lastError.map { ": \($0)" } ?? "")
            }
    }

    private var traffic: [String] {
        [
            ("out       ", "packets_sent", "bytes_sent"),
            ("in        ", "packets_delivered", "bytes_delivered"),
        ]
        .compactMap { label, packets, bytes in
            guard let packets = counter(packets), let bytes = counter(bytes) else { return nil }
            var line = "\(label)\(packets.value) packets, \(NodeStatus.scaled(Double(bytes.value), "B"))"
            if let packetRate = packets.perSecond, let byteRate = bytes.perSecond {
                line +=
                    "; \(NodeStatus.scaled(packetRate, "pps")), \(NodeStatus.scaled(byteRate * 8, "bit/s"))"
            }
            return line
        }
    }

    private func counter(_ name: String) -> CounterValue? { counters.first { $0.name == name } }

    /// The peers in columns, under a heading.
    private func peerLines(limit: Int) -> [String] {
        let widths = [20, 23, 11, 13, 11, 13]
        func line(_ columns: [String]) -> String {
            let padded = zip(columns, widths).map { column, width in
                column + String(repeating: " ", count: max(1, width - column.count))
            }
            return "  " + padded.joined() + columns[widths.count...].joined()
        }
        func rate(_ flow: Flow) -> String {
            flow.bytesPerSecond.map { NodeStatus.scaled($0 * 8, "bit/s") } ?? "-"
        }
        func row(_ name: String, _ endpoint: String, _ traffic: Traffic?, pathMTU: Int? = nil) -> String {
            let path = pathMTU.map { ", path MTU \($0)" } ?? ""
            guard let traffic else { return line([name, endpoint, "-", "-", "-", "-", "-" + path]) }
            let heard =
                (traffic.lastReceivedSeconds.map { "\(NodeStatus.duration($0)) ago" } ?? "never") + path
            return line([
                name, endpoint, NodeStatus.scaled(Double(traffic.sent.bytes), "B"), rate(traffic.sent),
                NodeStatus.scaled(Double(traffic.received.bytes), "B"), rate(traffic.received), heard,
            ])
        }
        var lines = ["peers     \(peers.count)"]
        if !peers.isEmpty, limit > 0 {
            lines.append(line(["SUBNET", "ENDPOINT", "OUT", "", "IN", "", "HEARD"]))
        }
        lines += peers.prefix(limit).map { row($0.subnet, $0.endpoint, $0.traffic, pathMTU: $0.pathMTU) }
        if peers.count > limit { lines.append("  and \(peers.count - limit) more") }
        if let otherPeersTraffic { lines.append(row("those with -", "", otherPeersTraffic)) }
        return lines
    }

    /// `3d 4h`, `5m 6s`, `7s`: the two largest units.
    static func duration(_ seconds: Double) -> String {
        // What does not fit is no time that a daemon tells.
        guard var rest = Int(exactly: seconds.magnitude.rounded()) else { return "?" }
        var parts: [String] = []
        for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if rest >= length { parts.append("\(rest / length)\(unit)") }
            rest %= length
        }
        return (seconds < 0 ? "-" : "") + (parts.isEmpty ? "0s" : parts.prefix(2).joined(separator: " "))
    }

    /// Three digits and a decimal prefix: `1.23 Gbit/s`, `45.6 kpps`, `789 B`.
    static func scaled(_ value: Double, _ unit: String) -> String {
        var value = value
        var prefix = ""
        for next in ["k", "M", "G", "T"] where value >= 999.5 {
            value /= 1000
            prefix = next
        }
        let places = prefix.isEmpty || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2
        let factor = [1, 10, 100][places]
        guard let scaled = Int(exactly: (value * Double(factor)).rounded()) else { return "? \(unit)" }
        let fraction = String(scaled % factor)
        let point = places == 0 ? "" : "." + String(repeating: "0", count: places - fraction.count) + fraction
        return "\(scaled / factor)\(point) \(prefix)\(unit)"
    }
}
