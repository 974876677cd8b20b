public import Addresses

/// The subnet that a lease gives a node: an IPv4 prefix and, in a network of both families, an IPv6 one.
///
/// Its key in a store is flannel's: `10.66.28.0-24`, or `10.12.13.0-24&fd00:12:13::-56`.
public struct LeaseSubnet: Sendable, Hashable {
    /// The node's IPv4 prefix.
    public var ipv4: IPv4Prefix
    /// The node's IPv6 prefix, where the network has one.
    public var ipv6: IPv6Prefix?

    /// Makes a subnet of its prefixes.
    public init(ipv4: IPv4Prefix, ipv6: IPv6Prefix? = nil) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }

    /// Parses a key; nil where it is none, also where a prefix has host bits, which no daemon writes.
    public init?(key: some StringProtocol) {
        let parts = key.split(separator: "&", omittingEmptySubsequences: false)
        guard parts.count <= 2, let first = parts.first, let ipv4 = IPv4Prefix(first, separator: "-"),
            first == "\(ipv4.address)-\(ipv4.length)"
        else { return nil }
        self.init(ipv4: ipv4)
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
        let first = "\(ipv4.address)-\(ipv4.length)"
        guard let ipv6 else { return first }
        return "\(first)&\(ipv6.address)-\(ipv6.length)"
    }

    /// Whether any address is in both.
    public func overlaps(_ other: LeaseSubnet) -> Bool {
        if ipv4.overlaps(other.ipv4) { return true }
        guard let ipv6, let otherIPv6 = other.ipv6 else { return false }
        return ipv6.overlaps(otherIPv6)
    }
}

extension LeaseSubnet: CustomStringConvertible {
    /// `10.66.28.0/24`, or both prefixes with a comma.
    public var description: String { ipv6.map { "\(ipv4),\($0)" } ?? "\(ipv4)" }
}

extension LeaseSubnet: Comparable {
    /// Orders by the IPv4 prefix, then by the IPv6 one; none comes first.
    public static func < (left: LeaseSubnet, right: LeaseSubnet) -> Bool {
        if left.ipv4 != right.ipv4 { return left.ipv4 < right.ipv4 }
        guard let rightIPv6 = right.ipv6 else { return false }
        guard let leftIPv6 = left.ipv6 else { return true }
        return leftIPv6 < rightIPv6
    }
}
