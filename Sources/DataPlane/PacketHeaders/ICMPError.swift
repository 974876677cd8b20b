import Addresses

/// An ICMP error message (RFC 792, RFC 4443) about a packet, sent back to where that packet came from.
public enum ICMPError: Sendable, Equatable {
    /// No peer holds the destination: type 3 code 0, or type 1 code 0 for IPv6.
    case noRoute
    /// The time to live ran out: type 11 code 0, or type 3 code 0 for IPv6.
    case timeExceeded

    /// What a message takes at most: 576 bytes for IPv4 (RFC 1812, 4.3.2.3), 1,280 for IPv6 (RFC 4443, 2.4).
    public static let messageLimit = 1280

    /// Whether an error about `packet` may be sent at all: not about ICMP errors, later fragments, and packets
    /// from or to what is no single host (RFC 1122, 3.2.2; RFC 4443, 2.4).
    public static func mayAnswer(_ packet: IPPacket) -> Bool {
        guard !packet.isLaterFragment else { return false }
        if packet.isIPv4 {
            guard packet.sourceIPv4.isUnicast, packet.destinationIPv4.isUnicast else { return false }
            guard packet.nextProtocol == 1 else { return true }
            guard packet.length > packet.headerLength else { return false }
            // Queries: echo, timestamp, information, address mask. Everything else is an error or unknown.
            switch packet.bytes.byte(packet.headerLength) {
            case 0, 8, 13...18: return true
            default: return false
            }
        }
        let source = packet.sourceIPv6
        guard !source.isMulticast, source != .any, !packet.destinationIPv6.isMulticast else { return false }
        guard packet.nextProtocol == 58 else { return true }
        return packet.length > 40 && packet.bytes.byte(40) >= 128
    }

    /// Writes the message about an IPv4 packet.
    ///
    /// - Parameters:
    ///   - packet: what the error is about; `mayAnswer` allowed it.
    ///   - source: the address that the message comes from.
    ///   - message: room for `messageLimit` bytes; must not overlap the packet.
    /// - Returns: the message's length in bytes, IP header included.
    public func write(about packet: IPPacket, from source: IPv4Address, to message: UnsafeMutableRawPointer)
        -> Int
    {
        let quoted = min(packet.length, 576 - 28)
        let total = 28 &+ quoted
        writeIPv4Header(message, total: total, source: source, destination: packet.sourceIPv4)
        message.setField32(24, 0)
        switch self {
        case .noRoute: message.setField16(20, 0x0300)
        case .timeExceeded: message.setField16(20, 0x0B00)
        }
        message.setField16(22, 0)
        (message + 28).copyMemory(from: packet.bytes, byteCount: quoted)
        var sum = InternetSum()
        sum.add(message + 20, count: 8 &+ quoted)
        message.setField16(22, sum.checksum)
        return total
    }

    /// Writes the message about an IPv6 packet; parameters and result as for IPv4.
    public func write(about packet: IPPacket, from source: IPv6Address, to message: UnsafeMutableRawPointer)
        -> Int
    {
        let quoted = min(packet.length, ICMPError.messageLimit &- 48)
        message.setField32(0, 0x6000_0000)
        message.setField16(4, UInt16(truncatingIfNeeded: 8 &+ quoted))
        message.setByte(6, 58)
        message.setByte(7, 64)
        message.setField64(8, source.high)
        message.setField64(16, source.low)
        (message + 24).copyMemory(from: packet.bytes + 8, byteCount: 16)
        message.setField32(44, 0)
        switch self {
        case .noRoute: message.setField16(40, 0x0100)
        case .timeExceeded: message.setField16(40, 0x0300)
        }
        message.setField16(42, 0)
        (message + 48).copyMemory(from: packet.bytes, byteCount: quoted)
        var sum = InternetSum(pseudoHeaderIPv6: message + 8, transport: 58, length: 8 &+ quoted)
        sum.add(message + 40, count: 8 &+ quoted)
        message.setField16(42, sum.checksum)
        return 48 &+ quoted
    }

    private func writeIPv4Header(
        _ message: UnsafeMutableRawPointer, total: Int, source: IPv4Address, destination: IPv4Address
    ) {
        // Precedence 6, internetwork control (RFC 1812, 4.3.2.5).
        message.setField32(0, 0x45C0_0000 | UInt32(truncatingIfNeeded: total))
        message.setField32(4, 0x0000_4000)
        message.setField32(8, 0x4001_0000)  // time to live 64, ICMP
        message.setField32(12, source.bits)
        message.setField32(16, destination.bits)
        var sum = InternetSum()
        sum.add(message, count: 20)
        message.setField16(10, sum.checksum)
    }
}
