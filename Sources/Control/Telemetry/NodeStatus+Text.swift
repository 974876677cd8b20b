import Health

extension NodeStatus {
    /// From so many columns on a peer's row has its name, its address and what was carried in all.
    private static let wideColumns = 132

    /// The status for a terminal.
    ///
    /// - Parameters:
    ///   - peerLimit: how many peers are listed; the rest is counted.
    ///   - columns: of the terminal; longer lines are broken between words.
    public func text(peerLimit: Int = .max, columns: Int = 80) -> String {
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
            if let ipv6 = tunnel.ipv6 {
                lines.append(
                    "          IPv6 by \(ipv6.interface) from \(ipv6.underlayAddress), MTU \(ipv6.mtu)")
            }
        }
        if let kernelPath, kernelPath.state != "off" { lines.append(line(of: kernelPath)) }
        if let engine { lines.append(line(of: engine)) }
        if let lease { lines.append(line(of: lease)) }
        lines += kernelLines
        lines += traffic
        lines += peerLines(limit: peerLimit, isWide: columns >= NodeStatus.wideColumns)
        if !skipped.isEmpty {
            let entries = lease?.isAssigned == true ? "nodes of the cluster" : "entries of the store"
            lines.append("skipped   \(skipped.count) \(entries) are no peers")
            lines += skipped.map { "  \($0.key): \($0.reason)" }
        }
        lines += lossLines
        let fallbacks = counters.filter { $0.isFallback && $0.value > 0 }
        if !fallbacks.isEmpty {
            lines.append("fallbacks")
            lines += fallbacks.map { "  \($0.name) \($0.value): \($0.meaning)" }
        }
        // What a store, a file or a flag says must not steer the terminal.
        return lines.flatMap { $0.printable.hanging(columns: columns) }.joined(separator: "\n") + "\n"
    }

    private func line(of path: KernelPath) -> String {
        let attachment = path.attachment.map { " (\($0))" } ?? ""
        let unseen = tunnel.map { "; tcpdump on \($0.interface) does not see what leaves by it" } ?? ""
        let rest = path.detail.map { ": \($0)" } ?? ", to \(path.ablePeers) of \(peers.count) peers" + unseen
        return "fast path \(path.state)\(attachment)\(rest)"
    }

    private func line(of engine: Engine) -> String {
        let workers = engine.workers == 1 ? "1 worker" : "\(engine.workers) workers"
        let offloads = engine.offloads.isEmpty ? "no offloads" : engine.offloads.joined(separator: " ")
        let missing =
            engine.missingOffloads.isEmpty
            ? "" : "; not to be had: \(engine.missingOffloads.joined(separator: " "))"
        return "engine    \(engine.name), \(workers); \(offloads)\(missing)"
    }

    /// What was dropped, with the last packets of each reason, and the last time that packets found no room.
    private var lossLines: [String] {
        var lines: [String] = []
        let drops = counters.filter { $0.isDrop && $0.value > 0 }
        if !drops.isEmpty {
            lines.append("dropped   \(drops.reduce(0) { $0 &+ $1.value })")
            for drop in drops {
                let rate = drop.perSecond.map { ", \(NodeStatus.scaled($0, "pps"))" } ?? ""
                lines.append("  \(drop.name) \(drop.value)\(rate): \(drop.meaning)")
                let last = (offenders ?? []).filter { $0.reason == drop.name }
                lines += last.prefix(NodeStatus.offendersShown).map { "    \($0.line)" }
            }
        }
        if let loss {
            lines.append(
                "lost      \(loss.evidence); \(NodeStatus.duration(loss.secondsAgo)) ago: \(loss.verdict.rawValue)"
            )
        }
        return lines
    }

    private static let offendersShown = 2

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

    /// The peers in columns, under a heading. What is to be said of one beside that stands in a line below it.
    private func peerLines(limit: Int, isWide: Bool) -> [String] {
        let columns = PeerColumns(
            isWide: isWide, hasNames: peers.contains { $0.name != nil },
            hasRoundTrips: peers.contains { $0.hellos != nil })
        var lines = ["peers     \(peers.count)"]
        if !peers.isEmpty, limit > 0 { lines.append(columns.heading) }
        for peer in peers.prefix(limit) {
            lines.append(columns.row(of: peer))
            if isWide, let endpoint = peer.ipv6Endpoint { lines.append("    IPv6 at \(endpoint)") }
            if let silence = peer.silence { lines.append("    \(silence)") }
            if let pathMTU = peer.pathMTU { lines.append("    path MTU \(pathMTU)") }
        }
        if peers.count > limit { lines.append("  and \(peers.count - limit) more") }
        if let otherPeersTraffic {
            var others = Peer(subnet: "those with -", endpoint: "", traffic: otherPeersTraffic)
            if isWide { others.name = "" }
            lines.append(columns.row(of: others))
        }
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

    /// Up to three digits, with a fraction where there is one before the point: `141 µs`, `1.2 ms`, `12 ms`, `1.2 s`.
    static func roundTrip(_ seconds: Double) -> String {
        // What is no such time comes from no daemon.
        guard (0..<999).contains(seconds), let microseconds = Int(exactly: (seconds * 1e6).rounded())
        else { return "?" }
        if microseconds < 1_000 { return "\(microseconds) µs" }
        let (tenths, unit) =
            microseconds < 999_500
            ? ((microseconds + 50) / 100, "ms") : ((microseconds + 50_000) / 100_000, "s")
        return tenths < 100 ? "\(tenths / 10).\(tenths % 10) \(unit)" : "\((tenths + 5) / 10) \(unit)"
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

/// The columns of the peers on a terminal: their names, their widths, and what of a peer stands in each.
private struct PeerColumns {
    private struct Column {
        var name: String
        var width: Int
        var cell: (NodeStatus.Peer) -> String
    }

    private let columns: [Column]

    /// - Parameters:
    ///   - isWide: whether there is room for a peer's name beside its address, and for what was carried in all.
    ///   - hasNames: whether some peer has a name.
    ///   - hasRoundTrips: whether some peer answers hellos.
    init(isWide: Bool, hasNames: Bool, hasRoundTrips: Bool) {
        let node = Column(
            name: isWide || hasNames ? "NODE" : "ENDPOINT", width: isWide ? 22 : hasRoundTrips ? 19 : 23
        ) { isWide ? $0.name ?? "-" : $0.name ?? $0.endpoint }
        func carried(_ name: String, _ flow: @escaping (NodeStatus.Peer) -> NodeStatus.Flow?) -> [Column] {
            let total = Column(name: name, width: 11) { peer in
                flow(peer).map { NodeStatus.scaled(Double($0.bytes), "B") } ?? "-"
            }
            let rate = Column(name: isWide ? "" : name, width: hasRoundTrips && !isWide ? 12 : 13) { peer in
                flow(peer)?.bytesPerSecond.map { NodeStatus.scaled($0 * 8, "bit/s") } ?? "-"
            }
            return isWide ? [total, rate] : [rate]
        }
        let roundTrip = Column(name: "RTT", width: 7) {
            $0.hellos.map { NodeStatus.roundTrip($0.roundTripSeconds) } ?? "-"
        }
        let heard = Column(name: "HEARD AGO", width: 0) { peer in
            peer.traffic.map { $0.lastReceivedSeconds.map { NodeStatus.duration($0) } ?? "never" } ?? "-"
        }
        columns =
            [Column(name: "SUBNET", width: isWide ? 20 : 19, cell: \.subnet)]
            + (isWide ? [Column(name: "ENDPOINT", width: 23, cell: \.endpoint)] : []) + [node]
            + carried("OUT") { $0.traffic?.sent } + carried("IN") { $0.traffic?.received }
            + (hasRoundTrips ? [roundTrip] : []) + [heard]
    }

    /// The columns' names.
    var heading: String { line(columns.map(\.name)) }

    /// What stands in each of a peer.
    func row(of peer: NodeStatus.Peer) -> String { line(columns.map { $0.cell(peer) }) }

    private func line(_ cells: [String]) -> String {
        let padded = zip(cells, columns).map { cell, column in
            guard column.width > 0 else { return cell }
            return cell.cut(to: column.width - 1)
                + String(repeating: " ", count: max(1, column.width - cell.count))
        }
        return "  " + padded.joined()
    }
}

extension String {
    /// The text in lines of so many columns at most, broken between words: those after the first are indented as what
    /// the first says begins, or by two more than the first is.
    package func hanging(columns: Int) -> [String] {
        guard count > columns else { return [self] }
        let indent = prefix { $0 == " " }.count
        // `state     ready: …`
        let hanging = indent == 0 ? 10 : indent + 2
        let words = split(separator: " ", omittingEmptySubsequences: false)
        var lines: [String] = []
        var line = ""
        for (index, word) in words.enumerated() {
            let longer = index == 0 ? String(word) : line + " " + word
            let isContent = line.contains { $0 != " " }
            if longer.count > columns, isContent {
                lines.append(line)
                line = String(repeating: " ", count: hanging) + word
            } else {
                line = longer
            }
        }
        return lines + [line]
    }

    /// The text, or as much of it as fits, with a mark that some is missing.
    fileprivate func cut(to width: Int) -> String { count <= width ? self : prefix(max(0, width - 1)) + "…" }
}
