public import CLinux
import PacketHeaders

/// How a super-packet is cut into the packets that go on the wire.
///
/// Only headers are written, into memory of the caller; payload is gathered where it lies. A plan describes the
/// packet as it was when the plan was made: what is to change in its headers (the hop limit) changes before.
///
/// The headers are those that the kernel's own segmentation writes (`tcp_gso_segment` in net/ipv4/tcp_offload.c,
/// `__udp_gso_segment` in net/ipv4/udp_offload.c, `inet_gso_segment` in net/ipv4/af_inet.c).
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

    let transportOffset: Int
    let isIPv6: Bool
    let isTCP: Bool
    /// False for UDP over IPv4 that came without a checksum and goes on without.
    let hasTransportChecksum: Bool
    /// The IPv4 header without total length, identification and checksum.
    let networkSum: InternetSum
    /// The pseudo header without length, and the transport header without length, sequence number, flags and
    /// checksum.
    let transportSum: InternetSum
    /// IPv4 identification of the first segment.
    let identification: UInt16
    /// TCP sequence number of the first segment.
    let sequence: UInt32
    /// Bytes 12 and 13 of the TCP header: data offset and flags.
    let tcpFlags: UInt16

    /// Bytes between the headers of two segments in the arena: 120 (IPv4 and TCP, both with all options), rounded
    /// up to two cache lines.
    public static let headerStride = 128

    /// Bytes of payload in the last segment: 1 to `segmentPayloadBytes`.
    public var lastPayloadBytes: Int { payloadBytes &- (segmentCount &- 1) &* segmentPayloadBytes }

    /// Bytes of each segment but the last, headers and payload: the segment size of a `UDP_SEGMENT` send.
    public var segmentBytes: Int { headerBytes &+ segmentPayloadBytes }

    /// Bytes of the segments of a range, headers and payload: what one send carries.
    public func byteCount(of segments: Range<Int>) -> Int {
        let whole = segments.count &* segmentBytes
        return segments.upperBound == segmentCount
            ? whole &- (segmentPayloadBytes &- lastPayloadBytes) : whole
    }
}

extension SegmentPlan {
    /// Plans the segmentation that `header` asks for, or refuses it.
    ///
    /// `hdr_len` is not looked at: it is wrong for forwarded packets. The lengths are those of the packet itself.
    static func make(
        header: virtio_net_hdr, packet: UnsafeMutableRawPointer, length: Int
    ) -> OffloadedPacket {
        let isTCP: Bool
        let wantsIPv6: Bool
        // The ECN bit needs nothing: CWR leaves on the first segment alone whether or not it is set.
        switch header.gso_type & ~virtio_net_hdr.segmentsECN {
        case virtio_net_hdr.segmentsTCPOverIPv4: (isTCP, wantsIPv6) = (true, false)
        case virtio_net_hdr.segmentsTCPOverIPv6: (isTCP, wantsIPv6) = (true, true)
        case virtio_net_hdr.segmentsUDP: (isTCP, wantsIPv6) = (false, length > 0 && packet.byte(0) >> 4 == 6)
        default: return .refused(.segmentation)
        }
        guard length >= IPv4Wire.headerBytes else { return .refused(.truncated) }
        guard packet.byte(0) >> 4 == (wantsIPv6 ? 6 : 4) else { return .refused(.version) }
        var network = NetworkHeader()
        if let refusal = wantsIPv6 ? network.readIPv6(packet, length) : network.readIPv4(packet, length) {
            return .refused(refusal)
        }
        guard network.transport == (isTCP ? TCPWire.number : UDPWire.number) else {
            return .refused(.transport)
        }
        let segment = packet + network.bytes
        let transportBytes = length &- network.bytes
        var transport = TransportHeader()
        if let refusal =
            isTCP ? transport.readTCP(segment, transportBytes) : transport.readUDP(segment, transportBytes)
        {
            return .refused(refusal)
        }

        let needsChecksum = header.flags & virtio_net_hdr.needsChecksum != 0
        if needsChecksum,
            Int(header.csum_start) != network.bytes || Int(header.csum_offset) != transport.checksumOffset
        {
            return .refused(.checksumPlace)
        }
        let checksum = segment.field16(transport.checksumOffset)
        let hasTransportChecksum = needsChecksum || isTCP || wantsIPv6 || checksum != 0

        let payloadBytes = transportBytes &- transport.bytes
        let segmentPayloadBytes = Int(header.gso_size)
        let headerBytes = network.bytes &+ transport.bytes
        guard segmentPayloadBytes > 0, payloadBytes > 0,
            headerBytes &+ min(segmentPayloadBytes, payloadBytes) <= SuperPacketLimits.sendBytes
        else { return .refused(.segmentSize) }
        let segmentCount = (payloadBytes &+ segmentPayloadBytes &- 1) / segmentPayloadBytes
        guard
            segmentCount <= (isTCP ? SuperPacketLimits.streamSegments : SuperPacketLimits.datagramSegments)
        else { return .refused(.segmentCount) }

        network.transportSum.add(segment, count: transport.bytes)
        network.transportSum.remove(checksum)
        if isTCP {
            network.transportSum.remove(transport.sequence)
            network.transportSum.remove(transport.tcpFlags)
        } else {
            network.transportSum.remove(segment.field16(UDPWire.length))
        }
        return .superPacket(
            SegmentPlan(
                headerBytes: headerBytes, payloadBytes: payloadBytes,
                // A segment is no longer than the payload, or `segmentBytes` would not bound what is sent.
                segmentPayloadBytes: min(segmentPayloadBytes, payloadBytes),
                segmentCount: segmentCount,
                transportOffset: network.bytes, isIPv6: wantsIPv6, isTCP: isTCP,
                hasTransportChecksum: hasTransportChecksum, networkSum: network.sum,
                transportSum: network.transportSum,
                identification: wantsIPv6 ? 0 : packet.field16(IPv4Wire.identification),
                sequence: transport.sequence, tcpFlags: transport.tcpFlags))
    }
}

