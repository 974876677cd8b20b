import Addresses
import CLinux
import Glibc

/// What one receive brought, read from a datagram buffer: one datagram, or several of equal size.
@frozen
public struct ReceivedDatagrams {
    /// The first datagram's first byte.
    public let payload: UnsafeMutableRawPointer
    /// Bytes of all datagrams together.
    public let length: Int
    /// Bytes of each datagram but the last, which may be shorter; equal to `length` where there is one.
    public let segmentBytes: Int
    /// Whether the kernel cut something off.
    public let isTruncated: Bool

    /// How many datagrams; 0 where they have no bytes.
    @inlinable @inline(__always)
    public var count: Int { segmentBytes > 0 ? (length &+ segmentBytes &- 1) / segmentBytes : 0 }

    /// The sender's underlay address, read from its name before the payload; nil where the kernel named none.
    @inlinable @inline(__always)
    public var source: IPAddress? {
        IPAddress(
            socketName: payload - (PacketMemory.datagramPayloadOffset &- PacketMemory.nameOffset))
    }

    /// The sender's underlay address and port; nil where the kernel named none.
    @inlinable
    public var sender: Endpoint? {
        Endpoint(
            socketName: payload - (PacketMemory.datagramPayloadOffset &- PacketMemory.nameOffset))
    }

    /// Reads the layout that every engine leaves (`io_uring_recvmsg_out`, Linux 6.0): four 32-bit words (name length,
    /// control length, payload length, flags), the address, the control message, the payload.
    @inlinable @inline(__always)
    public init(_ buffer: UnsafeMutableRawPointer) {
        let controlLength = Int(buffer.load(fromByteOffset: 4, as: UInt32.self))
        length = Int(buffer.load(fromByteOffset: 8, as: UInt32.self))
        isTruncated = buffer.load(fromByteOffset: 12, as: UInt32.self) & UInt32(MSG_TRUNC) != 0
        let segment = Int(twill_read_coalesce_control(buffer + PacketMemory.controlOffset, controlLength))
        segmentBytes = segment > 0 ? segment : length
        payload = buffer + PacketMemory.datagramPayloadOffset
    }
}
