import Health
import Netlink
import Synchronization

/// nft(8), with the tables that flannel uses, so that twill and flanneld replace each other's rules.
struct Nftables {
    static let table = "ip flannel-ipv4"
    static let tableIPv6 = "ip6 flannel-ipv6"

    private let program: ChildProcess

    /// Finds the program; nil where there is none.
    init?() {
        guard let program = ChildProcess("nft") else { return nil }
        self.program = program
    }

    /// Whether this machine's kernel and this process's rights let it do anything.
    var works: Bool { (try? program.run(["list", "tables"]))?.status == 0 }

    /// The table as nft prints it, without counters; nil where there is none.
    func list(table: String) throws -> String? {
        let arguments = ["--stateless", "list", "table"] + table.split(separator: " ").map(String.init)
        let result = try program.run(arguments)
        if result.status == 0 { return result.output }
        if result.errors.contains("No such file or directory") { return nil }
        throw ChildProcessError(program, arguments, result)
    }

    /// Puts the rules in the place of the table's, all in one transaction: no packet sees only some of them.
    func replace(with settings: PacketFilterSettings) throws {
        try program.check(["-f", "-"], input: Nftables.transaction(settings))
    }

    func delete(table: String) throws {
        try program.check(["delete", "table"] + table.split(separator: " ").map(String.init))
    }

    /// What `replace` feeds to nft. A table that is added first can be deleted whether or not it was there.
    static func transaction(_ settings: PacketFilterSettings) -> String {
        """
        table \(table)
        delete table \(table)
        table \(table) {
        \tchain postrtg {
        \t\ttype nat hook postrouting priority srcnat; policy accept;
        \(settings.postroutingRules.map { "\t\t\($0.nftablesText)\n" }.joined())\t}
        \tchain forward {
        \t\ttype filter hook forward priority filter; policy accept;
        \(settings.forwardRules.map { "\t\t\($0.nftablesText)\n" }.joined())\t}
        }

        """
    }
}

extension PacketFilterRule {
    /// The rule as nft(8) reads it.
    var nftablesText: String {
        var words: [String] = []
        if mark != 0 {
            let mark = "0x" + String(mark, radix: 16)
            words.append("meta mark & \(mark) == \(mark)")
        }
        if let source { words.append("ip saddr \(source.nftablesText)") }
        if let destination { words.append("ip daddr \(destination.nftablesText)") }
        switch action {
        case .leave: words.append("return")
        case .accept: words.append("accept")
        case .masquerade(let randomizesPorts):
            words.append(randomizesPorts ? "masquerade fully-random" : "masquerade")
        }
        return words.joined(separator: " ")
    }
}

extension PacketFilterRule.Match {
    fileprivate var nftablesText: String { isNegated ? "!= \(prefix)" : "\(prefix)" }
}

/// The table holds the rules that are wanted. nft prints a rule in other words than it reads, from version to version,
/// so what counts is that the table still prints as it did right after it was set.
final class NftablesRules: DesiredItem {
    private let settings: PacketFilterSettings
    /// What nft printed right after the last restoring.
    private let listing = Mutex<String?>(nil)

    init(settings: PacketFilterSettings) { self.settings = settings }

    let name = "nftables table \(Nftables.table)"
    let component = Component(.firewall)
    let needsResync = true

    private func nftables() throws -> Nftables {
        guard let nftables = Nftables() else { throw PacketFilterMissingError(program: "nft") }
        return nftables
    }

    func deviation(in state: NetworkState) throws -> String? {
        guard let present = try nftables().list(table: Nftables.table) else { return "missing" }
        guard let listing = listing.withLock({ $0 }) else { return "of another daemon or an earlier start" }
        if present != listing { return "changed by somebody" }
        return try forwardDeviation()
    }

    func restore(in state: NetworkState, using socket: RouteSocket) throws {
        let nftables = try nftables()
        try nftables.replace(with: settings)
        let present = try nftables.list(table: Nftables.table)
        listing.withLock { $0 = present }
        guard let iptables = Iptables(), iptables.works else { return }
        // What flanneld left with iptables would go on to masquerade, for the subnet that it had.
        try iptables.remove(.postrouting)
        if try forwardDeviation() != nil { try iptables.set(.forward, settings.forwardRules) }
    }

    /// An `accept` counts in its own table alone: where iptables drops by policy what is forwarded, as Docker has
    /// it do, the packets must be accepted there too.
    private func forwardDeviation() throws -> String? {
        guard settings.acceptsForwarding, let iptables = Iptables(), iptables.works,
            try iptables.dropsForwardedByPolicy, try !iptables.has(.forward, settings.forwardRules)
        else { return nil }
        return "iptables drops forwarded packets by policy"
    }

    func withdraw(using socket: RouteSocket) throws {
        let nftables = try nftables()
        if try nftables.list(table: Nftables.table) != nil { try nftables.delete(table: Nftables.table) }
        if let iptables = Iptables(), iptables.works { try iptables.remove(.forward) }
    }
}
