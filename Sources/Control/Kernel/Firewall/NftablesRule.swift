import Addresses

/// One rule in nft's words (nft(8)), held against a packet.
struct NftablesRule {
    /// Words that begin a statement or a match: where reading goes on after what is not understood.
    private static let beginnings: Set<Substring> = [
        "accept", "drop", "reject", "return", "continue", "jump", "goto", "queue", "counter", "log",
        "comment",
        "limit", "ip", "ip6", "iifname", "oifname", "iif", "oif", "meta", "tcp", "udp", "icmp",
        "icmpv6", "th", "ct",
        "fib",
        "vmap", "mark",
    ]

    private var words: RuleWords
    private let packet: SamplePacket
    private let mark: UInt32?
    private let sets: [String: [Substring]?]
    private var match = RuleMatch.yes
    /// Verdicts that the rule has beside its last: those of a map, or the change of a mark.
    private var results: [(RuleMatch, RuleVerdict)] = []

    init(_ text: Substring, packet: SamplePacket, mark: UInt32?, sets: [String: [Substring]?]) {
        words = RuleWords(text)
        self.packet = packet
        self.mark = mark
        self.sets = sets
    }

    /// What the rule does, and whether it does so with the packet; with a map, for each of its elements in order.
    consuming func outcomes() -> [(RuleMatch, RuleVerdict)] {
        while match != .no, let word = words.take() {
            switch word {
            case "accept": return results + [(match, .accept)]
            case "drop", "reject": return results + [(match, .drop)]
            case "return": return results + [(match, .leave)]
            case "continue": return results
            case "queue": return results + [(match, .userspace)]
            case "jump", "goto":
                let name = String(words.take() ?? "")
                return results + [(match, word == "jump" ? .jump(name) : .goTo(name))]
            case "vmap":
                takeMap { _ in .some }
                return results
            case "counter", "log", "comment", "limit": takeStatement(word)
            default: takeMatch(word)
            }
        }
        return results
    }

    private mutating func takeStatement(_ word: Substring) {
        switch word {
        case "counter":
            if words.peek == "packets" { words.skip(4) } else if words.peek == "name" { words.skip(2) }
        case "comment": words.skip(1)
        case "log":
            while let option = words.peek,
                ["prefix", "level", "group", "snaplen", "queue-threshold", "flags"].contains(option)
            {
                words.skip(2)
            }
        default:
            // A limit that is reached: the rule then says nothing of the rest.
            takeUnknown()
        }
    }

    private mutating func takeMatch(_ word: Substring) {
        switch word {
        case "ip", "ip6": takeIP(word == "ip" ? .ipv4 : .ipv6)
        case "arp": match = .no
        case "iifname", "iif", "oifname", "oif": takeInterface(word)
        case "meta": takeMeta()
        case "mark": takeMark()
        case "tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "th", "esp", "ah":
            if word == "th" {
                narrow(RuleMatch(packet.transport != .icmp))
            } else {
                narrow(packet.match(transport: word))
            }
            takePorts()
        case "ct": takeConnection()
        case "fib": takeAddressType()
        case "masquerade", "snat", "dnat", "redirect", "notrack", "tproxy": words.skipAll()
        default: takeUnknown()
        }
    }

    private mutating func narrow(_ other: RuleMatch) { match = min(match, other) }

    /// Passes over words up to one that is understood.
    private mutating func takeUnknown() {
        narrow(.some)
        var depth = 0
        while let word = words.peek {
            if word == "{" { depth &+= 1 }
            if word == "}" { depth &-= 1 }
            if depth == 0, word != "}", NftablesRule.beginnings.contains(word) { return }
            words.skip(1)
        }
    }

    // MARK: Matches

    /// A match on a field of one family's header, which packets of the other do not have.
    private mutating func takeIP(_ family: AddressFamily) {
        let packet = packet
        guard packet.family == family else {
            match = .no
            return
        }
        switch words.take() {
        case "saddr": takeOperand { SamplePacket.match(packet.source, $0) }
        case "daddr": takeOperand { SamplePacket.match(packet.destination, $0) }
        // What follows the header at once; pods' packets mostly have no extensions.
        case "protocol", "nexthdr": takeOperand { packet.match(transport: $0) }
        default: takeUnknown()
        }
    }

    private mutating func takeInterface(_ key: Substring) {
        let interface = key.hasPrefix("i") ? packet.inInterface : packet.outInterface
        takeOperand { SamplePacket.match(interface: interface, $0, wildcard: "*") }
    }

