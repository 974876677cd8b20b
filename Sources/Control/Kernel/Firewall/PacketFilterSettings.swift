import Addresses

/// The masquerade and forward rules that are wanted for one family.
public struct PacketFilterSettings: Sendable, Hashable {
    /// The overlay.
    public var network: IPPrefix
    /// This node's subnet.
    public var subnet: IPPrefix
    /// `--ip-masq`: masquerade what leaves the overlay.
    public var masquerades: Bool
    /// Not `--ip-masq-fully-random-disable`: ports of masqueraded flows at random.
    public var randomizesPorts: Bool
    /// `--iptables-forward-rules`: accept forwarding from and to the overlay.
    public var acceptsForwarding: Bool

    /// Makes settings.
    public init(
        network: IPPrefix, subnet: IPPrefix, masquerades: Bool, randomizesPorts: Bool = true,
        acceptsForwarding: Bool = true
    ) {
        self.network = network
        self.subnet = subnet
        self.masquerades = masquerades
        self.randomizesPorts = randomizesPorts
        self.acceptsForwarding = acceptsForwarding
    }
}

/// A rule of either program: what it matches, and what it does.
struct PacketFilterRule: Hashable {
    /// An address that must be in a prefix, or outside of it.
    struct Match: Hashable {
        var prefix: IPPrefix
        var isNegated = false
    }

    enum Action: Hashable {
        case leave
        case accept
        case masquerade(randomizesPorts: Bool)
    }

    /// Bits of the packet's mark that must all be set; 0 for any mark.
    var mark: UInt32 = 0
    var source: Match?
    var destination: Match?
    var action: Action
}

extension PacketFilterSettings {
    /// kube-proxy marks with this bit what it masquerades itself.
    private static let kubernetesMasqueradeMark: UInt32 = 0x4000

    /// What goes to groups, of the network's family.
    private var multicast: IPPrefix {
        switch network {
        case .v4: .v4(IPv4Prefix(IPv4Address(224, 0, 0, 0), length: 4))
        case .v6: .v6(IPv6Prefix(IPv6Address(high: 0xFF << 56, low: 0), length: 8))
        }
    }

    /// What happens to packets as they leave, in order. flannel's rules, but for one: flannel leaves alone what
    /// goes between the overlay and this node's subnet, this leaves alone all that stays in the overlay, so that a
    /// pod never sees another pod's packets under a node's address, whatever subnets both are in.
    var postroutingRules: [PacketFilterRule] {
        guard masquerades else { return [] }
        let inside = PacketFilterRule.Match(prefix: network)
        let outside = PacketFilterRule.Match(prefix: network, isNegated: true)
        let masquerade = PacketFilterRule.Action.masquerade(randomizesPorts: randomizesPorts)
        return [
            PacketFilterRule(mark: PacketFilterSettings.kubernetesMasqueradeMark, action: .leave),
            PacketFilterRule(source: inside, destination: inside, action: .leave),
            // From outside to a pod here: the pod sees who it is.
            PacketFilterRule(source: outside, destination: .init(prefix: subnet), action: .leave),
            PacketFilterRule(
                source: inside, destination: .init(prefix: multicast, isNegated: true),
                action: masquerade),
            // From outside to a pod elsewhere: the answer must come back through this node.
            PacketFilterRule(source: outside, destination: inside, action: masquerade),
        ]
    }

    /// What may be forwarded.
    var forwardRules: [PacketFilterRule] {
        guard acceptsForwarding else { return [] }
        return [
            PacketFilterRule(source: .init(prefix: network), action: .accept),
            PacketFilterRule(destination: .init(prefix: network), action: .accept),
        ]
    }
}
