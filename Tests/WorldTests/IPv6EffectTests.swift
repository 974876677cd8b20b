import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// Routes, rules and firewalls of others that take packets of IPv6 away, judged by what becomes of the packets: the siblings
/// of `RouteEffectTests` and `FirewallTests`.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct IPv6EffectTests {
    /// A backend in a network of IPv6 alone, or of both families.
    struct Case: Sendable, CustomTestStringConvertible {
        var type: String
        var families: Lab.Families
        var testDescription: String { "\(type), \(families)" }

        /// The device that IPv6 packets leave by.
        var interface: String {
            switch type {
            case "udp": "flannel0"
            case "vxlan": "flannel-v6.1"
            default: "eth0"
            }
        }

        static let all = Lab.Families.allCases.filter(\.hasIPv6).flatMap { families in
            ["udp", "vxlan", "host-gw"].map { Case(type: $0, families: families) }
        }
    }

    /// Two ready nodes with a pod each; the pods' addresses are of IPv6, and so are the subnets.
    private func network(_ network: Case) async throws -> (
        lab: Lab, daemon: LabDaemon, pods: [LabPod], addresses: [String], subnets: [String]
    ) {
        let configuration = Lab.configuration(of: network.families).replacing(
            "\"udp\"", with: "\"\(network.type)\"")
        let lab = try await Lab(config: configuration, families: network.families)
        let daemons = try await lab.start("--ip-masq --iptables-resync=1")
        var pods: [LabPod] = []
        var subnets: [String] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            let subnet = try #require(daemon.status?.lease?.subnet)
            pods.append(try await node.addPod(in: subnet))
            subnets.append(try #require(subnet.split(separator: ",").last.map(String.init)))
        }
        let addresses = try pods.map { try #require($0.addresses.last) }
        try await pods[0].reaches(addresses[1])
        try await daemons[0].healed()
        return (lab, daemons[0], pods, addresses, subnets)
    }

    /// What somebody does, what the problem then says, what it says to do, and what takes the fault away.
    private struct Fault {
        var command: String
        var words: [String]
        var mending: String
        /// Whether pods reach each other no more by IPv6.
        var cutsOff = true
    }

    private func expectIsToldAndHeals(
        _ fault: Fault, on node: LabNode, _ daemon: LabDaemon, from pod: LabPod, to address: String
    ) async throws {
        try await node.run(fault.command)
        let sentence = try await daemon.problem(fault.words[0])
        for word in fault.words { #expect(sentence.contains(word), "\(sentence)") }
        #expect(daemon.status?.isReady == !fault.cutsOff, "\(daemon.status?.problems ?? [])")
        // What the kernel path takes past the rule it takes until no hello is answered any more.
        _ = try await until("pings as they are to be", { fault.command }) {
            await pod.answers(from: address, count: 1) == (fault.cutsOff ? 0 : 1) ? true : nil
        }
        try await node.run(fault.mending)
        try await daemon.healed()
        try await pod.reaches(address)
    }

    /// Rules of a VPN, its default route among them, and routes of others.
    @Test(arguments: Case.all)
    func whatTakesIPv6PacketsIsNamed(_ networkCase: Case) async throws {
        let (lab, daemon, pods, addresses, subnets) = try await network(networkCase)
        let half = subnets[1].replacing("/64", with: "/65")
        let faults = [
            // As Tailscale does it.
            Fault(
                command: """
                    ip tuntap add tailscale0 mode tun && ip link set tailscale0 up && \
                    ip -6 rule add lookup 52 priority 5270 && ip -6 route add fd00:90::/28 dev tailscale0 table 52
                    """,
                words: [
                    "packets for all peers, \(subnets[1]) do not reach", "dev tailscale0",
                    "\"5270: from all lookup 52\"",
                    "ip -6 rule add to fd00:96::/48 lookup main priority 5269",
                ], mending: "ip -6 rule add to fd00:96::/48 lookup main priority 5269"),
            Fault(
                command: """
                    ip -6 rule del to fd00:96::/48 && ip -6 rule del priority 5270 && \
                    ip -6 route add default dev tailscale0 table 51820 && \
                    ip -6 rule add not fwmark 0xca6c lookup 51820 priority 5300
                    """,
                words: [
                    "for all peers", "default dev tailscale0".replacing("default", with: "::/0"),
                    "lookup 51820",
                ],
                mending: "ip -6 rule del priority 5300"),
            Fault(
                command: "ip -6 route add \(half) via fd20:32::250 proto 186",
                words: [subnets[1], "\(half) via fd20:32::250 dev eth0", "proto 186 (bgp) takes them"],
                mending: "ip -6 route del \(half)"),
            Fault(
                command: "ip -6 rule add iif docker0 prohibit priority 7",
                words: ["for all peers", "the rule \"7: from all iif docker0 prohibit\""],
                mending: "ip -6 rule del priority 7"),
        ]
        for fault in faults {
            try await expectIsToldAndHeals(fault, on: lab[1], daemon, from: pods[0], to: addresses[1])
        }
    }

    /// The bridge of pods loses its address with IPv6 where somebody takes it down, and does not get it back.
    @Test func aBridgeThatLostItsAddressIsNamed() async throws {
        let (lab, daemon, pods, addresses, subnets) = try await network(Case(type: "udp", families: .dual))
        try await lab[1].run("ip link set docker0 down && ip link set docker0 up")
        let address = subnets[0].replacing("::/64", with: "::1/64")
        let sentence = try await daemon.problem("docker0", "has lost its address \(address)")
        #expect(daemon.status?.isReady == false)
        let remedy = try #require(sentence.firstRange(of: "ip address add"))
        try await lab[1].run("\(sentence[remedy.lowerBound...]) nodad")
        try await daemon.healed()
        try await pods[0].reaches(addresses[1])
    }

    /// Faults that cut pods off by IPv6 where no rule of twill's can help.
    private static let droppingPodsPackets = [
        Fault(
            command: """
                nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority filter + 10;
                ct state { established, related } accept
                meta nfproto ipv6 reject with icmpx admin-prohibited
                }
                }'
                """,
            words: ["nftables table inet firewalld", "filter_FORWARD", "--add-source=fd00:96::/48"],
            mending: "nft delete table inet firewalld"),
        Fault(
            command:
                "nft 'table ip6 guard { chain f { type filter hook forward priority -5; policy drop;\n}\n}'",
            words: [
                "nftables table ip6 guard", "its policy drops", "accept packets from and to fd00:96::/48",
            ], mending: "nft delete table ip6 guard"),
        Fault(
            command:
                "ip6tables -t mangle -N ufw6-x; ip6tables -t mangle -A FORWARD -j ufw6-x; ip6tables -t mangle -A ufw6-x -j DROP",
            words: ["ip6tables table mangle", "ufw6-x (called from FORWARD)", "ufw route allow in on"],
            mending: "ip6tables -t mangle -F"),
        Fault(
            command: "ip6tables-legacy -A FORWARD -j REJECT",
            words: [
                "ip6tables-legacy table filter", "ip6tables-legacy -t filter -I FORWARD -s fd00:96::/48",
            ],
            mending: "ip6tables-legacy -F FORWARD"),
    ]

    @Test(arguments: Case.all)
    func whatDropsIPv6PacketsIsNamed(_ networkCase: Case) async throws {
        let (lab, daemon, pods, addresses, _) = try await network(networkCase)
        for fault in Self.droppingPodsPackets {
            try await expectIsToldAndHeals(fault, on: lab[1], daemon, from: pods[0], to: addresses[1])
        }
        // The policy and what is appended come behind twill's own rules, of both families.
        try await lab[1].run("ip6tables -P FORWARD DROP; ip6tables -A FORWARD -j REJECT")
        #expect(await pods[0].answers(from: addresses[1]) == 3)
        // What is put in front of them is passed by moving them.
        try await lab[1].run("ip6tables -I FORWARD -j REJECT")
        try await daemon.logged("behind a rule that drops what it accepts")
        try await pods[0].reaches(addresses[1])
        try await daemon.healed()
    }

    /// The UDP port over IPv6, as udp and vxlan have it.
    @Test(arguments: [Case(type: "udp", families: .ipv6), Case(type: "vxlan", families: .dual)])
    func whatDropsDatagramsOverIPv6IsNamed(_ networkCase: Case) async throws {
        let (lab, daemon, pods, addresses, _) = try await network(networkCase)
        let port = networkCase.type == "udp" ? 8285 : 8472
        let faults = [
            Fault(
                command: "ip6tables -A INPUT -p udp --dport \(port) -j DROP",
                words: [
                    "ip6tables table filter, chain INPUT", "--dport \(port) -j DROP", "UDP port \(port)",
                ],
                mending: "ip6tables -F INPUT"),
            Fault(
                command: "ip6tables -A OUTPUT -d fd20:32::102 -p udp -j DROP",
                words: ["ip6tables table filter, chain OUTPUT", "tunnel datagrams to"],
                mending: "ip6tables -F OUTPUT"),
            Fault(
                command:
                    "nft 'table netdev n { chain i { type filter hook ingress device eth0 priority 0; ip6 nexthdr udp udp dport \(port) drop\n}\n}'",
                words: ["nftables table netdev n", "udp dport \(port) drop"],
                mending: "nft delete table netdev n"),
        ]
        for fault in faults {
            try await expectIsToldAndHeals(fault, on: lab[1], daemon, from: pods[0], to: addresses[1])
        }
    }

    /// With IPv6 the machine's setting alone says whether an interface hands packets on: nothing is said of an interface's own
    /// (`ip6_forward`), and nothing is lost.
    @Test func anInterfacesOwnSettingOfIPv6StopsNothing() async throws {
        let (lab, daemon, pods, addresses, _) = try await network(Case(type: "udp", families: .dual))
        for interface in ["docker0", "flannel0", "eth0"] {
            try await lab[1].run("sysctl -qw net.ipv6.conf.\(interface).forwarding=0")
        }
        #expect(await pods[0].answers(from: addresses[1]) == 3)
        try await Task.sleep(for: .seconds(3))
        #expect(daemon.status?.problems == [])
        #expect(await pods[1].answers(from: addresses[0]) == 3)
    }
}
