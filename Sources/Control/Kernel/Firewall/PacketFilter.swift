import Addresses
import Health
import Host
import Netlink
import Reconciler
import Synchronization

/// Which program keeps the rules.
public enum PacketFilter: String, Sendable, Hashable {
    /// `nft`: the table `ip flannel-ipv4`, replaced in one transaction.
    case nftables
    /// `iptables`: the chains FLANNEL-POSTRTG and FLANNEL-FWD.
    case iptables

    /// Removes every rule of twill's and of flannel's for a tunnel device, by either program, of either kind of
    /// iptables and of either family, and says what was there: for `twilld cleanup`.
    ///
    /// - Throws: `ChildProcessError` where the firewall's program fails, and others where its rules cannot be read.
    public static func removeAll(interfaceName: String) throws -> [String] {
        try AddressFamily.allCases.flatMap { try removeAll(interfaceName: interfaceName, $0) }
    }

    /// Removes what there is of one family.
    static func removeAll(interfaceName: String, _ family: AddressFamily) throws -> [String] {
        let names = PacketFilterNames(interfaceName: interfaceName)
        var removed: [String] = []
        if let nftables = Nftables(), try nftables.works() {
            for table in [family == .ipv4 ? names.table : names.tableIPv6]
            where try nftables.list(table: table) != nil {
                try nftables.delete(table: table)
                removed.append("nftables table \(table)")
            }
        }
        for iptables in Iptables.ofEachKind(family == .ipv4 ? "iptables" : "ip6tables") {
            for chain in Iptables.Chain.all(names) where try iptables.remove(chain) {
                removed.append(iptables.describe(chain))
            }
        }
        return removed
    }
}

/// The masquerade and forward rules are as they shall be, by the program that is wanted or, where that does not work,
/// the other one; and what twill or flanneld left by another program is gone.
///
/// iptables' FLANNEL-FWD is kept wherever iptables works, also beside nftables: an `accept` counts in its own table
/// alone, and Docker sets iptables' policy to drop whenever it is started.
public final class PacketFilterRules: OwnedItem {
    private struct State {
        /// What nft printed right after the last restoring. It prints a rule in other words than it reads, from
        /// version to version, so what counts is that the table still prints so.
        var listing: String?
        /// How often the machine's rules had been changed when all was found right: without a further change nothing
        /// needs a look.
        var goodGeneration: UInt32?
        /// What the last look found wrong, for the restoring that follows it.
        var plan: Plan?
        /// What keeps the rules, as the last look found.
        var used: PacketFilter?
    }

    /// What was found, and what is to be there.
    private struct Plan: Sendable {
        var used: PacketFilter?
        var nftables: Nftables?
        var presentTable: String?
        var chains: [PlannedChain] = []
    }

    /// A chain of one kind of iptables, with the rules that it shall have; none: there is to be no such chain.
    private struct PlannedChain: Sendable {
        var program: Iptables
        var chain: Iptables.Chain
        var rules: [PacketFilterRule]
        var present: Iptables.ChainState
        /// What is wrong with it; nil for nothing.
        var difference: String?
    }

    private let settings: PacketFilterSettings
    private var family: AddressFamily { settings.network.addressFamily }
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
    public var name: String {
        "rules \(names.postroutingChain), \(names.forwardChain)\(family.suffix)"
    }

    /// The rules.
    public var component: Component {
        family == .ipv4 ? Component(.firewall) : Component(.firewall, "\(family)")
    }

    private var table: String { family == .ipv4 ? names.table : names.tableIPv6 }

    /// The overlay works without them on a machine that forwards everything.
    public var isEssential: Bool { false }

    /// Netlink tells nothing of iptables' changes, and looking takes milliseconds.
    public var needsResync: Bool { true }

    private var wantsNothing: Bool { settings.postroutingRules.isEmpty && settings.forwardRules.isEmpty }

    /// The program that keeps the rules; nil before the first look, and where none does.
    public var used: PacketFilter? { state.withLock { $0.used } }

    private func plan(in state: NetworkState) throws -> Plan {
        var plan = Plan()
        if let nftables = Nftables() {
            do {
                plan.presentTable = try nftables.list(table: table)
                plan.nftables = nftables
            } catch let error as ChildProcessError where error.kind == .failed {
                // It does not work here.
            }
        }
        let forward = Iptables.Chain.forward(names)
        let iptables = Iptables(family)
        let present = try iptables?.state(of: forward)
        switch (preferred, plan.nftables != nil, present != nil) {
        case (.nftables, true, _), (.iptables, true, false): plan.used = .nftables
        case (.nftables, false, true), (.iptables, _, true): plan.used = .iptables
        case (_, false, false):
            if wantsNothing { return plan }
            throw ItemProblem(
                Problem(
                    .degraded,
                    "neither \(family == .ipv4 ? "iptables" : "ip6tables") nor nft works here, so no masquerade and forward rules are set\(family == .ipv4 ? "" : " for IPv6")",
                    remedy: "install iptables or nftables"))
        }
        if let iptables, let present {
            let postrouting = Iptables.Chain.postrouting(names)
            plan.chains = [
                PlannedChain(
                    program: iptables, chain: postrouting,
                    rules: plan.used == .iptables ? settings.postroutingRules : [],
                    present: try iptables.state(of: postrouting) ?? .init()),
                PlannedChain(
                    program: iptables, chain: forward, rules: settings.forwardRules, present: present),
            ]
        }
        if let other = iptables?.other() {
            for chain in Iptables.Chain.all(names) where other.mayHave(table: chain.table) {
                plan.chains.append(
                    PlannedChain(
                        program: other, chain: chain, rules: [],
                        present: try other.state(of: chain) ?? .init()))
            }
        }
        plan.chains = try plan.chains.map { planned in
            var planned = planned
            planned.difference = try difference(planned, in: state)
            return planned
        }
        return plan
    }

