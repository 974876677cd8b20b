import Addresses
import Health
import Netlink
import Synchronization

/// Which program keeps the rules.
public enum PacketFilter: String, Sendable, Hashable {
    /// `nft`: the table `ip flannel-ipv4`, replaced in one transaction.
    case nftables
    /// `iptables`: the chains FLANNEL-POSTRTG and FLANNEL-FWD.
    case iptables

    /// The one that the network's configuration asks for (`EnableNFTables`) where it works on this machine, else the
    /// other one; nil where neither does. Starts child processes and waits for them.
    public static func available(preferring preferred: PacketFilter) -> PacketFilter? {
        let order: [PacketFilter] = preferred == .nftables ? [.nftables, .iptables] : [.iptables, .nftables]
        return order.first { filter in
            switch filter {
            case .nftables: (try? Nftables()?.works()) == true
            case .iptables: (try? Iptables()?.works()) == true
            }
        }
    }

    /// Removes every rule of twill's and of flannel's for a tunnel device, by either program, of either kind of iptables
    /// and of either family, and says what was there: for `twilld cleanup`.
    public static func removeAll(interfaceName: String) throws -> [String] {
        let names = PacketFilterNames(interfaceName: interfaceName)
        var removed: [String] = []
        if let nftables = Nftables(), try nftables.works() {
            for table in [names.table, names.tableIPv6] where try nftables.list(table: table) != nil {
                try nftables.delete(table: table)
                removed.append("nftables table \(table)")
            }
        }
        for iptables in Iptables.ofEachKind("iptables") + Iptables.ofEachKind("ip6tables") {
            for chain in Iptables.Chain.all(names) where try iptables.remove(chain) {
                removed.append(iptables.describe(chain))
            }
        }
        return removed
    }
}

/// The masquerade and forward rules are as they shall be, by the program that is wanted or, where that does not work, the
/// other one; and what twill or flanneld left by another program is gone.
///
/// iptables' FLANNEL-FWD is kept wherever iptables works, also beside nftables: an `accept` counts in its own table alone,
/// and Docker sets iptables' policy to drop whenever it is started.
public final class PacketFilterRules: DesiredItem {
    private struct State {
        /// What nft printed right after the last restoring. It prints a rule in other words than it reads, from version to
        /// version, so what counts is that the table still prints so.
        var listing: String?
        /// How often the machine's rules had been changed when all was found right: without a further change nothing
        /// needs a look.
        var goodGeneration: UInt32?
    }

    /// What is to be there, by which program.
    private struct Plan {
        var nftables: Nftables?
        var wantsTable = false
        /// Each kind of iptables with the rules of each chain; none: no such chain.
        var iptables: [(program: Iptables, chain: Iptables.Chain, rules: [PacketFilterRule])] = []
    }

    private let settings: PacketFilterSettings
    private let preferred: PacketFilter
    private let names: PacketFilterNames
    private let reader: RuleSetReader
    private let state = Mutex(State())

    /// Keeps the rules of a tunnel device; `effects` looks at the same machine's rules.
    public init(
        _ settings: PacketFilterSettings, preferring preferred: PacketFilter, interfaceName: String,
        beside effects: PacketFilterEffects
    ) {
        self.settings = settings
        self.preferred = preferred
        names = PacketFilterNames(interfaceName: interfaceName)
        reader = effects.reader
    }

    /// `rules FLANNEL-POSTRTG, FLANNEL-FWD`, the same whichever program keeps them.
    public var name: String { "rules \(names.postroutingChain), \(names.forwardChain)" }

    /// The rules.
    public var component: Component { Component(.firewall) }

    /// The overlay works without them on a machine that forwards everything.
    public var isEssential: Bool { false }

    /// Yes.
    public var needsResync: Bool { true }

    private var wantsNothing: Bool { settings.postroutingRules.isEmpty && settings.forwardRules.isEmpty }

    private func plan() throws -> Plan {
        var plan = Plan()
        if let nftables = Nftables(), try nftables.works() { plan.nftables = nftables }
        let chosen = Iptables()
        let iptables = try chosen?.works() == true ? chosen : nil
        let filter: PacketFilter
        switch (preferred, plan.nftables != nil, iptables != nil) {
        case (.nftables, true, _), (.iptables, true, false): filter = .nftables
        case (.nftables, false, true), (.iptables, _, true): filter = .iptables
        case (_, false, false):
            if wantsNothing { return plan }
            throw ItemProblem(
                Problem(
                    .degraded,
                    "neither iptables nor nft works here, so no masquerade and forward rules are set",
                    remedy: "install iptables or nftables"))
        }
        plan.wantsTable = filter == .nftables && !wantsNothing
        for program in Iptables.ofEachKind() {
            let isOwn = program.kind == iptables?.kind
            plan.iptables.append(
                (
                    program, .postrouting(names),
                    isOwn && filter == .iptables ? settings.postroutingRules : []
                ))
            plan.iptables.append((program, .forward(names), isOwn ? settings.forwardRules : []))
        }
        return plan
    }

