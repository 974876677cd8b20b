import Addresses
import Host

/// iptables(8) of one kind (legacy, nft), with the chains that flannel uses.
struct Iptables {
    /// Which of the kernel's two rule sets a program works on.
    enum Kind: Sendable, Hashable { case legacy, nft }

    /// A chain of twill's and the built-in one that jumps to it.
    struct Chain: Hashable {
        let table: String
        let name: String
        let caller: String
        let comment: String

        static func postrouting(_ names: PacketFilterNames) -> Chain {
            Chain(
                table: "nat", name: names.postroutingChain, caller: "POSTROUTING", comment: "flanneld masq")
        }
        static func forward(_ names: PacketFilterNames) -> Chain {
            Chain(
                table: "filter", name: names.forwardChain, caller: "FORWARD", comment: "flanneld forward")
        }
        static func all(_ names: PacketFilterNames) -> [Chain] { [postrouting(names), forward(names)] }

        fileprivate var jump: [String] { ["-m", "comment", "--comment", comment, "-j", name] }
        /// The jump as iptables prints it.
        fileprivate var printedJump: String { "-A \(caller) -m comment --comment \"\(comment)\" -j \(name)" }
    }

    /// What a machine looks like, as far as one chain is concerned.
    struct ChainState {
        /// The chain's rules as `iptables -S` prints them; nil where there is no such chain.
        var rules: [String]?
        /// The places of the jumps to it among the caller's rules, from 0.
        var jumps: [Int] = []
    }

    /// How many seconds the lock is waited for that all iptables of the old kind share. A pass gives up at the first
    /// call that waits in vain.
    private static let lockSeconds = 2
    private static let lock = ["-w", "\(lockSeconds)"]
    /// The exit status of a program that did not get it (RESOURCE_PROBLEM in iptables' xshared.h).
    private static let lockStatus: Int32 = 4

    let kind: Kind
    private let name: String
    private let program: ChildProcess
    private let restoreProgram: ChildProcess

    /// Finds a program by its name; nil where there is none, or it does not say of what kind it is.
    private init?(program name: String) {
        guard let program = ChildProcess(name), let restoreProgram = ChildProcess("\(name)-restore"),
            let version = try? program.run(["--version"]).output
        else { return nil }
        self.name = name
        self.program = program
        self.restoreProgram = restoreProgram
        // Before 1.8 there was only the old kind, which does not say so.
        kind = version.contains("nf_tables") ? .nft : .legacy
    }

    /// Finds `iptables`, or `ip6tables` for IPv6, the one that the machine's administrator chose; where there is none,
    /// one by its full name.
    init?(_ family: AddressFamily = .ipv4) {
        let plain = Iptables.programName(family)
        for name in [plain, "\(plain)-nft", "\(plain)-legacy"] {
            if let found = Iptables(program: name) {
                self = found
                return
            }
        }
        return nil
    }

    /// The program of the other kind for the same family, where rules of that kind can be.
    func other() -> Iptables? {
        let isInUse =
            kind == .nft
            ? !RuleSetReader.legacyTables(withNat: true, family).isEmpty
            : RuleSetReader.generation() != nil
        return isInUse ? Iptables.ofEachKind(Iptables.programName(family)).first { $0.kind != kind } : nil
    }

    static func programName(_ family: AddressFamily) -> String {
        family == .ipv4 ? "iptables" : "ip6tables"
    }

    /// Whose rules the program keeps.
    private var family: AddressFamily { name.hasPrefix("ip6") ? .ipv6 : .ipv4 }

    /// One program of each kind that this machine has, for `iptables` or `ip6tables`.
    static func ofEachKind(_ name: String = "iptables") -> [Iptables] {
        var found: [Iptables] = []
        for name in [name, "\(name)-nft", "\(name)-legacy"] {
            guard let program = Iptables(program: name), !found.contains(where: { $0.kind == program.kind })
            else { continue }
            found.append(program)
        }
        return found
    }

    /// The program that prints the rules of iptables-nft, or of ip6tables-nft.
    static func nftSaveProgram(_ family: AddressFamily) -> ChildProcess? {
        let name = programName(family)
        if let program = ChildProcess("\(name)-nft-save") { return program }
        guard let program = ChildProcess("\(name)-save"),
            let version = try? program.run(["--version"]).output, version.contains("nf_tables")
        else { return nil }
        return program
    }

    /// Whether there can be a chain in a table: of the old kind a table is made by asking for it, which a look must
    /// not.
    func mayHave(table: String) -> Bool {
        guard kind == .legacy else { return true }
        return RuleSetReader.legacyTables(withNat: true, family).contains(table)
    }

