import CLinux
import Glibc
import PacketHeaders
import Offload
import Devices

/// What the wire format asks of anybody who carries super-packets of TCP over IPv4, at its cheapest.
///
/// On the way out each segment's payload is summed up, for its checksum, and the segments are gathered, a header before each
/// payload; on the way in each payload is summed up again, to verify it, and the super-packet is scattered over a
/// write. The headers are all the first one's, which costs nothing; what the sums come to is not used; each super-packet
/// is one send and one receive (`gso_max_size` sees to that), so that nothing is joined, looked up or put in order. A
/// packet that is none goes as it is, virtio header included, whose first byte is no IPv4 header's.
struct Cut {
    /// An IPv4 and a TCP header with timestamps, as every segment of a bulk flow has them.
    private static let headerBytes = 52
    private static let firstByteOfIPv4: UInt8 = 0x45

    private let payloadBytes: Int
    private let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 2 * SuperPacketLimits.sendSegments)
    private let header = UnsafeMutablePointer<virtio_net_hdr>.allocate(capacity: 1)
    /// Of all payloads: nobody reads it.
    private var sum = InternetSum()

    /// - Parameter segmentBytes: the payload of a datagram.
    init(segmentBytes: Int) {
        payloadBytes = segmentBytes - Cut.headerBytes
        header.initialize(
            to: virtio_net_hdr(
                flags: UInt8(VIRTIO_NET_HDR_F_NEEDS_CSUM), gso_type: UInt8(VIRTIO_NET_HDR_GSO_TCPV4),
                hdr_len: UInt16(Cut.headerBytes), gso_size: UInt16(payloadBytes), csum_start: 20,
                csum_offset: 16))
    }

    /// Sends what was read, if it is a super-packet; false: it is none.
    ///
    /// - Parameter bytes: the virtio header and the packet.
    mutating func send(
        _ bytes: UnsafeMutableRawPointer, count: Int, over socket: Int32, to address: inout sockaddr_in
    ) -> Bool {
        guard bytes.load(as: virtio_net_hdr.self).gso_type != 0 else { return false }
        let packet = bytes + TunnelDevice.virtioHeaderLength
        let length = count - TunnelDevice.virtioHeaderLength
        var offset = Cut.headerBytes
        var places = 0
        while offset < length, places < 2 * SuperPacketLimits.sendSegments {
            let payload = min(payloadBytes, length - offset)
            sum.add(packet + offset, count: payload)
            vectors[places] = iovec(iov_base: packet, iov_len: Cut.headerBytes)
            vectors[places + 1] = iovec(iov_base: packet + offset, iov_len: payload)
            places += 2
            offset += payload
        }
        withUnsafeMutablePointer(to: &address) {
            var message = msghdr()
            message.msg_name = UnsafeMutableRawPointer($0)
            message.msg_namelen = socklen_t(MemoryLayout<sockaddr_in>.size)
            message.msg_iov = vectors
            message.msg_iovlen = places
            _ = sendmsg(socket, &message, 0)
        }
        return true
    }

    /// Writes the super-packet whose segments begin what has come; nil where a packet begins that is none. Returns the bytes
    /// of its datagrams.
    mutating func write(_ bytes: UnsafeMutableRawPointer, count: Int, to tunnel: Int32) -> Int? {
        guard count > Cut.headerBytes, bytes.load(as: UInt8.self) == Cut.firstByteOfIPv4 else { return nil }
        let packetBytes = Int(UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
        vectors[0] = iovec(iov_base: header, iov_len: TunnelDevice.virtioHeaderLength)
        vectors[1] = iovec(iov_base: bytes, iov_len: Cut.headerBytes)
        var places = 2
        var offset = 0
        var left = packetBytes - Cut.headerBytes
        while left > 0, offset < count, places < 2 * SuperPacketLimits.sendSegments {
            let payload = min(payloadBytes, left, count - offset - Cut.headerBytes)
            guard payload > 0 else { break }
            sum.add(bytes + offset + Cut.headerBytes, count: payload)
            vectors[places] = iovec(iov_base: bytes + offset + Cut.headerBytes, iov_len: payload)
            places += 1
            offset += Cut.headerBytes + payload
            left -= payload
        }
        // What came in part is lost: the kernel takes no packet that is shorter than its header says.
        if left == 0 { _ = writev(tunnel, vectors, Int32(places)) }
        return max(offset, Cut.headerBytes)
    }
}
