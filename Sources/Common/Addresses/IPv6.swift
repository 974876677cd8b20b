import Glibc

/// An IPv6 address (RFC 4291): 128 bits.
@frozen
public struct IPv6Address: Sendable, Hashable, Comparable {
    /// The upper 64 bits, host byte order.
    public var high: UInt64
    /// The lower 64 bits, host byte order.
    public var low: UInt64

    /// Makes an address from its halves in host byte order.
    @inlinable
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Parses the forms of RFC 4291 section 2.2, without a zone; nil for anything else.
    public init?(_ text: some StringProtocol) {
        var words: (UInt64, UInt64) = (0, 0)
        guard String(text).withCString({ inet_pton(AF_INET6, $0, &words) }) == 1 else { return nil }
        self.init(high: UInt64(bigEndian: words.0), low: UInt64(bigEndian: words.1))
    }

    /// `::`.
    public static let any = IPv6Address(high: 0, low: 0)

    /// Whether the address is in fe80::/10.
    public var isLinkLocal: Bool { high >> 54 == 0xFE80 >> 6 }

    /// Whether the address is ::1.
    public var isLoopback: Bool { high == 0 && low == 1 }

    /// Whether the address is in ff00::/8.
    public var isMulticast: Bool { high >> 56 == 0xFF }

    /// Orders by number.
    @inlinable
    public static func < (left: IPv6Address, right: IPv6Address) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}

extension IPv6Address: CustomStringConvertible {
    /// The canonical text of RFC 5952.
    public var description: String {
        var words = (high.bigEndian, low.bigEndian)
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        inet_ntop(AF_INET6, &words, &buffer, socklen_t(buffer.count))
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// An IPv6 prefix: an address whose host bits are zero, and a length of 0 to 128 bits.
@frozen
public struct IPv6Prefix: Sendable, Hashable, Comparable {
    /// The first address of the prefix.
    public let address: IPv6Address
    /// 0 to 128 bits.
    public let length: Int

    /// Makes a prefix; host bits of `address` are cleared. `length` outside 0 to 128 is a programming error.
    @inlinable
    public init(_ address: IPv6Address, length: Int) {
        precondition((0...128).contains(length))
        let mask = IPv6Prefix.mask(length: length)
        self.address = IPv6Address(high: address.high & mask.high, low: address.low & mask.low)
        self.length = length
    }

    /// Parses `fd00::/48`; host bits are cleared; nil for anything else.
    public init?(_ text: some StringProtocol) { self.init(text, separator: "/") }

    /// Parses `fd00::-48` (with `-`, as lease keys spell it) or `fd00::/48`; host bits are cleared.
    public init?(_ text: some StringProtocol, separator: Character) {
        guard let split = InterfaceAddressText(text, separator: separator, limit: 128),
            let address = IPv6Address(split.address)
        else { return nil }
        self.init(address, length: split.length)
    }

    /// The network mask of a length, in halves, host byte order.
    @inlinable
    public static func mask(length: Int) -> (high: UInt64, low: UInt64) {
        let high: UInt64 = length == 0 ? 0 : length >= 64 ? ~0 : ~0 << UInt64(64 - length)
        let low: UInt64 = length <= 64 ? 0 : ~0 << UInt64(128 - length)
        return (high, low)
    }

    /// The last address of the prefix.
    public var last: IPv6Address {
        let mask = IPv6Prefix.mask(length: length)
        return IPv6Address(high: address.high | ~mask.high, low: address.low | ~mask.low)
    }

    /// Whether `other` lies in the prefix.
    @inlinable
    public func contains(_ other: IPv6Address) -> Bool {
        let mask = IPv6Prefix.mask(length: length)
        return other.high & mask.high == address.high && other.low & mask.low == address.low
    }

    /// Whether all of `other` lies in the prefix.
    public func contains(_ other: IPv6Prefix) -> Bool { other.length >= length && contains(other.address) }

    /// Whether any address is in both.
    public func overlaps(_ other: IPv6Prefix) -> Bool { contains(other) || other.contains(self) }

    /// Orders by address, then by length.
    public static func < (left: IPv6Prefix, right: IPv6Prefix) -> Bool {
        left.address != right.address ? left.address < right.address : left.length < right.length
    }
}

extension IPv6Prefix: CustomStringConvertible {
    /// `fd00::/48`.
    public var description: String { "\(address)/\(length)" }
}
