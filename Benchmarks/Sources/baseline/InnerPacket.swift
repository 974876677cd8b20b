import Addresses

/// The few fields of an IPv4 header (RFC 791) that flannel's forwarder looks at.
enum InnerPacket {
    static let minimumHeaderBytes = 20

    /// Whether the bytes start with an IPv4 header.
    static func isIPv4(_ packet: UnsafeMutableRawPointer, count: Int) -> Bool {
        count >= minimumHeaderBytes && packet.load(as: UInt8.self) >> 4 == 4
    }

    static func destination(_ packet: UnsafeMutableRawPointer) -> IPv4Address {
        IPv4Address(networkBytes: packet.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
    }

    /// Takes one from the time to live and mends the header checksum (RFC 1624, equation 3); false where
    /// that leaves nothing and the packet must go.
    static func decrementTimeToLive(_ packet: UnsafeMutableRawPointer) -> Bool {
        let timeToLive = packet.load(fromByteOffset: 8, as: UInt8.self)
        guard timeToLive > 1 else { return false }
        packet.storeBytes(of: timeToLive - 1, toByteOffset: 8, as: UInt8.self)
        let checksum = UInt16(bigEndian: packet.loadUnaligned(fromByteOffset: 10, as: UInt16.self))
        let sum = UInt32(checksum) + 0x0100
        let folded = UInt16(truncatingIfNeeded: sum + sum >> 16)
        packet.storeBytes(of: folded.bigEndian, toByteOffset: 10, as: UInt16.self)
        return true
    }
}
