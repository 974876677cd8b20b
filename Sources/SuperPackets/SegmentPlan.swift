public import CLinux
public import PacketHeaders

/// Why a packet that came with a virtio-net header cannot be sent: header and packet contradict each other, or
/// ask for what twill does not offer.
public enum OffloadRefusal: UInt8, Sendable, CaseIterable {
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
    /// SYN, RST or URG cannot be repeated on each segment.
    case flags
    /// The checksum to complete does not lie where the transport has it, or not in the packet.
    case checksumPlace
}

/// How a super-packet is cut into the packets that go on the wire.
///
/// Only headers are written, into memory of the caller; payload is gathered where it lies. A plan describes the
/// packet as it was when the plan was made: whatever changes in its headers (the hop limit) changes before.
@frozen
public struct SegmentPlan: Sendable {
    /// Bytes of IP and transport header on each segment: 28 to 120.
    public let headerBytes: Int
    /// Bytes of payload in all: 1 to 65,507.
    public let payloadBytes: Int
    /// Bytes of payload in each segment but the last.
    public let segmentPayloadBytes: Int
    /// The number of segments: 1 or more.
    public let segmentCount: Int

    @usableFromInline let transportOffset: Int
    @usableFromInline let isTCP: Bool
    @usableFromInline let isIPv6: Bool
    @usableFromInline let hasTransportChecksum: Bool
    /// The IPv4 header without total length, identification and checksum.
    @usableFromInline let networkSum: InternetSum
    /// The pseudo header without length and the transport header without length, sequence number, flags and
    /// checksum.
    @usableFromInline let transportSum: InternetSum
    /// IPv4 identification of the first segment.
    @usableFromInline let identification: UInt16
    /// TCP sequence number of the first segment.
    @usableFromInline let sequence: UInt32
    /// Bytes 12 and 13 of the TCP header: data offset and flags.
    @usableFromInline let tcpFlags: UInt16

    /// Bytes between the headers of two segments in the arena: 120 (IPv4 and TCP with all options), rounded up.
    public static let headerStride = 128

    /// Bytes of payload in the last segment: 1 to `segmentPayloadBytes`.
    public var lastPayloadBytes: Int { payloadBytes - (segmentCount - 1) * segmentPayloadBytes }

    /// Bytes of the segments of a range, headers and payload: what one send carries.
    public func byteCount(of segments: Range<Int>) -> Int { fatalError("skeleton") }

    /// The number of sends that the segments need, each with at most `maximumSegments` segments and 65,507 bytes.
    public func sendCount(maximumSegments: Int) -> Int { fatalError("skeleton") }

    /// The segments of send `index` of `count`; the sends differ by at most one segment, the longer ones first.
    public func segments(ofSend index: Int, of count: Int) -> Range<Int> { fatalError("skeleton") }

    /// Writes the headers of a range of segments, `headerStride` apart, from `arena` on.
    public func writeHeaders(
        of segments: Range<Int>, packet: UnsafeMutableRawPointer, into arena: UnsafeMutableRawPointer
    ) { fatalError("skeleton") }

    /// Writes two vectors for each segment of a range, header and payload, and returns their number. `arena` is
    /// where `writeHeaders` was given to write the same range.
    public func writeVectors(
        of segments: Range<Int>, packet: UnsafeMutableRawPointer, arena: UnsafeMutableRawPointer,
        into vectors: UnsafeMutablePointer<iovec>
    ) -> Int { fatalError("skeleton") }
}

/// What becomes of a packet that the kernel handed over with a virtio-net header.
public enum OffloadedPacket: Sendable {
    /// Goes on the wire as it lies in memory; a checksum that was left to the device has been completed.
    case whole
    /// Goes on the wire in segments.
    case superPacket(SegmentPlan)
    /// Is dropped.
    case refused(OffloadRefusal)

    /// Reads `header`, completes a checksum that it leaves to the device, plans segmentation if it asks for that.
    /// `packet` is an IP packet of `length` bytes.
    public static func examine(
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) -> OffloadedPacket { fatalError("skeleton") }
}
