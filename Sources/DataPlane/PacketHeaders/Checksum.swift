public import CLinux

/// A one's complement sum of 16-bit words, from which Internet checksums are made (RFC 1071).
///
/// The sum is kept unfolded and in native byte order, which RFC 1071 section 2 (B) allows; values come and go
/// in host byte order, as `field16` and `setField16` have them. It holds at least 2^17 times 64 KiB.
@frozen
public struct InternetSum: Sendable {
    @usableFromInline var words: UInt64

    /// An empty sum.
    @inlinable @inline(__always)
    public init() { words = 0 }

    /// Adds `count` bytes, which begin at an even offset of what is summed. A zero byte pads an odd count, so
    /// such a block has to be the last one.
    @inlinable @inline(__always)
    public mutating func add(_ bytes: UnsafeRawPointer, count: Int) {
        words &+= twill_internet_sum(bytes, count)
    }

    /// Adds 8 bytes, which begin at an even offset of what is summed.
    @inlinable @inline(__always)
    public mutating func add8(_ bytes: UnsafeRawPointer) {
        let word = bytes.loadUnaligned(as: UInt64.self)
        words &+= (word & 0xFFFF_FFFF) &+ (word >> 32)
    }

    /// Adds a 16-bit field, host byte order.
    @inlinable @inline(__always)
    public mutating func add(_ field: UInt16) { words &+= UInt64(field.bigEndian) }

    /// Adds a 32-bit field, host byte order.
    @inlinable @inline(__always)
    public mutating func add(_ field: UInt32) { words &+= UInt64(field.bigEndian) }

    /// Takes back a 16-bit field, host byte order, that was added before.
    @inlinable @inline(__always)
    public mutating func remove(_ field: UInt16) { add(~field) }

    /// Takes back a 32-bit field, host byte order, that was added before.
    @inlinable @inline(__always)
    public mutating func remove(_ field: UInt32) { add(~field) }

    /// The sum in 16 bits, host byte order, not complemented: what a header holds of its pseudo header when
    /// the rest is left to a device. 0 only if nothing but zeros was added.
    @inlinable @inline(__always)
    public var partialChecksum: UInt16 { UInt16(bigEndian: folded) }

    /// The checksum to write, host byte order. Never 0xFFFF for a sum that holds anything but zeros.
    @inlinable @inline(__always)
    public var checksum: UInt16 { ~partialChecksum }

    /// The checksum to write into a UDP header, where 0 says that there is none (RFC 768), host byte order.
    @inlinable @inline(__always)
    public var checksumUDP: UInt16 {
        let checksum = checksum
        return checksum == 0 ? 0xFFFF : checksum
    }

    /// Whether what was summed, its checksum field included, is intact.
    @inlinable @inline(__always)
    public var isIntact: Bool { folded == 0xFFFF }

    @inlinable @inline(__always)
    var folded: UInt16 {
        // Each step at least halves the width of what is above: 64 to 33, 32, 17, 16 bits.
        var sum = (words & 0xFFFF_FFFF) &+ (words >> 32)
        sum = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
        sum = (sum & 0xFFFF) &+ (sum >> 16)
        sum = (sum & 0xFFFF) &+ (sum >> 16)
        return UInt16(truncatingIfNeeded: sum)
    }
}

extension InternetSum {
    /// The IPv4 pseudo header (RFC 9293 section 3.1, RFC 768). `addresses` are the 8 bytes of source and
    /// destination in the header; `length` is that of the transport header and payload, bytes.
    @inlinable @inline(__always)
    public init(pseudoHeaderIPv4 addresses: UnsafeRawPointer, transport: UInt8, length: Int) {
        self.init()
        add8(addresses)
        add(UInt16(transport))
        add(UInt16(truncatingIfNeeded: length))
    }

    /// The IPv6 pseudo header (RFC 8200 section 8.1). `addresses` are the 32 bytes of source and destination in
    /// the header; `length` is that of the transport header and payload, bytes.
    @inlinable @inline(__always)
    public init(pseudoHeaderIPv6 addresses: UnsafeRawPointer, transport: UInt8, length: Int) {
        self.init()
        add8(addresses)
        add8(addresses + 8)
        add8(addresses + 16)
        add8(addresses + 24)
        add(UInt16(transport))
        add(UInt32(truncatingIfNeeded: length))
    }

    /// The checksum of a header in which one field changed from `old` to `new` (RFC 1624, equation 3); all in
    /// host byte order.
    @inlinable @inline(__always)
    public static func checksum(_ checksum: UInt16, replacing old: UInt16, with new: UInt16) -> UInt16 {
        var sum = InternetSum()
        sum.add(~checksum)
        sum.add(~old)
        sum.add(new)
        return sum.checksum
    }
}
