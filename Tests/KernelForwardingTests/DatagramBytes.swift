import Addresses
import Forwarding
import Testing

/// The family that nodes reach each other by, and that of the packets between their pods; and who has which address there.
struct Families: Sendable, Hashable, CustomTestStringConvertible {
    var underlay: AddressFamily
    var inner: AddressFamily

    static let ipv4 = Families(underlay: .ipv4, inner: .ipv4)
    static let all = AddressFamily.allCases.flatMap { underlay in
        AddressFamily.allCases.map { Families(underlay: underlay, inner: $0) }
    }

    /// The numbers of IPv6's extension headers, as IANA lists them.
    static let extensions: [UInt8] = [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254]

    var testDescription: String { "\(inner) over \(underlay)" }

    /// A pod of a node: 8.0.1.7, or fd00:0:86dd:1::7. The kernel runs a program on frames, and takes the bytes at 12 and 13 for
    /// their type: in a bare packet the source stands there, which has the type of its family so.
    func pod(_ node: UInt8, _ host: UInt8) -> IPAddress {
        switch inner {
        case .ipv4: .v4(IPv4Address(8, 0, node, host))
        case .ipv6: .v6(IPv6Address(high: 0xFD00_0000_86DD_0000 | UInt64(node), low: UInt64(host)))
        }
    }

    /// A node: 10.0.0.1, or fd00::1.
    func node(_ number: UInt8) -> IPAddress {
        switch underlay {
        case .ipv4: .v4(IPv4Address(10, 0, 0, number))
        case .ipv6: .v6(IPv6Address(high: 0xFD00 << 48, low: UInt64(number)))
        }
    }

    func endpoint(_ number: UInt8) -> Endpoint { Endpoint(address: node(number), port: 8285) }

    /// The bytes of an IP header.
    static func headerBytes(_ family: AddressFamily) -> Int { family == .ipv4 ? 20 : 40 }
    /// Where the inner packet begins in a frame.
    var innerOffset: Int { 14 + Families.headerBytes(underlay) + 8 }
    /// The bytes of the inner packet's IP header.
    var innerHeaderBytes: Int { Families.headerBytes(inner) }
    /// The type of frames of the underlay.
    var ethernetType: UInt16 { underlay == .ipv4 ? 0x0800 : 0x86DD }
}

/// What an IP header of either family says, with each field open to be wrong.
struct HeaderFields {
    /// Of IPv4 version and header length, of IPv6 version and half of the traffic class; nil where they are right.
    var firstByte: UInt8?
    /// Of IPv4 the total length, of IPv6 the payload's; nil where it is right.
    var length: Int?
    /// IPv4 alone.
    var fragment: UInt16 = 0x4000
    var hops: UInt8 = 64
    /// The protocol, or next header.
    var transport: UInt8 = 17
    /// IPv4 alone.
    var checksumError: UInt16 = 0
    var source: IPAddress
    var destination: IPAddress

    func bytes(payloadBytes: Int) -> [UInt8] {
        let addresses = [source, destination].flatMap(addressBytes)
        guard source.v4 != nil else {
            let length = UInt16(truncatingIfNeeded: length ?? payloadBytes)
            return [firstByte ?? 0x60, 0, 0, 0] + word(length) + [transport, hops] + addresses
        }
        var bytes: [UInt8] = [firstByte ?? 0x45, 0]
        bytes += word(UInt16(truncatingIfNeeded: length ?? 20 + payloadBytes)) + [0, 0] + word(fragment)
        bytes += [hops, transport, 0, 0] + addresses
        var sum = 0
        for place in stride(from: 0, to: 20, by: 2) { sum += Int(bytes[place]) << 8 | Int(bytes[place + 1]) }
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
        bytes.replaceSubrange(10..<12, with: word(~UInt16(sum) &+ checksumError))
        return bytes
    }
}

/// An inner packet.
struct InnerPacket {
    var header: HeaderFields
    var payload: [UInt8] = [0x30, 0x39, 0xD4, 0x31, 0, 12, 0, 0, 1, 2, 3, 4]

    /// A UDP packet from a pod of node 2 to one of this node's.
    init(_ families: Families = .ipv4) {
        header = HeaderFields(source: families.pod(2, 9), destination: families.pod(1, 7))
    }

    /// One the other way, of 12 bytes of payload more than the header's 8: the kernel runs a program on nothing shorter than an
    /// Ethernet and an IPv4 header.
    static func leaving(_ families: Families = .ipv4) -> InnerPacket {
        var packet = InnerPacket(families).turned
        packet.payload += [UInt8](repeating: 0, count: 8)
        return packet
    }

    var turned: InnerPacket {
        var packet = self
        (packet.header.source, packet.header.destination) = (header.destination, header.source)
        return packet
    }

    var bytes: [UInt8] { header.bytes(payloadBytes: payload.count) + payload }

    /// A TCP segment from 12345 to 54321.
    static func segment(_ families: Families = .ipv4, flags: UInt8, payload: [UInt8] = []) -> InnerPacket {
        var packet = InnerPacket(families)
        packet.header.transport = 6
        packet.payload =
            [0x30, 0x39, 0xD4, 0x31, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x10, 0, 0, 0, 0, 0] + payload
        return packet
    }

    /// Makes it one that does not tell its ports: of IPv4 a fragment, of IPv6 one with a fragment's header.
    mutating func hideItsPorts() {
        if header.source.v4 != nil {
            header.fragment = 0x2000
        } else {
            payload = [header.transport, 0, 0, 1, 0, 0, 0, 7] + payload
            header.transport = 44
        }
    }
}

/// A frame of the underlay with an inner packet.
struct OuterFrame {
    var ethernetType: UInt16
    var header: HeaderFields
    var sourcePort: UInt16 = 8285
    var port: UInt16 = 8285
    var udpLength: Int?
    var udpChecksum: UInt16 = 0
    var inner: InnerPacket
    /// What comes behind the datagram.
    var trailer: [UInt8] = []

    static let link = [UInt8](repeating: 0, count: 12)

    /// From node 2 to this one.
    init(_ families: Families = .ipv4) {
        ethernetType = families.ethernetType
        header = HeaderFields(source: families.node(2), destination: families.node(1))
        inner = InnerPacket(families)
    }

    var bytes: [UInt8] {
        let packet = inner.bytes
        let udp =
            word(sourcePort) + word(port) + word(UInt16(truncatingIfNeeded: udpLength ?? 8 + packet.count))
            + word(udpChecksum)
        return OuterFrame.link + word(ethernetType) + header.bytes(payloadBytes: 8 + packet.count) + udp
            + packet + trailer
    }
}

func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xFF)] }

/// As they stand on the wire.
func addressBytes(_ address: IPAddress) -> [UInt8] {
    switch address {
    case .v4(let address): withUnsafeBytes(of: address.networkBytes) { Array($0) }
    case .v6(let address):
        withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) { Array($0) }
    }
}
