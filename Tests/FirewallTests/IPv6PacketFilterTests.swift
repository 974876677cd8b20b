import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Firewall

/// Rules of IPv6 in the real kernel, by every program that sets them.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct IPv6PacketFilterTests {
    private func surroundings(_ isIPv6: Bool, over address: String) -> PacketFilterEffects.Surroundings {
        .init(
            network: IPPrefix(isIPv6 ? "fd00:66::/48" : "10.66.0.0/16")!,
            subnet: IPPrefix(isIPv6 ? "fd00:66:0:1c::/64" : "10.66.28.0/24")!, tunnel: "flannel0",
            underlay: "eth0", address: IPAddress(address)!, port: 8285)
    }

    /// What the rules' items say, of those that look at others' rules.
    private func problems(_ effects: PacketFilterEffects, _ surroundings: PacketFilterEffects.Surroundings)
        throws
        -> [String: String]
    {
        var problems: [String: String] = [:]
        for item in effects.desiredItems(in: surroundings) where item.component.kind == .firewall {
            do {
                _ = try item.deviation(in: NetworkState())
            } catch let problem as ItemProblem {
                problems[item.name] = problem.problem.sentence
            }
        }
        return problems
    }

    /// What drops packets of IPv6, the item that says it, and its words.
    @Test(arguments: [
        (
            "ip6tables -A FORWARD -j REJECT", "rules for pods' packets (IPv6)",
            "ip6tables table filter, chain FORWARD"
        ),
        (
            "ip6tables-legacy -A FORWARD -d fd00:66::/48 -j DROP", "rules for pods' packets (IPv6)",
            "ip6tables-legacy table filter, chain FORWARD: the rule \"-A FORWARD -d fd00:66::/48 -j DROP\""
        ),
        ("ip6tables -P FORWARD DROP", "rules for pods' packets (IPv6)", "its policy drops"),
        (
            "ip6tables -t mangle -A FORWARD -o flannel0 -j DROP", "rules for pods' packets (IPv6)",
            "ip6tables table mangle"
        ),
        (
            "nft 'table ip6 g { chain f { type filter hook forward priority 1; ip6 daddr fd00:66::/32 drop\n}\n}'",
            "rules for pods' packets (IPv6)",
            "nftables table ip6 g, chain f: the rule \"ip6 daddr fd00:66::/32 drop\""
        ),
        (
            "nft 'table inet g { chain f { type filter hook forward priority 1; meta nfproto ipv6 drop\n}\n}'",
            "rules for pods' packets (IPv6)", "nftables table inet g"
        ),
        (
            "ip6tables -A INPUT -p udp --dport 8285 -j DROP", "rules for tunnel datagrams (IPv6)",
            "--dport 8285 -j DROP\" drops tunnel datagrams (UDP port 8285)"
        ),
        (
            "ip6tables -A OUTPUT -d fd20::7 -j REJECT", "rules for tunnel datagrams (IPv6)",
            "tunnel datagrams to"
        ),
        (
            "nft 'table netdev n { chain i { type filter hook ingress device lo priority 0; ip6 nexthdr udp udp dport 8285 drop\n}\n}'",
            "rules for tunnel datagrams (IPv6)", "nftables table netdev n"
        ),
    ])
    func whatDropsIPv6IsNamedAndIPv4IsNot(_ command: String, _ item: String, _ words: String) async throws {
        try await NetworkNamespace.make().run {
            var ipv6 = surroundings(true, over: "fd20::2")
            ipv6.underlay = "lo"
            var ipv4 = surroundings(false, over: "192.0.2.2")
            ipv4.underlay = "lo"
            let effects = PacketFilterEffects()
            effects.update(peers: [
                .init(subnet: IPPrefix("fd00:66:0:1::/64")!, address: IPAddress("fd20::7")!),
                .init(subnet: IPPrefix("10.66.1.0/24")!, address: IPAddress("192.0.2.7")!),
            ])
            #expect(try problems(effects, ipv4).isEmpty && problems(effects, ipv6).isEmpty)
            try execute(command)
            let found = try problems(effects, ipv6)
            #expect(Array(found.keys) == [item])
            #expect(found[item]?.contains(words) == true, "\(found)")
            #expect(try problems(effects, ipv4).isEmpty)
        }
    }

    /// udp carries both families over one address: the pods' packets are IPv6's, the datagrams IPv4's.
    @Test func datagramsAreOfTheUnderlaysFamily() async throws {
        try await NetworkNamespace.make().run {
            let effects = PacketFilterEffects()
            effects.update(peers: [
                .init(subnet: IPPrefix("fd00:66:0:1::/64")!, address: IPAddress("192.0.2.7")!)
            ])
            let both = surroundings(true, over: "192.0.2.2")
            try execute("ip6tables -A INPUT -p udp --dport 8285 -j DROP")
            #expect(try problems(effects, both).isEmpty)
            try execute("iptables -A INPUT -p udp -s 192.0.2.7 --dport 8285 -j DROP")
            #expect(try Array(problems(effects, both).keys) == ["rules for tunnel datagrams"])
        }
    }

    /// What IPv4 alone has is not read for IPv6, nor said.
    @Test func whatDropsIPv4IsNotSaidOfIPv6() async throws {
        try await NetworkNamespace.make().run {
            let effects = PacketFilterEffects()
            try execute(
                "iptables -A FORWARD -j REJECT; iptables -A INPUT -j DROP; nft 'table ip g { chain f { type filter hook forward priority 1; policy drop;\n}\n}'"
            )
            #expect(try problems(effects, surroundings(true, over: "fd20::2")).isEmpty)
            #expect(try problems(effects, surroundings(false, over: "192.0.2.2")).count == 2)
        }
    }

    /// Rules that accept are of no use behind one that drops.
    @Test(arguments: [
        "ip6tables -A FORWARD -j REJECT", "ip6tables -P FORWARD DROP; ip6tables -A FORWARD -j DROP",
        "ip6tables -N GUARD; ip6tables -A GUARD -d fd00:66::/48 -j DROP; ip6tables -A FORWARD -j GUARD",
    ])
    func theJumpGoesBeforeWhatDrops(_ command: String) async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            let item = PacketFilterRules(
                PacketFilterSettings(
                    network: IPPrefix("fd00:66::/48")!, subnet: IPPrefix("fd00:66:0:1c::/64")!,
                    masquerades: true),
                preferring: .iptables, interfaceName: "flannel0", beside: PacketFilterEffects())
            func deviation() throws -> String? { try item.deviation(in: NetworkState()) }
            try execute(command)
            try item.update(in: NetworkState(), using: socket)
            func isFirst() throws -> Bool {
                try execute("ip6tables -S FORWARD").split(separator: "\n")[1].hasSuffix("-j FLANNEL-FWD")
            }
            #expect(try isFirst() && deviation() == nil)
            // Somebody puts the like in front.
            try execute("ip6tables -I FORWARD -s fd00::/8 -j REJECT")
            #expect(try deviation()?.contains("behind a rule that drops what it accepts") == true)
            try item.update(in: NetworkState(), using: socket)
            #expect(try isFirst() && deviation() == nil)
            try execute("ip6tables -I FORWARD -d fd00:66:0:1c::9/128 -p tcp -m tcp --dport 22 -j DROP")
            #expect(try deviation() == nil)
        }
    }
}
