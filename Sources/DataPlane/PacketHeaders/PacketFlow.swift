/// Which flow a packet belongs to: all packets of one flow have the same number. Two flows may share one, which
/// costs them only that they do not pass each other.
public enum PacketFlow {
    /// The number of the flow of `length` bytes at `packet`: addresses, transport and, for TCP and UDP, ports. Never
    /// reads past them. What is no IP packet has a number as well.
    ///
    /// - Returns: nil where the packet does not tell: fragments, IPv4 options, IPv6 extension headers.
    @inlinable @inline(__always)
    public static func number(of packet: UnsafeMutableRawPointer, length: Int) -> UInt32? {
        guard length >= 24 else { return 0 }
        let first = packet.byte(0)
        if first >> 4 == 4 {
            // All of the fragment field but "do not fragment".
            guard first == 0x45, packet.field16(6) & 0xBFFF == 0 else { return nil }
            let transport = packet.byte(9)
            return number(hash(packet + 12, addressBytes: 8, ports(packet, at: 20, transport), transport))
        }
        guard first >> 4 == 6, length >= 44 else { return 0 }
        let transport = packet.byte(6)
        guard transport == tcp || transport == udp || transport == icmpIPv6 else { return nil }
        return number(hash(packet + 8, addressBytes: 32, ports(packet, at: 40, transport), transport))
    }

    /// Whether two packets are seen to be of one flow; cheaper than two numbers. Where they are not, their numbers
    /// may still be equal. Never reads past `length` bytes of either.
    @inlinable @inline(__always)
    public static func isShared(
        by first: UnsafeMutableRawPointer, _ second: UnsafeMutableRawPointer, length: Int
    ) -> Bool {
        guard length >= 24, first.byte(0) == 0x45, second.byte(0) == 0x45 else { return false }
        return (first.field16(6) | second.field16(6)) & 0xBFFF == 0 && first.byte(9) == second.byte(9)
            && first.field64(12) == second.field64(12)
            && ports(first, at: 20, first.byte(9)) == ports(second, at: 20, second.byte(9))
    }

    /// A hash of a flow, all of whose 64 bits depend on all of it. Whoever makes flows collide only keeps them from
    /// merging, and from passing each other.
    ///
    /// - Parameters:
    ///   - addresses: source and destination as they lie in the header.
    ///   - addressBytes: the bytes of both together: 8 or 32.
    ///   - ports: source and destination port as they lie in the header; 0 for a transport without.
    ///   - kind: what tells transports apart.
    @inlinable @inline(__always)
    public static func hash(
        _ addresses: UnsafeMutableRawPointer, addressBytes: Int, _ ports: UInt32, _ kind: UInt8
    ) -> UInt64 {
        var hash = (UInt64(ports) << 8 | UInt64(kind)) &* 0x9E37_79B9_7F4A_7C15
        for offset in stride(from: 0, to: addressBytes, by: 8) {
            hash ^= addresses.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            hash = (hash ^ hash >> 32) &* 0xD6E8_FEB8_6659_FD93
        }
        return hash ^ hash >> 32
    }

    /// Whether `length` bytes at `packet` are a TCP segment without payload in IPv4 or IPv6, as the receiver of a
    /// bulk flow sends them. Never reads past them.
    @inlinable @inline(__always)
    public static func isBareAcknowledgement(_ packet: UnsafeMutableRawPointer, length: Int) -> Bool {
        guard length >= 40 else { return false }
        let isIPv4 = packet.byte(0) >> 4 == 4
        let offset = isIPv4 ? 20 : 40
        guard packet.byte(isIPv4 ? 9 : 6) == tcp, length >= offset &+ 20 else { return false }
        return offset &+ Int(packet.byte(offset &+ 12) >> 4) &* 4 == length
    }

    /// Source and destination port as one word; 0 for a transport without.
    @inlinable @inline(__always)
    static func ports(_ packet: UnsafeMutableRawPointer, at offset: Int, _ transport: UInt8) -> UInt32 {
        guard transport == tcp || transport == udp else { return 0 }
        return packet.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
    }

    @inlinable @inline(__always)
    static func number(_ hash: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: hash) }

    @usableFromInline static let tcp: UInt8 = 6
    @usableFromInline static let udp: UInt8 = 17
    @usableFromInline static let icmpIPv6: UInt8 = 58
}
