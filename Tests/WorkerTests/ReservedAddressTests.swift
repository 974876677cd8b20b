import Addresses
import Counters
import Forwarding
import Testing

@testable import Worker

/// Addresses that mean something else than one host: no check has a value that stands for "nothing yet".
@Suite struct ReservedAddressTests {
    static let reserved = [
        "0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    ].compactMap { IPv4Address($0) }

    @Test(arguments: reserved, reserved)
    func noneOfThemIsLetInAsSourceAndDestination(source: IPv4Address, destination: IPv4Address) {
        for acceptsAnySource in [false, true] {
            var bench = Bench(acceptsAnySource: acceptsAnySource)
            let packet = Packets.udp(source, destination, payload: [1, 2])
            let good = Packets.udp(pod(3), pod(1), payload: [1, 2])
            // Alone, first in a bundle, between others, twice in a row, and last.
            bench.fromPeer(3, packet)
            bench.fromPeer(
                3, [packet, good, packet, packet, good, packet].flatMap { $0 }, segmentBytes: packet.count)
            bench.run()
            #expect(bench.counters[.dropInboundDestination] == 5)
            #expect(bench.counters[.packetsDelivered] == 2)
        }
    }

    @Test(arguments: reserved)
    func noneOfThemIsASource(source: IPv4Address) {
        for acceptsAnySource in [false, true] {
            var bench = Bench(acceptsAnySource: acceptsAnySource)
            let packet = Packets.udp(source, pod(1), payload: [1, 2])
            let good = Packets.udp(pod(3), pod(1), payload: [1, 2])
            bench.fromPeer(3, packet + good + packet, segmentBytes: packet.count)
            bench.run()
            #expect(bench.counters[.dropInboundSource] == 2)
            #expect(bench.counters[.packetsDelivered] == 1)
        }
    }

    private func ipv6(_ source: IPv6Address, _ destination: IPv6Address) -> [UInt8] {
        func bytes(_ address: IPv6Address) -> [UInt8] {
            [address.high, address.low].flatMap { word in
                (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) }
            }
        }
        return [0x60, 0, 0, 0, 0, 8, 59, 64] + bytes(source) + bytes(destination)
            + [UInt8](repeating: 1, count: 8)
    }

    @Test(arguments: ["::", "::1", "ff02::1", "fe80::1"])
    func norOfIPv6(reserved: String) throws {
        let reserved = try #require(IPv6Address(reserved))
        let local = try #require(IPv6Prefix("fd00:1::/64"))
        let peer = try #require(IPv6Prefix("fd00:3::/64"))
        let pod = try #require(IPv6Address("fd00:1::2"))
        for acceptsAnySource in [false, true] {
            var bench = Bench(acceptsAnySource: acceptsAnySource)
            bench.publication.publish(
                ForwardingRoutes(
                    localIPv4: Bench.local, localIPv6: local,
                    peers: [
                        ForwardingPeer(
                            ipv4: Bench.subnet(3), ipv6: peer,
                            endpoint: Endpoint(address: Bench.underlay(3), port: 8285))
                    ]))
            bench.fromPeer(3, ipv6(reserved, reserved))
            bench.fromPeer(3, ipv6(reserved, pod))
            // What is IPv4 and all zeros behind IPv6 that is let in.
            let zeros = Packets.ipv4(.any, .any, transport: 59, payload: [UInt8](repeating: 0, count: 28))
            bench.fromPeer(3, ipv6(try #require(IPv6Address("fd00:3::2")), pod) + zeros, segmentBytes: 48)
            bench.run()
            #expect(bench.counters[.dropInboundDestination] == 2)
            #expect(bench.counters[.dropInboundSource] == 1)
            #expect(bench.counters[.packetsDelivered] == 1)
        }
    }

    @Test(arguments: ["224.0.0.22", "239.1.2.3", "255.255.255.255", "169.254.1.1"])
    func whatIsForTheLinkAloneIsNoLoss(destination: String) throws {
        var bench = Bench()
        bench.fromPod(
            Packets.udp(pod(1), try #require(IPv4Address(destination)), timeToLive: 1, payload: [1]))
        bench.run()
        #expect(bench.counters[.outboundIgnored] == 1)
        #expect(bench.kernel.written.isEmpty && bench.kernel.sent.isEmpty)
        for counter in Counter.allCases where counter.isDrop { #expect(bench.counters[counter] == 0) }
        #expect(bench.counters[.errorsSuppressed] == 0)
    }

    @Test(arguments: [
        ("fe80::1", "ff02::2"), ("fe80::1", "ff02::16"), ("::", "ff02::1:ff00:1"), ("fe80::1", "fe80::2"),
    ])
    func norIsWhatTheKernelSendsByItself(source: String, destination: String) throws {
        var bench = Bench()
        bench.fromPod(ipv6(try #require(IPv6Address(source)), try #require(IPv6Address(destination))))
        bench.run()
        #expect(bench.counters[.outboundIgnored] == 1)
        for counter in Counter.allCases where counter.isDrop { #expect(bench.counters[counter] == 0) }
    }

    @Test func aSourceOfZerosBeginsNoFlowThatIsLeftOut() {
        // Port 0, flow of zeros, peer 0: what stands for nothing elsewhere is an ordinary value on the way out too.
        var bench = Bench()
        bench.publication.publish(Bench.routes(peers: 3..<4))
        for _ in 0..<3 {
            bench.fromPod(Packets.udp(.any, pod(3), ports: (0, 0), payload: [0, 0, 0, 0]))
        }
        bench.run()
        #expect(bench.kernel.sent.count == 3)
    }
}
