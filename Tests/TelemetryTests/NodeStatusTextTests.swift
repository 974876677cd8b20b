import Counters
import FoundationEssentials
import Testing

@testable import Telemetry

@Suite struct NodeStatusTextTests {
    private static func status(packets: UInt64 = 1_000, drops: UInt64 = 0, perSecond: Double? = nil)
        -> NodeStatus
    {
        var status = NodeStatus(
            version: "1.2.3", processIdentifier: 42, uptimeSeconds: 100, isReady: true,
            state: "carrying packets",
            store: .init(
                name: "etcd http://10.0.0.1:2379 /coreos.com/network", isConnected: true, reconnects: 0))
        status.underlay = .init(interface: "eth0", address: "10.0.0.2", endpoint: "192.0.2.2:8285", mtu: 1500)
        status.tunnel = .init(interface: "flannel0", network: "10.66.0.0/16", mtu: 1472)
        status.lease = .init(
            subnet: "10.66.28.0/24", isReservation: false, ageSeconds: 90_000, expirySeconds: 3_661)
        status.peers = [
            .init(
                subnet: "10.66.29.0/24", endpoint: "10.0.0.3:8285",
                traffic: .init(
                    sent: .init(packets: 7, bytes: 7_000, packetsPerSecond: 1, bytesPerSecond: 1_000),
                    received: .init(packets: 9, bytes: 1_234_567, packetsPerSecond: 0, bytesPerSecond: 0),
                    lastReceivedSeconds: 61)),
            .init(subnet: "10.66.30.0/24", endpoint: "10.0.0.4:8285"),
        ]
        status.counters = [
            .init(name: "packets_sent", value: packets, meaning: "", perSecond: perSecond),
            .init(
                name: "bytes_sent", value: packets * 1000, meaning: "", perSecond: perSecond.map { $0 * 1000 }
            ),
            .init(
                name: "drop_outbound_no_route", value: drops, meaning: "No peer.", isDrop: true,
                perSecond: perSecond.map { $0 / 500 }),
            .init(name: "segmentation_fallbacks", value: 0, meaning: "Off.", isFallback: true),
        ]
        return status
    }

