import Addresses
import Seeded

/// Whole TCP and UDP packets from one address to another, of many flows and sizes, and as many with some bytes changed
/// at random; the same for the same seed.
public func fuzzedPackets(
    _ count: Int, seed: UInt64, from source: IPAddress, to destination: IPAddress
) -> [[UInt8]] {
    var random = SeededRandom(seed: seed)
    let isIPv6 = source.v4 == nil
    return (0..<count).map { number in
        var recipe = PacketRecipe()
        recipe.version = isIPv6 ? .ipv6 : .ipv4
        recipe.transport = random.oneIn(2) ? .tcp : .udp
        recipe.sourcePort = 1 + random.below(0xFFFF)
        recipe.destinationPort = 1 + random.below(0xFFFF)
        recipe.identification = number
        recipe.sequence = random.below(1 << 32)
        recipe.flags = random.below(0x40)
        recipe.hopLimit = random.oneIn(8) ? UInt8(random.below(4)) : 64
        recipe.dontFragment = random.oneIn(2)
        // Over IPv6 a datagram always has one.
        recipe.hasChecksum = recipe.transport == .tcp || isIPv6 || !random.oneIn(4)
        // Around the largest that the kernel path takes, and around the MTU.
        let sizes = [0, 1, random.below(40), 200 + random.below(80), 1400 + random.below(40)]
        recipe.payload = random.bytes(random.one(of: sizes))
        if !isIPv6, random.oneIn(8) { recipe.networkOptions = random.bytes(4 * (1 + random.below(10))) }
        var packet = recipe.packet()
        setAddresses(&packet, source, destination)
        fixChecksums(
            &packet, transportOffset: isIPv6 ? 40 : 20 + recipe.networkOptions.count,
            hasTransportChecksum: recipe.hasChecksum)
        guard random.oneIn(2) else { return packet }
        for _ in 0...random.below(3) {
            packet[random.below(min(packet.count, isIPv6 ? 64 : 44))] = random.byte()
        }
        if random.oneIn(10) { packet.removeLast(random.below(packet.count)) }
        return !isIPv6 && random.chance(70) ? withHeaderChecksum(packet) : packet
    }
}

/// Fragments of a UDP datagram from one address to another, in order and not, and with odd flags. Those of IPv6 have a header of
/// their own for that.
public func fragmentPackets(from source: IPAddress, to destination: IPAddress) -> [[UInt8]] {
    var recipe = PacketRecipe()
    recipe.transport = .udp
    recipe.dontFragment = false
    recipe.payload = [UInt8](repeating: 0xA5, count: 64)
    let fields = [0x2000, 0x2001, 0x0002, 0x0001, 0x2000, 0x6000, 0x4001]
    if source.v4 != nil {
        let whole = recipe.packet()
        return fields.map { field in
            var packet = whole
            setAddresses(&packet, source, destination)
            packet.setWord(6, field)
            return withHeaderChecksum(packet)
        }
    }
    recipe.version = .ipv6
    let whole = recipe.packet()
    return fields.map { field in
        var packet = whole
        setAddresses(&packet, source, destination)
        packet[6] = 44
        // The flag "more" is the last bit, and the offset's are the first ones.
        let offset = field << 3 & 0xFFF8 | field >> 13 & 1
        packet.insert(contentsOf: [17, 0, UInt8(offset >> 8), UInt8(offset & 0xFF), 0, 0, 0, 7], at: 40)
        packet.setWord(4, packet.count - 40)
        return packet
    }
}

private func setAddresses(_ packet: inout [UInt8], _ source: IPAddress, _ destination: IPAddress) {
    let place = source.v4 == nil ? 8 : 12
    let bytes = networkBytes(source) + networkBytes(destination)
    packet.replaceSubrange(place..<place + bytes.count, with: bytes)
}

/// An address as it stands on the wire.
func networkBytes(_ address: IPAddress) -> [UInt8] {
    switch address {
    case .v4(let address): withUnsafeBytes(of: address.networkBytes) { Array($0) }
    case .v6(let address):
        withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) { Array($0) }
    }
}
