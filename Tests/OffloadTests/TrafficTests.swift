import CLinux
import Offload
import Seeded
import Testing

/// Flows that mostly send runs of full segments, and sometimes anything else.
private struct Traffic {
    private struct Flow {
        var recipe: PacketRecipe
        var size: Int
    }

    private var flows: [Flow]
    private var random: SeededRandom

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        flows = []
        for _ in 0..<(1 + random.below(6)) {
            var recipe = PacketRecipe()
            recipe.version = random.oneIn(2) ? .ipv4 : .ipv6
            recipe.transport = random.oneIn(2) ? .tcp : .udp
            // Few addresses, so that packets that hide their flow meet others.
            recipe.source = random.below(2)
            recipe.destination = 2 + random.below(2)
            recipe.sourcePort = random.below(4)
            recipe.destinationPort = random.below(4)
            recipe.dontFragment = random.oneIn(2)
            recipe.sequence = random.below(1 << 32)
            recipe.identification = random.below(0x10000)
            recipe.hasChecksum = recipe.version == .ipv6 || !random.oneIn(8)
            if random.oneIn(2) { recipe.transportOptions = random.bytes(12) }
            flows.append(
                Flow(recipe: recipe, size: random.oneIn(2) ? 1 + random.below(30) : 1 + random.below(1460)))
        }
    }

    mutating func packets(_ count: Int) -> [Bytes] {
        var packets: [Bytes] = []
        while packets.count < count {
            let flow = random.below(flows.count)
            for _ in 0..<(1 + random.below(12)) { packets.append(next(of: flow)) }
        }
        return packets
    }

    private mutating func next(of index: Int) -> Bytes {
        var flow = flows[index]
        defer { flows[index] = flow }
        var count = flow.size
        var once = flow.recipe
        var spoil: (inout Bytes) -> Void = { _ in }
        switch random.below(100) {
        case 0: count = random.below(flow.size + 1)
        case 1: count = flow.size + random.below(20)
        case 2: count = 0
        case 3: once.flags |= 0x08
        case 4: once.flags = random.below(0x1000)
        case 5: once.trafficClass = random.byte()
        case 6: once.hopLimit = random.byte()
        case 7: flow.recipe.acknowledgment += 1
        case 8: flow.recipe.window = random.below(0x10000)
        case 9 where !flow.recipe.transportOptions.isEmpty:
            flow.recipe.transportOptions[random.below(12)] = random.byte()
        case 10: flow.recipe.sequence += random.below(3) - 1
        case 11: flow.recipe.identification += random.below(3)
        case 12 where once.version == .ipv4: once.networkOptions = random.bytes(4 * (1 + random.below(10)))
        case 13: spoil = { $0[$0.count - 1] ^= 0x10 }
        case 14 where once.version == .ipv4:
            let field = random.below(0x10000)
            spoil = {
                $0.setWord(6, field)
                fixChecksums(&$0, transportOffset: Int($0[0] & 0xF) * 4)
            }
        case 15:
            let transport = random.byte()
            spoil = { $0[$0[0] >> 4 == 6 ? 6 : 9] = transport }
        case 16: spoil = { $0.removeLast(min($0.count, 3)) }
        case 17:
            let size = random.below(60)
            spoil = { $0 = Bytes($0.prefix(size)) }
        default: break
        }
        once.acknowledgment = flow.recipe.acknowledgment
        once.window = flow.recipe.window
        once.transportOptions = flow.recipe.transportOptions
        once.sequence = flow.recipe.sequence
        once.identification = flow.recipe.identification
        once.payload = random.bytes(count)
        flow.recipe.sequence += count
        flow.recipe.identification += 1
        var packet = once.packet()
        spoil(&packet)
        return packet
    }
}

/// The flow of a packet, by the naive reading; if it cannot be told, what can be told of it.
private enum Order: Hashable {
    case flow(pair: Bytes, ports: Bytes)
    case pair(Bytes)
    case none

    init(_ packet: Bytes) {
        guard packet.count >= 20 else { self = .none; return }
        let isIPv6 = packet[0] >> 4 == 6
        guard isIPv6 ? packet.count >= 40 : packet[0] >> 4 == 4 else { self = .none; return }
        let pair = isIPv6 ? Bytes(packet[8..<40]) : Bytes(packet[12..<20])
        let transport = packet[isIPv6 ? 6 : 9]
        let offset = isIPv6 ? 40 : Int(packet[0] & 0xF) * 4
        let hasPorts =
            offset >= 20 && packet.count >= offset + 4 && (isIPv6 || packet.word(6) & 0x3FFF == 0)
            && (transport == 6 || transport == 17)
        self =
            hasPorts
            ? .flow(pair: pair, ports: [transport] + packet[offset..<offset + 4]) : .pair(pair)
    }
}

/// The packets of each flow, in their order.
private func sequences(_ packets: [Bytes]) -> [Order: [Bytes]] {
    Dictionary(grouping: packets, by: Order.init)
}