    @Test func aHealthyNode() {
        #expect(
            Self.status().text() == """
                twilld 1.2.3, process 42, up 1m 40s
                state     ready: carrying packets
                store     etcd http://10.0.0.1:2379 /coreos.com/network, connected
                underlay  eth0, bound to 10.0.0.2, reached at 192.0.2.2:8285, MTU 1500
                tunnel    flannel0, 10.66.0.0/16, MTU 1472
                lease     10.66.28.0/24, 1d 1h old, ends in 1h 1m unless renewed
                out       1000 packets, 1.00 MB
                peers     2
                  SUBNET             ENDPOINT               OUT          IN           HEARD AGO
                  10.66.29.0/24      10.0.0.3:8285          8.00 kbit/s  0 bit/s      1m 1s
                  10.66.30.0/24      10.0.0.4:8285          -            -            -

                """)
    }

    @Test func aWideTerminalHasNamesAndTotalsToo() {
        var status = Self.status()
        status.peers[0].name = "node-with-a-very-long-name-indeed"
        let lines = status.text(columns: 132).split(separator: "\n").suffix(3)
        #expect(
            lines.joined(separator: "\n") == """
                  SUBNET              ENDPOINT               NODE                  OUT                     IN                      HEARD AGO
                  10.66.29.0/24       10.0.0.3:8285          node-with-a-very-lon… 7.00 kB    8.00 kbit/s  1.23 MB    0 bit/s      1m 1s
                  10.66.30.0/24       10.0.0.4:8285          -                     -          -            -          -            -
                """)
        // In a narrow one the name takes the address's place.
        #expect(status.text().contains("  10.66.29.0/24      node-with-a-very-long…"))
    }

    /// Of those that answer hellos; where nobody does there is no column.
    @Test func roundTripsHaveAColumn() {
        var status = Self.status()
        status.peers[0].hellos = .init(asked: 100, answered: 99, roundTripSeconds: 141e-6)
        #expect(
            status.text().hasSuffix(
                """
                  SUBNET             ENDPOINT           OUT         IN          RTT    HEARD AGO
                  10.66.29.0/24      10.0.0.3:8285      8.00 kbit/s 0 bit/s     141 µs 1m 1s
                  10.66.30.0/24      10.0.0.4:8285      -           -           -      -

                """))
        let wide = status.text(columns: 132).split(separator: "\n").suffix(3)
        #expect(
            wide.allSatisfy { $0.count <= 132 } && wide.dropFirst().first?.contains(" 141 µs 1m 1s") == true)
    }

    @Test(arguments: [
        (0.0, "0 µs"), (999.4e-6, "999 µs"), (999.6e-6, "1.0 ms"), (0.001_25, "1.3 ms"), (0.009_96, "10 ms"),
        (0.0123, "12 ms"),
        (0.999_4, "999 ms"), (0.999_6, "1.0 s"), (1.24, "1.2 s"), (61, "61 s"), (-1, "?"), (.infinity, "?"),
        (.nan, "?"), (1e300, "?"),
    ])
    func roundTrips(seconds: Double, text: String) { #expect(NodeStatus.roundTrip(seconds) == text) }

    /// Whatever stands in it.
    @Test(arguments: [60, 80, 100, 132, 200]) func noLineIsWiderThanTheTerminal(columns: Int) {
        var status = Self.status(drops: 7, perSecond: 1_000)
        status.engine = .init(
            name: "uring", workers: 4,
            offloads: ["tun-tso4", "tun-tso6", "tun-ecn", "udp-gso", "udp-gro"], missingOffloads: ["tun-uso"])
        status.problems = [
            String(repeating: "packets are lost on the way and ", count: 10) + "nobody knows why"
        ]
        status.counters[2].meaning = String(repeating: "look at this and ", count: 12)
        status.skipped = [
            .init(key: "10.66.31.0-24", reason: String(repeating: "it is no JSON at all, ", count: 9))
        ]
        status.loss = .init(
            verdict: .starved, packets: 1_234, secondsAgo: 61, durationSeconds: 3, drops: [],
            threadWaitShare: 0.34,
            stealShare: 0.01, pressureShare: 0.5)
        for line in status.text(columns: columns).split(separator: "\n") where !line.hasPrefix("  10.66") {
            #expect(line.count <= max(columns, 80), "\(line)")
        }
        #expect(status.text(columns: columns).contains("engine    uring, 4 workers; tun-tso4 tun-tso6"))
        #expect(
            status.text(columns: 200).contains(
                "lost      1234 packets within 3s, 34% of the time a packet thread"))
    }

    @Test func theLastPacketsOfAReasonStandBelowIt() {
        var status = Self.status(drops: 7)
        let offender = NodeStatus.Offender(
            DroppedPacket(
                reason: .dropOutboundNoRoute, nanoseconds: 1_000_000_000, length: 60,
                head: [0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 66, 28, 2, 10, 66, 99, 1, 0, 53, 0, 54],
                socketName: [UInt8](repeating: 0, count: 32)), nowNanoseconds: 5_000_000_000)
        status.offenders = [offender, offender, offender]
        #expect(offender.source == "10.66.28.2" && offender.destinationPort == 54 && offender.peer == nil)
        let line = "    10.66.28.2:53 > 10.66.99.1:54 UDP, 60 bytes, 4s ago\n"
        #expect(status.text().contains("  drop_outbound_no_route 7: No peer.\n\(line)\(line)"))
        #expect(!status.text().contains("\(line)\(line)\(line)"))
    }

    /// The status comes over a socket: whoever answers there may say anything.
    @Test(arguments: [1e300, -1e300, .infinity, 1e19])
    func numbersThatNoDaemonTellsAreNoCrash(number: Double) {
        var status = Self.status(perSecond: number)
        status.uptimeSeconds = number
        status.lease?.expirySeconds = number
        status.peers[0].hellos = .init(asked: 0, answered: 0, roundTripSeconds: number)
        #expect(status.text().contains("up ?"))
    }

    @Test func aNarrowPathIsShownBesideItsPeer() {
        var status = Self.status()
        status.peers[0].pathMTU = 1400
        status.peers[1].pathMTU = 1280
        let text = status.text()
        #expect(text.contains("  1m 1s\n    path MTU 1400\n"))
        #expect(text.contains("  -\n    path MTU 1280\n"))
        var metrics = MetricsText()
        metrics.add(status)
        #expect(metrics.text.contains("\ntwill_narrow_paths 2\n"))
    }

    @Test func whatIsWrongIsSaidWithWhatToDo() {
        var status = Self.status(drops: 7)
        status.isReady = false
        status.state = "waiting for a lease"
        status.store.isConnected = false
        status.store.reconnects = 3
        status.lease?.expirySeconds = nil
        status.skipped = [.init(key: "10.66.31.0-24", reason: "no PublicIP")]
        status.counters[3].value = 1
        status.otherPeersTraffic = .init(
            sent: .init(packets: 1, bytes: 999), received: .init(packets: 0, bytes: 0))
        status.problems = ["etcd answers permission denied: check --etcd-username"]
        let text = status.text(peerLimit: 1)
        for line in [
            "state     not ready: waiting for a lease\n",
            "not connected; packets\n          flow without it, reconnected 3 times\n",
            "a reservation, never ends\n", " 1m 1s\n  and 1 more\n",
            "  those with -                              -            -            never\n",
            "fallbacks\n  segmentation_fallbacks 1: Off.\n",
            "skipped   1 entries of the store are no peers\n  10.66.31.0-24: no PublicIP\n",
            "dropped   7\n  drop_outbound_no_route 7: No peer.\n",
            "problems\n  etcd answers permission denied: check --etcd-username\n",
        ] {
            #expect(text.contains(line))
        }
    }

    @Test func ofTheKernelsItemsThoseAreShownThatAreNotGood() throws {
        var status = Self.status()
        status.kernel = [
            .init(
                item: "route 10.66.0.0/16 dev flannel0", state: "failing", lastError: "not permitted",
                retries: 3,
                sinceSeconds: 61),
            .init(item: "device flannel0", state: "good", sinceSeconds: 5),
        ]
        #expect(
            status.text().contains(
                """

                kernel    1 of 2 items not as wanted
                  route 10.66.0.0/16 dev flannel0: failing for 1m 1s, tried again 3 times: not
                    permitted
                out  
                """.dropLast(2)))
        status.kernel?.removeFirst()
        #expect(status.text() == Self.status().text())
        // A daemon of a release that does not tell of them.
        let data = try JSONEncoder().encode(Self.status())
        #expect(try JSONDecoder().decode(NodeStatus.self, from: data).kernel == nil)
    }

    @Test func ratesAreShownWhereThereAreSome() {
        let text = Self.status(packets: 3_000, drops: 5, perSecond: 1_000).text()
        #expect(text.contains("out       3000 packets, 3.00 MB; 1.00 kpps, 8.00 Mbit/s\n"))
        #expect(text.contains("drop_outbound_no_route 5, 2 pps: No peer.\n"))
    }

    @Test(arguments: [
        (0.0, "0s"), (59.4, "59s"), (59.6, "1m"), (3_600, "1h"), (3_661, "1h 1m"), (90_061, "1d 1h"),
        (-5, "-5s"),
    ])
    func durations(seconds: Double, text: String) { #expect(NodeStatus.duration(seconds) == text) }

    @Test(arguments: [
        (0.0, "0 B"), (999.4, "999 B"), (999.6, "1.00 kB"), (1_006, "1.01 kB"), (1_234, "1.23 kB"),
        (12_345, "12.3 kB"), (99_960, "100 kB"), (1_050_000, "1.05 MB"), (999_600_000, "1.00 GB"),
        (5e12, "5.00 TB"),
        (5e16, "50000 TB"),
    ])
    func scales(value: Double, text: String) { #expect(NodeStatus.scaled(value, "B") == text) }
}
