// A second opinion: packets built, checked and segmented byte by byte as the RFCs read, with nothing shared with
// the code under test.

typealias Bytes = [UInt8]

extension [UInt8] {
    func word(_ offset: Int) -> Int { Int(self[offset]) << 8 | Int(self[offset + 1]) }

    mutating func setWord(_ offset: Int, _ value: Int) {
        self[offset] = UInt8(value >> 8 & 0xFF)
        self[offset + 1] = UInt8(value & 0xFF)
    }

    func long(_ offset: Int) -> Int { word(offset) << 16 | word(offset + 2) }

    mutating func setLong(_ offset: Int, _ value: Int) {
        setWord(offset, value >> 16)
        setWord(offset + 2, value)
    }
}

/// RFC 1071, as its section 1 defines it: big-endian words, carries folded as they come, a zero byte at an odd end.
func naiveSum(_ bytes: some Sequence<UInt8>) -> Int {
    var sum = 0
    var isHigh = true
    for byte in bytes {
        sum += isHigh ? Int(byte) << 8 : Int(byte)
        if sum > 0xFFFF { sum -= 0xFFFF }
        isHigh.toggle()
    }
    return sum
}

enum Version { case ipv4, ipv6 }
enum Transport: UInt8 {
    case tcp = 6
    case udp = 17
}

/// What a packet is made of.
struct PacketRecipe {
    var version = Version.ipv4
    var transport = Transport.tcp
    var source = 1
    var destination = 2
    var sourcePort = 1000
    var destinationPort = 2000
    var trafficClass: UInt8 = 0
    var flowLabel = 0
    var hopLimit: UInt8 = 64
    var identification = 0
    var dontFragment = true
    var networkOptions: Bytes = []
    var sequence = 0
    var acknowledgment = 77
    var flags = 0x10
    var window = 500
    var urgent = 0
    var transportOptions: Bytes = []
    var payload: Bytes = []
    var hasChecksum = true

    /// The packet, lengths and checksums right.
    func packet() -> Bytes {
        var segment = Bytes()
        switch transport {
        case .tcp:
            segment = Bytes(repeating: 0, count: 20) + transportOptions
            segment.setLong(4, sequence & 0xFFFF_FFFF)
            segment.setLong(8, acknowledgment)
            segment.setWord(12, ((20 + transportOptions.count) / 4) << 12 | flags)
            segment.setWord(14, window)
            segment.setWord(18, urgent)
        case .udp:
            segment = Bytes(repeating: 0, count: 8)
            segment.setWord(4, 8 + payload.count)
        }
        segment.setWord(0, sourcePort)
        segment.setWord(2, destinationPort)
        segment += payload

        var header: Bytes
        switch version {
        case .ipv4:
            header = Bytes(repeating: 0, count: 20) + networkOptions
            header[0] = UInt8(0x40 | header.count / 4)
            header[1] = trafficClass
            header.setWord(2, header.count + segment.count)
            header.setWord(4, identification & 0xFFFF)
            header.setWord(6, dontFragment ? 0x4000 : 0)
            header[8] = hopLimit
            header[9] = transport.rawValue
            header.setLong(12, 0x0A00_0000 | source)
            header.setLong(16, 0x0A00_0000 | destination)
        case .ipv6:
            header = Bytes(repeating: 0, count: 40)
            header.setLong(0, 6 << 28 | Int(trafficClass) << 20 | flowLabel)
            header.setWord(4, segment.count)
            header[6] = transport.rawValue
            header[7] = hopLimit
            header[8] = 0xFD
            header.setLong(20, source)
            header[24] = 0xFD
            header.setLong(36, destination)
        }
        var packet = header + segment
        fixChecksums(&packet, transportOffset: header.count, hasTransportChecksum: hasChecksum)
        return packet
    }
}

func pseudoHeader(_ packet: Bytes, transportOffset: Int) -> Bytes {
    let length = packet.count - transportOffset
    if packet[0] >> 4 == 4 {
        return Bytes(packet[12..<20]) + [0, packet[9], UInt8(length >> 8), UInt8(length & 0xFF)]
    }
    return Bytes(packet[8..<40]) + [0, 0, UInt8(length >> 8), UInt8(length & 0xFF), 0, 0, 0, packet[6]]
}

/// Writes the IPv4 header checksum and the transport's.
func fixChecksums(_ packet: inout Bytes, transportOffset: Int, hasTransportChecksum: Bool = true) {
    let isIPv4 = packet[0] >> 4 == 4
    if isIPv4 {
        packet.setWord(10, 0)
        packet.setWord(10, ~naiveSum(packet[..<transportOffset]) & 0xFFFF)
    }
    let isTCP = packet[isIPv4 ? 9 : 6] == Transport.tcp.rawValue
    let field = transportOffset + (isTCP ? 16 : 6)
    packet.setWord(field, 0)
    guard hasTransportChecksum else { return }
    var checksum =
        ~naiveSum(pseudoHeader(packet, transportOffset: transportOffset) + packet[transportOffset...])
        & 0xFFFF
    if checksum == 0 && !isTCP { checksum = 0xFFFF }
    packet.setWord(field, checksum)
}

func transportChecksumIsRight(_ packet: Bytes, transportOffset: Int) -> Bool {
    naiveSum(pseudoHeader(packet, transportOffset: transportOffset) + packet[transportOffset...]) == 0xFFFF
}

/// The packets that a super-packet stands for.
func naiveSegments(
    _ packet: Bytes, transportOffset: Int, segmentPayload: Int, hasTransportChecksum: Bool = true
) -> [Bytes] {
    let isIPv4 = packet[0] >> 4 == 4
    let isTCP = packet[isIPv4 ? 9 : 6] == Transport.tcp.rawValue
    let headerCount = transportOffset + (isTCP ? Int(packet[transportOffset + 12] >> 4) * 4 : 8)
    var segments: [Bytes] = []
    var offset = headerCount
    while offset < packet.count {
        let end = min(offset + segmentPayload, packet.count)
        var segment = Bytes(packet[..<headerCount]) + Bytes(packet[offset..<end])
        if isIPv4 {
            segment.setWord(2, segment.count)
            segment.setWord(4, (packet.word(4) + segments.count) & 0xFFFF)
        } else {
            segment.setWord(4, segment.count - 40)
        }
        if isTCP {
            segment.setLong(
                transportOffset + 4, (packet.long(transportOffset + 4) + offset - headerCount) & 0xFFFF_FFFF)
            if end != packet.count { segment[transportOffset + 13] &= ~(0x01 | 0x08) }
            if offset != headerCount { segment[transportOffset + 13] &= ~0x80 }
        } else {
            segment.setWord(transportOffset + 4, segment.count - transportOffset)
        }
        fixChecksums(&segment, transportOffset: transportOffset, hasTransportChecksum: hasTransportChecksum)
        segments.append(segment)
        offset = end
    }
    return segments
}
