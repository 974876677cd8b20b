import Offload
import Seeded
import Testing

/// The packet with the bare sum of its pseudo header in the place of the checksum, as `skb_partial_csum_set` and the
/// kernel's own senders leave it.
private func unfinished(_ recipe: PacketRecipe) -> Bytes {
    var packet = recipe.packet()
    let start = recipe.version == .ipv4 ? 20 : 40
    packet.setWord(
        start + (recipe.transport == .tcp ? 16 : 6), naiveSum(pseudoHeader(packet, transportOffset: start)))
    return packet
}

private func recipe(_ random: inout SeededRandom) -> PacketRecipe {
    var recipe = PacketRecipe()
    recipe.version = random.oneIn(2) ? .ipv4 : .ipv6
    recipe.transport = random.oneIn(2) ? .tcp : .udp
    recipe.source = random.below(250)
    recipe.destination = random.below(250)
    recipe.sourcePort = random.below(0x10000)
    recipe.destinationPort = random.below(0x10000)
    recipe.hopLimit = random.byte()
    recipe.dontFragment = random.oneIn(2)
    recipe.sequence = random.below(1 << 32)
    recipe.flags = random.below(0x1000)
    if recipe.transport == .tcp { recipe.transportOptions = random.bytes(random.below(11) * 4) }
    recipe.payload = random.bytes(random.below(300))
    return recipe
}

@Suite struct UnfinishedChecksumTests {
    @Test("What was left to a device is completed, byte for byte", arguments: 0..<8)
    func completes(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let memory = GuardedMemory(capacity: 1024)
        defer { withExtendedLifetime(memory) {} }
        for _ in 0..<500 {
            let recipe = recipe(&random)
            let packet = unfinished(recipe)
            let place = memory.place(packet)
            #expect(UnfinishedChecksum.complete(place, length: packet.count), "seed \(seed): \(packet)")
            #expect(bytes(place, packet.count) == recipe.packet(), "seed \(seed)")
        }
    }

    @Test("What is whole comes out as it came in, whatever its checksum", arguments: 0..<8)
    func leavesAlone(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let memory = GuardedMemory(capacity: 1024)
        defer { withExtendedLifetime(memory) {} }
        for _ in 0..<500 {
            let packet = recipe(&random).packet()
            let place = memory.place(packet)
            _ = UnfinishedChecksum.complete(place, length: packet.count)
            #expect(bytes(place, packet.count) == packet, "seed \(seed)")
        }
    }

    /// The payload of such a packet sums up to what is left of 0xFFFF after twice the pseudo header's sum.
    @Test("A right checksum that is the pseudo header's sum stays", arguments: [Transport.tcp, .udp])
    func rightByChance(transport: Transport) {
        var found = 0
        for word in 0..<0x10000 {
            var recipe = PacketRecipe()
            recipe.transport = transport
            recipe.payload = [UInt8(word >> 8), UInt8(word & 0xFF)]
            let packet = recipe.packet()
            guard packet == unfinished(recipe) else { continue }
            found += 1
            var copy = packet
            let wasUnfinished = copy.withUnsafeMutableBytes {
                UnfinishedChecksum.complete($0.baseAddress!, length: $0.count)
            }
            #expect(wasUnfinished && copy == packet)
        }
        #expect(found > 0)
    }

    @Test("Damaged packets, fragments, options and other transports are left alone")
    func others() {
        var random = SeededRandom(seed: 7)
        for _ in 0..<500 {
            var recipe = recipe(&random)
            var packets: [Bytes] = []
            var damaged = unfinished(recipe)
            let start = recipe.version == .ipv4 ? 20 : 40
            damaged[start + (recipe.transport == .tcp ? 17 : 7)] ^= 1
            packets.append(damaged)
            var other = unfinished(recipe)
            other[recipe.version == .ipv4 ? 9 : 6] = [1, 47, 58, 132].randomElement(using: &random)!
            packets.append(other)
            packets.append(Array(unfinished(recipe).prefix(start + (recipe.transport == .tcp ? 19 : 7))))
            recipe.version = .ipv4
            for fragment in [0x2000, 0x0001, 0x3FFF] {
                var part = unfinished(recipe)
                part.setWord(6, fragment)
                packets.append(part)
            }
            recipe.networkOptions = [1, 1, 1, 1]
            packets.append(recipe.packet())
            for packet in packets {
                var copy = packet
                let wasUnfinished = copy.withUnsafeMutableBytes {
                    UnfinishedChecksum.complete($0.baseAddress!, length: $0.count)
                }
                #expect(!wasUnfinished && copy == packet)
            }
        }
    }

    @Test("Any bytes at all: none beside the checksum is written, none past the end is read")
    func anything() {
        var random = SeededRandom(seed: 11)
        let memory = GuardedMemory(capacity: 256)
        defer { withExtendedLifetime(memory) {} }
        for _ in 0..<20_000 {
            var packet = random.bytes(20 + random.below(60))
            packet[0] = random.oneIn(4) ? random.byte() : [0x45, 0x60].randomElement(using: &random)!
            // A whole IPv6 packet has its header.
            if packet[0] >> 4 == 6, packet.count < 40 { continue }
            let transport: UInt8 = random.oneIn(2) ? 6 : 17
            packet[packet[0] == 0x45 ? 9 : 6] = transport
            let place = memory.place(packet)
            let wasUnfinished = UnfinishedChecksum.complete(place, length: packet.count)
            var after = bytes(place, packet.count)
            if wasUnfinished {
                let field = (packet[0] == 0x45 ? 20 : 40) + (transport == 6 ? 16 : 6)
                after.setWord(field, packet.word(field))
            }
            #expect(after == packet)
        }
    }
}
