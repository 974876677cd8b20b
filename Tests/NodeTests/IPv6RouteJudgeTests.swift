import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Node

/// Where packets into an overlay of IPv6 really go, asked from the real kernel.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct IPv6RouteJudgeTests {
    private let health = NodeHealth()

    /// A namespace with the tunnel device of fd00:66:0:1c::/64 in fd00:66::/48, two underlay interfaces and a bridge for pods;
    /// and its network, with peers fd00:66:0:1::/64 and fd00:66:0:2::/64.
    private func node(_ commands: String = "true") async throws -> (NetworkNamespace.Lease, NodeNetwork) {
        let namespace = try await NetworkNamespace.make()
        let network = try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add fd20::2/64 dev node-u0 nodad && \
                ip link add docker0 type bridge && ip addr add fd00:66:0:1c::1/64 dev docker0 nodad && \
                ip link set docker0 up && ip route add default via fd20::1 && \
                ip tuntap add dev flannel0 mode tun && sysctl -q -w net.ipv6.conf.all.forwarding=1 && \
                { \(commands); }
                """)
            return try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .seconds(3600), routePatience: .zero,
                health: health, logger: quietLogger)
        }
        try await network.setDesired(
            TunnelSettings(
                interfaceName: "flannel0", address: IPAddress("fd00:66:0:1c::")!,
                network: IPPrefix("fd00:66::/48")!, mtu: 1452, overhead: 48, transmitQueueLength: 1000
            ).desiredItems)
        await network.judgeRoutes([targets])
        return (namespace, network)
    }

    private let targets = OverlayTargets(
        interfaceName: "flannel0", network: IPPrefix("fd00:66::/48")!, subnet: IPPrefix("fd00:66:0:1c::/64")!,
        peers: [IPPrefix("fd00:66:0:1::/64")!, IPPrefix("fd00:66:0:2::/64")!])

    private func sentence() -> String { health.problems.map(\.sentence).joined(separator: "\n") }

    @Test func aHealthyNodeHasNoProblem() async throws {
        let (_, network) = try await node()
        await network.reconcile()
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    /// What is done, what the problem must say, whether all peers are cut off, and what takes it away again; nil for the
    /// command that the problem itself has at its end.
    @Test(
        arguments: [
            (
                "ip route add fd00:66:0:1::/64 via fd20::9 proto 186",
                "fd00:66:0:1::/64 via fd20::9 dev node-u0 metric 1024 proto 186 (bgp)", false, nil
            ),
            (
                "ip route add fd00:66:0:1:8000::/65 via fd20::9", "fd00:66:0:1:8000::/65 via fd20::9", false,
                nil
            ),
            (
                "ip route add fd00:66::/49 via fd20::9",
                "packets for all peers, fd00:66:0:1::/64, fd00:66:0:2::/64",
                true, nil
            ),
            (
                "ip route add unreachable fd00:66:0:2::/64", "the route unreachable fd00:66:0:2::/64", false,
                nil
            ),
            ("ip route add blackhole fd00:66:0:2::/64", "the route blackhole fd00:66:0:2::/64", false, nil),
            ("ip route add prohibit fd00:66:0:2::/64", "the route prohibit fd00:66:0:2::/64", false, nil),
            (
                "ip -6 route add default dev node-u0 table 52; ip -6 rule add not fwmark 0x8/0xff lookup 52 priority 5270",
                "\"5270: not from all fwmark 0x8/0xff lookup 52\"", true, nil
            ),
            (
                "ip -6 rule add lookup 99 priority 8; ip -6 route add blackhole default table 53; ip -6 rule add lookup 53 priority 10",
                "blackhole ::/0", true, nil
            ),
            (
                "ip -6 rule add to fd00:66::/48 blackhole priority 100",
                "the rule \"100: from all to fd00:66::/48 blackhole\" refuses them", true, nil
            ),
            (
                "ip -6 rule add iif docker0 prohibit priority 100",
                "the rule \"100: from all iif docker0 prohibit\"", true, nil
            ),
            (
                "ip -6 rule add from fd00:66:0:1c::/64 lookup 53 priority 7; ip -6 route add default dev node-u0 table 53",
                "\"7: from fd00:66:0:1c::/64 lookup 53\"", true, nil
            ),
            (
                "ip -6 rule add iif lo unreachable priority 100", "packets of this machine itself", false, nil
            ),
            (
                "ip link add cni0 type bridge; ip addr add fd00:66:0:2::1/64 dev cni0 nodad; ip link set cni0 up",
                "takes them, which an address of cni0 brings", false, "ip link del cni0"
            ),
            (
                "ip addr add fd00:66:0:2::2/128 dev node-u0 nodad", "fd00:66:0:2::2/128 dev node-u0", false,
                "ip addr del fd00:66:0:2::2/128 dev node-u0"
            ),
            (
                "ip nexthop add id 5 via fd20::9 dev node-u0; ip route add fd00:66:0:1::/64 nhid 5",
                "fd00:66:0:1::/64 via fd20::9", false, "ip route del fd00:66:0:1::/64"
            ),
            (
                "ip route add fd00:66:0:1c::/65 via fd20::9",
                "this node's own pods (fd00:66:0:1c::/64) do not reach them", true, nil
            ),
            (
                // Its addresses go with it, and do not come back.
                "ip link set docker0 down",
                "interface docker0, which they are behind, has lost its address fd00:66:0:1c::1/64", true, nil
            ),
        ] as [(String, String, Bool, String?)])
    func whoTakesPacketsIsNamed(
        _ command: String, _ words: String, _ cutsOff: Bool, _ mending: String?
    ) async throws {
        let (namespace, network) = try await node()
        let running = Task { await network.run() }
        defer { running.cancel() }
        #expect(health.problems.isEmpty, "\(sentence())")
        try await namespace.run { try execute(command) }
        while !sentence().contains(words) { try await Task.sleep(for: .milliseconds(20)) }
        #expect(health.isCutOff == cutsOff, "\(sentence())")
        // What it says to do is what mends it.
        for _ in 0..<3 where !health.problems.isEmpty {
            let remedy = mending ?? health.problems.first.map { mendingCommand(in: $0.remedy) } ?? ""
            try await namespace.run { try execute(remedy) }
            for _ in 0..<100 where !health.problems.isEmpty { try await Task.sleep(for: .milliseconds(20)) }
        }
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    /// The command that a remedy ends with.
    private func mendingCommand(in remedy: String) -> String {
        remedy.firstRange(of: "ip -6 ").map { String(remedy[$0.lowerBound...]) }
            ?? (remedy.hasPrefix("ip ") ? remedy : "false")
    }

    @Test func whatIsThereAtTheStartIsSeen() async throws {
        _ = try await node("ip route add fd00:66:0:1:4000::/66 via fd20::9")
        #expect(sentence().contains("fd00:66:0:1:4000::/66 via fd20::9"))
    }

    /// Rules of IPv4 are not IPv6's, and the other way round: each family's are asked for.
    @Test func theOtherFamilysRulesTakeNothing() async throws {
        let (namespace, network) = try await node()
        try await namespace.run {
            try execute("ip rule add prohibit priority 100; ip route add blackhole 10.66.0.0/16")
        }
        await network.reconcile()
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    @Test func withoutABridgeNothingIsAmiss() async throws {
        _ = try await node("ip link del docker0")
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    /// The point-to-point plugin gives each pod an interface and a /128 of its own.
    @Test func podsWithRoutesOfTheirOwnAreWell() async throws {
        _ = try await node(
            """
            ip link del docker0; ip link add pod0 type veth peer name pod1; ip link set pod0 up; ip link set pod1 up
            ip addr add fd00:66:0:1c::1/128 dev pod0 nodad; ip route add fd00:66:0:1c::2 dev pod0
            """)
        #expect(health.problems.isEmpty, "\(sentence())")
    }

    @Test func withoutPeersASubnetThatOneMayGetStandsForThem() async throws {
        let (namespace, network) = try await node()
        var alone = targets
        alone.peers = []
        await network.judgeRoutes([alone])
        #expect(health.problems.isEmpty, "\(sentence())")
        try await namespace.run {
            try execute("ip -6 rule add to fd00:66:0:8000::/49 blackhole priority 100")
        }
        var peers = targets
        peers.peers = [IPPrefix("fd00:66:0:c800::/64")!]
        await network.judgeRoutes([peers])
        #expect(health.isCutOff)
        await network.judgeRoutes([alone])
        #expect(!health.isCutOff && sentence().contains("would not reach flannel0"), "\(sentence())")
    }
}
