import Host

/// nft(8), with the tables that flannel uses, so that twill and flanneld replace each other's rules.
struct Nftables {
    private let program: ChildProcess

    /// Finds the program; nil where there is none.
    init?() {
        guard let program = ChildProcess("nft") else { return nil }
        self.program = program
    }

    /// Whether this machine's kernel and this process's rights let it do anything.
    func works() throws -> Bool { try program.run(["list", "tables"]).status == 0 }

    /// The table as nft prints it, without counters; nil where there is none.
    func list(table: String) throws -> String? {
        let arguments = ["--stateless", "list", "table"] + table.split(separator: " ").map(String.init)
        let result = try program.run(arguments)
        if result.status == 0 { return result.output }
        if result.errors.contains("No such file or directory") { return nil }
        throw ChildProcessError(program, arguments, result)
    }

    /// Puts the rules in the place of the table's, all in one transaction: no packet sees only some of them.
    func replace(table: String, with settings: PacketFilterSettings) throws {
        do throws(ChildProcessError) {
            try program.check(["-f", "-"], input: Nftables.transaction(table: table, settings))
        } catch {
            guard error.kind == .failed else { throw error }
            // Comments on tables and chains came with nft 0.9.7 and 1.0.0, and Linux 5.10.
            let plain = Nftables.transaction(table: table, settings).split(separator: "\n").filter {
                !$0.drop { $0 == "\t" }.hasPrefix("comment ")
            }
            try program.check(["-f", "-"], input: plain.map { $0 + "\n" }.joined())
        }
    }

    func delete(table: String) throws {
        try program.check(["delete", "table"] + table.split(separator: " ").map(String.init))
    }

    /// What `replace` feeds to nft. A table that is added first can be deleted whether or not it was there. The
    /// comments are flannel's, by which monitors find the table.
    static func transaction(table: String, _ settings: PacketFilterSettings) -> String {
        let name = table.split(separator: " ").last ?? ""
        return """
            table \(table)
            delete table \(table)
            table \(table) {
            \tcomment "rules for \(name)"
            \tchain postrtg {
            \t\tcomment "chain to manage traffic masquerading by flannel"
            \t\ttype nat hook postrouting priority srcnat; policy accept;
            \(settings.postroutingRules.map { "\t\t\($0.nftablesText)\n" }.joined())\t}
            \tchain forward {
            \t\tcomment "chain to accept flannel traffic"
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
        if let source { words.append("\(source.nftablesFamily) saddr \(source.nftablesText)") }
        if let destination {
            words.append("\(destination.nftablesFamily) daddr \(destination.nftablesText)")
        }
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
    fileprivate var nftablesFamily: String { prefix.addressFamily == .ipv4 ? "ip" : "ip6" }

    fileprivate var nftablesText: String { isNegated ? "!= \(prefix)" : "\(prefix)" }
}
