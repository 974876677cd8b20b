import Addresses

/// What a rule does with a packet that it matches.
enum RuleVerdict: Hashable {
    case accept
    case drop
    case jump(String)
    case goTo(String)
    /// Ends the chain: back to the one that called it, or to the policy.
    case leave
    /// A program decides (NFQUEUE): nothing can be known.
    case userspace
    /// The packet's mark is another one from here on.
    case mark
    /// Nothing that matters here.
    case none
}

/// Where a packet ends, and by whose rule.
struct PacketDrop: Hashable, Sendable {
    /// The table, as `RuleTable` describes it.
    var table: String
    var language: RuleTable.Language
    /// The chain that the kernel calls.
    var baseChain: String
    /// The chain that the rule stands in.
    var chain: String
    /// The rule as its program prints it; nil for the chain's policy.
    var rule: String?
    /// The firewall program that the table is of, where that is known: `firewalld`, `ufw`.
    var owner: String?
    /// Whether it is sure: no rule before it could have taken the packet that cannot be judged from its text.
    var isCertain: Bool
}

/// Holds one packet against the rules of a rule set, as the kernel does.
///
/// What a rule's text does not tell (limits, sets that programs fill, marks) is neither believed to drop nor to
/// accept: such a rule that drops is passed over, since most are about other packets, and such a one that accepts
/// makes a later drop a probable one.
struct PacketWalk {
    /// How many rules one look may hold against packets: some milliseconds. What is left then is not judged.
    static let stepLimit = 400_000
    /// How deep chains may call each other: the kernel refuses more than 16 (NFT_JUMP_STACK_SIZE).
    private static let depthLimit = 32

    let ruleSet: RuleSet
    private(set) var steps = 0
    private var packet: SamplePacket
    /// The packet's mark; nil where a rule changed it.
    private var mark: UInt32?
    private var isCertain = true

    init(_ ruleSet: RuleSet) {
        self.ruleSet = ruleSet
        let any = IPPrefix.v4(IPv4Prefix(.any, length: 0))
        packet = SamplePacket(source: any, destination: any, transport: .tcp)
    }

    private enum End {
        case accepted
        case dropped(chain: String, rule: String?)
        case passed
    }

    /// Where the packet is dropped on its way through the hooks; nil where nothing drops it.
    mutating func drop(of packet: SamplePacket, at hooks: [String]) -> PacketDrop? {
        for place in hooks {
            self.packet = packet
            let isOnBridge = place.hasPrefix("bridge ")
            let hook = isOnBridge ? String(place.dropFirst("bridge ".count)) : place
            // On a bridge the interfaces are its ports.
            if isOnBridge { (self.packet.inInterface, self.packet.outInterface) = (nil, nil) }
            // Interfaces are known where the kernel knows them.
            if hook == "prerouting" || hook == "ingress" || hook == "input" { self.packet.outInterface = nil }
            mark = 0
            for table in ruleSet.tables
            where (table.family == "bridge") == isOnBridge && table.hasPackets(of: packet.family) {
                for chain in table.chains.values where chain.hook == hook && chain.type != "nat" {
                    if let drop = drop(by: chain, of: table, hook: hook) { return drop }
                }
            }
        }
        return nil
    }

    private mutating func drop(by chain: RuleChain, of table: RuleTable, hook: String) -> PacketDrop? {
        if hook == "ingress" || hook == "egress" {
            let device = hook == "ingress" ? packet.inInterface : packet.outInterface
            guard let device, chain.devices.contains(device) else { return nil }
        }
        isCertain = true
        let place: (chain: String, rule: String?)
        switch walk(chain, of: table, depth: 0) {
        case .accepted: return nil
        case .dropped(let chain, let rule): place = (chain, rule)
        case .passed:
            guard chain.dropsByPolicy, steps < PacketWalk.stepLimit else { return nil }
            place = (chain.name, nil)
        }
        return PacketDrop(
            table: table.description, language: table.language, baseChain: chain.name, chain: place.chain,
            rule: place.rule, owner: owner(of: table, chain: place), isCertain: isCertain)
    }

    private func owner(of table: RuleTable, chain: (chain: String, rule: String?)) -> String? {
        if table.name == "firewalld" { return "firewalld" }
        // ufw sets the policies of the table that has its chains.
        let isUfws =
            PacketWalk.isUfws(chain.chain)
            || (chain.rule == nil && table.chains.keys.contains(where: PacketWalk.isUfws))
        return isUfws ? "ufw" : nil
    }

    /// Whether ufw made a chain: those of IPv6 have names of their own.
    private static func isUfws(_ chain: String) -> Bool {
        chain.hasPrefix("ufw-") || chain.hasPrefix("ufw6-")
    }

    private mutating func walk(_ chain: RuleChain, of table: RuleTable, depth: Int) -> End {
        for rule in chain.rules {
            steps += 1
            // Not judged any further: as if it were accepted.
            guard steps < PacketWalk.stepLimit, depth < PacketWalk.depthLimit else { return .accepted }
            for (match, verdict) in outcomes(of: rule, in: table) where match != .no {
                let isSure = match == .yes
                switch verdict {
                case .none: break
                case .mark: mark = nil
                case .drop: if isSure { return .dropped(chain: chain.name, rule: text(of: rule)) }
                case .accept, .userspace:
                    if isSure && verdict == .accept { return .accepted }
                    isCertain = false
                    if isSure { return .accepted }
                case .leave:
                    if isSure { return .passed }
                    isCertain = false
                case .jump(let name), .goTo(let name):
                    guard let target = table.chains[name] else { continue }
                    switch walk(target, of: table, depth: depth &+ 1) {
                    case .passed:
                        if case .goTo = verdict {
                            if isSure { return .passed }
                            isCertain = false
                        }
                    case .accepted:
                        if isSure { return .accepted }
                        isCertain = false
                    case .dropped(let chain, let rule):
                        if isSure { return .dropped(chain: chain, rule: rule) }
                    }
                }
                // Of a map's elements the first that fits is the one.
                if isSure && verdict != .none && verdict != .mark { break }
            }
        }
        return .passed
    }

    private func outcomes(of rule: Substring, in table: RuleTable) -> [(RuleMatch, RuleVerdict)] {
        switch table.language {
        case .nftables: NftablesRule(rule, packet: packet, mark: mark, sets: table.sets).outcomes()
        case .iptables: [IptablesRule(rule, packet: packet, mark: mark, table: table).outcome()]
        }
    }

    /// How much of a rule is shown.
    private func text(of rule: Substring) -> String {
        rule.count > 200 ? rule.prefix(200) + "…" : String(rule)
    }
}
