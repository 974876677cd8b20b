import Netlink

/// Which program keeps the rules. Its calls start child processes and wait for them.
public enum PacketFilter: Sendable, Hashable {
    /// `nft`: the table `ip flannel-ipv4`, replaced in one transaction.
    case nftables
    /// `iptables`: the chains FLANNEL-POSTRTG and FLANNEL-FWD.
    case iptables

    /// What this machine has: nftables where it works, else iptables; nil where neither does.
    public static func available() -> PacketFilter? {
        if Nftables()?.works == true { return .nftables }
        if Iptables()?.works == true { return .iptables }
        return nil
    }

    /// The item that keeps the rules.
    public func desiredItem(_ settings: PacketFilterSettings) -> any DesiredItem {
        switch self {
        case .nftables: NftablesRules(settings: settings)
        case .iptables: IptablesRules(settings: settings)
        }
    }

    /// Removes every rule of twill's and of flannel's, by either program and of either family, and says what was
    /// there: for `twilld cleanup`.
    public static func removeAll() throws -> [String] {
        var removed: [String] = []
        if let nftables = Nftables(), nftables.works {
            for table in [Nftables.table, Nftables.tableIPv6] where try nftables.list(table: table) != nil {
                try nftables.delete(table: table)
                removed.append("nftables table \(table)")
            }
        }
        for program in ["iptables", "ip6tables"] {
            guard let iptables = Iptables(program: program), iptables.works else { continue }
            for chain in Iptables.Chain.all where try iptables.remove(chain) {
                removed.append("\(program) chain \(chain.name) of table \(chain.table)")
            }
        }
        return removed
    }
}

/// No program of this machine's can keep the rules.
struct PacketFilterMissingError: Error, CustomStringConvertible {
    let program: String
    var description: String { "there is no program \(program) any more; install it" }
}