    private func wantsTable(_ plan: Plan) -> Bool { plan.used == .nftables && !wantsNothing }

    /// Says what is missing, changed, or behind a rule that drops what it accepts.
    ///
    /// - Throws: `ChildProcessError` where the firewall's program fails, and others where its rules cannot be read.
    public func deviation(in state: NetworkState) throws -> String? {
        let generation = RuleSetReader.generation()
        let hasLegacy = !RuleSetReader.legacyTables(withNat: true, family).isEmpty
        let known = self.state.withLock { $0 }
        if let generation, generation == known.goodGeneration, !hasLegacy { return nil }
        return try tellingWhatHangs {
            let plan = try plan(in: state)
            let wrong = differences(in: plan, listing: known.listing)
            self.state.withLock {
                $0.used = plan.used
                $0.plan = wrong.isEmpty ? nil : plan
                $0.goodGeneration = wrong.isEmpty && !hasLegacy ? generation : nil
            }
            return wrong.isEmpty ? nil : wrong.joined(separator: ", ")
        }
    }

    private func differences(in plan: Plan, listing: String?) -> [String] {
        var wrong: [String] = []
        if wantsTable(plan) {
            if plan.presentTable == nil {
                wrong.append("nftables table \(table) missing")
            } else if plan.presentTable != listing {
                wrong.append("nftables table \(table) changed, or of an earlier start")
            }
        } else if plan.presentTable != nil {
            wrong.append("nftables table \(table) not wanted")
        }
        for planned in plan.chains {
            if let difference = planned.difference {
                wrong.append("\(planned.program.describe(planned.chain)) \(difference)")
            }
        }
        return wrong
    }

    private func difference(_ planned: PlannedChain, in state: NetworkState) throws -> String? {
        let (chain, present) = (planned.chain, planned.present)
        if planned.rules.isEmpty { return present.rules == nil ? nil : "not wanted" }
        guard let found = present.rules else { return "missing" }
        guard found == planned.rules.map({ "-A \(chain.name) \($0.iptablesText(comment: chain.comment))" })
        else {
            return "changed"
        }
        guard present.jumps.count == 1 else { return "jumped to \(present.jumps.count) times" }
        guard present.jumps != [0], chain == .forward(names), try isShadowed(planned.program, in: state)
        else {
            return nil
        }
        return "behind a rule that drops what it accepts"
    }

    /// Whether iptables' FORWARD drops packets of the overlay before they come to the chain.
    private func isShadowed(_ program: Iptables, in state: NetworkState) throws -> Bool {
        let (network, subnet) = (settings.network, settings.subnet)
        let ruleSet = try reader.current(family)
        let programName = Iptables.programName(family) + (program.kind == .legacy ? "-legacy" : "")
        var walk = PacketWalk(
            RuleSet(
                tables: ruleSet.tables.filter {
                    $0.language == .iptables(program: programName) && $0.name == "filter"
                }))
        let tunnel = names.interfaceName
        let pods = state.podInterface(subnet: subnet, tunnel: tunnel)?.name
        let out = SamplePacket(
            source: subnet, destination: network, inInterface: pods, outInterface: tunnel,
            transport: .tcp)
        let into = SamplePacket(
            source: network, destination: subnet, inInterface: tunnel, outInterface: pods,
            transport: .tcp)
        return walk.drop(of: out, at: ["forward"]) != nil || walk.drop(of: into, at: ["forward"]) != nil
    }

    /// Sets what is missing or changed, and removes what is not wanted.
    ///
    /// - Throws: `ChildProcessError` where the firewall's program fails, and others where its rules cannot be read.
    public func update(in network: NetworkState, using _: RouteSocket) throws {
        let (found, listing) = state.withLock { state in
            defer { (state.plan, state.goodGeneration) = (nil, nil) }
            return (state.plan, state.listing)
        }
        try tellingWhatHangs {
            let plan = try found ?? plan(in: network)
            if let nftables = plan.nftables {
                if wantsTable(plan) {
                    if plan.presentTable == nil || plan.presentTable != listing {
                        try nftables.replace(table: table, with: settings)
                        let listing = try nftables.list(table: table)
                        state.withLock { $0.listing = listing }
                    }
                } else if plan.presentTable != nil {
                    try nftables.delete(table: table)
                }
            }
            for planned in plan.chains where planned.difference != nil {
                try planned.program.set(planned.chain, planned.rules, present: planned.present)
            }
        }
    }

    /// Removes all of it.
    ///
    /// - Throws: `ChildProcessError` where the firewall's program fails, and others where its rules cannot be read.
    public func delete(using _: RouteSocket) throws {
        _ = try PacketFilter.removeAll(interfaceName: names.interfaceName, family)
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
