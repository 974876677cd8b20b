import Addresses

// What the kernel does with a packet is decided by rules of many owners: iptables of two kinds, nftables tables of
// Docker, firewalld, ufw and twill itself. This is their text as nft(8) and iptables-save(8) print it, cut into
// tables and chains, and not read further before a packet is held against it.

/// All packet filter rules of this machine's network namespace for one family or both, as far as they can drop a packet.
struct RuleSet: Sendable {
    /// How large the text of rules may be, in bytes: 100 of each, 300,000 rules. Larger ones are not judged.
    static let sizeLimit = 32 << 20

    var tables: [RuleTable] = []

    /// Adds what `nft --stateless list` printed, without the tables in `except` (`ip filter`); `lacksElements`:
    /// without the elements of sets.
    mutating func add(nftables text: String, except: Set<String> = [], lacksElements: Bool = false) {
        var parser = NftablesListing(lacksElements: lacksElements)
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) { parser.take(Substring(line)) }
        tables += parser.finish().filter { !$0.isDormant && !except.contains("\($0.family) \($0.name)") }
    }

    /// Adds what `iptables-save` or `ip6tables-save` printed; `program` is the command that an operator uses on them:
    /// `iptables`.
    mutating func add(iptables text: String, program: String, _ family: AddressFamily = .ipv4) {
        var table: RuleTable?
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
            switch line.first {
            case UInt8(ascii: "*"):
                table = RuleTable(
                    language: .iptables(program: program), family: RuleTable.familyName(family),
                    name: String(Substring(line.dropFirst())))
            case UInt8(ascii: ":"):
                let words = Substring(line.dropFirst()).split(separator: " ")
                guard let name = words.first, let policy = words.dropFirst().first else { continue }
                var chain = RuleChain(name: String(name))
                if policy != "-" {
                    chain.hook = name.lowercased()
                    chain.dropsByPolicy = policy == "DROP"
                }
                table?.chains[chain.name] = chain
            case UInt8(ascii: "-"):
                let text = Substring(line)
                let words = text.split(separator: " ", maxSplits: 2)
                guard words.first == "-A", let name = words.dropFirst().first else { continue }
                table?.chains[String(name)]?.rules.append(text)
            case UInt8(ascii: "C"):
                // The nat table has no say in what is dropped.
                if let table, table.name != "nat" { tables.append(table) }
                table = nil
            default: continue
            }
        }
    }
}

/// A table of rules.
struct RuleTable: Sendable {
    /// In what words its rules are written.
    enum Language: Sendable, Hashable {
        case nftables
        case iptables(program: String)
    }

    var language: Language
    /// `ip`, `ip6`, `inet`, `netdev`, `bridge`.
    var family: String
    var name: String
    var isDormant = false
    var chains: [String: RuleChain] = [:]
    /// The elements of named sets, as text; nil where they are not known.
    var sets: [String: [Substring]?] = [:]

    /// What nft calls the tables of one family alone.
    static func familyName(_ family: AddressFamily) -> String { family == .ipv4 ? "ip" : "ip6" }

    /// Whether the kernel holds packets of a family against it.
    func hasPackets(of packets: AddressFamily) -> Bool {
        family != (packets == .ipv4 ? "ip6" : "ip")
    }

    /// What an operator calls it: `iptables table filter`, `nftables table inet firewalld`.
    var description: String {
        switch language {
        case .nftables: "nftables table \(family) \(name)"
        case .iptables(let program): "\(program) table \(name)"
        }
    }
}

/// A chain of rules.
struct RuleChain: Sendable {
    var name: String
    /// Where the kernel calls it (`forward`); nil where another chain does.
    var hook: String?
    /// `filter`, `nat`, `route`.
    var type = "filter"
    /// The devices whose packets it gets; empty for all.
    var devices: [String] = []
    var dropsByPolicy = false
    /// One rule each, as the program prints it.
    var rules: [Substring] = []
}

/// Cuts nft's listing into tables, chains and sets, line by line: it opens each block at the end of a line, and
/// closes it with a line of its own.
private struct NftablesListing {
    private enum Place { case outside, table, chain, set, elements, other }

    let lacksElements: Bool
    private var tables: [RuleTable] = []
    /// The table that is being read; nil outside of one.
    private var table: RuleTable?
    private var place = Place.outside
    private var chain = RuleChain(name: "")
    private var set = ""

    init(lacksElements: Bool) { self.lacksElements = lacksElements }

    /// The tables, the one included whose end is missing.
    consuming func finish() -> [RuleTable] { tables + (table.map { [$0] } ?? []) }

    mutating func take(_ line: Substring) {
        let text = line.drop { $0 == "\t" || $0 == " " }
        if text.isEmpty || text.hasPrefix("#") { return }
        switch place {
        case .outside: beginTable(text)
        case .table: beginBlock(text)
        case .chain: takeRule(text)
        case .set: takeSet(text)
        case .elements: takeElements(text)
        case .other: if text == "}" { place = .table }
        }
    }

    private mutating func beginTable(_ text: Substring) {
        var words = text.split(separator: " ")[...]
        guard words.count >= 4, words.popFirst() == "table", let family = words.popFirst(),
            let name = words.popFirst()
        else { return }
        table = RuleTable(language: .nftables, family: String(family), name: String(name))
        place = .table
    }

    private mutating func beginBlock(_ text: Substring) {
        if text == "}" {
            if let table { tables.append(table) }
            table = nil
            place = .outside
            return
        }
        let words = text.split(separator: " ")
        if words.first == "flags", words.contains(where: { $0.hasPrefix("dormant") }) {
            table?.isDormant = true
        }
        guard text.hasSuffix("{"), let name = words.dropFirst().first else { return }
        switch words.first {
        case "chain":
            chain = RuleChain(name: String(name))
            place = .chain
        case "set":
            set = String(name)
            table?.sets[set] = .some(lacksElements ? nil : [])
            place = .set
        default:
            place = .other
        }
    }

    private mutating func takeRule(_ text: Substring) {
        if text == "}" {
            table?.chains[chain.name] = chain
            place = .table
            return
        }
        guard text.hasPrefix("type "), text.contains(" hook ") else {
            if !text.hasPrefix("comment ") { chain.rules.append(text) }
            return
        }
        // type filter hook ingress device "eth0" priority filter; policy drop;
        let words = text.split { $0 == " " || $0 == ";" || $0 == "," || $0 == "\"" || $0 == "{" || $0 == "}" }
        chain.dropsByPolicy = text.contains("policy drop")
        var isDevice = false
        for (word, next) in zip(words, words.dropFirst()) {
            switch word {
            case "type": chain.type = String(next)
            case "hook": chain.hook = String(next)
            case "device", "devices": isDevice = true
            case "=": continue
            default: break
            }
            if next == "priority" { isDevice = false }
            if isDevice && next != "=" { chain.devices.append(String(next)) }
        }
    }

    private mutating func takeSet(_ text: Substring) {
        if text == "}" {
            place = .table
        } else if text.hasPrefix("elements = {") {
            place = .elements
            takeElements(text.dropFirst("elements = {".count))
        }
    }

    private mutating func takeElements(_ text: Substring) {
        if text.hasSuffix("}") { place = .set }
        let elements = text.split(separator: ",").compactMap {
            $0.split { $0 == " " || $0 == "}" || $0 == "\t" }.first
        }
        guard !elements.isEmpty, var known = table?.sets[set] ?? nil else { return }
        table?.sets[set] = .some(nil)  // so that the array is not copied
        known += elements
        table?.sets[set] = .some(known)
    }
}
