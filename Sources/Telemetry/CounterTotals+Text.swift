public import Counters

extension CounterTotals {
    /// Every counter as it stands in a status document, in the order of their declaration.
    public var statusValues: [NodeStatus.CounterValue] {
        Counter.allCases.map {
            NodeStatus.CounterValue(name: $0.name, value: self[$0], meaning: $0.meaning, isDrop: $0.isDrop)
        }
    }

    /// One `name=value` a line; a histogram's buckets as `name_le_4=value`, not cumulated, the last `name_over_64`.
    public var lines: String {
        var text = Counter.allCases.map { "\($0.name)=\(self[$0])\n" }.joined()
        for histogram in CounterHistogram.allCases {
            for (index, count) in self[histogram].enumerated() {
                let bound =
                    index < histogramBounds.count
                    ? "le_\(histogramBounds[index])" : "over_\(histogramBounds.last!)"
                text += "\(histogram.name)_\(bound)=\(count)\n"
            }
        }
        return text
    }
}

/// The largest size in each bucket of a `CounterBlock`'s histograms but the last: powers of two from 1 to 64.
let histogramBounds = (0..<CounterBlock.histogramBuckets - 1).map { 1 << $0 }

extension MetricsText {
    /// Writes what the data plane counted: a family for each counter, one for all drops (by direction and reason),
    /// and the batch sizes.
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
        for histogram in CounterHistogram.allCases {
            addHistogram(
                "twill_\(histogram.name)", help: histogram.meaning, bounds: histogramBounds.map(Double.init),
                counts: totals[histogram], sum: Double(totals[histogram.total]))
        }
    }

    /// Writes what a status document says of the node beside the counters.
    public mutating func add(_ status: NodeStatus) {
        add(
            "twill_build_info", .gauge, help: "Always 1; the label tells the release.",
            [Sample(1, labels: [("version", status.version)])])
        add(
            "twill_uptime_seconds", .gauge, help: "Seconds since the daemon was started.",
            status.uptimeSeconds)
        add(
            "twill_ready", .gauge, help: "Whether lease, device, routes and subnet.env are in place.",
            status.isReady ? 1 : 0)
        add(
            "twill_store_connected", .gauge,
            help: "Whether the store of leases answers; packets flow without it.",
            status.store.isConnected ? 1 : 0)
        add(
            "twill_store_reconnects_total", .counter, help: "Times the store was lost and found again.",
            Double(status.store.reconnects))
        add("twill_peers", .gauge, help: "Nodes that packets are sent to.", Double(status.peers.count))
        add(
            "twill_skipped_leases", .gauge,
            help: "Entries of the store that are no peers; twilld status says why.",
            Double(status.skipped.count))
        add(
            "twill_problems", .gauge, help: "What an operator should look at; twilld status names it.",
            Double(status.problems.count))
        if let tunnel = status.tunnel {
            add("twill_tunnel_mtu_bytes", .gauge, help: "The tunnel's MTU.", Double(tunnel.mtu))
        }
        if let lease = status.lease {
            add(
                "twill_lease_age_seconds", .gauge,
                help: "Seconds since this node's lease was acquired or found.",
                lease.ageSeconds)
            if let expiry = lease.expirySeconds {
                add(
                    "twill_lease_expiry_seconds", .gauge,
                    help: "Seconds until this node's lease ends unless renewed.",
                    expiry)
            }
        }
    }
}

extension CounterHistogram {
    /// What an observation is.
    var meaning: String {
        switch self {
        case .readBatch: "Packets read from the TUN device in one round."
        case .sendBatch: "Datagrams in one send."
        case .receiveBatch: "Datagrams in one receive."
        case .writeBatch: "Packets in one write to the TUN device."
        }
    }

    /// The counter that counts the same things one by one: the sum of the observations.
    var total: Counter {
        switch self {
        case .readBatch: .tunnelReads
        case .sendBatch: .packetsSent
        case .receiveBatch: .datagramsReceived
        case .writeBatch: .packetsDelivered
        }
    }
}