/// What a plan needs to know of a super-packet's IP header.
private struct NetworkHeader {
    /// Bytes of the header; the transport header follows.
    var bytes = 0
    /// The number of the transport protocol.
    var transport: UInt8 = 0
    /// IPv4: the sum of the header without what differs between segments.
    var sum = InternetSum()
    /// The sum of the pseudo header without the length.
    var transportSum = InternetSum()

    /// Reads an IPv4 header of a packet of 20 bytes or more; returns why it cannot be segmented, or nil.
    @inline(__always)
    mutating func readIPv4(_ packet: UnsafeMutableRawPointer, _ length: Int) -> OffloadRefusal? {
        bytes = Int(packet.byte(0) & 0xF) &* 4
        guard bytes >= IPv4Wire.headerBytes, bytes <= length else { return .truncated }
        guard Int(packet.field16(IPv4Wire.totalLength)) == length else { return .length }
        guard packet.field16(IPv4Wire.fragment) & IPv4Wire.fragmentBits == 0 else { return .fragment }
        transport = packet.byte(IPv4Wire.transport)
        sum.add(packet, count: bytes)
        sum.remove(packet.field16(IPv4Wire.totalLength))
        sum.remove(packet.field16(IPv4Wire.identification))
        sum.remove(packet.field16(IPv4Wire.checksum))
        transportSum = InternetSum(
            pseudoHeaderIPv4: packet + IPv4Wire.addresses, transport: transport, length: 0)
        return nil
    }

    /// Reads an IPv6 header; returns why the packet cannot be segmented, or nil.
    @inline(__always)
    mutating func readIPv6(_ packet: UnsafeMutableRawPointer, _ length: Int) -> OffloadRefusal? {
        guard length >= IPv6Wire.headerBytes else { return .truncated }
        bytes = IPv6Wire.headerBytes
        guard Int(packet.field16(IPv6Wire.payloadLength)) == length &- bytes else { return .length }
        transport = packet.byte(IPv6Wire.transport)
        transportSum = InternetSum(
            pseudoHeaderIPv6: packet + IPv6Wire.addresses, transport: transport, length: 0)
        return nil
    }
}

/// What a plan needs to know of a super-packet's transport header.
private struct TransportHeader {
    /// Bytes of the header; the payload follows.
    var bytes = 0
    /// Where in it the checksum lies.
    var checksumOffset = 0
    /// TCP: the sequence number of the first payload byte.
    var sequence: UInt32 = 0
    /// TCP: the header's length and the flags, 16 bits.
    var tcpFlags: UInt16 = 0

    /// Reads a TCP header; returns why the packet cannot be segmented, or nil.
    @inline(__always)
    mutating func readTCP(_ segment: UnsafeMutableRawPointer, _ length: Int) -> OffloadRefusal? {
        guard length >= TCPWire.headerBytes else { return .truncated }
        checksumOffset = TCPWire.checksum
        sequence = segment.field32(TCPWire.sequence)
        tcpFlags = segment.field16(TCPWire.flags)
        bytes = Int(tcpFlags >> 12) &* 4
        guard bytes >= TCPWire.headerBytes, bytes <= length else { return .truncated }
        guard tcpFlags & (TCPWire.syn | TCPWire.rst | TCPWire.urg) == 0 else { return .flags }
        return nil
    }

