import Addresses

/// An IPv4 packet and the datagram around it, with each field open to be wrong.
struct InnerPacket {
    var firstByte: UInt8 = 0x45
    /// Where it is nil, the length is right.
    var totalLength: Int?
    var fragment: UInt16 = 0x4000
    var hops: UInt8 = 64
    var transport: UInt8 = 17
    var checksumError: UInt16 = 0
    var source = IPv4Address(8, 0, 2, 9)
    var destination = IPv4Address(8, 0, 1, 7)
    var payload: [UInt8] = [0x30, 0x39, 0xD4, 0x31, 0, 12, 0, 0, 1, 2, 3, 4]

    var bytes: [UInt8] {
        header(
            firstByte: firstByte, totalLength: totalLength ?? 20 + payload.count, fragment: fragment,
            hops: hops, transport: transport, source: source, destination: destination,
            checksumError: checksumError) + payload
    }

    /// A TCP segment from 12345 to 54321.
    static func segment(flags: UInt8, payload: [UInt8] = []) -> InnerPacket {
        var packet = InnerPacket(transport: 6)
        packet.payload =
            [0x30, 0x39, 0xD4, 0x31, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x10, 0, 0, 0, 0, 0] + payload
        return packet
    }
}

/// A frame of the underlay with an inner packet.
struct OuterFrame {
    var ethernetType: UInt16 = 0x0800
    var firstByte: UInt8 = 0x45
    var totalLength: Int?
    var fragment: UInt16 = 0x4000
    var transport: UInt8 = 17
    var checksumError: UInt16 = 0
    var source = IPv4Address(10, 0, 0, 2)
    var destination = IPv4Address(10, 0, 0, 1)
    var port: UInt16 = 8285
    var udpLength: Int?
    var udpChecksum: UInt16 = 0
    var inner = InnerPacket()
    /// What comes behind the datagram.
    var trailer: [UInt8] = []

    static let link = [UInt8](repeating: 0, count: 12)

    var bytes: [UInt8] {
        let packet = inner.bytes
        let outer = header(
            firstByte: firstByte, totalLength: totalLength ?? 28 + packet.count, fragment: fragment, hops: 64,
            transport: transport, source: source, destination: destination, checksumError: checksumError)
        return OuterFrame.link + word(ethernetType) + outer + word(8285) + word(port)
            + word(UInt16(truncatingIfNeeded: udpLength ?? 8 + packet.count)) + word(udpChecksum) + packet
            + trailer
    }
}

private func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xFF)] }

private func header(
    firstByte: UInt8, totalLength: Int, fragment: UInt16, hops: UInt8, transport: UInt8,
    source: IPv4Address, destination: IPv4Address, checksumError: UInt16
) -> [UInt8] {
    var bytes: [UInt8] = [firstByte, 0] + word(UInt16(truncatingIfNeeded: totalLength)) + [0, 0]
    bytes += word(fragment) + [hops, transport, 0, 0]
    for address in [source, destination] {
        bytes += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: address.bits >> UInt32($0)) }
    }
    var sum = 0
    for place in stride(from: 0, to: 20, by: 2) { sum += Int(bytes[place]) << 8 | Int(bytes[place + 1]) }
    while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
    let checksum = ~UInt16(sum) &+ checksumError
    bytes.replaceSubrange(10..<12, with: word(checksum))
    return bytes
}
