public import Counters

extension MetricsText {
    /// Writes how the packets are spread over the workers, in their order.
    public mutating func add(workers: [CounterTotals]) {
        add(
            "twill_worker_packets_total", .counter,
            help: "Packets that each worker sent to peers and delivered to pods.",
            workers.enumerated().flatMap { index, totals in
                [("sent", Counter.packetsSent), ("delivered", .packetsDelivered)].map { direction, counter in
                    Sample(
                        Double(totals[counter]),
                        labels: [("worker", "\(index)"), ("direction", direction)])
                }
            })
    }
}
