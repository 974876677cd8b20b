import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Node

/// Where packets into the overlay really go, asked from the real kernel.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct RouteJudgeTests {
    private let health = NodeHealth()

    /// A namespace with the tunnel device of 10.66.28.0/24 in 10.66.0.0/16, two underlay interfaces and a bridge for pods;
    /// and its network, with peers 10.66.1.0/24 and 10.66.2.0/24.
    private func node(_ commands: String = "true") async throws -> (NetworkNamespace.Lease, NodeNetwork) {
        let namespace = try await NetworkNamespace.make()
        let network = try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add 198.51.100.2/24 dev node-u0 && \
                ip link add docker0 type bridge && ip addr add 10.66.28.1/24 dev docker0 && ip link set docker0 up && \
                ip route add default via 198.51.100.1 && ip tuntap add dev flannel0 mode tun && \
                sysctl -q -w net.ipv4.ip_forward=1 && { \(commands); }
                """)
            return try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .seconds(3600), routePatience: .zero,
                health: health, logger: quietLogger)
        }
        try await network.setDesired(
            TunnelSettings(
                interfaceName: "flannel0", address: .v4(IPv4Address("10.66.28.0")!),
                network: .v4(IPv4Prefix("10.66.0.0/16")!), mtu: 1472, overhead: 28, transmitQueueLength: 1000
            ).desiredItems)
        await network.judgeRoutes([targets])
        return (namespace, network)
    }

    private let targets = OverlayTargets(
        interfaceName: "flannel0", network: IPPrefix("10.66.0.0/16")!, subnet: IPPrefix("10.66.28.0/24")!,
        peers: [IPPrefix("10.66.1.0/24")!, IPPrefix("10.66.2.0/24")!])

    private func sentence() -> String { health.problems.map(\.sentence).joined(separator: "\n") }

    @Test func aHealthyNodeHasNoProblem() async throws {
        let (_, network) = try await node()
        await network.reconcile()
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    /// Who takes packets, what the problem must say, and whether all peers are cut off.
    @Test(arguments: [
        (
            "ip route add 10.66.1.0/24 via 198.51.100.9 proto 186",
            "10.66.1.0/24 via 198.51.100.9 dev node-u0 proto 186 (bgp)", false
        ),
        ("ip route add 10.66.1.128/25 via 198.51.100.9", "10.66.1.128/25 via 198.51.100.9", false),
        (
            "ip route add 10.66.0.0/17 via 198.51.100.9", "packets for all peers, 10.66.1.0/24, 10.66.2.0/24",
            true
        ),
        ("ip route add unreachable 10.66.2.0/24", "the route unreachable 10.66.2.0/24", false),
        ("ip route add blackhole 10.66.2.0/24", "the route blackhole 10.66.2.0/24", false),
        ("ip route add prohibit 10.66.2.0/24", "the route prohibit 10.66.2.0/24", false),
        (
            "ip route add 10.66.0.0/16 via 198.51.100.9 table 52; ip rule add lookup 52 priority 5270",
            "\"5270: from all lookup 52\"", true
        ),
        (
            "ip route add default dev node-u0 table 52; ip rule add not fwmark 0x8/0xff lookup 52 priority 5270",
            "ip rule add to 10.66.0.0/16 lookup main priority 5269", true
        ),
        (
            "ip route add throw 10.66.0.0/16 table 52; ip route add blackhole default table 53; ip rule add lookup 52 priority 9; ip rule add lookup 53 priority 10",
            "blackhole 0.0.0.0/0 table 53", true
        ),
        (
            "ip rule add to 10.66.0.0/16 blackhole priority 100",
            "the rule \"100: from all to 10.66.0.0/16 blackhole\" refuses them", true
        ),
        (
            "ip rule add iif docker0 prohibit priority 100",
            "the rule \"100: from all iif docker0 prohibit\"", true
        ),
        (
            "ip rule add from 10.66.28.0/24 lookup 53 priority 7; ip route add default dev node-u0 table 53",
            "\"7: from 10.66.28.0/24 lookup 53\"", true
        ),
        ("ip rule add iif lo unreachable priority 100", "packets of this machine itself", false),
        (
            "ip link add cni0 type bridge; ip addr add 10.66.2.1/24 dev cni0; ip link set cni0 up",
            "10.66.2.0/24 dev cni0 src 10.66.2.1 proto 2 (kernel) takes them, which an address of cni0 brings",
            false
        ),
        ("ip addr add 10.66.2.2/32 dev node-u0", "local 10.66.2.2/32 dev", false),
        (
            "ip nexthop add id 5 via 198.51.100.9 dev node-u0; ip route add 10.66.1.0/24 nhid 5",
            "10.66.1.0/24 via 198.51.100.9", false
        ),
        (
            "ip route add 10.66.28.0/25 via 198.51.100.9",
            "this node's own pods (10.66.28.0/24) do not reach them", true
        ),
        ("ip link set docker0 down", "interface docker0, which they are behind, is down", true),
        (
            "ip addr flush dev docker0", "docker0, which they are behind, has lost its address 10.66.28.1/24",
            true
        ),
        (
            "ip rule add lookup 99 priority 9; ip rule add to 10.66.0.0/16 blackhole priority 10",
            "the rule \"10: from all to 10.66.0.0/16 blackhole\" refuses them", true
        ),
    ])
    func whoTakesPacketsIsNamed(_ command: String, _ words: String, _ cutsOff: Bool) async throws {
        let (namespace, network) = try await node()
        let running = Task { await network.run() }
        defer { running.cancel() }
        #expect(health.problems.isEmpty, "\(sentence())")
        try await namespace.run { try execute(command) }
        while !sentence().contains(words) {
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(health.isCutOff == cutsOff, "\(sentence())")
    }

    @Test func whatIsThereAtTheStartIsSeen() async throws {
        _ = try await node("ip route add 10.66.1.64/26 via 198.51.100.9")
        #expect(sentence().contains("10.66.1.64/26 via 198.51.100.9"))
    }

    @Test func itIsOverWhenTheTakerIsGone() async throws {
        let (namespace, network) = try await node(
            "ip route add 10.66.0.0/16 dev node-u0 table 52; ip rule add lookup 52 priority 5270; ip route add 10.66.2.0/24 dev node-u1"
        )
        let running = Task { await network.run() }
        defer { running.cancel() }
        #expect(health.isCutOff)
        try await namespace.run { try execute("ip rule del priority 5270") }
        while health.isCutOff { try await Task.sleep(for: .milliseconds(20)) }
        #expect(sentence().contains("10.66.2.0/24 dev node-u1"))
        // The kernel does not tell of routes that go with their interface.
        try await namespace.run { try execute("ip link set node-u1 down") }
        while sentence().contains("10.66.2.0/24") { try await Task.sleep(for: .milliseconds(20)) }
        #expect(!sentence().contains("route"), "\(sentence())")
    }

    @Test func withoutABridgeNothingIsAmiss() async throws {
        _ = try await node("ip link del docker0")
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    /// The point-to-point plugin gives each pod an interface and a /32 of its own.
    @Test func podsWithRoutesOfTheirOwnAreWell() async throws {
        _ = try await node(
            """
            ip link del docker0; ip link add pod0 type veth peer name pod1; ip link set pod0 up; ip link set pod1 up
            ip addr add 10.66.28.1/32 dev pod0; ip route add 10.66.28.2 dev pod0
            """)
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    @Test func withoutPeersASubnetThatOneMayGetStandsForThem() async throws {
        let (namespace, network) = try await node()
        var alone = targets
        alone.peers = []
        await network.judgeRoutes([alone])
        #expect(health.problems.isEmpty, "\(sentence())")
        try await namespace.run { try execute("ip rule add to 10.66.128.0/17 blackhole priority 100") }
        var peers = targets
        peers.peers = [IPPrefix("10.66.200.0/24")!]
        await network.judgeRoutes([peers])
        #expect(health.isCutOff)
        await network.judgeRoutes([alone])
        #expect(!health.isCutOff && sentence().contains("would not reach flannel0"), "\(sentence())")
    }

    /// A thousand peers are asked about in several looks, never more than so many in one; one changed route costs one
    /// question.
    @Test func theWorkOfOneLookIsBounded() async throws {
        let (namespace, _) = try await node()
        try await namespace.run {
            let socket = try RouteSocket()
            let state = NetworkState(
                links: try socket.links(), addresses: try socket.addresses(),
                routes: try socket.routes(of: RouteInterest(touching: targets.network)))
            var judge = RouteJudge()
            var many = targets
            many.peers = Set(
                (0..<1000).map { .v4(IPv4Prefix(IPv4Address(bits: 0x0A42_4000 + $0 * 32), length: 27)) })
            judge.set(many)
            for _ in 0..<3 {
                try judge.look(in: state, using: socket, isResync: false)
                #expect(judge.hasDoubts)
            }
            try judge.look(in: state, using: socket, isResync: false)
            #expect(!judge.hasDoubts && judge.problems.isEmpty)
            judge.doubt(IPPrefix("10.99.0.0/16")!)
            #expect(!judge.hasDoubts)
            judge.doubt(IPPrefix("10.66.64.40/32")!)
            #expect(judge.doubtCount == 1)
            judge.doubt(IPPrefix("10.64.0.0/10")!)
            #expect(judge.doubtCount == 1000)
        }
    }
}
