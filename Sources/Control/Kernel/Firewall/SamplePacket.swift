import Addresses

/// Whether a packet, or each of a sort of packets, is one that a rule speaks of.
enum RuleMatch: Int, Comparable {
    /// None is.
    case no
    /// Some are, or it cannot be known: the rule asks for what a rule set's text does not tell.
    case some
    /// All are.
    case yes

    static func < (left: RuleMatch, right: RuleMatch) -> Bool { left.rawValue < right.rawValue }

    static prefix func ! (match: RuleMatch) -> RuleMatch {
        switch match {
        case .no: .yes
        case .some: .some
        case .yes: .no
        }
    }

    init(_ isSo: Bool) { self = isSo ? .yes : .no }
}

/// A sort of packets that must pass for pods to reach each other, as far as rules ask of it.
struct SamplePacket: Hashable, Sendable {
    /// What a packet carries: ICMP is that of its family.
    enum TransportProtocol: CaseIterable, Sendable {
        case icmp
        case tcp
        case udp

        /// The number in the packet's header (IANA's protocol numbers).
        func number(_ family: AddressFamily) -> UInt8 {
            switch self {
            case .icmp: family == .ipv4 ? 1 : 58
            case .tcp: 6
            case .udp: 17
            }
        }

        /// What an operator calls it.
        func name(_ family: AddressFamily) -> String {
            switch self {
            case .icmp: family == .ipv4 ? "ICMP" : "ICMPv6"
            case .tcp: "TCP"
            case .udp: "UDP"
            }
        }
    }

    /// The packets' sources; of one family with the destinations.
    var source: IPPrefix
    var destination: IPPrefix
    /// The interface that it comes in by; nil where that is not known, or it comes from this machine.
    var inInterface: String?
    /// The interface that it leaves by; nil where that is not known, or it is for this machine.
    var outInterface: String?
    var transport: TransportProtocol
    /// Nil for any.
    var sourcePort: UInt16?
    /// Nil for any.
    var destinationPort: UInt16?
    /// Whether connection tracking knows its connection, and saw packets both ways.
    var isEstablished = false
    var isFromThisMachine = false
    var isForThisMachine = false

    var family: AddressFamily { source.addressFamily }

    // MARK: What rules ask

    /// Whether an address, a prefix or a range (`10.0.0.0-10.0.0.9`), as both programs print it, holds `prefix`. One of the
    /// other family does not.
    static func match(_ prefix: IPPrefix, _ text: Substring) -> RuleMatch {
        let first: IPAddress
        let last: IPAddress
        if let single = IPAddress(text) {
            (first, last) = (single, single)
        } else if let range = IPPrefix(text) {
            (first, last) = (range.address, range.last)
        } else {
            let ends = text.split(separator: "-")
            guard ends.count == 2, let low = ends.first.flatMap({ IPAddress($0) }),
                let high = ends.last.flatMap({ IPAddress($0) })
            else {
                return .some
            }
            (first, last) = (low, high)
        }
        if first <= prefix.address && prefix.last <= last { return .yes }
        return last < prefix.address || prefix.last < first ? .no : .some
    }

    /// Whether an interface has the name, in which a last `wildcard` stands for any rest.
    static func match(interface: String?, _ name: Substring, wildcard: Character) -> RuleMatch {
        if name.last == wildcard {
            let start = name.dropLast()
            guard let interface else { return start.isEmpty ? .yes : .some }
            return RuleMatch(interface.hasPrefix(start))
        }
        guard let interface else { return name == "lo" ? .no : .some }
        return RuleMatch(interface == name)
    }

    /// Whether a port is the number or in the range, whose ends `separator` parts.
    static func match(port: UInt16?, _ text: Substring, separator: Character) -> RuleMatch {
        let ends = text.split(separator: separator, omittingEmptySubsequences: false)
        guard let low = ends.first.flatMap({ $0.isEmpty ? 0 : UInt16($0) }),
            let high = ends.last.flatMap({ $0.isEmpty ? UInt16.max : UInt16($0) })
        else { return .some }
        guard let port else { return low == 0 && high == .max ? .yes : .some }
        return RuleMatch(low <= port && port <= high)
    }

    func match(transport name: Substring) -> RuleMatch {
        let number = transport.number(family)
        return switch name {
        case "all", "0", "ip": .yes
        case "tcp", "udp": RuleMatch(name == (transport == .udp ? "udp" : transport == .tcp ? "tcp" : ""))
        case "icmp": RuleMatch(number == 1)
        // As iptables and nft of several ages print it.
        case "icmpv6", "ipv6-icmp", "icmp6": RuleMatch(number == 58)
        default: RuleMatch(UInt8(name) == number)
        }
    }

    /// `new`, `established`, as either program writes them.
    func match(state: Substring) -> RuleMatch {
        switch state.lowercased() {
        case "new": RuleMatch(!isEstablished)
        case "established": RuleMatch(isEstablished)
        default: .no
        }
    }

    /// The kernel's type of an address (`fib daddr type`, `--dst-type`).
    func match(addressType: Substring, isSource: Bool) -> RuleMatch {
        let isLocal = isSource ? isFromThisMachine : isForThisMachine
        switch addressType.lowercased() {
        case "local": return RuleMatch(isLocal)
        case "unicast": return RuleMatch(!isLocal)
        default: return .no
        }
    }
}
