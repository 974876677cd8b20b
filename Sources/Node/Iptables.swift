import Health
import Netlink

/// iptables(8) of either kind (legacy, nft), with the chains that flannel uses.
struct Iptables {
    /// A chain of twill's and the built-in one that jumps to it.
    struct Chain {
        let table: String
        let name: String
        let caller: String
        let comment: String

        static let postrouting = Chain(
            table: "nat", name: "FLANNEL-POSTRTG", caller: "POSTROUTING", comment: "flanneld masq")
        static let forward = Chain(
            table: "filter", name: "FLANNEL-FWD", caller: "FORWARD", comment: "flanneld forward")
        static let all = [postrouting, forward]

        fileprivate var jump: [String] { ["-m", "comment", "--comment", comment, "-j", name] }
    }

    /// Waits this many seconds for the lock that all iptables of a machine share.
    private static let lock = ["-w", "5"]

    private let program: ChildProcess
    private let restoreProgram: ChildProcess

    /// Finds `iptables` or `ip6tables`; nil where there is none.
    init?(program name: String = "iptables") {
        guard let program = ChildProcess(name), let restoreProgram = ChildProcess("\(name)-restore") else {
            return nil
        }
        self.program = program
        self.restoreProgram = restoreProgram
    }

    /// Whether this machine's kernel and this process's rights let it do anything.
    var works: Bool { (try? program.run(Iptables.lock + ["-S", "FORWARD"]))?.status == 0 }

    /// Whether what is forwarded is dropped unless a rule accepts it.
    var dropsForwardedByPolicy: Bool {
        get throws { try program.check(Iptables.lock + ["-S", "FORWARD"]).hasPrefix("-P FORWARD DROP") }
    }

    /// Whether the chain holds just these rules and is jumped to; without rules, whether there is no such chain.
    func has(_ chain: Chain, _ rules: [PacketFilterRule]) throws -> Bool {
        guard let present = try list(chain) else { return rules.isEmpty }
        guard !rules.isEmpty, try isCalled(chain) else { return false }
        return present == rules.map { "-A \(chain.name) \($0.iptablesText(comment: chain.comment))" }
    }

    /// Makes the chain hold just these rules, in one transaction, and be jumped to; without rules, removes it.
    func set(_ chain: Chain, _ rules: [PacketFilterRule]) throws {
        if rules.isEmpty {
            try remove(chain)
            return
        }
        // Naming the chain empties it; everything else in the table stays (--noflush).
        var transaction = "*\(chain.table)\n:\(chain.name) - [0:0]\n"
        for rule in rules { transaction += "-A \(chain.name) \(rule.iptablesText(comment: chain.comment))\n" }
        try restoreProgram.check(Iptables.lock + ["--noflush"], input: transaction + "COMMIT\n")
        if try !isCalled(chain) {
            try program.check(Iptables.lock + ["-t", chain.table, "-A", chain.caller] + chain.jump)
        }
    }

    /// Removes the chain and what jumps to it; false where there was none.
    @discardableResult
    func remove(_ chain: Chain) throws -> Bool {
        guard try list(chain) != nil else { return false }
        while try isCalled(chain) {
            try program.check(Iptables.lock + ["-t", chain.table, "-D", chain.caller] + chain.jump)
        }
        try program.check(Iptables.lock + ["-t", chain.table, "-F", chain.name])
        try program.check(Iptables.lock + ["-t", chain.table, "-X", chain.name])
        return true
    }

    private func isCalled(_ chain: Chain) throws -> Bool {
        try program.run(Iptables.lock + ["-t", chain.table, "-C", chain.caller] + chain.jump).status == 0
    }

    /// The chain's rules as `iptables -S` prints them; nil where there is no such chain.
    private func list(_ chain: Chain) throws -> [String]? {
        let result = try program.run(Iptables.lock + ["-t", chain.table, "-S", chain.name])
        guard result.status == 0 else { return nil }
        return result.output.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("-A ") }.map(
            String.init)
    }
}

extension PacketFilterRule {
    /// The rule as iptables(8) prints it, and reads it.
    func iptablesText(comment: String) -> String {
        var words: [String] = []
        if let source { words.append(source.iptablesText("-s")) }
        if let destination { words.append(destination.iptablesText("-d")) }
        if mark != 0 {
            let mark = "0x" + String(mark, radix: 16)
            words.append("-m mark --mark \(mark)/\(mark)")
        }
        words.append("-m comment --comment \"\(comment)\"")
        switch action {
        case .leave: words.append("-j RETURN")
        case .accept: words.append("-j ACCEPT")
        case .masquerade(let randomizesPorts):
            words.append("-j MASQUERADE\(randomizesPorts ? " --random-fully" : "")")
        }
        return words.joined(separator: " ")
    }
}

extension PacketFilterRule.Match {
    fileprivate func iptablesText(_ option: String) -> String {
        "\(isNegated ? "! " : "")\(option) \(prefix)"
    }
}

/// The chains hold the rules that are wanted, for machines without nftables.
struct IptablesRules: DesiredItem {
    let settings: PacketFilterSettings

    let name = "iptables chains FLANNEL-POSTRTG, FLANNEL-FWD"
    let component = Component(.firewall)
    let needsResync = true

    private var wanted: [(chain: Iptables.Chain, rules: [PacketFilterRule])] {
        [(.postrouting, settings.postroutingRules), (.forward, settings.forwardRules)]
    }

    private func iptables() throws -> Iptables {
        guard let iptables = Iptables() else { throw PacketFilterMissingError(program: "iptables") }
        return iptables
    }

    func deviation(in state: NetworkState) throws -> String? {
        let iptables = try iptables()
        let wrong = try wanted.filter { try !iptables.has($0.chain, $0.rules) }
        return wrong.isEmpty ? nil : "\(wrong.map(\.chain.name).joined(separator: ", ")) missing or changed"
    }

    func restore(in state: NetworkState, using socket: RouteSocket) throws {
        let iptables = try iptables()
        for (chain, rules) in wanted where try !iptables.has(chain, rules) { try iptables.set(chain, rules) }
    }

    func withdraw(using socket: RouteSocket) throws {
        let iptables = try iptables()
        for chain in Iptables.Chain.all { try iptables.remove(chain) }
    }
}
