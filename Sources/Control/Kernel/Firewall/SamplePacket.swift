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
    /// The number of IPv4's payload protocol, and its names in rules.
    enum TransportProtocol: UInt8, CaseIterable, Sendable {
        case icmp = 1
        case tcp = 6
        case udp = 17

        var name: String { self == .icmp ? "icmp" : self == .tcp ? "tcp" : "udp" }
    }

    var source: IPv4Prefix
    var destination: IPv4Prefix
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

    // MARK: What rules ask

    /// Whether an address, a prefix or a range (`10.0.0.0-10.0.0.9`), as both programs print it, holds `prefix`.
    static func match(_ prefix: IPv4Prefix, _ text: Substring) -> RuleMatch {
        let first: IPv4Address
        let last: IPv4Address
        if let single = IPv4Address(text) {
            (first, last) = (single, single)
        } else if let range = IPv4Prefix(text) {
            (first, last) = (range.address, range.last)
        } else {
            let ends = text.split(separator: "-")
            guard ends.count == 2, let low = ends.first.flatMap({ IPv4Address($0) }),
                let high = ends.last.flatMap({ IPv4Address($0) })
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
        if name == "all" || name == "0" || name == "ip" { return .yes }
        return RuleMatch(name == transport.name || UInt8(name) == transport.rawValue)
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
