import Addresses

/// A packet with one thing odd.
public struct OddPacket: Sendable {
    /// What is odd: `IPv4 total length 0`.
    public let name: String
    /// The packet.
    public let bytes: [UInt8]
}

/// Packets from one pod to another, in each of which one field of the IP header has an odd value, or whose end is missing; IPv4
/// checksums are right unless they are what is odd. IPv6 packets go from `fd00::1` to `fd00::2`.
public func malformedPackets(from source: IPv4Address, to destination: IPv4Address) -> [OddPacket] {
    let whole = Packets.udp(source, destination, payload: [UInt8](repeating: 0x5A, count: 32))
    var packets: [OddPacket] = []
    func ipv4(_ name: String, fixed: Bool = true, _ change: (inout [UInt8]) -> Void) {
        var packet = whole
        change(&packet)
        packets.append(OddPacket(name: "IPv4 \(name)", bytes: fixed ? withHeaderChecksum(packet) : packet))
    }
    for value in 0...15 {
        ipv4("version \(value)") { $0[0] = UInt8(value << 4 | 5) }
        ipv4("header length \(value)") { $0[0] = UInt8(0x40 | value) }
    }
    for value in [0, 1, 19, 20, 27, 28, whole.count - 1, whole.count + 1, 576, 1500, 0x7FFF, 0xFFFF] {
        ipv4("total length \(value)") { $0.setWord(2, value) }
    }
    for value in [0x0001, 0x1FFF, 0x2000, 0x2001, 0x3FFF, 0x8000, 0xC000, 0xE000, 0xFFFF] {
        ipv4("fragment field \(value)") { $0.setWord(6, value) }
    }
    for value in [0, 1, 2, 255] { ipv4("time to live \(value)") { $0[8] = UInt8(value) } }
    for value in [0, 1, 2, 4, 6, 41, 44, 47, 50, 58, 59, 60, 132, 254, 255] {
        ipv4("protocol \(value)") { $0[9] = UInt8(value) }
    }
    for value in [0x0000, 0xFFFF, 0x1234] {
        ipv4("checksum \(value)", fixed: false) { $0.setWord(10, value) }
    }
    for value in [1, 2, 3, 0xFF] { ipv4("class of service \(value)") { $0[1] = UInt8(value) } }
    for address in reservedAddresses where address.count == 4 {
        ipv4("source \(address)") { $0.replaceSubrange(12..<16, with: address) }
        ipv4("destination \(address)") { $0.replaceSubrange(16..<20, with: address) }
        ipv4("both addresses \(address)") { $0.replaceSubrange(12..<20, with: address + address) }
    }
    ipv4("source and destination exchanged") { $0.replaceSubrange(12..<20, with: $0[16..<20] + $0[12..<16]) }
    ipv4("source is destination") { $0.replaceSubrange(12..<16, with: $0[16..<20]) }
    for value in [0, 7, 8, 39, 41, 0xFFFF] { ipv4("UDP length \(value)") { $0.setWord(24, value) } }
    for option in [
        [0, 0, 0, 0], [7, 255, 4, 0], [7, 0, 0, 0], [131, 3, 4, 0], [148, 4, 0, 0], [1, 1, 1, 255],
    ] as [[UInt8]] {
        ipv4("option \(option)") {
            $0.insert(contentsOf: option, at: 20)
            $0[0] = 0x46
            $0.setWord(2, $0.count)
        }
    }
    for count in 0..<32 { ipv4("cut to \(count) bytes", fixed: false) { $0.removeLast($0.count - count) } }
    for count in [1, 2, 100] { ipv4("\(count) bytes too long") { $0 += [UInt8](repeating: 0, count: count) } }
    return packets
        + malformedIPv6Packets(from: IPv6Address("fd00::1")!, to: IPv6Address("fd00::2")!)
}

/// The same of IPv6 alone, between two addresses of it.
public func malformedIPv6Packets(from source: IPv6Address, to destination: IPv6Address) -> [OddPacket] {
    var recipe = PacketRecipe()
    recipe.version = .ipv6
    recipe.transport = .udp
    recipe.payload = [UInt8](repeating: 0x5A, count: 32)
    var whole = recipe.packet()
    whole.replaceSubrange(8..<40, with: networkBytes(.v6(source)) + networkBytes(.v6(destination)))
    fixChecksums(&whole, transportOffset: 40)
    var packets: [OddPacket] = []
    func ipv6(_ name: String, _ change: (inout [UInt8]) -> Void) {
        var packet = whole
        change(&packet)
        packets.append(OddPacket(name: "IPv6 \(name)", bytes: packet))
    }
    for value in 0...15 where value != 6 { ipv6("version \(value)") { $0[0] = UInt8(value << 4) } }
    for value in [0, 1, 7, 8, 39, 41, 1280, 0xFFFF] {
        ipv6("payload length \(value)") { $0.setWord(4, value) }
    }
    for value in [0, 1, 6, 41, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140, 253, 255] {
        ipv6("next header \(value)") { $0[6] = UInt8(value) }
    }
    for value in [0, 1, 255] { ipv6("hop limit \(value)") { $0[7] = UInt8(value) } }
    let addresses: [(String, [UInt8])] = [
        ("::", [UInt8](repeating: 0, count: 16)), ("::1", [UInt8](repeating: 0, count: 15) + [1]),
        ("ff02::1", [0xFF, 2] + [UInt8](repeating: 0, count: 13) + [1]),
        ("fe80::1", [0xFE, 0x80] + [UInt8](repeating: 0, count: 13) + [1]),
        ("::ffff:10.0.0.1", [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF, 10, 0, 0, 1]),
        ("all ones", [UInt8](repeating: 0xFF, count: 16)),
    ]
    for (name, address) in addresses {
        ipv6("source \(name)") { $0.replaceSubrange(8..<24, with: address) }
        ipv6("destination \(name)") { $0.replaceSubrange(24..<40, with: address) }
        ipv6("both addresses \(name)") { $0.replaceSubrange(8..<40, with: address + address) }
    }
    for count in [20, 39, 40, 47] { ipv6("cut to \(count) bytes") { $0.removeLast($0.count - count) } }
    return packets
}
