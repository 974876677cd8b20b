import Addresses

/// One rule as iptables-save(8) prints it, held against a packet.
struct IptablesRule {
    private var words: RuleWords
    private let packet: SamplePacket
    private let mark: UInt32?
    private let table: RuleTable
    private var match = RuleMatch.yes
    private var verdict = RuleVerdict.none

    init(_ text: Substring, packet: SamplePacket, mark: UInt32?, table: RuleTable) {
        words = RuleWords(text)
        self.packet = packet
        self.mark = mark
        self.table = table
    }

    /// What the rule does, and whether it does so with the packet.
    consuming func outcome() -> (RuleMatch, RuleVerdict) {
        words.skip(2)  // -A CHAIN
        while match != .no, let word = words.take() {
            if word == "-j" || word == "-g" {
                takeTarget(isGoing: word == "-g")
                return (match, verdict)
            }
            let isNegated = word == "!"
            guard let option = isNegated ? words.take() : word else { break }
            if option == "-m" {
                words.skip(1)
                continue
            }
            let result = takeOption(option)
            match = min(match, isNegated ? !result : result)
        }
        return (match, verdict)
    }

    private mutating func takeTarget(isGoing: Bool) {
        let name = words.take() ?? ""
        switch name {
        case "ACCEPT": verdict = .accept
        case "DROP", "REJECT", "TARPIT", "STEAL": verdict = .drop
        case "RETURN": verdict = .leave
        case "QUEUE", "NFQUEUE": verdict = .userspace
        case "MARK", "CONNMARK": verdict = .mark
        default:
            guard table.chains[String(name)] != nil else { return }
            verdict = isGoing ? .goTo(String(name)) : .jump(String(name))
        }
    }

    private mutating func takeOption(_ option: Substring) -> RuleMatch {
        let packet = packet
        let mark = mark
        switch option {
        case "-f": return .no
        case "--comment": words.skip(1)
        case "-s": return any { SamplePacket.match(packet.source, $0) }
        case "-d": return any { SamplePacket.match(packet.destination, $0) }
        case "--src-range": return any { SamplePacket.match(packet.source, $0) }
        case "--dst-range": return any { SamplePacket.match(packet.destination, $0) }
        case "-i": return any { SamplePacket.match(interface: packet.inInterface, $0, wildcard: "+") }
        case "-o": return any { SamplePacket.match(interface: packet.outInterface, $0, wildcard: "+") }
        case "-p": return any { packet.match(transport: $0) }
        case "--dport", "--dports":
            return any { SamplePacket.match(port: packet.destinationPort, $0, separator: ":") }
        case "--sport", "--sports":
            return any { SamplePacket.match(port: packet.sourcePort, $0, separator: ":") }
        case "--ports":
            return any {
                max(
                    SamplePacket.match(port: packet.sourcePort, $0, separator: ":"),
                    SamplePacket.match(port: packet.destinationPort, $0, separator: ":"))
            }
        case "--ctstate", "--state": return any { packet.match(state: $0) }
        // What pods send to each other through the overlay has its own addresses.
        case "--ctstatus":
            return any { RuleMatch(packet.isEstablished && ($0 == "ASSURED" || $0 == "SEEN_REPLY")) }
        case "--src-type": return any { packet.match(addressType: $0, isSource: true) }
        case "--dst-type": return any { packet.match(addressType: $0, isSource: false) }
        case "--pkt-type": return any { RuleMatch($0 == "unicast") }
        case "--mark": return any { IptablesRule.match(mark, $0) }
        case "--tcp-flags":
            words.skip(1)
            return any { $0 == "SYN" ? RuleMatch(!packet.isEstablished) : .some }
        case "--icmp-type":
            return any { RuleMatch(["any", "255", packet.isEstablished ? "0" : "8"].contains($0)) }
        case "--icmpv6-type": return any { RuleMatch($0 == (packet.isEstablished ? "129" : "128")) }
        // Packets that are routed are not bridged.
        case "--physdev-is-bridged": return .no
        default: return takeUnknown()
        }
        return .yes
    }

    /// The largest of what is said of an option's values, which stand with commas.
    private mutating func any(_ isSo: (Substring) -> RuleMatch) -> RuleMatch {
        words.take()?.split(separator: ",").map(isSo).max() ?? .some
    }

    private static func match(_ mark: UInt32?, _ text: Substring) -> RuleMatch {
        let numbers = text.split(separator: "/").map {
            $0.hasPrefix("0x") ? UInt32($0.dropFirst(2), radix: 16) : UInt32($0)
        }
        guard let mark, let value = numbers.first ?? nil else { return .some }
        return RuleMatch(mark & ((numbers.dropFirst().first ?? nil) ?? .max) == value)
    }

    /// Passes over the values of an option that is not understood.
    private mutating func takeUnknown() -> RuleMatch {
        while let word = words.peek, !word.hasPrefix("-"), word != "!" { words.skip(1) }
        return .some
    }
}
