import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Node

/// Paths that become narrower, with real routers and their real ICMP, where the peer answers no probe: behind `flannel0`
/// there is nobody.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PathTests {
    private static let show = "ip route show dev flannel0"

    private func until(_ isSo: () async throws -> Bool) async throws {
        for _ in 0..<500 {
            if try await isSo() { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        Issue.record("it did not come")
    }

    // long: one path from its discovery to its end, whose steps need each other.
    @Test func aNarrowPathGetsARouteUntilItIsForgotten() async throws {
        let node = try await NetworkNamespace.make()
        let router = try await NetworkNamespace.make()
        let peer = try await NetworkNamespace.make()
        let routerID = try await router.run { threadID() }
        let peerID = try await peer.run { threadID() }
        try await node.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-r0 && ip link set node-r0 netns \(routerID) && \
                ip addr add 198.51.100.2/24 dev node-u0 && ip link set node-u0 up && \
                ip route add default via 198.51.100.1 && ip tuntap add dev flannel0 mode tun
                """)
        }
        try await router.run {
            try execute(
                """
                ip link add node-r1 mtu 1300 type veth peer name node-u0 mtu 1300 && \
                ip link set node-u0 netns \(peerID) && ip addr add 198.51.100.1/24 dev node-r0 && \
                ip addr add 203.0.113.1/24 dev node-r1 && ip link set node-r0 up && ip link set node-r1 up && \
                sysctl -q -w net.ipv4.ip_forward=1
                """)
        }
        try await peer.run {
            try execute(
                "ip addr add 203.0.113.2/24 dev node-u0 && ip link set node-u0 up && ip route add default via 203.0.113.1"
            )
        }
        var timing = PathTiming()
        timing.firstTimeout = .milliseconds(50)
        let probing = timing
        let network = try await node.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .milliseconds(200), health: NodeHealth(),
                logger: quietLogger, pathTiming: probing)
        }
        _ = try await network.chooseUnderlay()
        let tunnel = TunnelSettings(
            interfaceName: "flannel0", address: .v4(IPv4Address("10.66.28.0")!),
            network: .v4(IPv4Prefix("10.66.0.0/16")!), mtu: 1472, overhead: 28, transmitQueueLength: 1000)
        try await network.setDesired(tunnel.desiredItems)
        let run = Task { await network.run() }
        defer { run.cancel() }
        let peers = [
            IPv4Prefix("10.66.5.0/24")!: IPv4Address("203.0.113.2")!,
            IPv4Prefix("10.66.6.0/24")!: IPv4Address("203.0.113.3")!,
        ]
        await network.followPaths(to: peers.mapValues { Endpoint(address: $0, port: 8285) }, through: tunnel)
        #expect(try await !node.run { try execute(Self.show) }.contains("10.66.5.0"))

        // A datagram too large for the router's far side, as the tunnel's are: the router answers with ICMP.
        let sender = try await node.run { try DatagramSender() }
        try await until {
            try await node.run {
                try sender.send(to: "203.0.113.2", port: 8285, byteCount: 1400)
                return try RouteSocket().path(to: IPv4Address("203.0.113.2")!, from: nil)?.learntMTU == 1300
            }
        }
        try await until {
            let routes = try await node.run { try execute(Self.show) }
            return routes.contains("10.66.5.0/24") && routes.contains("mtu 1272")
        }
        #expect(try await !node.run { try execute(Self.show) }.contains("10.66.6.0"))
        #expect(network.knownPaths.narrow == [IPv4Prefix("10.66.5.0/24")!: 1300])

        // Somebody takes it away: it comes back like everything else.
        try await node.run { try execute("ip route del 10.66.5.0/24") }
        try await until { try await node.run { try execute(Self.show) }.contains("10.66.5.0/24") }

        try await node.run { try execute("ip route flush cache") }
        try await until { try await !node.run { try execute(Self.show) }.contains("10.66.5.0") }
        #expect(try await node.run { try execute(Self.show) }.contains("10.66.0.0/16"))
    }

    @Test func theKernelsRouteAndLinkAreAsked() async throws {
        let node = try await NetworkNamespace.make()
        try await node.run {
            try execute(
                """
                ip link add eth0 type veth peer name other && ip link set eth0 up && ip link set other up && \
                ip addr add 198.51.100.2/24 dev eth0 && ip route add default via 198.51.100.1 && \
                ip link add wg0 mtu 1420 type veth peer name wg1 && ip link set wg0 up && ip link set wg1 up && \
                ip route add 203.0.113.5/32 dev wg0 && ip route add 203.0.113.6/32 dev eth0 mtu 1400 && \
                ip route add 203.0.113.7/32 dev eth0 mtu lock 1350 && ip route add blackhole 203.0.113.8/32
                """)
        }
        try await node.run {
            let socket = try RouteSocket()
            let eth0 = try socket.link(named: "eth0")?.index
            func path(_ text: String) throws -> KernelPath? {
                try socket.path(to: IPv4Address(text)!, from: IPv4Address("198.51.100.2")!)
            }
            #expect(try path("203.0.113.4") == KernelPath(interfaceIndex: eth0))
            #expect(
                try path("203.0.113.5") == KernelPath(interfaceIndex: socket.link(named: "wg0")?.index))
            #expect(try path("203.0.113.6") == KernelPath(interfaceIndex: eth0, routeMTU: 1400))
            #expect(try path("203.0.113.7") == KernelPath(interfaceIndex: eth0, routeMTU: 1350))
            #expect(try path("198.51.100.2") == nil)
            #expect(throws: NetlinkError.self) { try path("203.0.113.8") }
        }
    }

    /// A datagram that nobody takes, in one namespace, and what else ICMP says.
    @Test func aRefusalIsHeardOfTheHostItselfAlone() async throws {
        let node = try await NetworkNamespace.make()
        let heard = try await node.run {
            try execute("ip link set lo up")
            guard let socket = RefusalSocket() else { return [Endpoint]() }
            let sender = try DatagramSender()
            try sender.send(to: "127.0.0.7", port: 8285, byteCount: 100)
            try execute("ping -c 1 -W 1 127.0.0.8")
            return socket.refusals()
        }
        #expect(heard == [Endpoint(address: IPv4Address("127.0.0.7")!, port: 8285)])

        var message: [UInt8] = [
            69, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 3, 3, 0, 0, 0, 0, 0, 0,
        ]
        message += [
            69, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0x5D, 0x20, 0x5E, 0, 20,
            0, 0,
        ]
        #expect(
            RefusalSocket.refused(message[...]) == Endpoint(address: IPv4Address("10.0.0.2")!, port: 0x205E))
        // Not of a router, not of another code, not about TCP, not cut off.
        for (place, byte) in [(15, UInt8(9)), (21, 1), (20, 11), (37, 6)] {
            var other = message
            other[place] = byte
            #expect(RefusalSocket.refused(other[...]) == nil, "\(place)")
        }
        for count in 0..<52 { #expect(RefusalSocket.refused(message.prefix(count)) == nil, "\(count)") }
    }

    @Test func aProbeIsKnownByItsAnswer() async throws {
        let node = try await NetworkNamespace.make()
        let answers = try await node.run {
            try execute(
                "ip addr add 10.66.1.0/32 dev lo && ip addr add 10.66.2.0/32 dev lo && ip link set lo mtu 1472"
            )
            guard let socket = PathProbeSocket(address: IPv4Address("10.66.1.0")!) else {
                return [(IPv4Address.any, -1)]
            }
            let peer = IPv4Address("10.66.2.0")!
            #expect(PathProbeSocket(address: IPv4Address("10.66.9.0")!) == nil)
            #expect(!socket.send(to: peer, sequence: 1, size: 1473))
            // An answer that is not taken does not keep the next from being sent.
            for (sequence, size) in [(0, 36), (7, 1472), (63, 1000)] {
                #expect(socket.send(to: peer, sequence: sequence, size: size))
            }
            return socket.answers().map { ($0.peer, $0.sequence) }
        }
        #expect(answers.map(\.0) == Array(repeating: IPv4Address("10.66.2.0")!, count: 3))
        #expect(answers.map(\.1) == [0, 7, 63])
    }
}
