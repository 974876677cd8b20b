import Addresses

/// A rule that says which table, if any, decides about a packet (ip-rule(8), `RTM_NEWRULE`), as far as twill judges
/// it.
public struct RoutingRule: Sendable, Hashable {
    /// What is done with a packet that fits: `FR_ACT_*` of linux/fib_rules.h.
    public struct Action: RawRepresentable, Sendable, Hashable {
        /// The kernel's number.
        public var rawValue: UInt8
        /// Makes an action from the kernel's number.
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// Looked up in a table.
        public static let table = Action(rawValue: 1)
        /// Dropped in silence.
        public static let blackhole = Action(rawValue: 6)
        /// Refused with ICMP.
        public static let unreachable = Action(rawValue: 7)
        /// Refused with ICMP.
        public static let prohibit = Action(rawValue: 8)
    }

    /// `FIB_RULE_INVERT`: it fits where the selectors do not.
    static let invertFlag: UInt32 = 2

    /// Whose packets it is for.
    public var family: AddressFamily
    /// The order among rules: the lowest is looked at first.
    public var priority: UInt32
    /// What is done with a packet that fits.
    public var action: Action
    /// The table to look in.
    public var table: UInt32
    /// The destinations that it is for; nil for all.
    public var destination: IPPrefix?
    /// The sources that it is for; nil for all.
    public var source: IPPrefix?
    /// The interface that packets came in by; nil for all, `lo` for what this machine sends itself.
    public var inputInterface: String?
    /// The interface that a socket is bound to; nil for all.
    public var outputInterface: String?
    /// The mark that packets must have in the bits of `markMask`.
    public var mark: UInt32 = 0
    /// The bits of the mark that count; 0 for none.
    public var markMask: UInt32 = 0
    /// Whether it fits where the selectors do not.
    public var isInverted = false
    /// Who made it: a number as routes have (`Route.origin`); 0 where the kernel keeps none.
    public var origin: UInt8 = 0

    /// Makes a rule for all packets of a family.
    public init(
        _ family: AddressFamily = .ipv4, priority: UInt32, action: Action = .table,
        table: UInt32 = Route.mainTable
    ) {
        self.family = family
        self.priority = priority
        self.action = action
        self.table = table
    }

    /// Whether it is for an unmarked packet of its family. Selectors that twill does not know (ports, users) are taken as fitting.
    ///
    /// - Parameters:
    ///   - destination: where the packet goes.
    ///   - source: nil where the kernel is to choose it.
    ///   - inputInterface: nil for what this machine sends itself.
    public func fits(destination: IPAddress, source: IPAddress?, inputInterface: String?) -> Bool {
        let fits =
            self.destination?.contains(destination) != false
            && (self.source == nil || source.map { self.source?.contains($0) == true } == true)
            && (self.inputInterface == nil || self.inputInterface == inputInterface ?? "lo")
            && outputInterface == nil && mark & markMask == 0
        return fits != isInverted
    }
}

extension RoutingRule: CustomStringConvertible {
    /// As ip-rule(8) has it: `5270: from all lookup 52`.
    public var description: String {
        var words = "\(priority):" + (isInverted ? " not" : "") + " from \(source.map { "\($0)" } ?? "all")"
        if let destination { words += " to \(destination)" }
        if markMask != 0 { words += " fwmark 0x\(String(mark, radix: 16))/0x\(String(markMask, radix: 16))" }
        if let inputInterface { words += " iif \(inputInterface)" }
        if let outputInterface { words += " oif \(outputInterface)" }
        switch action {
        case .table: words += " lookup \(RoutingRule.tableName(table))"
        case .blackhole: words += " blackhole"
        case .unreachable: words += " unreachable"
        case .prohibit: words += " prohibit"
        default: words += " action \(action.rawValue)"
        }
        return words
    }

    /// A table as iproute2 names it: `main`, or the number.
    public static func tableName(_ table: UInt32) -> String {
        switch table {
        case 253: "default"
        case Route.mainTable: "main"
        case Route.localTable: "local"
        default: "\(table)"
        }
    }
}