@Suite struct TrafficTests {
    @Test("What goes in comes out: every byte, every flow in order", arguments: 0..<60)
    func roundTrip(seed: UInt64) throws {
        var traffic = Traffic(seed: seed)
        let harness = CoalescerHarness(slotLimit: 1 + Int(seed) % 48)
        var merged = 0
        for _ in 0..<12 {
            let packets = traffic.packets(100).filter { packet in
                // The caller drops IPv4 packets with a wrong header checksum.
                guard packet.count >= 20, packet[0] >> 4 == 4 else { return true }
                let headerCount = Int(packet[0] & 0xF) * 4
                return headerCount >= 20 && packet.count >= headerCount
                    && naiveSum(packet[..<headerCount]) == 0xFFFF
            }
            let writes = harness.run(packets)
            let out = writes.flatMap(\.segments)
            try #require(out.count == packets.count, "seed \(seed)")
            try #require(sequences(out) == sequences(packets), "seed \(seed)")
            #expect(writes.map(\.packetCount) == writes.map(\.segments.count))
            merged += writes.filter { $0.packetCount > 1 }.count
        }
        // A flow without checksums never merges; else much does.
        if seed % 48 > 8 { #expect(merged > 0 || traffic.hasOnlyFlowsWithoutChecksum, "seed \(seed)") }
    }

    @Test("A packet that hides its flow stays between those before and after it", arguments: 0..<40)
    func hiddenOrder(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let harness = CoalescerHarness()
        var packets: [Bytes] = []
        var hidden: [Int] = []
        for index in 0..<100 {
            var recipe = PacketRecipe()
            recipe.version = seed % 2 == 0 ? .ipv4 : .ipv6
            recipe.transport = .udp
            recipe.identification = index
            recipe.payload = [UInt8(index)] + random.bytes(20)
            var packet = recipe.packet()
            if random.oneIn(8) {
                hidden.append(index)
                if recipe.version == .ipv4 {
                    packet.setWord(6, random.oneIn(2) ? 0x2000 : 0x0010)
                    fixChecksums(&packet, transportOffset: 20)
                } else {
                    packet[6] = [0, 43, 44, 60, 51][random.below(5)]
                }
            }
            packets.append(packet)
        }
        let writes = harness.run(packets)
        // One flow: all of it in order.
        try #require(writes.flatMap(\.segments) == packets, "seed \(seed)")
        #expect(writes.count <= 2 * hidden.count + 1)
    }

    @Test("A super-packet of the kernel crosses a tunnel: segmented here, coalesced there", arguments: 0..<30)
    func tunnel(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let memory = GuardedMemory(capacity: 65_536)
        defer { withExtendedLifetime(memory) {} }
        let harness = CoalescerHarness(packetLimit: 200, packetBytes: 4096)
        for _ in 0..<10 {
            var recipe = PacketRecipe()
            recipe.version = random.oneIn(2) ? .ipv4 : .ipv6
            recipe.transport = random.oneIn(2) ? .tcp : .udp
            recipe.sequence = random.below(1 << 32)
            recipe.identification = random.below(0x10000)
            recipe.flags = random.oneIn(2) ? 0x10 : 0x18
            recipe.transportOptions = random.bytes(random.below(11) * 4)
            let size = 1 + random.below(1400)
            recipe.payload = random.bytes(size + 1 + random.below(min(60_000, size * 127)))
            let whole = recipe.packet()
            let start = recipe.version == .ipv6 ? 40 : 20
            let virtio = virtio_net_hdr(
                flags: 1, gso_type: recipe.transport == .udp ? 5 : recipe.version == .ipv6 ? 4 : 1,
                hdr_len: 0,
                gso_size: UInt16(size), csum_start: UInt16(start),
                csum_offset: recipe.transport == .tcp ? 16 : 6)
            let packet = memory.place(whole)
            guard
                case .superPacket(let plan) = OffloadedPacket.examine(
                    header: virtio, packet: packet, length: whole.count)
            else {
                Issue.record("no plan, seed \(seed)")
                return
            }
            let arena = UnsafeMutableRawPointer.allocate(
                byteCount: plan.segmentCount * SegmentPlan.headerStride, alignment: 64)
            let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: plan.segmentCount * 2)
            defer {
                arena.deallocate()
                vectors.deallocate()
            }
            let all = 0..<plan.segmentCount
            plan.writeHeaders(of: all, packet: packet, into: arena)
            _ = plan.writeVectors(of: all, packet: packet, arena: arena, into: vectors)
            let wire = all.map { gathered(vectors + $0 * 2, 2) }
            let writes = harness.run(wire)
            try #require(writes.count == 1, "seed \(seed)")
            // All but the checksum, which is left open.
            var arrived = writes[0].whole
            fixChecksums(&arrived, transportOffset: start)
            #expect(arrived == whole)
            #expect(writes[0].header.gso_size == virtio.gso_size)
            #expect(writes[0].header.gso_type == virtio.gso_type)
        }
    }
}

extension Traffic {
    fileprivate var hasOnlyFlowsWithoutChecksum: Bool {
        flows.allSatisfy { $0.recipe.transport == .udp && !$0.recipe.hasChecksum }
    }
}
