public import Addresses

/// The subnet that a lease gives a node: a prefix of each family that the network has, of one at least.
///
/// Its key in a store is flannel's: `10.66.28.0-24`, `10.12.13.0-24&fd00:12:13::-56`, and of IPv6 alone
/// `0.0.0.0-0&fd00:12:13::-56`: flannel's keys always begin with an IPv4 prefix.
public struct LeaseSubnet: Sendable, Hashable {
    /// The node's IPv4 prefix, where the network has IPv4.
    public private(set) var ipv4: IPv4Prefix?
    /// The node's IPv6 prefix, where the network has IPv6.
    public private(set) var ipv6: IPv6Prefix?

    /// What stands in a key for an IPv4 prefix that there is none of.
    private static let noIPv4 = "0.0.0.0-0"

    /// Makes a subnet of IPv4, or of both families.
    public init(ipv4: IPv4Prefix, ipv6: IPv6Prefix? = nil) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }

    /// Makes a subnet of IPv6 alone.
    public init(ipv6: IPv6Prefix) { self.ipv6 = ipv6 }

    /// Makes a subnet of what there is; nil where there is nothing.
    public init?(ipv4: IPv4Prefix?, ipv6: IPv6Prefix?) {
        if ipv4 == nil, ipv6 == nil { return nil }
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }

    /// The prefixes, IPv4 first.
    public var prefixes: [IPPrefix] {
        [ipv4.map { .v4($0) }, ipv6.map { .v6($0) }].compactMap(\.self)
    }

    /// The prefix of one family; nil where there is none.
    public func prefix(_ family: AddressFamily) -> IPPrefix? { prefixes.first { $0.addressFamily == family } }

    /// Parses a key; nil where it is none, also where a prefix has host bits, which no daemon writes.
    public init?(key: some StringProtocol) {
        let parts = key.split(separator: "&", omittingEmptySubsequences: false)
        guard parts.count <= 2, let first = parts.first else { return nil }
        if first != Self.noIPv4 || parts.count == 1 {
            guard let ipv4 = IPv4Prefix(first, separator: "-"), first == "\(ipv4.address)-\(ipv4.length)"
            else { return nil }
            self.ipv4 = ipv4
        }
        if let second = parts.dropFirst().first {
            guard let ipv6 = IPv6Prefix(second, separator: "-"),
                second.hasSuffix("-\(ipv6.length)"),
                IPv6Address(second.dropLast("-\(ipv6.length)".count)) == ipv6.address
            else { return nil }
            self.ipv6 = ipv6
        }
    }

    /// The key, without the store's prefix.
    public var key: String {
        let first = ipv4.map { "\($0.address)-\($0.length)" } ?? Self.noIPv4
        guard let ipv6 else { return first }
        return "\(first)&\(ipv6.address)-\(ipv6.length)"
    }

    /// Whether any address is in both.
    public func overlaps(_ other: LeaseSubnet) -> Bool {
        if let ipv4, let otherIPv4 = other.ipv4, ipv4.overlaps(otherIPv4) { return true }
        guard let ipv6, let otherIPv6 = other.ipv6 else { return false }
        return ipv6.overlaps(otherIPv6)
    }
}

extension LeaseSubnet: CustomStringConvertible {
    /// `10.66.28.0/24`, or both prefixes with a comma.
    public var description: String { prefixes.map(\.description).joined(separator: ",") }
}

extension LeaseSubnet: Comparable {
    /// Orders by the IPv4 prefix, then by the IPv6 one; none comes first.
    public static func < (left: LeaseSubnet, right: LeaseSubnet) -> Bool {
        if left.ipv4 != right.ipv4 {
            guard let rightIPv4 = right.ipv4 else { return false }
            return left.ipv4.map { $0 < rightIPv4 } ?? true
        }
        guard let rightIPv6 = right.ipv6 else { return false }
        guard let leftIPv6 = left.ipv6 else { return true }
        return leftIPv6 < rightIPv6
    }
}
