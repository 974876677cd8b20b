import Addresses
import Health
import Netlink
import NetworkNamespaces
import Testing

@testable import Node

@Suite struct FollowedPathsTests {
    @Test func onlyPeersOnNarrowerPathsGetARoute() {
        let paths = FollowedPaths(
            interfaceName: "flannel0",
            peers: [
                IPv4Prefix("10.66.3.0/24")!: IPv4Address("192.0.2.3")!,
                IPv4Prefix("10.66.2.0/24")!: IPv4Address("192.0.2.2")!,
                IPv4Prefix("10.66.1.0/24")!: IPv4Address("192.0.2.3")!,
                IPv4Prefix("10.66.4.0/24")!: IPv4Address("192.0.2.4")!,
            ])
        let learnt = [
            IPv4Address("192.0.2.3")!: 1300, IPv4Address("192.0.2.4")!: 1500, IPv4Address("192.0.2.9")!: 600,
        ]
        #expect(
            paths.narrow(learnt: learnt, underlayMTU: 1500) == [
                NarrowPathRoute(interfaceName: "flannel0", subnet: IPv4Prefix("10.66.1.0/24")!, mtu: 1272),
                NarrowPathRoute(interfaceName: "flannel0", subnet: IPv4Prefix("10.66.3.0/24")!, mtu: 1272),
            ])
    }
}

/// A path that becomes narrower behind the first hop, with real routers and their real ICMP.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PathTests {
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
        let network = try await node.run {
            try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        _ = try await network.chooseUnderlay()
        try await network.setDesired(
            TunnelSettings(
                interfaceName: "flannel0", address: IPv4Address("10.66.28.0")!,
                network: IPv4Prefix("10.66.0.0/16")!,
                mtu: 1472, transmitQueueLength: 1000
            ).desiredItems)
        let peers = [
            IPv4Prefix("10.66.5.0/24")!: IPv4Address("203.0.113.2")!,
            IPv4Prefix("10.66.6.0/24")!: IPv4Address("203.0.113.3")!,
        ]
        await network.followPaths(to: peers, through: "flannel0")
        #expect(try await node.run { try RouteSocket().learntPathMTUs() }.isEmpty)
        let show = "ip route show dev flannel0"
        #expect(try await !node.run { try execute(show) }.contains("10.66.5.0"))

        // A datagram too large for the router's far side, as the tunnel's are: the router answers with ICMP.
        let sender = try await node.run { try DatagramSender() }
        while try await node.run({
            try sender.send(to: "203.0.113.2", port: 8285, byteCount: 1400)
            return try RouteSocket().learntPathMTUs()
        }) != [IPv4Address("203.0.113.2")!: 1300] {
            try await Task.sleep(for: .milliseconds(20))
        }
        await network.checkPaths()
        let narrowed = try await node.run { try execute(show) }
        #expect(narrowed.contains("10.66.5.0/24") && narrowed.contains("mtu 1272"))
        #expect(!narrowed.contains("10.66.6.0"))

        // Somebody takes it away: it comes back like everything else.
        try await node.run { try execute("ip route del 10.66.5.0/24") }
        await network.reconcile()
        #expect(try await node.run { try execute(show) }.contains("10.66.5.0/24"))

        try await node.run { try execute("ip route flush cache") }
        await network.checkPaths()
        let widened = try await node.run { try execute(show) }
        #expect(!widened.contains("10.66.5.0") && widened.contains("10.66.0.0/16"))
    }
}
