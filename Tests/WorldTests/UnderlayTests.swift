import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// The interface that datagrams leave by: chosen as flanneld does, kept whatever comes beside it, left only when it is gone.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"), .serialized)
struct UnderlayTests {
    /// A lab of two ready nodes with a pod each; node 1 was changed by `commands` before its daemon started.
    private final class Network {
        let lab: Lab
        let daemons: [LabDaemon]
        let pods: [LabPod]

        init(_ commands: String = "true", flags: String = "") async throws {
            lab = try await Lab()
            // So that another default route can be better.
            try await lab[1].run(
                "ip route del default && ip route add default via 172.20.32.254 metric 100 && { \(commands); }"
            )
            daemons = [try await lab[1].start(flags), try await lab[2].start()]
            var pods: [LabPod] = []
            for (node, daemon) in zip(lab.nodes, daemons) {
                let status = try await daemon.wait(for: "ready with the peer") {
                    $0.isReady && $0.peers.count == 1
                }
                pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
            }
            self.pods = pods
        }

        /// Waits until the daemon of node 1 has looked at the network anew: what it keeps came back.
        func look() async throws {
            try await lab[1].run("ip route del 100.96.0.0/16")
            _ = try await until("the overlay route") {
                try await self.lab[1].run("ip route show 100.96.0.0/16").isEmpty ? nil : true
            }
        }

        /// Nothing changed: the same address and MTU, the same data plane, no problem, and pods reach each other.
        func expectUnchanged(_ location: SourceLocation = #_sourceLocation) async throws {
            try await look()
            let status = try #require(daemons[0].status)
            #expect(status.underlay?.address == "172.20.32.101", sourceLocation: location)
            #expect(status.underlay?.endpoint == "172.20.32.101:8285", sourceLocation: location)
            #expect(status.tunnel?.mtu == 1472, sourceLocation: location)
            #expect(status.isReady && status.problems.isEmpty, "\(status.problems)", sourceLocation: location)
            let starts = daemons[0].log.components(separatedBy: "event=data_plane_started").count - 1
            let isReplaced = daemons[0].log.contains("event=data_plane_replaced")
            #expect(starts == 1 && !isReplaced, sourceLocation: location)
            // A link that came up a moment ago forwards in its own time.
            try await pods[0].reaches(pods[1].address)
            #expect(await pods[0].answers(from: pods[1].address, bytes: 1472) == 3, sourceLocation: location)
        }
    }

    @Test func theRouteToAnAddressInsideTheOverlayIsNotFollowedIntoTheTunnel() async throws {
        let network = try await Network(flags: "--iface-can-reach 100.96.0.1")
        try await network.look()
        try await network.expectUnchanged()
    }

    @Test func aBetterDefaultRouteOfAVPNIsNoReasonToLeave() async throws {
        let network = try await Network()
        try await network.lab[1].run(
            "ip tuntap add tun5 mode tun && ip address add 10.9.9.9/24 dev tun5 && ip link set tun5 up"
                + " && ip route add default dev tun5 metric 10")
        try await network.expectUnchanged()
        try await network.lab[1].run("ip link del tun5")
        try await network.expectUnchanged()
    }

    @Test func aDefaultRouteThatGoesAndReturnsChangesNothing() async throws {
        let network = try await Network("ip link add br9 type bridge && ip address add 10.8.0.1/16 dev br9")
        try await network.lab[1].run(
            "ip link set br9 up && ip route del default && ip route add default via 10.8.0.9")
        try await network.expectUnchanged()
        try await network.lab[1].run("ip route del default && ip route add default via 172.20.32.254")
        try await network.expectUnchanged()
    }

    /// keepalived adds the virtual address; a lease is renewed the rough way, and comes back behind it.
    @Test func aVirtualAddressInFrontOfItChangesNothing() async throws {
        let network = try await Network(flags: "--iface eth0")
        try await network.lab[1].run("ip address add 172.20.32.200/32 dev eth0")
        try await network.expectUnchanged()
        try await network.lab[1].run(
            "ip address del 172.20.32.101/24 dev eth0 && ip address add 172.20.32.101/24 dev eth0"
                + " && ip route add default via 172.20.32.254")
        try await network.expectUnchanged()
        try await network.lab[1].run("ip address del 172.20.32.200/32 dev eth0")
        try await network.expectUnchanged()
    }

    @Test func aDeprecatedAddressStaysInUse() async throws {
        let network = try await Network("ip address add 172.20.32.201/24 dev eth0")
        try await network.lab[1].run(
            "ip address change 172.20.32.101/24 dev eth0 preferred_lft 0 valid_lft 1000")
        try await network.expectUnchanged()
    }

    @Test func anInterfaceOfAnotherNameOrNumberIsTheSame() async throws {
        let network = try await Network()
        try await network.lab[1].run(
            "ip link set eth0 down && ip link set eth0 name net0 && ip link set net0 up")
        try await network.lab[1].run("ip route add default via 172.20.32.254")
        try await network.expectUnchanged()
        #expect(network.daemons[0].status?.underlay?.interface == "net0")
        // Taken away and made anew, as on a virtual machine that was moved.
        try await network.lab[1].run("ip link del net0")
        let path = try await network.lab[1].namespace.path
        try await network.lab.wire.run {
            try execute(
                "ip link add node1 type veth peer name eth0 netns \(path) && ip link set node1 master wire up"
            )
        }
        try await network.lab[1].run(
            "ip address add 172.20.32.101/24 dev eth0 && ip link set eth0 up && ip route add default via 172.20.32.254"
        )
        try await network.daemons[0].wait(for: "eth0") {
            $0.underlay?.interface == "eth0" && $0.problems.isEmpty
        }
        try await network.expectUnchanged()
    }

