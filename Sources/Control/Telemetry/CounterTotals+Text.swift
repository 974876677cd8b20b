public import Counters

extension CounterTotals {
    /// Every counter as it stands in a status document, in the order of their declaration.
    ///
    /// - Parameters:
    ///   - earlier: what was counted `seconds` before, for rates; nil for none.
    ///   - seconds: the time since `earlier`.
    public func statusValues(since earlier: CounterTotals? = nil, seconds: Double = 0)
        -> [NodeStatus.CounterValue]
    {
        Counter.allCases.map { counter in
            NodeStatus.CounterValue(
                name: counter.name, value: self[counter], meaning: counter.meaning, isDrop: counter.isDrop,
                isFallback: counter.isFallback,
                perSecond: earlier.map { Double(self[counter] &- $0[counter]) / seconds })
        }
    }

    /// Every histogram as it stands in a status document; times in seconds.
    public var statusHistograms: [NodeStatus.Histogram] {
        CounterHistogram.allCases.map { histogram in
            let unit = histogram.isTime ? 1e-9 : 1
            return NodeStatus.Histogram(
                name: histogram.name + (histogram.isTime ? "_seconds" : ""), meaning: histogram.meaning,
                bounds: histogram.bounds.map { Double($0) * unit }, counts: self[histogram].counts,
                sum: Double(self[histogram].sum) * unit)
        }
    }

    /// Every gauge as it stands in a status document.
    public var statusGauges: [NodeStatus.Gauge] {
        CounterGauge.allCases.map {
            NodeStatus.Gauge(name: $0.name, value: self[$0], meaning: $0.meaning)
        }
    }

    /// One `name=value` a line; a histogram's buckets that something fell into as `name_le_4=value`, not cumulated, the
    /// last `name_over_128`.
    public var lines: String {
        var text = Counter.allCases.map { "\($0.name)=\(self[$0])\n" }.joined()
        text += CounterGauge.allCases.map { "\($0.name)=\(self[$0])\n" }.joined()
        for histogram in CounterHistogram.allCases {
            let name = histogram.name + (histogram.isTime ? "_nanoseconds" : "")
            let bounds = histogram.bounds
            for (index, count) in self[histogram].counts.enumerated() where count > 0 {
                let bound = index < bounds.count ? "le_\(bounds[index])" : "over_\(bounds.last ?? 0)"
                text += "\(name)_\(bound)=\(count)\n"
            }
        }
        return text
    }
}

extension PeerCounts {
    /// As it stands in a status document.
    ///
    /// - Parameters:
    ///   - earlier: what was counted `seconds` before, for rates; nil for none.
    ///   - seconds: the time since `earlier`.
    ///   - now: nanoseconds of the monotonic clock.
    public func statusTraffic(
        since earlier: PeerCounts? = nil, seconds: Double = 0, nowNanoseconds now: UInt64
    ) -> NodeStatus.Traffic {
        let difference = earlier.map { since($0) }
        func rate(_ value: KeyPath<PeerCounts, UInt64>) -> Double? {
            difference.map { Double($0[keyPath: value]) / seconds }
        }
        return NodeStatus.Traffic(
            sent: NodeStatus.Flow(
                packets: packetsSent, bytes: bytesSent, packetsPerSecond: rate(\.packetsSent),
                bytesPerSecond: rate(\.bytesSent)),
            received: NodeStatus.Flow(
                packets: packetsReceived, bytes: bytesReceived, packetsPerSecond: rate(\.packetsReceived),
                bytesPerSecond: rate(\.bytesReceived)),
            lastReceivedSeconds: lastReceivedNanoseconds == 0
                ? nil : Double(now - min(now, lastReceivedNanoseconds)) / 1e9)
    }
}

extension MetricsText {
    /// Writes what the data plane counted: a family for each counter, one for all drops (by direction and reason),
    /// the batch sizes and times, the levels.
    public mutating func add(_ totals: CounterTotals) {
        for counter in Counter.allCases where !counter.isDrop {
            add("twill_\(counter.name)_total", .counter, help: counter.meaning, Double(totals[counter]))
        }
        add(
            "twill_dropped_packets_total", .counter,
            help: "Packets lost, by direction and reason; twilld status says what each means.",
            Counter.allCases.filter(\.isDrop).map { counter in
                // drop_outbound_no_route
                let parts = counter.name.split(separator: "_", maxSplits: 2)
                return Sample(
                    Double(totals[counter]),
                    labels: [("direction", String(parts[1])), ("reason", String(parts[2]))])
            })
        for histogram in totals.statusHistograms {
            addHistogram(
                "twill_\(histogram.name)", help: histogram.meaning, bounds: histogram.bounds,
                counts: histogram.counts, sum: histogram.sum)
        }
        for gauge in totals.statusGauges {
            add("twill_\(gauge.name)", .gauge, help: gauge.meaning, Double(gauge.value))
        }
    }

