import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// Routes and rules of others, judged by where they take the overlay's packets.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"), .serialized)
struct RouteEffectTests {
    /// Three ready nodes; node 1 has a bridge for pods.
    private func network(nodes: Int = 3) async throws -> (lab: Lab, daemons: [LabDaemon], subnets: [String]) {
        let lab = try await Lab(nodes: nodes)
        let daemons = try await lab.start()
        let subnets = try daemons.map { try #require($0.status?.lease?.subnet) }
        _ = try await lab[1].addPod(in: subnets[0])
        try await daemons[0].healed()
        return (lab, daemons, subnets)
    }

    private func expectProblem(
        _ daemon: LabDaemon, _ words: String..., cutsOff: Bool, location: SourceLocation = #_sourceLocation
    ) async throws {
        let status = try await daemon.wait(for: "a problem with \(words)") { status in
            status.isReady != cutsOff
                && status.problems.contains { problem in words.allSatisfy { problem.contains($0) } }
        }
        #expect(status.problems.count == 1, "\(status.problems)", sourceLocation: location)
    }

    @Test func theTableOfAVPNThatTakesTheOverlayIsNamed() async throws {
        let (lab, daemons, _) = try await network(nodes: 2)
        // As Tailscale does it.
        try await lab[1].run(
            """
            ip tuntap add tailscale0 mode tun && ip link set tailscale0 up && \
            ip rule add fwmark 0x80000/0xff0000 lookup main priority 5210 && \
            ip rule add lookup 52 priority 5270 && ip route add 100.64.0.0/10 dev tailscale0 table 52
            """)
        try await daemons[0].problem(
            "for all peers", "the route 100.64.0.0/10 dev tailscale0 table 52",
            "\"5270: from all lookup 52\"", "ip rule add to 100.96.0.0/16 lookup main priority 5269")
        // From the tunnel to this node's own pods it is the same table.
        try await daemons[0].problem("this node's own pods", "table 52")
        #expect(daemons[0].status?.isReady == false)
        // What it says to do helps.
        try await lab[1].run("ip rule add to 100.96.0.0/16 lookup main priority 5269")
        try await daemons[0].healed()
    }

    @Test func aMoreSpecificRouteToOnePeerIsNamed() async throws {
        let (lab, daemons, subnets) = try await network()
        try await lab[1].run("ip route add \(subnets[1]) via 172.20.32.250 proto 186")
        try await expectProblem(
            daemons[0], "\(subnets[1]) do not reach flannel0", "via 172.20.32.250 dev eth0 proto 186 (bgp)",
            cutsOff: false)
        try await lab[1].run("ip route del \(subnets[1])")
        try await daemons[0].healed()
    }

    @Test func aBridgeThatIsLeftOverFromAnotherLeaseIsNamed() async throws {
        let (lab, daemons, subnets) = try await network()
        let address = subnets[2].replacing(".0/24", with: ".1/24")
        try await lab[1].run(
            "ip link add cni0 type bridge && ip address add \(address) dev cni0 && ip link set cni0 up")
        try await expectProblem(
            daemons[0], subnets[2], "an address of cni0", "a bridge that is left over", cutsOff: false)
        try await lab[1].run("ip link del cni0")
        try await daemons[0].healed()
    }

    @Test func rulesAndRoutesThatRefuseAreNamed() async throws {
        let (lab, daemons, subnets) = try await network()
        try await lab[1].run("ip rule add iif docker0 prohibit priority 7")
        try await daemons[0].problem("for all peers", "the rule \"7: from all iif docker0 prohibit\"")
        try await lab[1].run("ip rule del priority 7 && ip route add unreachable \(subnets[2])")
        try await expectProblem(daemons[0], "the route unreachable \(subnets[2])", cutsOff: false)
        try await lab[1].run("ip route del \(subnets[2])")
        try await daemons[0].healed()
    }

    @Test func packetsForOwnPodsThatGoElsewhereAreSaid() async throws {
        let (lab, daemons, subnets) = try await network(nodes: 2)
        let half = subnets[0].replacing("/24", with: "/25")
        try await lab[1].run("ip route add \(half) via 172.20.32.250")
        try await expectProblem(
            daemons[0], "this node's own pods (\(subnets[0])) do not reach them", "\(half) via 172.20.32.250",
            cutsOff: true)
        try await lab[1].run("ip route del \(half)")
        try await daemons[0].healed()
    }

    @Test func aFightOverTheOverlayRouteIsSaidWithWhoItIs() async throws {
        let (lab, daemons, _) = try await network(nodes: 2)
        for _ in 0..<5 {
            try await lab[1].run("ip route replace 100.96.0.0/16 via 172.20.32.250 proto 12")
            _ = try await until("the overlay route") {
                try await lab[1].run("ip route show 100.96.0.0/16").contains("flannel0") ? true : nil
            }
        }
        try await daemons[0].problem(
            "route 100.96.0.0/16 dev flannel0 is changed by somebody else again and again", "proto 12 (bird)")
        #expect(daemons[0].status?.isReady == true)
    }

    @Test func aRouteThatSomebodyPutsBeforeOursIsTakenAway() async throws {
        let (lab, daemons, _) = try await network(nodes: 2)
        try await lab[1].run("ip route prepend 100.96.0.0/16 via 172.20.32.250")
        _ = try await until("the overlay route alone") {
            try await lab[1].run("ip route show 100.96.0.0/16").contains("172.20.32.250") ? nil : true
        }
        try await daemons[0].healed()
    }

    @Test func aChangedNetworkLeavesNoRouteBehind() async throws {
        let (lab, daemons, _) = try await network(nodes: 2)
        try lab.write("store/config", #"{"Network": "100.64.0.0/10", "SubnetLen": 24}"#)
        for (node, daemon) in zip(lab.nodes, daemons) {
            _ = try await until("the new route alone", { "\(daemon.status?.problems ?? []) \(daemon.log)" }) {
                let routes = try await node.run("ip route show dev flannel0")
                return routes.contains("100.64.0.0/10") && !routes.contains("100.96.0.0/16") ? true : nil
            }
            try await daemon.healed()
        }
    }
}
