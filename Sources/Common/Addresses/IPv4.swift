import Glibc

/// An IPv4 address (RFC 791): 32 bits.
@frozen
public struct IPv4Address: Sendable, Hashable, Comparable {
    /// The address as a number in host byte order: 10.0.0.1 is `0x0A00_0001`.
    public var bits: UInt32

    /// Makes an address from its number in host byte order.
    @inlinable
    public init(bits: UInt32) { self.bits = bits }

    /// Makes an address from the four bytes as they stand on the wire, read as one native-endian word.
    @inlinable
    public init(networkBytes: UInt32) { bits = UInt32(bigEndian: networkBytes) }

    /// Makes an address from its four parts, most significant first.
    @inlinable
    public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
        bits = UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
    }

    /// Parses dotted decimal, four parts, no leading zeros; nil for anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bits: UInt32 = 0
        for part in parts {
            guard (1...3).contains(part.utf8.count), part.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                part.utf8.count == 1 || part.utf8.first != 0x30, let value = UInt8(part)
            else { return nil }
            bits = bits << 8 | UInt32(value)
        }
        self.bits = bits
    }

    /// The four bytes as they stand on the wire, as one native-endian word: what `in_addr.s_addr` holds.
    @inlinable
    public var networkBytes: UInt32 { bits.bigEndian }

    /// 0.0.0.0.
    public static let any = IPv4Address(bits: 0)

    /// Whether the address can name one host: not 0.0.0.0/8, multicast, or above.
    public var isUnicast: Bool { bits >> 24 != 0 && bits >> 28 < 0xE }

    /// Whether the address is in 169.254.0.0/16 (RFC 3927).
    public var isLinkLocal: Bool { bits >> 16 == 0xA9FE }

    /// Whether the address is in 127.0.0.0/8.
    public var isLoopback: Bool { bits >> 24 == 127 }

    /// Orders by number.
    @inlinable
    public static func < (left: IPv4Address, right: IPv4Address) -> Bool { left.bits < right.bits }
}

extension IPv4Address: CustomStringConvertible {
    /// Dotted decimal.
    public var description: String {
        "\(bits >> 24).\(bits >> 16 & 0xFF).\(bits >> 8 & 0xFF).\(bits & 0xFF)"
    }
}

/// An IPv4 prefix: an address whose host bits are zero, and a length of 0 to 32 bits.
@frozen
public struct IPv4Prefix: Sendable, Hashable, Comparable {
    /// The first address of the prefix.
    public let address: IPv4Address
    /// 0 to 32 bits.
    public let length: Int

    /// Makes a prefix; host bits of `address` are cleared. `length` outside 0 to 32 is a programming error.
    @inlinable
    public init(_ address: IPv4Address, length: Int) {
        precondition((0...32).contains(length))
        self.address = IPv4Address(bits: address.bits & IPv4Prefix.mask(length: length))
        self.length = length
    }

    /// Parses `10.0.0.0/8`; host bits are cleared; nil for anything else.
    public init?(_ text: some StringProtocol) { self.init(text, separator: "/") }

    /// Parses `10.0.0.0-8` (with `-`, as lease keys spell it) or `10.0.0.0/8`; host bits are cleared.
    public init?(_ text: some StringProtocol, separator: Character) {
        guard let split = InterfaceAddressText(text, separator: separator, limit: 32),
            let address = IPv4Address(split.address)
        else { return nil }
        self.init(address, length: split.length)
    }

    /// The network mask of a length, host byte order.
    @inlinable
    public static func mask(length: Int) -> UInt32 { length == 0 ? 0 : ~UInt32(0) << UInt32(32 - length) }

    /// The last address of the prefix.
    public var last: IPv4Address { IPv4Address(bits: address.bits | ~IPv4Prefix.mask(length: length)) }

    /// Whether `other` lies in the prefix.
    @inlinable
    public func contains(_ other: IPv4Address) -> Bool {
        other.bits & IPv4Prefix.mask(length: length) == address.bits
    }

    /// Whether all of `other` lies in the prefix.
    public func contains(_ other: IPv4Prefix) -> Bool { other.length >= length && contains(other.address) }

    /// Whether any address is in both.
    public func overlaps(_ other: IPv4Prefix) -> Bool { contains(other) || other.contains(self) }

    /// Orders by address, then by length.
    public static func < (left: IPv4Prefix, right: IPv4Prefix) -> Bool {
        (left.address, left.length) < (right.address, right.length)
    }
}

extension IPv4Prefix: CustomStringConvertible {
    /// `10.0.0.0/8`.
    public var description: String { "\(address)/\(length)" }
}

/// The two halves of `ADDRESS/LENGTH`, the length checked.
struct InterfaceAddressText<Text: StringProtocol> {
    let address: Text.SubSequence
    let length: Int

    init?(_ text: Text, separator: Character, limit: Int) {
        let parts = text.split(separator: separator, maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, (1...3).contains(parts[1].utf8.count),
            parts[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let length = Int(parts[1]),
            length <= limit
        else { return nil }
        address = parts[0]
        self.length = length
    }
}