    /// Writes what was carried to and from each peer: a series each, or none where there are more than `limit`, so
    /// that sums over them are never of some only.
    ///
    /// - Parameters:
    ///   - status: has the peers.
    ///   - limit: how many peers may have a series each.
    ///   - time: now, seconds since 1970.
    public mutating func addPeers(_ status: NodeStatus, limit: Int, unixTime time: Double) {
        let counted = status.peers.compactMap { peer in peer.traffic.map { (peer.subnet, $0) } }
        let recently = 300
        add(
            "twill_peers_heard", .gauge,
            help: "Nodes that a packet came from in the last \(recently) seconds.",
            Double(counted.count { $0.1.lastReceivedSeconds ?? .infinity <= Double(recently) }))
        add(
            "twill_peers_uncounted", .gauge,
            help: "Nodes that are only counted all together, being too many to be counted one by one.",
            Double(status.peers.count - counted.count))
        let isShown = status.peers.count <= limit && counted.count == status.peers.count
        add(
            "twill_peers_without_series", .gauge,
            help:
                "Nodes that have no twill_peer_ series here: all, where there are more than --metrics-peers.",
            isShown ? 0 : Double(status.peers.count))
        guard isShown, !counted.isEmpty else { return }
        add(
            "twill_peer_info", .gauge,
            help: "Always 1; the labels tell where a peer is and what it is called.",
            status.peers.map { peer in
                Sample(
                    1,
                    labels: [
                        ("subnet", peer.subnet), ("endpoint", peer.endpoint), ("node", peer.name ?? ""),
                    ])
            })
        addTraffic(counted, unixTime: time)
        addHellos(status.peers.compactMap { peer in peer.hellos.map { (peer.subnet, $0) } })
    }

    private mutating func addTraffic(
        _ counted: [(subnet: String, traffic: NodeStatus.Traffic)], unixTime time: Double
    ) {
        func family(
            _ name: String, _ kind: Kind, _ help: String, _ value: (NodeStatus.Traffic) -> Double?
        ) {
            add(
                name, kind, help: help,
                counted.compactMap { subnet, traffic in
                    value(traffic).map { Sample($0, labels: [("subnet", subnet)]) }
                })
        }
        family("twill_peer_sent_packets_total", .counter, "Inner packets sent to a node.") {
            Double($0.sent.packets)
        }
        family("twill_peer_sent_bytes_total", .counter, "Inner bytes sent to a node.") {
            Double($0.sent.bytes)
        }
        family(
            "twill_peer_received_packets_total", .counter, "Inner packets received from a node and let in."
        ) { Double($0.received.packets) }
        family("twill_peer_received_bytes_total", .counter, "Inner bytes received from a node and let in.") {
            Double($0.received.bytes)
        }
        family(
            "twill_peer_last_received_timestamp_seconds", .gauge,
            "When the last packet came from a node, seconds since 1970; none where none did."
        ) { $0.lastReceivedSeconds.map { time - $0 } }
    }

    /// Of those that answer hellos: a 0 for one that knows none would say what is not so.
    private mutating func addHellos(_ answering: [(subnet: String, hellos: NodeStatus.Hellos)]) {
        func family(_ name: String, _ kind: Kind, _ help: String, _ value: (NodeStatus.Hellos) -> Double) {
            add(
                name, kind, help: help,
                answering.map { Sample(value($0.hellos), labels: [("subnet", $0.subnet)]) })
        }
        family(
            "twill_peer_round_trip_seconds", .gauge,
            "From a hello to a node's daemon until its answer, by the underlay: the shortest of the last five."
        ) { $0.roundTripSeconds }
        family(
            "twill_peer_hellos_asked_total", .counter, "Hellos that a node's daemon was to answer."
        ) { Double($0.asked) }
        family("twill_peer_hellos_answered_total", .counter, "Of those, hellos that it answered.") {
            Double($0.answered)
        }
    }
}
