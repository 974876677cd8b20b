import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Firewall

/// The item that keeps rules, as it is made for a daemon.
private func rules(
    _ filter: PacketFilter, _ settings: PacketFilterSettings, _ interfaceName: String = "flannel0"
) -> PacketFilterRules {
    PacketFilterRules(
        settings, preferring: filter, interfaceName: interfaceName, beside: PacketFilterEffects())
}

private let settings = PacketFilterSettings(
    network: .v4(IPv4Prefix("10.66.0.0/16")!), subnet: .v4(IPv4Prefix("10.66.28.0/24")!), masquerades: true)

@Suite struct PacketFilterTextTests {
    @Test func theTransactionReplacesTheTable() {
        #expect(
            Nftables.transaction(table: "ip flannel-ipv4", settings) == """
                table ip flannel-ipv4
                delete table ip flannel-ipv4
                table ip flannel-ipv4 {
                \tcomment "rules for flannel-ipv4"
                \tchain postrtg {
                \t\tcomment "chain to manage traffic masquerading by flannel"
                \t\ttype nat hook postrouting priority srcnat; policy accept;
                \t\tmeta mark & 0x4000 == 0x4000 return
                \t\tip saddr 10.66.0.0/16 ip daddr 10.66.0.0/16 return
                \t\tip saddr != 10.66.0.0/16 ip daddr 10.66.28.0/24 return
                \t\tip saddr 10.66.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
                \t\tip saddr != 10.66.0.0/16 ip daddr 10.66.0.0/16 masquerade fully-random
                \t}
                \tchain forward {
                \t\tcomment "chain to accept flannel traffic"
                \t\ttype filter hook forward priority filter; policy accept;
                \t\tip saddr 10.66.0.0/16 accept
                \t\tip daddr 10.66.0.0/16 accept
                \t}
                }

                """)
    }

    @Test func whatIsNotWantedHasNoRules() {
        var quiet = settings
        quiet.masquerades = false
        #expect(quiet.postroutingRules.isEmpty)
        quiet.acceptsForwarding = false
        #expect(quiet.forwardRules.isEmpty)
        var ordered = settings
        ordered.randomizesPorts = false
        #expect(!Nftables.transaction(table: "ip flannel-ipv4", ordered).contains("fully-random"))
    }
}