    /// Reads a UDP header; returns why the packet cannot be segmented, or nil.
    @inline(__always)
    mutating func readUDP(_ segment: UnsafeMutableRawPointer, _ length: Int) -> OffloadRefusal? {
        guard length >= UDPWire.headerBytes else { return .truncated }
        checksumOffset = UDPWire.checksum
        bytes = UDPWire.headerBytes
        return Int(segment.field16(UDPWire.length)) == length ? nil : .length
    }
}

extension SegmentPlan {
    /// Writes the headers of a range of segments, `headerStride` apart.
    ///
    /// `arena` has room for `segments.count` times `headerStride` bytes, at any alignment, and lives until the
    /// send has completed. `packet` is the packet that the plan was made of; it is only read.
    public func writeHeaders(
        of segments: Range<Int>, packet: UnsafeMutableRawPointer, into arena: UnsafeMutableRawPointer
    ) {
        guard !segments.isEmpty else { return }
        arena.copyMemory(from: packet, byteCount: headerBytes)
        var header = arena
        for index in segments {
            if index != segments.lowerBound {
                // The bytes between the header and the next multiple of 16 are the arena's own.
                var offset = 0
                repeat {
                    header.storeBytes(
                        of: arena.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self),
                        toByteOffset: offset, as: SIMD16<UInt8>.self)
                    offset &+= 16
                } while offset < headerBytes
            }
            let payload = packet + (headerBytes &+ index &* segmentPayloadBytes)
            let payloadCount = index == segmentCount &- 1 ? lastPayloadBytes : segmentPayloadBytes
            finishNetworkHeader(header, index: index, payloadCount: payloadCount)
            finishTransportHeader(header + transportOffset, index: index, payload: payload, payloadCount)
            header += SegmentPlan.headerStride
        }
    }

    @inline(__always)
    private func finishNetworkHeader(_ header: UnsafeMutableRawPointer, index: Int, payloadCount: Int) {
        let length = UInt16(truncatingIfNeeded: headerBytes &+ payloadCount)
        if isIPv6 {
            header.setField16(
                IPv6Wire.payloadLength, length &- UInt16(truncatingIfNeeded: IPv6Wire.headerBytes))
            return
        }
        let identification = identification &+ UInt16(truncatingIfNeeded: index)
        var sum = networkSum
        sum.add(length)
        sum.add(identification)
        header.setField16(IPv4Wire.totalLength, length)
        header.setField16(IPv4Wire.identification, identification)
        header.setField16(IPv4Wire.checksum, sum.checksum)
    }

    @inline(__always)
    private func finishTransportHeader(
        _ header: UnsafeMutableRawPointer, index: Int, payload: UnsafeMutableRawPointer, _ payloadCount: Int
    ) {
        let length = UInt16(truncatingIfNeeded: headerBytes &- transportOffset &+ payloadCount)
        var sum = transportSum
        sum.add(length)
        if isTCP {
            var flags = tcpFlags
            if index != 0 { flags &= ~TCPWire.cwr }
            if index != segmentCount &- 1 { flags &= ~(TCPWire.fin | TCPWire.psh) }
            let sequence = sequence &+ UInt32(truncatingIfNeeded: index &* segmentPayloadBytes)
            sum.add(sequence)
            sum.add(flags)
            sum.add(payload, count: payloadCount)
            header.setField32(TCPWire.sequence, sequence)
            header.setField16(TCPWire.flags, flags)
            header.setField16(TCPWire.checksum, sum.checksum)
        } else {
            header.setField16(UDPWire.length, length)
            if hasTransportChecksum {
                // The length stands in the pseudo header and in the header.
                sum.add(length)
                sum.add(payload, count: payloadCount)
                header.setField16(UDPWire.checksum, sum.checksumUDP)
            }
        }
    }

    /// Writes two vectors for each segment of a range, its headers and its payload, and returns their number.
    ///
    /// `arena` is where `writeHeaders` wrote the same range; `vectors` has room for twice `segments.count`.
    public func writeVectors(
        of segments: Range<Int>, packet: UnsafeMutableRawPointer, arena: UnsafeMutableRawPointer,
        into vectors: UnsafeMutablePointer<iovec>
    ) -> Int {
        var header = arena
        var payload = packet + (headerBytes &+ segments.lowerBound &* segmentPayloadBytes)
        var next = vectors
        for index in segments {
            let payloadCount = index == segmentCount &- 1 ? lastPayloadBytes : segmentPayloadBytes
            next[0] = iovec(iov_base: header, iov_len: headerBytes)
            next[1] = iovec(iov_base: payload, iov_len: payloadCount)
            next += 2
            header += SegmentPlan.headerStride
            payload += segmentPayloadBytes
        }
        return segments.count &* 2
    }
}
