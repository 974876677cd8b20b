import PacketHeaders

/// A transport checksum that a sender left to a device, where no device was on the way.
///
/// The kernel path of a peer sends packets as its kernel has them; on virtual links their TCP or UDP checksum is still
/// the bare sum of the pseudo header, for a kernel to complete. They are for the kernel path of this node, but where
/// that has none at the moment, or none yet, they come to the ring.
public enum UnfinishedChecksum {
    /// Completes the checksum of one whole packet where it is unfinished: TCP or UDP over IPv4 without options, or
    /// directly over IPv6, no fragment, whose checksum is that sum.
    ///
    /// A packet whose right checksum happens to be that sum (one in 65,536) comes out as it came in, as completing it
    /// gives the same checksum again. A damaged one of which that is true is given a right checksum, which is as likely
    /// as that a checksum misses damage at all.
    ///
    /// - Parameters:
    ///   - packet: the first byte of the IP header.
    ///   - length: of the packet in bytes; its headers have been found to say the same.
    /// - Returns: whether it was unfinished.
    @inlinable @inline(__always)
    public static func complete(_ packet: UnsafeMutableRawPointer, length: Int) -> Bool {
        let first = packet.byte(0)
        // Version 4 with a header of 20 bytes, no fragment; or version 6.
        let isIPv4 = first == 0x45
        guard isIPv4 ? packet.field16(6) & 0x3FFF == 0 : first >> 4 == 6 else { return false }
        let number = packet.byte(isIPv4 ? 9 : 6)
        let start = isIPv4 ? 20 : 40
        // Where the checksum stands in TCP's header of 20 bytes, and in UDP's of 8.
        let field: Int
        switch number {
        case 6 where length &- start >= 20: field = start &+ 16
        case 17 where length &- start >= 8: field = start &+ 6
        default: return false
        }
        let sum =
            isIPv4
            ? InternetSum(pseudoHeaderIPv4: packet + 12, transport: number, length: length &- start)
            : InternetSum(pseudoHeaderIPv6: packet + 8, transport: number, length: length &- start)
        guard sum.partialChecksum == packet.field16(field) else { return false }
        finish(packet, from: start, to: length, field: field)
        return true
    }

    /// Replaces the pseudo header's sum, which stands in the checksum field, with the checksum of all from `start` on.
    @usableFromInline
    static func finish(_ packet: UnsafeMutableRawPointer, from start: Int, to length: Int, field: Int) {
        var sum = InternetSum()
        sum.add(packet + start, count: length &- start)
        // As `skb_checksum_help` does for every transport: 0xFFFF for 0, which says "none" in UDP and means the
        // same as 0 elsewhere.
        packet.setField16(field, sum.checksumUDP)
    }
}
