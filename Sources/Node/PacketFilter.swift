import Addresses

/// The masquerade and forward rules (`--ip-masq`, `--iptables-forward-rules`) as one desired item.
public struct PacketFilterSettings: Sendable, Hashable {
    /// The overlay.
    public var network: IPv4Prefix
    /// This node's subnet.
    public var subnet: IPv4Prefix
    /// `--ip-masq`: masquerade what leaves the overlay.
    public var masquerades: Bool
    /// Not `--ip-masq-fully-random-disable`: ports of masqueraded flows at random.
    public var randomizesPorts: Bool
    /// `--iptables-forward-rules`: accept forwarding from and to the overlay.
    public var acceptsForwarding: Bool

    /// Makes settings.
    public init(
        network: IPv4Prefix, subnet: IPv4Prefix, masquerades: Bool, randomizesPorts: Bool = true,
        acceptsForwarding: Bool = true
    ) {
        self.network = network
        self.subnet = subnet
        self.masquerades = masquerades
        self.randomizesPorts = randomizesPorts
        self.acceptsForwarding = acceptsForwarding
    }
}

/// Which program keeps the rules.
public enum PacketFilter: Sendable, Hashable {
    /// `nft`: the tables `ip flannel-ipv4`, replaced in one transaction.
    case nftables
    /// `iptables`: the chains FLANNEL-POSTRTG and FLANNEL-FWD.
    case iptables

    /// What this machine has: nftables where it works, else iptables; nil where neither does.
    public static func available() -> PacketFilter? { fatalError("skeleton") }

    /// The item that keeps the rules.
    public func desiredItem(_ settings: PacketFilterSettings) -> any DesiredItem { fatalError("skeleton") }

    /// Removes every rule that twill or flannel made, by either program, and says what it removed: for
    /// `twilld cleanup`.
    public static func removeAll() throws -> [String] { fatalError("skeleton") }
}
