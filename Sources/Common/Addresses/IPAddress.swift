/// An address of either family.
@frozen
public enum IPAddress: Sendable, Hashable, Comparable {
    /// An IPv4 address.
    case v4(IPv4Address)
    /// An IPv6 address.
    case v6(IPv6Address)

    /// Parses either family's text; nil for anything else.
    public init?(_ text: some StringProtocol) {
        if let address = IPv4Address(text) {
            self = .v4(address)
        } else if let address = IPv6Address(text) {
            self = .v6(address)
        } else {
            return nil
        }
    }

    /// Its family.
    public var addressFamily: AddressFamily {
        switch self {
        case .v4: .ipv4
        case .v6: .ipv6
        }
    }

    /// Whether it can name one host elsewhere: no loopback, group, or unspecified address.
    public var isReachable: Bool {
        switch self {
        case .v4(let address): address.isUnicast && !address.isLoopback
        case .v6(let address): address != .any && !address.isLoopback && !address.isMulticast
        }
    }

    /// The length in bits of an address of this family: 32 or 128.
    public var bitWidth: Int {
        switch self {
        case .v4: 32
        case .v6: 128
        }
    }

    /// The IPv4 address; nil for IPv6.
    @inlinable @inline(__always)
    public var v4: IPv4Address? { if case .v4(let address) = self { address } else { nil } }

    /// The IPv6 address; nil for IPv4.
    @inlinable @inline(__always)
    public var v6: IPv6Address? { if case .v6(let address) = self { address } else { nil } }

    /// Whether this is an IPv4 address, and that one.
    @inlinable @inline(__always)
    public func equals(_ address: IPv4Address) -> Bool {
        if case .v4(let own) = self { own == address } else { false }
    }

    /// Orders IPv4 before IPv6, and within a family by number.
    public static func < (left: IPAddress, right: IPAddress) -> Bool {
        switch (left, right) {
        case (.v4(let left), .v4(let right)): left < right
        case (.v6(let left), .v6(let right)): left < right
        case (.v4, .v6): true
        case (.v6, .v4): false
        }
    }
}

extension IPAddress: CustomStringConvertible {
    /// The family's own text.
    public var description: String {
        switch self {
        case .v4(let address): address.description
        case .v6(let address): address.description
        }
    }
}

/// IPv4 or IPv6.
public enum AddressFamily: Sendable, Hashable, CaseIterable {
    /// IPv4 (RFC 791).
    case ipv4
    /// IPv6 (RFC 8200).
    case ipv6
}

extension AddressFamily: CustomStringConvertible {
    /// `IPv4` or `IPv6`.
    public var description: String {
        switch self {
        case .ipv4: "IPv4"
        case .ipv6: "IPv6"
        }
    }
}

extension AddressFamily {
    /// The bytes of a header of the family: IPv4's without options (RFC 791), IPv6's without extensions (RFC 8200).
    package var headerBytes: Int {
        switch self {
        case .ipv4: 20
        case .ipv6: 40
        }
    }

    /// What the names of things have at their end that there may be two of, one for each family: nothing for IPv4.
    package var suffix: String { self == .ipv4 ? "" : " (IPv6)" }
}

/// A prefix of either family.
public enum IPPrefix: Sendable, Hashable {
    /// An IPv4 prefix.
    case v4(IPv4Prefix)
    /// An IPv6 prefix.
    case v6(IPv6Prefix)

    /// Makes the prefix of `length` bits that holds `address`. A length that the family does not have is a
    /// programming error.
    public init(_ address: IPAddress, length: Int) {
        switch address {
        case .v4(let address): self = .v4(IPv4Prefix(address, length: length))
        case .v6(let address): self = .v6(IPv6Prefix(address, length: length))
        }
    }

    /// Parses `10.0.0.0/8` or `fd00::/48`.
    public init?(_ text: some StringProtocol) {
        if let prefix = IPv4Prefix(text) {
            self = .v4(prefix)
        } else if let prefix = IPv6Prefix(text) {
            self = .v6(prefix)
        } else {
            return nil
        }
    }

    /// The first address of the prefix.
    public var address: IPAddress {
        switch self {
        case .v4(let prefix): .v4(prefix.address)
        case .v6(let prefix): .v6(prefix.address)
        }
    }

    /// The last address of the prefix.
    public var last: IPAddress {
        switch self {
        case .v4(let prefix): .v4(prefix.last)
        case .v6(let prefix): .v6(prefix.last)
        }
    }

    /// The address `number` after the first one, modulo the number of addresses that the family has.
    package func address(at number: UInt32) -> IPAddress {
        switch self {
        case .v4(let prefix): .v4(IPv4Address(bits: prefix.address.bits &+ number))
        case .v6(let prefix):
            .v6(IPv6Address(high: prefix.address.high, low: prefix.address.low &+ UInt64(number)))
        }
    }

    /// Whether an address lies in the prefix; one of the other family never does.
    public func contains(_ address: IPAddress) -> Bool {
        switch (self, address) {
        case (.v4(let prefix), .v4(let address)): prefix.contains(address)
        case (.v6(let prefix), .v6(let address)): prefix.contains(address)
        default: false
        }
    }

    /// Whether all of `other` lies in the prefix; one of the other family never does.
    public func contains(_ other: IPPrefix) -> Bool {
        other.length >= length && contains(other.address)
    }

    /// Whether any address is in both; prefixes of two families never have one.
    public func overlaps(_ other: IPPrefix) -> Bool { contains(other) || other.contains(self) }

    /// Its family.
    public var addressFamily: AddressFamily { address.addressFamily }

    /// The IPv4 prefix; nil for IPv6.
    public var v4: IPv4Prefix? { if case .v4(let prefix) = self { prefix } else { nil } }

    /// The IPv6 prefix; nil for IPv4.
    public var v6: IPv6Prefix? { if case .v6(let prefix) = self { prefix } else { nil } }

    /// 0 to 32 or 128 bits.
    public var length: Int {
        switch self {
        case .v4(let prefix): prefix.length
        case .v6(let prefix): prefix.length
        }
    }
}

extension IPPrefix: Comparable {
    /// Orders by address, IPv4 first, then by length.
    public static func < (left: IPPrefix, right: IPPrefix) -> Bool {
        (left.address, left.length) < (right.address, right.length)
    }
}

extension IPPrefix: CustomStringConvertible {
    /// `10.0.0.0/8` or `fd00::/48`.
    public var description: String { "\(address)/\(length)" }
}
