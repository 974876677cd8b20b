import CLinux
import Offload
import Seeded
import Testing

// Inputs are placed so that a byte read past them, or a header written past its arena, faults. In release a million
// inputs for each parser, in debug a twentieth.
#if DEBUG
    private let inputsPerSeed = 6_250
#else
    private let inputsPerSeed = 125_000
#endif

/// Packets of every kind, to begin from.
private func corpus() -> [Bytes] {
    var corpus: [Bytes] = []
    for (version, transport) in flows {
        for count in [0, 1, 40, 700] {
            for options in [0, 12, 40] {
                var recipe = PacketRecipe()
                recipe.version = version
                recipe.transport = transport
                recipe.payload = Bytes(repeating: 0x5A, count: count)
                recipe.transportOptions = Bytes(repeating: 1, count: options)
                if version == .ipv4 { recipe.networkOptions = Bytes(repeating: 1, count: options / 12 * 4) }
                corpus.append(recipe.packet())
            }
        }
    }
    return corpus
}

extension SeededRandom {
    fileprivate mutating func mutate(_ packet: inout Bytes) {
        for _ in 0..<below(4) where !packet.isEmpty {
            let header = Swift.min(packet.count, 80)
            switch below(6) {
            case 0: packet[below(header)] = byte()
            case 1: packet[below(header)] ^= 1 << UInt8(below(8))
            case 2: packet.removeLast(below(packet.count + 1))
            case 3: packet += bytes(below(30))
            case 4: packet[below(header)] = [0, 1, 0x7F, 0x80, 0xFF, 0x45, 0x60][below(7)]
            default:
                // A length that fits after all leads further in.
                if packet.count >= 40 {
                    packet.setWord(packet[0] >> 4 == 6 ? 4 : 2, packet.count - (packet[0] >> 4 == 6 ? 40 : 0))
                }
            }
        }
    }
}

@Suite struct FuzzTests {
    @Test("No virtio-net header with any packet leads outside of packet, arena and vectors", arguments: 0..<8)
    func segmentPlan(seed: UInt64) {
        var random = SeededRandom(seed: 0x5E6 &+ seed)
        let corpus = corpus()
        let memory = GuardedMemory(capacity: 4096)
        defer { withExtendedLifetime(memory) {} }
        let arena = GuardedMemory(capacity: 64 * SegmentPlan.headerStride)
        defer { withExtendedLifetime(arena) {} }
        let vectorMemory = GuardedMemory(capacity: 128 * MemoryLayout<iovec>.stride)
        defer { withExtendedLifetime(vectorMemory) {} }
        var planned = 0
        for _ in 0..<inputsPerSeed {
            var bytes = corpus[random.below(corpus.count)]
            let start = bytes[0] >> 4 == 6 ? 40 : Int(bytes[0] & 0xF) * 4
            let isTCP = bytes[bytes[0] >> 4 == 6 ? 6 : 9] == 6
            var virtio = virtio_net_hdr(
                flags: 1, gso_type: isTCP ? (bytes[0] >> 4 == 6 ? 4 : 1) : 5,
                hdr_len: UInt16(random.below(0x10000)), gso_size: UInt16(1 + random.below(200)),
                csum_start: UInt16(start), csum_offset: isTCP ? 16 : 6)
            random.mutate(&bytes)
            switch random.below(12) {
            case 0: virtio.flags = random.byte()
            case 1: virtio.gso_type = random.byte()
            case 2: virtio.gso_size = UInt16(random.below(0x10000))
            case 3: virtio.csum_start = UInt16(random.below(bytes.count + 40))
            case 4: virtio.csum_offset = UInt16(random.below(bytes.count + 40))
            case 5: virtio.gso_type = 0
            default: break
            }
            let packet = memory.place(bytes)
            guard
                case .superPacket(let plan) = OffloadedPacket.examine(
                    header: virtio, packet: packet, length: bytes.count)
            else { continue }
            planned += 1
            var total = 0
            for segments in runs(of: plan, maximumSegments: 64) {
                let headers = arena.ending(segments.count * SegmentPlan.headerStride)
                let vectors = vectorMemory.ending(segments.count * 2 * MemoryLayout<iovec>.stride)
                    .bindMemory(to: iovec.self, capacity: segments.count * 2)
                plan.writeHeaders(of: segments, packet: packet, into: headers)
                let count = plan.writeVectors(of: segments, packet: packet, arena: headers, into: vectors)
                for index in 0..<count { total += vectors[index].iov_len }
            }
            let expected = plan.payloadBytes + plan.segmentCount * plan.headerBytes
            if total != expected || plan.headerBytes + plan.payloadBytes != bytes.count {
                Issue.record("seed \(seed): \(total) bytes sent, not \(expected)")
                return
            }
        }
        #expect(planned > inputsPerSeed / 4)
    }

    @Test("No packets lead the coalescer outside of them, and none get lost", arguments: 0..<8)
    func coalescer(seed: UInt64) {
        var random = SeededRandom(seed: 0xC0A &+ seed)
        let corpus = corpus()
        let memory = (0..<32).map { _ in GuardedMemory(capacity: 4096) }
        defer { withExtendedLifetime(memory) {} }
        var coalescer = Coalescer(slotLimit: 24, merges: .all)
        var added = 0
        var merged = 0
        var lengths: [Int] = []
        var inputs = 0
        while inputs < inputsPerSeed {
            var bytes = corpus[random.below(corpus.count)]
            // A run of one packet, and changes to it, so that the comparison of headers is reached.
            for _ in 0..<(1 + random.below(6)) {
                inputs += 1
                if bytes.count >= 40 && random.oneIn(2) {
                    let isIPv4 = bytes[0] >> 4 == 4
                    if isIPv4 { bytes.setWord(4, (bytes.word(4) + 1) & 0xFFFF) }
                    let start = isIPv4 ? 20 : 40
                    let isTCP = bytes[isIPv4 ? 9 : 6] == 6
                    if isTCP && bytes.count >= start + 20 {
                        let payload = bytes.count - start - Int(bytes[start + 12] >> 4) * 4
                        bytes.setLong(start + 4, (bytes.long(start + 4) + max(0, payload)) & 0xFFFF_FFFF)
                    }
                    if bytes.count >= start + (isTCP ? 20 : 8) {
                        fixChecksums(&bytes, transportOffset: start)
                    }
                } else {
                    random.mutate(&bytes)
                }
                let packet = memory[added].place(bytes)
                let addition = coalescer.add(packet, length: bytes.count)
                if addition != .full {
                    added += 1
                    lengths.append(bytes.count)
                }
                if addition == .joined { merged += 1 }
                guard addition == .full || added == memory.count else { continue }
                coalescer.close()
                var packets = 0
                var total = 0
                for index in 0..<coalescer.slotCount {
                    let slot = coalescer.slot(index)
                    packets += slot.packetCount
                    var count = 0
                    for vector in 0..<slot.vectorCount { count += slot.vectors[vector].iov_len }
                    if count != slot.byteCount {
                        Issue.record("seed \(seed): \(count), not \(slot.byteCount)")
                    }
                    total += count - 10
                }
                if packets != added || total > lengths.reduce(0, +) {
                    Issue.record("seed \(seed): \(packets) packets of \(added), \(total) bytes")
                    return
                }
                coalescer.reset()
                lengths.removeAll(keepingCapacity: true)
                added = 0
            }
        }
        #expect(merged > inputsPerSeed / 100)
    }
}