    private mutating func takeMeta() {
        let packet = packet
        switch words.take() {
        case "l4proto": takeOperand { packet.match(transport: $0) }
        case "nfproto": takeOperand { RuleMatch($0 == (packet.family == .ipv4 ? "ipv4" : "ipv6")) }
        case "protocol": takeOperand { RuleMatch($0 == (packet.family == .ipv4 ? "ip" : "ip6")) }
        case "pkttype": takeOperand { RuleMatch($0 == "unicast" || $0 == "host") }
        case "mark": takeMark()
        case let key? where ["iifname", "iif", "oifname", "oif"].contains(key): takeInterface(key)
        case "nftrace", "priority", "secmark":
            if words.take("set") { words.skip(1) } else { takeUnknown() }
        default: takeUnknown()
        }
    }

    private mutating func takeMark() {
        if words.take("set") {
            results.append((match, .mark))
            // The new mark: up to the next statement, without narrowing the match.
            let before = match
            takeUnknown()
            match = before
            return
        }
        var mask = UInt32.max
        if words.take("&") {
            guard let number = words.take().flatMap(NftablesRule.number) else { return takeUnknown() }
            mask = number
        }
        let mark = mark
        takeOperand { text in
            guard let mark, let value = NftablesRule.number(text) else { return .some }
            return RuleMatch(mark & mask == value)
        }
    }

    private static func number(_ text: Substring) -> UInt32? {
        text.hasPrefix("0x") ? UInt32(text.dropFirst(2), radix: 16) : UInt32(text)
    }

    private mutating func takePorts() {
        let packet = packet
        switch words.peek {
        case "dport":
            words.skip(1)
            takeOperand { SamplePacket.match(port: packet.destinationPort, $0, separator: "-") }
        case "sport":
            words.skip(1)
            takeOperand { SamplePacket.match(port: packet.sourcePort, $0, separator: "-") }
        default: takeUnknown()
        }
    }

    private mutating func takeConnection() {
        let packet = packet
        switch words.take() {
        case "state": takeOperand { packet.match(state: $0) }
        // What pods send to each other through the overlay has its own addresses.
        case "status":
            takeOperand { RuleMatch(packet.isEstablished && ($0 == "assured" || $0 == "seen-reply")) }
        case "mark":
            let before = match
            let isSetting = words.peek == "set"
            takeUnknown()
            if isSetting { match = before }
        default: takeUnknown()
        }
    }

    private mutating func takeAddressType() {
        let packet = packet
        let key = words.take()
        guard key == "saddr" || key == "daddr", words.take("type") else { return takeUnknown() }
        takeOperand { packet.match(addressType: $0, isSource: key == "saddr") }
    }

    // MARK: Operands

    /// Takes an operator and what follows it: a value, values in braces, a named set, or a map of verdicts.
    private mutating func takeOperand(_ isSo: (Substring) -> RuleMatch) {
        var isNegated = false
        switch words.peek {
        case "!=":
            isNegated = true
            words.skip(1)
        case "==": words.skip(1)
        // Comparisons, masks and keys of several parts.
        case "<", ">", "<=", ">=", "&", "|", "^", ".": return takeUnknown()
        case "vmap":
            words.skip(1)
            takeMap(isSo)
            match = .no
            return
        default: break
        }
        guard let word = words.take() else { return }
        let result: RuleMatch
        if word == "{" {
            result = takeElements(isSo)
        } else if word.hasPrefix("@") {
            let elements = sets[String(word.dropFirst())] ?? nil
            result = elements.map { $0.lazy.map(isSo).max() ?? .no } ?? .some
        } else {
            // Flags are written with commas (established,related).
            result = word.split(separator: ",").map(isSo).max() ?? .some
        }
        narrow(isNegated ? !result : result)
    }

    private mutating func takeElements(_ isSo: (Substring) -> RuleMatch) -> RuleMatch {
        var result = RuleMatch.no
        while let word = words.take(), word != "}" {
            if words.peek == "." { result = max(result, .some) }
            result = max(result, isSo(word))
        }
        return result
    }

    /// `{ established : accept, "eth0" : jump a }`, or a named map, whose elements are not read.
    private mutating func takeMap(_ isSo: (Substring) -> RuleMatch) {
        guard words.take("{") else {
            results.append((.some, .accept))
            return
        }
        while let key = words.take(), key != "}" {
            var verdict: Substring?
            while let word = words.take() {
                if word == ":" {
                    verdict = words.take()
                    break
                }
            }
            let keyMatch = key == "*" ? RuleMatch.yes : isSo(key)
            let result: RuleVerdict
            switch verdict {
            case "accept": result = .accept
            case "drop": result = .drop
            case "return": result = .leave
            case "jump": result = .jump(String(words.take() ?? ""))
            case "goto": result = .goTo(String(words.take() ?? ""))
            default: result = .none
            }
            results.append((min(match, keyMatch), result))
        }
    }
}