    /// Says what is missing, changed, or behind a rule that drops what it accepts.
    public func deviation(in _: NetworkState) throws -> String? {
        let generation = RuleSetReader.generation()
        let hasLegacy = !RuleSetReader.legacyTables().isEmpty
        let state = state.withLock { $0 }
        if let generation, generation == state.goodGeneration, !hasLegacy { return nil }
        let wrong = try tellingWhatHangs { try differences(in: plan(), listing: state.listing) }
        guard wrong.isEmpty else { return wrong.joined(separator: ", ") }
        self.state.withLock { $0.goodGeneration = hasLegacy ? nil : generation }
        return nil
    }

    private func differences(in plan: Plan, listing: String?) throws -> [String] {
        var wrong: [String] = []
        if let nftables = plan.nftables {
            let present = try nftables.list(table: names.table)
            if plan.wantsTable {
                if present == nil {
                    wrong.append("nftables table \(names.table) missing")
                } else if present != listing {
                    wrong.append("nftables table \(names.table) changed, or of an earlier start")
                }
            } else if present != nil {
                wrong.append("nftables table \(names.table) not wanted")
            }
        }
        for (program, chain, rules) in plan.iptables {
            if let difference = try self.difference(program, chain, rules) {
                wrong.append("\(program.describe(chain)) \(difference)")
            }
        }
        return wrong
    }

    private func difference(_ program: Iptables, _ chain: Iptables.Chain, _ rules: [PacketFilterRule]) throws
        -> String?
    {
        guard program.mayHave(table: chain.table) else { return rules.isEmpty ? nil : "missing" }
        let present = try program.state(of: chain)
        if rules.isEmpty { return present.rules == nil ? nil : "not wanted" }
        guard let found = present.rules else { return "missing" }
        guard found == rules.map({ "-A \(chain.name) \($0.iptablesText(comment: chain.comment))" }) else {
            return "changed"
        }
        guard present.jumps.count == 1 else { return "jumped to \(present.jumps.count) times" }
        guard present.jumps == [0] || chain != .forward(names) else {
            return try isShadowed(program) ? "behind a rule that drops what it accepts" : nil
        }
        return nil
    }

    /// Whether iptables' FORWARD drops packets of the overlay before they come to the chain.
    private func isShadowed(_ program: Iptables) throws -> Bool {
        let ruleSet = try reader.current()
        let programName = program.kind == .legacy ? "iptables-legacy" : "iptables"
        var walk = PacketWalk(
            RuleSet(
                tables: ruleSet.tables.filter {
                    $0.language == .iptables(program: programName) && $0.name == "filter"
                }))
        for packet in OverlayWay.samples(network: settings.network, subnet: settings.subnet) {
            if walk.drop(of: packet, at: ["forward"]) != nil { return true }
        }
        return false
    }

    /// Sets what is missing or changed, and removes what is not wanted.
    public func restore(in _: NetworkState, using _: RouteSocket) throws {
        try tellingWhatHangs {
            let plan = try plan()
            if let nftables = plan.nftables {
                let present = try nftables.list(table: names.table)
                if plan.wantsTable {
                    if present == nil || present != state.withLock({ $0.listing }) {
                        try nftables.replace(table: names.table, with: settings)
                        let listing = try nftables.list(table: names.table)
                        state.withLock { $0.listing = listing }
                    }
                } else if present != nil {
                    try nftables.delete(table: names.table)
                }
            }
            for (program, chain, rules) in plan.iptables {
                guard try difference(program, chain, rules) != nil else { continue }
                try program.set(chain, rules, movesToFront: true)
            }
        }
        state.withLock { $0.goodGeneration = nil }
    }

    /// Removes all of it.
    public func withdraw(using _: RouteSocket) throws {
        _ = try PacketFilter.removeAll(interfaceName: names.interfaceName)
    }

    /// A program that hangs, or waits for another one's lock, is the operator's to find.
    private func tellingWhatHangs<Value>(_ body: () throws -> Value) throws -> Value {
        do {
            return try body()
        } catch let error as IptablesLockError {
            throw ItemProblem(
                Problem(
                    .degraded, "\(error), so that masquerade and forward rules are neither looked at nor set",
                    remedy: "wait for it, or end it if it hangs"))
        } catch let error as ChildProcessError where error.kind == .hung {
            throw ItemProblem(
                Problem(
                    .degraded, "\(error), so that masquerade and forward rules are neither looked at nor set",
                    remedy: "run it by hand to see what it waits for"))
        }
    }
}
