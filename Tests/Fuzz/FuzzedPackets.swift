import Addresses
import Seeded

/// Whole TCP and UDP packets from one address to another, of many flows and sizes, and as many with some bytes changed
/// at random; the same for the same seed.
public func fuzzedPackets(
    _ count: Int, seed: UInt64, from source: IPv4Address, to destination: IPv4Address
) -> [[UInt8]] {
    var random = SeededRandom(seed: seed)
    return (0..<count).map { number in
        var recipe = PacketRecipe()
        recipe.transport = random.oneIn(2) ? .tcp : .udp
        recipe.sourcePort = 1 + random.below(0xFFFF)
        recipe.destinationPort = 1 + random.below(0xFFFF)
        recipe.identification = number
        recipe.sequence = random.below(1 << 32)
        recipe.flags = random.below(0x40)
        recipe.hopLimit = random.oneIn(8) ? UInt8(random.below(4)) : 64
        recipe.dontFragment = random.oneIn(2)
        recipe.hasChecksum = recipe.transport == .tcp || !random.oneIn(4)
        // Around the largest that the kernel path takes, and around the MTU.
        let sizes = [0, 1, random.below(40), 200 + random.below(80), 1400 + random.below(40)]
        recipe.payload = random.bytes(random.one(of: sizes))
        if random.oneIn(8) { recipe.networkOptions = random.bytes(4 * (1 + random.below(10))) }
        var packet = recipe.packet()
        setAddresses(&packet, source, destination)
        fixChecksums(
            &packet, transportOffset: 20 + recipe.networkOptions.count,
            hasTransportChecksum: recipe.hasChecksum)
        guard random.oneIn(2) else { return packet }
        for _ in 0...random.below(3) { packet[random.below(min(packet.count, 44))] = random.byte() }
        if random.oneIn(10) { packet.removeLast(random.below(packet.count)) }
        return random.chance(70) ? withHeaderChecksum(packet) : packet
    }
}

/// Fragments of a UDP datagram from one address to another, in order and not, and with odd flags.
public func fragmentPackets(from source: IPv4Address, to destination: IPv4Address) -> [[UInt8]] {
    var recipe = PacketRecipe()
    recipe.transport = .udp
    recipe.dontFragment = false
    recipe.payload = [UInt8](repeating: 0xA5, count: 64)
    let whole = recipe.packet()
    return [0x2000, 0x2001, 0x0002, 0x0001, 0x2000, 0x6000, 0x4001].map { field in
        var packet = whole
        setAddresses(&packet, source, destination)
        packet.setWord(6, field)
        return withHeaderChecksum(packet)
    }
}

private func setAddresses(_ packet: inout [UInt8], _ source: IPv4Address, _ destination: IPv4Address) {
    packet.setLong(12, Int(source.bits))
    packet.setLong(16, Int(destination.bits))
}
