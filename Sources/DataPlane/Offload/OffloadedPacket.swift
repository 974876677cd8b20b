public import CLinux
import PacketHeaders

/// Why a packet that came with a virtio-net header cannot be sent: header and packet contradict each other, or
/// ask for what twill does not offer.
public enum OffloadRefusal: Sendable {
    /// Shorter than its own headers.
    case truncated
    /// Neither IPv4 nor IPv6, or another version than the segmentation type says.
    case version
    /// The length in the IP or UDP header is not the packet's.
    case length
    /// The transport is not what the segmentation type says; an IPv6 extension header counts as one.
    case transport
    /// A fragment cannot be cut into segments.
    case fragment
    /// The segmentation type is not TCP or UDP segmentation.
    case segmentation
    /// The segment size is 0, there is no payload, or a segment would not fit a UDP datagram.
    case segmentSize
    /// More segments than TCP or UDP of this kernel make (`SuperPacketLimits.streamSegments`, `datagramSegments`).
    case segmentCount
    /// SYN, RST or URG cannot be repeated on each segment.
    case flags
    /// The checksum to complete does not lie where the transport has it, or not in the packet.
    case checksumPlace
}

/// What becomes of a packet that the kernel handed over with a virtio-net header.
@frozen
public enum OffloadedPacket: Sendable {
    /// Goes on the wire as it lies in memory; a checksum that was left to the device has been completed.
    case whole
    /// Goes on the wire in segments.
    case superPacket(SegmentPlan)
    /// Is dropped.
    case refused(OffloadRefusal)

    /// Reads `header`, completes a checksum that it leaves to the device, plans segmentation if it asks for that.
    ///
    /// `packet` is an IP packet of `length` bytes, whose headers already are as they shall be on the wire: the
    /// hop limit has been counted down.
    @inlinable
    public static func examine(
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) -> OffloadedPacket {
        if header.gso_type == 0 && header.flags & virtio_net_hdr.needsChecksum == 0 { return .whole }
        return examineOffloads(header: header, packet: packet, length: length)
    }

    @usableFromInline
    static func examineOffloads(
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) -> OffloadedPacket {
        if header.gso_type == 0 {
            if let refusal = completeChecksum(header: header, packet: packet, length: length) {
                return .refused(refusal)
            }
            return .whole
        }
        return SegmentPlan.make(header: header, packet: packet, length: length)
    }

    /// Replaces the pseudo header's sum, which the kernel left in the checksum field, with the checksum from
    /// `csum_start` to the end of the packet. Returns why it did not, nil if it did.
    static func completeChecksum(
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) -> OffloadRefusal? {
        let start = Int(header.csum_start)
        let field = start &+ Int(header.csum_offset)
        guard field &+ 2 <= length,
            start >= (packet.byte(0) >> 4 == 6 ? IPv6Wire.headerBytes : IPv4Wire.headerBytes)
        else { return .checksumPlace }
        UnfinishedChecksum.finish(packet, from: start, to: length, field: field)
        return nil
    }
}