    /// What is there; nil where the program does not work, for want of rights or of the kernel's part. A lock that
    /// another program holds is an error, and no answer.
    func state(of chain: Chain) throws -> ChainState? {
        var state = ChainState()
        if chain.table == "filter" {
            let all = try run(["-t", chain.table, "-S"])
            guard all.status == 0 else { return nil }
            let rules = Iptables.rules(in: all.output)
            if all.output.split(whereSeparator: \.isNewline).contains("-N \(chain.name)") {
                state.rules = rules.filter { $0.hasPrefix("-A \(chain.name) ") }
            }
            state.jumps = Iptables.jumps(to: chain, in: rules.filter { $0.hasPrefix("-A \(chain.caller) ") })
            return state
        }
        // The table nat may have tens of thousands of rules.
        let own = try run(["-t", chain.table, "-S", chain.name])
        if own.status == 0 { state.rules = Iptables.rules(in: own.output) }
        let caller = try run(["-t", chain.table, "-S", chain.caller])
        if caller.status == 0 {
            state.jumps = Iptables.jumps(to: chain, in: Iptables.rules(in: caller.output))
        }
        return state
    }

    private static func jumps(to chain: Chain, in rules: [String]) -> [Int] {
        rules.enumerated().filter { $0.element == chain.printedJump }.map(\.offset)
    }

    /// Makes the chain hold just these rules, in one transaction, and be jumped to from its caller's first place;
    /// without rules, removes it. `present`: what is there.
    func set(_ chain: Chain, _ rules: [PacketFilterRule], present: ChainState) throws {
        if rules.isEmpty {
            try remove(chain, present)
            return
        }
        let printed = rules.map { "-A \(chain.name) \($0.iptablesText(comment: chain.comment))" }
        var transaction = ""
        // Naming the chain empties it; everything else in the table stays (--noflush).
        if present.rules != printed {
            transaction += ":\(chain.name) - [0:0]\n" + printed.map { $0 + "\n" }.joined()
        }
        if present.jumps != [0] {
            let jump = chain.printedJump.dropFirst("-A \(chain.caller)".count)
            for _ in present.jumps { transaction += "-D \(chain.caller)\(jump)\n" }
            transaction += "-I \(chain.caller) 1\(jump)\n"
        }
        guard !transaction.isEmpty else { return }
        let arguments = Iptables.lock + ["--noflush"]
        let result = try restoreProgram.run(
            arguments, input: "*\(chain.table)\n\(transaction)COMMIT\n")
        try refuse(result)
        guard result.status == 0 else { throw ChildProcessError(restoreProgram, arguments, result) }
    }

    /// Removes the chain and what jumps to it; false where there was none.
    @discardableResult
    func remove(_ chain: Chain) throws -> Bool {
        guard mayHave(table: chain.table) else { return false }
        let own = try run(["-t", chain.table, "-S", chain.name])
        guard own.status == 0, let present = try state(of: chain) else { return false }
        return try remove(chain, present)
    }

    @discardableResult
    private func remove(_ chain: Chain, _ present: ChainState) throws -> Bool {
        for _ in present.jumps { try check(["-t", chain.table, "-D", chain.caller] + chain.jump) }
        try check(["-t", chain.table, "-F", chain.name])
        try check(["-t", chain.table, "-X", chain.name])
        return true
    }

    /// What the operator calls the chain.
    func describe(_ chain: Chain) -> String { "\(name) chain \(chain.name) of table \(chain.table)" }

    private static func rules(in output: String) -> [String] {
        output.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("-A ") }.map(String.init)
    }

    private func run(_ arguments: [String]) throws -> ChildProcess.Result {
        let result = try program.run(Iptables.lock + arguments)
        try refuse(result)
        return result
    }

    private func check(_ arguments: [String]) throws {
        let result = try run(arguments)
        guard result.status == 0 else { throw ChildProcessError(program, arguments, result) }
    }

    /// Where another program holds the lock, no further call is worth its wait.
    private func refuse(_ result: ChildProcess.Result) throws {
        guard result.status == Iptables.lockStatus, result.errors.contains("xtables lock") else { return }
        throw IptablesLockError(holder: LockHolder.name(ofLock: "/run/xtables.lock"))
    }
}

/// Another program holds the lock that all iptables of a machine share.
struct IptablesLockError: Error, CustomStringConvertible {
    /// Who does, as far as it is known: `ufw (process 812)`.
    let holder: String?
    var description: String {
        "iptables waits for /run/xtables.lock, which \(holder ?? "another program") holds"
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
