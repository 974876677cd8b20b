import Addresses

/// Why bytes are not one whole IP packet.
public enum IPPacketFlaw: UInt8, Sendable {
    /// Shorter than the version's fixed header.
    case tooShort
    /// Neither version 4 nor 6.
    case version
    /// IPv4 header length below 20 bytes or beyond the packet.
    case headerLength
    /// The length that the header states is not the number of bytes.
    case totalLength
    /// The IPv4 header's checksum is wrong.
    case headerChecksum
}

/// One IP packet in memory that somebody else owns; valid as long as that memory is.
///
/// The initializer's caller has made sure by `flaw` that the bytes are a whole packet; the accessors then read
/// without further checks.
@frozen
public struct IPPacket {
    /// The packet's first byte.
    public let bytes: UnsafeMutableRawPointer
    /// The whole packet's length in bytes.
    public let length: Int

    /// Refers to a packet that `flaw` found none in.
    @inlinable @inline(__always)
    public init(_ bytes: UnsafeMutableRawPointer, length: Int) {
        self.bytes = bytes
        self.length = length
    }

    /// What is wrong with the bytes as an IP packet (RFC 791, RFC 8200), or nil. The stated length must be
    /// exactly `length`: a datagram that carries more or less is not one whole packet. IPv6 jumbograms are refused.
    ///
    /// - Parameters:
    ///   - bytes: the first byte of the IP header.
    ///   - length: how many bytes there are.
    ///   - verifyingChecksum: whether to verify the IPv4 header's checksum (what the kernel wrote needs none).
    @inlinable @inline(__always)
    public static func flaw(_ bytes: UnsafeMutableRawPointer, length: Int, verifyingChecksum: Bool)
        -> IPPacketFlaw?
    {
        guard length >= 20 else { return .tooShort }
        let first = bytes.byte(0)
        if first >> 4 == 4 {
            let headerLength = Int(first & 0xF) &* 4
            guard headerLength >= 20, headerLength <= length else { return .headerLength }
            guard Int(bytes.field16(2)) == length else { return .totalLength }
            if verifyingChecksum, !headerChecksumIsRight(bytes, headerLength: headerLength) {
                return .headerChecksum
            }
            return nil
        }
        guard first >> 4 == 6 else { return .version }
        guard length >= 40 else { return .tooShort }
        guard Int(bytes.field16(4)) &+ 40 == length else { return .totalLength }
        return nil
    }

    /// Whether the sum over an IPv4 header is all ones (RFC 1071). `headerLength`: a multiple of 4 bytes, 20 to 60.
    @inlinable @inline(__always)
    static func headerChecksumIsRight(_ bytes: UnsafeMutableRawPointer, headerLength: Int) -> Bool {
        var sum: UInt64 = 0
        var offset = 0
        while offset < headerLength {
            sum &+= UInt64(bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
            offset &+= 4
        }
        sum = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
        sum = (sum & 0xFFFF) &+ (sum >> 16)
        sum = (sum & 0xFFFF) &+ (sum >> 16)
        sum = (sum & 0xFFFF) &+ (sum >> 16)
        return sum == 0xFFFF
    }

    /// Whether the packet is IPv4; else it is IPv6.
    @inlinable @inline(__always)
    public var isIPv4: Bool { bytes.byte(0) >> 4 == 4 }

    /// The IPv4 source address.
    @inlinable @inline(__always)
    public var sourceIPv4: IPv4Address { IPv4Address(bits: bytes.field32(12)) }

    /// The IPv4 destination address.
    @inlinable @inline(__always)
    public var destinationIPv4: IPv4Address { IPv4Address(bits: bytes.field32(16)) }

    /// The IPv6 source address.
    @inlinable @inline(__always)
    public var sourceIPv6: IPv6Address { IPv6Address(high: bytes.field64(8), low: bytes.field64(16)) }

    /// The IPv6 destination address.
    @inlinable @inline(__always)
    public var destinationIPv6: IPv6Address { IPv6Address(high: bytes.field64(24), low: bytes.field64(32)) }

    /// IPv4's header length in bytes, or IPv6's fixed 40.
    @inlinable @inline(__always)
    public var headerLength: Int { isIPv4 ? Int(bytes.byte(0) & 0xF) &* 4 : 40 }

    /// The protocol of the payload (IPv4), or of the first extension header (IPv6).
    @inlinable @inline(__always)
    public var nextProtocol: UInt8 { isIPv4 ? bytes.byte(9) : bytes.byte(6) }

    /// Whether the packet is a fragment other than the first.
    @inlinable
    public var isLaterFragment: Bool {
        if isIPv4 { return bytes.field16(6) & 0x1FFF != 0 }
        return bytes.byte(6) == 44 && length >= 48 && bytes.field16(42) & 0xFFF8 != 0
    }

    /// Whether the packet goes to what no peer can hold: a multicast group, everybody on the link, or a link-local
    /// address. Kernels and programs send such on every interface that they find (router solicitations, MLD, mDNS).
    @inlinable
    public var isForTheLink: Bool {
        if isIPv4 {
            let destination = destinationIPv4
            return destination.bits >> 28 == 0xE || destination.bits == .max || destination.isLinkLocal
        }
        let destination = destinationIPv6
        return destination.isMulticast || destination.isLinkLocal
    }

    /// Whether the source is an address that a host on a network may have: none that is reserved, such as 0.0.0.0/8,
    /// 127.0.0.0/8, multicast and 240.0.0.0/4 (RFC 6890), or `::`, `::1`, multicast and link-local.
    @inlinable
    public var comesFromAHost: Bool {
        if isIPv4 {
            let source = sourceIPv4
            return source.isUnicast && !source.isLoopback
        }
        let source = sourceIPv6
        return source != .any && !source.isLoopback && !source.isMulticast && !source.isLinkLocal
    }

    /// Decrements the time to live (hop limit), with the header checksum updated (RFC 1624).
    /// Returns false, and changes nothing, where none is left to go on.
    @inlinable @inline(__always)
    public func decrementTimeToLive() -> Bool {
        if isIPv4 {
            let timeToLive = bytes.byte(8)
            guard timeToLive > 1 else { return false }
            bytes.setByte(8, timeToLive &- 1)
            let sum = UInt32(bytes.field16(10)) &+ 0x0100
            bytes.setField16(10, UInt16(truncatingIfNeeded: sum &+ (sum >= 0xFFFF ? 1 : 0)))
            return true
        }
        let hopLimit = bytes.byte(7)
        guard hopLimit > 1 else { return false }
        bytes.setByte(7, hopLimit &- 1)
        return true
    }

    /// Marks that congestion was experienced (RFC 3168, 5.), with the IPv4 header checksum updated.
    /// Returns false, and changes nothing, where the sender takes no part in congestion notification.
    @inlinable
    public func markCongestion() -> Bool {
        let second = bytes.byte(1)
        let mark: UInt8 = isIPv4 ? 0x03 : 0x30
        guard second & mark != 0 else { return false }
        let before = bytes.field16(0)
        bytes.setByte(1, second | mark)
        guard isIPv4 else { return true }
        bytes.setField16(
            10, InternetSum.checksum(bytes.field16(10), replacing: before, with: bytes.field16(0)))
        return true
    }
}
