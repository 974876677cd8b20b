import CLinux
import Offload

/// Packets as the kernel would hand them over: one TCP flow over IPv4 with timestamps, as Linux sends it.
enum TestTraffic {
    static let headerBytes = 20 + 32
    /// What fits beside the headers in an inner MTU of 1,472 bytes.
    static let segmentPayloadBytes = 1420

    /// A super-packet with its headers filled in and its payload, and the header that the TUN puts before it. The
    /// memory is the caller's.
    static func superPacket(segments: Int) -> (
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) {
        let length = headerBytes + segments * segmentPayloadBytes
        let packet = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 64)
        for offset in 0..<length {
            packet.storeBytes(
                of: UInt8(truncatingIfNeeded: offset &* 31), toByteOffset: offset, as: UInt8.self)
        }
        func set(_ offset: Int, _ bytes: [UInt8]) {
            for (index, byte) in bytes.enumerated() {
                packet.storeBytes(of: byte, toByteOffset: offset + index, as: UInt8.self)
            }
        }
        set(
            0,
            [
                0x45, 0, UInt8(length >> 8), UInt8(length & 0xFF), 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 2,
                10, 0, 2, 2,
            ])
        set(20, [0x9C, 0x40, 0x14, 0x51, 0, 0, 1, 0, 0, 0, 2, 0, 0x80, 0x10, 1, 0, 0, 0, 0, 0])
        set(40, [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        var header = virtio_net_hdr()
        header.flags = 1  // VIRTIO_NET_HDR_F_NEEDS_CSUM
        header.gso_type = 1  // VIRTIO_NET_HDR_GSO_TCPV4
        header.hdr_len = UInt16(headerBytes)
        header.gso_size = UInt16(segmentPayloadBytes)
        header.csum_start = 20
        header.csum_offset = 16
        return (header, packet, length)
    }

    /// The segments of a super-packet, each in memory of its own as they would arrive, `stride` apart.
    static func segments(_ count: Int, stride: Int) -> UnsafeMutableRawPointer {
        let (header, packet, length) = superPacket(segments: count)
        defer { packet.deallocate() }
        guard
            case .superPacket(let plan) = OffloadedPacket.examine(
                header: header, packet: packet, length: length)
        else { preconditionFailure("the test's super-packet is refused") }
        let arrived = UnsafeMutableRawPointer.allocate(byteCount: count * stride, alignment: 64)
        let arena = UnsafeMutableRawPointer.allocate(
            byteCount: count * SegmentPlan.headerStride, alignment: 64)
        defer { arena.deallocate() }
        plan.writeHeaders(of: 0..<count, packet: packet, into: arena)
        for index in 0..<count {
            let segment = arrived + index * stride
            segment.copyMemory(from: arena + index * SegmentPlan.headerStride, byteCount: headerBytes)
            (segment + headerBytes).copyMemory(
                from: packet + headerBytes + index * segmentPayloadBytes, byteCount: segmentPayloadBytes)
        }
        return arrived
    }
}