/// The rules in the real kernel, by either program, in namespaces that the tests make.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PacketFilterTests {
    private static func listing(_ filter: PacketFilter) throws -> String {
        switch filter {
        case .nftables: try execute("nft list table ip flannel-ipv4 2>/dev/null || true")
        case .iptables: try execute("iptables -t nat -S 2>/dev/null; iptables -S 2>/dev/null")
        }
    }

    private func deviation(_ item: any DesiredItem) throws -> String? {
        try item.deviation(in: NetworkState())
    }

    @Test(arguments: [PacketFilter.nftables, .iptables])
    func rulesAreSetCheckedRestoredAndRemoved(_ filter: PacketFilter) async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            let item = rules(filter, settings)
            let before = try PacketFilterTests.listing(filter)
            #expect(try deviation(item) != nil)
            try item.update(in: NetworkState(), using: socket)
            #expect(try deviation(item) == nil)
            let listing = try PacketFilterTests.listing(filter)
            switch filter {
            case .nftables:
                #expect(listing.contains("ip saddr 10.66.0.0/16 ip daddr 10.66.0.0/16 return"))
                try execute("nft flush chain ip flannel-ipv4 postrtg")
            case .iptables:
                #expect(
                    listing.contains(
                        #"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#))
                #expect(
                    listing.contains(#"-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD"#))
                #expect(
                    listing.contains(
                        #"-A FLANNEL-POSTRTG ! -s 10.66.0.0/16 -d 10.66.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#
                    ))
                try execute("iptables -t nat -D FLANNEL-POSTRTG 2")
            }
            // A rule taken out, then everything.
            #expect(try deviation(item) != nil)
            try item.update(in: NetworkState(), using: socket)
            #expect(try deviation(item) == nil)
            #expect(try PacketFilterTests.listing(filter) == listing)
            try execute("nft flush ruleset")
            #expect(try deviation(item) != nil)
            try item.update(in: NetworkState(), using: socket)
            #expect(try deviation(item) == nil)

            // A later daemon with another subnet takes its place.
            var moved = settings
            moved.subnet = .v4(IPv4Prefix("10.66.5.0/24")!)
            let later = rules(filter, moved)
            #expect(try deviation(later) != nil)
            try later.update(in: NetworkState(), using: socket)
            #expect(try deviation(later) == nil)
            #expect(try !PacketFilterTests.listing(filter).contains("10.66.28.0"))

            #expect(try !PacketFilter.removeAll(interfaceName: "flannel0").isEmpty)
            #expect(try PacketFilterTests.listing(filter) == before)
            #expect(try PacketFilter.removeAll(interfaceName: "flannel0").isEmpty)
        }
    }

    @Test func masqueradingTurnedOffTakesItsRulesAway() async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            try rules(.iptables, settings).update(in: NetworkState(), using: socket)
            var quiet = settings
            quiet.masquerades = false
            let item = rules(.iptables, quiet)
            #expect(try deviation(item)?.contains("FLANNEL-POSTRTG") == true)
            try item.update(in: NetworkState(), using: socket)
            let listed = try execute("iptables -t nat -S")
            #expect(!listed.contains("FLANNEL"))
        }
    }

    /// Docker sets iptables' FORWARD policy to DROP, which an accept in another table does not lift; and it does so when
    /// it is started, later: the rules stand there before.
    @Test func besideNftablesIptablesAcceptsTooWhateverItsPolicy() async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            let item = rules(.nftables, settings)
            try item.update(in: NetworkState(), using: socket)
            #expect(try deviation(item) == nil)
            let listed = try execute("iptables -S")
            #expect(listed.contains("-A FLANNEL-FWD -s 10.66.0.0/16"))
            #expect(try execute("iptables -S FORWARD").contains("-j FLANNEL-FWD"))
            #expect(try !execute("iptables -t nat -S").contains("FLANNEL"))
            try item.delete(using: socket)
            #expect(try !execute("iptables -S").contains("FLANNEL"))
        }
    }

    /// What the other program kept goes, also what flanneld left.
    @Test func aChangedModeLeavesNothingOfTheOtherOne() async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            for (filter, other) in [(PacketFilter.iptables, PacketFilter.nftables), (.nftables, .iptables)] {
                let item = rules(filter, settings)
                try item.update(in: NetworkState(), using: socket)
                #expect(try deviation(item) == nil)
                let next = rules(other, settings)
                #expect(try deviation(next) != nil)
                try next.update(in: NetworkState(), using: socket)
                #expect(try deviation(next) == nil)
                let (tables, nat) = (try execute("nft list tables"), try execute("iptables -t nat -S"))
                #expect(tables.contains("flannel-ipv4") == (other == .nftables))
                #expect(nat.contains("FLANNEL-POSTRTG") == (other == .iptables))
            }
        }
    }

    /// A flanneld whose image had the old iptables left its rules there.
    @Test func whatIsLeftInTheOtherKindOfIptablesGoes() async throws {
        try await NetworkNamespace.make().run {
            try execute(
                """
                iptables-legacy -t nat -N FLANNEL-POSTRTG && \
                iptables-legacy -t nat -A FLANNEL-POSTRTG -s 10.66.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE && \
                iptables-legacy -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
                """)
            let item = rules(.iptables, settings)
            #expect(
                try deviation(item)?.contains("iptables-legacy chain FLANNEL-POSTRTG of table nat not wanted")
                    == true)
            try item.update(in: NetworkState(), using: RouteSocket())
            #expect(try deviation(item) == nil)
            #expect(try !execute("iptables-legacy -t nat -S").contains("FLANNEL"))
        }
    }

    @Test(arguments: [PacketFilter.nftables, .iptables])
    func twoDevicesRulesDoNotTakeEachOthersAway(_ filter: PacketFilter) async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            var second = settings
            second.network = .v4(IPv4Prefix("10.77.0.0/16")!)
            second.subnet = .v4(IPv4Prefix("10.77.3.0/24")!)
            let items = [rules(filter, settings), rules(filter, second, "a-device-of-15b")]
            for item in items { try item.update(in: NetworkState(), using: socket) }
            for item in items { #expect(try deviation(item) == nil) }
            #expect(try !PacketFilter.removeAll(interfaceName: "a-device-of-15b").isEmpty)
            #expect(try deviation(items[0]) == nil)
            #expect(try deviation(items[1]) != nil)
            #expect(try !execute("iptables -S; iptables -t nat -S; nft list ruleset").contains("10.77.0.0"))
        }
    }

    /// Rules that accept are of no use behind one that drops.
    @Test(arguments: [
        "iptables -A FORWARD -j REJECT", "iptables -P FORWARD DROP; iptables -A FORWARD -j DROP",
        "iptables -N GUARD; iptables -A GUARD -d 10.66.0.0/16 -j DROP; iptables -A FORWARD -j GUARD",
    ])
    func theJumpGoesBeforeWhatDrops(_ command: String) async throws {
        try await NetworkNamespace.make().run {
            let socket = try RouteSocket()
            let item = rules(.iptables, settings)
            try execute(command)
            try item.update(in: NetworkState(), using: socket)
            func isFirst() throws -> Bool {
                try execute("iptables -S FORWARD").split(separator: "\n")[1].hasSuffix("-j FLANNEL-FWD")
            }
            #expect(try isFirst())
            #expect(try deviation(item) == nil)
            // Somebody puts the like in front.
            try execute("iptables -I FORWARD -s 10.0.0.0/8 -j REJECT")
            #expect(try deviation(item)?.contains("behind a rule that drops what it accepts") == true)
            try item.update(in: NetworkState(), using: socket)
            #expect(try isFirst() && deviation(item) == nil)
            // Who drops nothing of the overlay may stand in front: Docker's user chain, network policies.
            try execute(
                "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER"
            )
            try execute("iptables -I FORWARD -d 10.66.28.9/32 -p tcp -m tcp --dport 22 -j DROP")
            #expect(try deviation(item) == nil)
        }
    }

    /// By this the resync knows that nothing needs a look.
    @Test func everyChangeOfTheRulesIsCountedByTheKernel() async throws {
        try await NetworkNamespace.make().run {
            var seen: [UInt32?] = [RuleSetReader.generation()]
            for change in ["iptables -A FORWARD -j RETURN", "nft add table ip other", "iptables -t nat -N X"]
            {
                try execute(change)
                seen.append(RuleSetReader.generation())
                #expect(RuleSetReader.generation() == seen.last)
            }
            #expect(seen.allSatisfy { $0 != nil } && Set(seen).count == seen.count)
        }
    }

    @Test func flanneldsMasqueradeChainDoesNotStayBesideTheTable() async throws {
        try await NetworkNamespace.make().run {
            try execute(
                """
                iptables -t nat -N FLANNEL-POSTRTG && \
                iptables -t nat -A FLANNEL-POSTRTG -s 10.66.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE && \
                iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
                """)
            try rules(.nftables, settings).update(in: NetworkState(), using: RouteSocket())
            let listed = try execute("iptables -t nat -S")
            #expect(!listed.contains("FLANNEL"))
        }
    }

    /// Real packets through the rules: who does the receiver see?
    @Test(arguments: [PacketFilter.nftables, .iptables])
    func aPodSeesPodsAndTheWorldSeesTheNode(_ filter: PacketFilter) async throws {
        let node = try await NetworkNamespace.make()
        let pod = try await NetworkNamespace.make()
        let world = try await NetworkNamespace.make()
        // The node's veths are born in the node and pushed to the others by the id of their thread.
        let podID = try await pod.run { threadID() }
        let worldID = try await world.run { threadID() }
        try await node.run {
            try execute(
                """
                ip link add node-p0 type veth peer name node-p1 && ip link set node-p1 netns \(podID) && \
                ip link add node-w0 type veth peer name node-w1 && ip link set node-w1 netns \(worldID) && \
                ip addr add 10.66.28.1/24 dev node-p0 && ip link set node-p0 up && \
                ip addr add 198.51.100.1/24 dev node-w0 && ip link set node-w0 up && \
                ip route add 10.66.0.0/16 via 198.51.100.9 && sysctl -q -w net.ipv4.ip_forward=1
                """)
            try rules(filter, settings).update(in: NetworkState(), using: RouteSocket())
        }
        try await pod.run {
            try execute(
                "ip addr add 10.66.28.7/24 dev node-p1 && ip link set node-p1 up && ip route add default via 10.66.28.1"
            )
        }
        // The world is both a machine outside and, under 10.66.5.7, a pod on another node; it answers both.
        try await world.run {
            try execute(
                """
                ip addr add 198.51.100.9/24 dev node-w1 && ip link set node-w1 up && \
                ip addr add 10.66.5.7/32 dev lo && ip route add 10.66.28.0/24 via 198.51.100.1
                """)
        }
        let receiver = try await world.run { try DatagramReceiver() }
        let podSender = try await pod.run { try DatagramSender() }
        try await pod.run { try podSender.send(to: "10.66.5.7", port: receiver.port) }
        let seenByPod = try await world.run { try receiver.nextSender() }
        #expect(seenByPod == "10.66.28.7")
        try await pod.run { try podSender.send(to: "198.51.100.9", port: receiver.port) }
        let seenByWorld = try await world.run { try receiver.nextSender() }
        #expect(seenByWorld == "198.51.100.1")

        // From outside to a pod here: it sees who it is.
        let podReceiver = try await pod.run { try DatagramReceiver() }
        let worldSender = try await world.run { try DatagramSender() }
        try await world.run { try worldSender.send(to: "10.66.28.7", port: podReceiver.port) }
        let seenFromOutside = try await pod.run { try podReceiver.nextSender() }
        #expect(seenFromOutside == "198.51.100.9")
    }
}
