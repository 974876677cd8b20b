extension NodeStatus {
    /// The status for a terminal.
    ///
    /// - Parameters:
    ///   - earlier: the status some time before, for rates; nil for none.
    ///   - peerLimit: how many peers are listed; the rest is counted.
    public func text(comparedTo earlier: NodeStatus? = nil, peerLimit: Int = .max) -> String {
        var lines = [
            "twilld \(version), process \(processIdentifier), up \(NodeStatus.duration(uptimeSeconds))",
            "state     \(isReady ? "ready" : "not ready"): \(state)",
            "store     \(store.name), \(storeState)",
        ]
        if let underlay {
            lines.append(
                "underlay  \(underlay.interface), bound to \(underlay.address), reached at \(underlay.endpoint), "
                    + "MTU \(underlay.mtu)")
        }
        if let tunnel { lines.append("tunnel    \(tunnel.interface), \(tunnel.network), MTU \(tunnel.mtu)") }
        if let lease {
            let end =
                lease.expirySeconds.map { "ends in \(NodeStatus.duration($0)) unless renewed" }
                ?? "a reservation, never ends"
            lines.append("lease     \(lease.subnet), \(NodeStatus.duration(lease.ageSeconds)) old, \(end)")
        }
        lines += traffic(comparedTo: earlier)
        lines.append("peers     \(peers.count)")
        for peer in peers.prefix(peerLimit) {
            let padding = String(repeating: " ", count: max(1, 20 - peer.subnet.count))
            lines.append("  \(peer.subnet)\(padding)\(peer.endpoint)")
        }
        if peers.count > peerLimit { lines.append("  and \(peers.count - peerLimit) more") }
        if !skipped.isEmpty {
            lines.append("skipped   \(skipped.count) entries of the store are no peers")
            lines += skipped.map { "  \($0.key): \($0.reason)" }
        }
        let drops = counters.filter { $0.isDrop && $0.value > 0 }
        if !drops.isEmpty {
            lines.append("dropped   \(drops.reduce(0) { $0 &+ $1.value })")
            lines += drops.map { drop in
                let rate =
                    rate(of: drop.name, comparedTo: earlier).map { ", \(NodeStatus.scaled($0, "pps"))" } ?? ""
                return "  \(drop.name) \(drop.value)\(rate): \(drop.meaning)"
            }
        }
        if !problems.isEmpty {
            lines.append("problems")
            lines += problems.map { "  \($0)" }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private var storeState: String {
        (store.isConnected
            ? "connected" : "not connected" + (tunnel == nil ? "" : "; packets flow without it"))
            + (store.reconnects == 0 ? "" : ", reconnected \(store.reconnects) times")
    }

    private func traffic(comparedTo earlier: NodeStatus?) -> [String] {
        [
            ("out       ", "packets_sent", "bytes_sent"),
            ("in        ", "packets_delivered", "bytes_delivered"),
        ]
        .compactMap { label, packets, bytes in
            guard let packetCount = value(of: packets), let byteCount = value(of: bytes) else { return nil }
            var line = "\(label)\(packetCount) packets, \(NodeStatus.scaled(Double(byteCount), "B"))"
            if let packetRate = rate(of: packets, comparedTo: earlier),
                let byteRate = rate(of: bytes, comparedTo: earlier)
            {
                line +=
                    "; \(NodeStatus.scaled(packetRate, "pps")), \(NodeStatus.scaled(byteRate * 8, "bit/s"))"
            }
            return line
        }
    }

    private func value(of counter: String) -> UInt64? { counters.first { $0.name == counter }?.value }

    /// Per second; nil where there is nothing to compare with, or the counters started anew in between.
    private func rate(of counter: String, comparedTo earlier: NodeStatus?) -> Double? {
        guard let earlier, earlier.processIdentifier == processIdentifier,
            let now = value(of: counter), let before = earlier.value(of: counter), now >= before
        else { return nil }
        let seconds = uptimeSeconds - earlier.uptimeSeconds
        return seconds > 0 ? Double(now - before) / seconds : nil
    }

    /// `3d 4h`, `5m 6s`, `7s`: the two largest units.
    static func duration(_ seconds: Double) -> String {
        var rest = Int(seconds.magnitude.rounded())
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
        let scaled = Int((value * Double(factor)).rounded())
        let fraction = String(scaled % factor)
        let point = places == 0 ? "" : "." + String(repeating: "0", count: places - fraction.count) + fraction
        return "\(scaled / factor)\(point) \(prefix)\(unit)"
    }
}