    @Test func aBridgeThatTookTheAddressOverIsTheSame() async throws {
        let network = try await Network()
        try await network.lab[1].run(
            "ip link add br0 type bridge && ip link set br0 up && ip address flush dev eth0 && ip link set eth0 master br0"
                + " && ip address add 172.20.32.101/24 dev br0 && ip route add default via 172.20.32.254")
        try await network.daemons[0].wait(for: "br0") {
            $0.underlay?.interface == "br0" && $0.problems.isEmpty
        }
        try await network.expectUnchanged()
    }

    /// A bridge that a former start left, with an address of the overlay; the network is not known at the start.
    @Test(arguments: [false, true]) func anAddressInsideTheOverlayIsNeverTheUnderlay(isRestart: Bool)
        async throws
    {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run(
            "ip link add cni0 type bridge && ip address add 100.96.200.1/24 dev cni0 && ip link set cni0 up")
        if isRestart {
            try await lab[1].run(
                "printf 'FLANNEL_NETWORK=100.96.0.0/16\\nFLANNEL_SUBNET=100.96.200.1/24\\nFLANNEL_MTU=1472\\nFLANNEL_IPMASQ=false\\n' >\(lab[1].directory)/subnet.env"
            )
        }
        let daemon = try await lab[1].start("--iface-regex '^100[.]' --iface-regex '^172[.]'")
        let status = try await daemon.ready()
        #expect(status.underlay?.address == "172.20.32.101" && status.lease != nil)
        #expect(try await daemon.healed().underlay?.endpoint == "172.20.32.101:8285")
    }

    @Test func aNetworkThatCoversTheUnderlayIsSaidAndWaitedFor() async throws {
        let lab = try await Lab(nodes: 1, config: #"{"Network": "172.16.0.0/12"}"#)
        let daemon = try await lab[1].start()
        try await daemon.problem("172.20.32.101 of eth0 lies inside the tunnel's network 172.16.0.0/12")
        #expect(await lab[1].succeeds("! ip link show flannel0"))
        try lab.write("store/config", Lab.configuration)
        try await daemon.healed()
    }

    @Test(arguments: [
        // Two next hops; a next-hop group, as the kernel tells it in full or by its number alone.
        """
        ip link add eth1 type veth peer name far1 && ip link set far1 up && ip link set eth1 up && \
        ip address add 192.0.2.1/24 dev eth1 && ip route del default && \
        ip route add default nexthop via 172.20.32.254 dev eth0 nexthop via 192.0.2.254 dev eth1
        """,
        """
        ip link add eth1 type veth peer name far1 && ip link set far1 up && ip link set eth1 up && \
        ip address add 192.0.2.1/24 dev eth1 && ip route del default && sysctl -qw net.ipv4.nexthop_compat_mode=0 && \
        ip nexthop add id 1 via 172.20.32.254 dev eth0 && ip nexthop add id 2 via 192.0.2.254 dev eth1 && \
        ip nexthop add id 10 group 1/2 && ip route add default nhid 10
        """,
        // The address is on lo, with and without being named as the route's source.
        """
        ip address flush dev eth0 && ip address add 172.20.32.101/32 dev lo && \
        ip route add 172.20.32.0/24 dev eth0 src 172.20.32.101 && \
        ip route add default via 172.20.32.254 dev eth0 src 172.20.32.101
        """,
        """
        ip address flush dev eth0 && ip address add 172.20.32.101/32 dev lo && \
        ip route add 172.20.32.0/24 dev eth0 && ip route add default dev eth0
        """,
        // The next hop is an IPv6 one.
        "ip route del default && ip route add 0.0.0.0/0 via inet6 fe80::1 dev eth0",
    ])
    func defaultRoutesOfEverySortAreFollowed(_ commands: String) async throws {
        let network = try await Network(commands)
        #expect(network.daemons[0].status?.underlay?.interface == "eth0")
        try await network.expectUnchanged()
        try await network.lab[1].run("ip route del default")
        try await network.expectUnchanged()
    }

    @Test func anotherTakesOverWhenItIsGoneAndThatIsSaid() async throws {
        let network = try await Network(
            """
            ip link add eth1 type veth peer name far1 && ip link set far1 up && ip link set eth1 up && \
            ip address add 192.0.2.1/24 dev eth1 && ip route add default via 192.0.2.254 dev eth1 metric 900
            """)
        try await network.lab[1].run("ip address flush dev eth0")
        let problem = try await network.daemons[0].problem(
            "eth0 has lost the underlay's address 172.20.32.101")
        #expect(problem.contains("bring it back"))
        #expect(network.daemons[0].status?.isReady == false)
        try await network.daemons[0].problem("eth1 (192.0.2.1), since eth0 (172.20.32.101) went away")
        try await network.daemons[1].wait(for: "the new address") {
            $0.peers.contains { $0.endpoint == "192.0.2.1:8285" }
        }
        #expect(network.daemons[0].status?.isReady == true)
    }

    @Test func aCableThatIsPulledIsSaid() async throws {
        let network = try await Network()
        try await network.lab.wire.run { try execute("ip link set node1 down") }
        try await network.daemons[0].problem("eth0 has no carrier")
        try await network.lab.wire.run { try execute("ip link set node1 up") }
        try await network.daemons[0].healed()
        try await network.expectUnchanged()
    }
}
