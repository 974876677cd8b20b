import Counters
import Testing

@testable import Telemetry

@Suite struct MetricsTextTests {
    @Test func familiesHaveHelpTypeAndSamples() {
        var metrics = MetricsText()
        metrics.add("a_total", .counter, help: "A \"help\"\nwith \\ in it.", 3)
        metrics.add("b", .gauge, help: "B.", [.init(1.5, labels: [("x", "q\"\\\n"), ("y", "")]), .init(-2)])
        #expect(
            metrics.text == #"""
                # HELP a_total A "help"\nwith \\ in it.
                # TYPE a_total counter
                a_total 3
                # HELP b B.
                # TYPE b gauge
                b{x="q\"\\\n",y=""} 1.5
                b -2

                """#)
    }

    @Test(arguments: [
        (0.0, "0"), (1e15, "1000000000000000"), (1.8446744073709552e19, "1.8446744073709552e+19"),
        (.infinity, "+Inf"),
        (-.infinity, "-Inf"), (.nan, "NaN"), (0.25, "0.25"),
    ])
    func numbers(value: Double, text: String) {
        var metrics = MetricsText()
        metrics.add("a", .gauge, help: "", value)
        #expect(metrics.text.hasSuffix("\na \(text)\n"))
    }

    @Test func histogramsAreCumulative() {
        var metrics = MetricsText()
        metrics.addHistogram("h", help: "H.", bounds: [1, 2], counts: [3, 0, 4], sum: 99)
        #expect(
            metrics.text == """
                # HELP h H.
                # TYPE h histogram
                h_bucket{le="1"} 3
                h_bucket{le="2"} 3
                h_bucket{le="+Inf"} 7
                h_sum 99
                h_count 7

                """)
    }

    /// A peer that answers no hellos, as a flannel, has no series of them: a 0 would be read as a round trip, or as a
    /// loss of everything.
    @Test func whoAnswersHellosHasSeriesOfThem() {
        func peer(_ subnet: String, _ hellos: NodeStatus.Hellos?) -> NodeStatus.Peer {
            let flow = NodeStatus.Flow(packets: 1, bytes: 1)
            var peer = NodeStatus.Peer(
                subnet: subnet, endpoint: "", traffic: .init(sent: flow, received: flow))
            peer.hellos = hellos
            return peer
        }
        var status = NodeStatus(
            version: "1", processIdentifier: 1, uptimeSeconds: 1, isReady: true, state: "",
            store: .init(name: "", isConnected: true, reconnects: 0))
        status.peers = [
            peer("10.66.29.0/24", .init(asked: 100, answered: 97, roundTripSeconds: 0.000_25)),
            peer("10.66.30.0/24", nil),
        ]
        func lines(limit: Int) -> [Substring] {
            var metrics = MetricsText()
            metrics.addPeers(status, limit: limit, unixTime: 0)
            return metrics.text.split(separator: "\n").filter {
                !$0.hasPrefix("#") && ($0.contains("hellos") || $0.contains("round_trip"))
            }
        }
        #expect(
            lines(limit: 2) == [
                "twill_peer_round_trip_seconds{subnet=\"10.66.29.0/24\"} 0.00025",
                "twill_peer_hellos_asked_total{subnet=\"10.66.29.0/24\"} 100",
                "twill_peer_hellos_answered_total{subnet=\"10.66.29.0/24\"} 97",
            ])
        #expect(lines(limit: 1) == [])
    }

    @Test func everyCounterIsExported() {
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        for (index, counter) in Counter.allCases.enumerated() { block.add(counter, index + 1) }
        for size in [1, 3, 64, 65, 1_000] { block.record(.sendBatch, size) }
        let totals = CounterTotals([block, block])
        var metrics = MetricsText()
        metrics.add(totals)
        for counter in Counter.allCases {
            let value = 2 * (counter.rawValue + 1)
            if !counter.isDrop { #expect(metrics.text.contains("\ntwill_\(counter.name)_total \(value)\n")) }
            #expect(totals.lines.contains("\(counter.name)=\(value)\n"))
            #expect(totals.statusValues()[counter.rawValue].value == UInt64(value))
        }
        let noRoute = 2 * (Counter.dropOutboundNoRoute.rawValue + 1)
        #expect(
            metrics.text.contains(
                "\ntwill_dropped_packets_total{direction=\"outbound\",reason=\"no_route\"} \(noRoute)\n"))
        #expect(metrics.text.contains("\ntwill_send_batch_bucket{le=\"64\"} 6\n"))
        #expect(metrics.text.contains("\ntwill_send_batch_count 10\n"))
        #expect(metrics.text.contains("\ntwill_send_batch_sum 2266\n"))
        #expect(totals.lines.contains("\nsend_batch_le_4=2\n"))
        #expect(totals.lines.contains("\nsend_batch_over_128=2\n"))
        // Empty ones would be most of what a log gets.
        #expect(!totals.lines.contains("_le_2=0") && !totals.lines.contains("read_batch_le"))
    }
}
