import CLinux
import PacketHeaders
import Offload
import Seeded
import Testing

/// The segments of a super-packet in runs that one send each can carry, as long as they may be.
func runs(of plan: SegmentPlan, maximumSegments: Int) -> [Range<Int>] {
    let longest = min(maximumSegments, SuperPacketLimits.sendBytes / plan.segmentBytes)
    return stride(from: 0, to: plan.segmentCount, by: longest).map {
        $0..<min($0 + longest, plan.segmentCount)
    }
}

/// Sends a super-packet in splits of at most `maximumSegments` and gives what came out, packet by packet.
private func sent(
    _ plan: SegmentPlan, _ packet: UnsafeMutableRawPointer, maximumSegments: Int
) -> [Bytes] {
    var packets: [Bytes] = []
    for segments in runs(of: plan, maximumSegments: maximumSegments) {
        let arena = GuardedMemory(capacity: segments.count * SegmentPlan.headerStride)
        defer { withExtendedLifetime(arena) {} }
        let headers = arena.ending(segments.count * SegmentPlan.headerStride)
        let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: segments.count * 2)
        defer { vectors.deallocate() }
        plan.writeHeaders(of: segments, packet: packet, into: headers)
        let count = plan.writeVectors(of: segments, packet: packet, arena: headers, into: vectors)
        #expect(count == segments.count * 2)
        let before = packets.count
        for segment in 0..<segments.count { packets.append(gathered(vectors + segment * 2, 2)) }
        #expect(packets[before...].map(\.count).reduce(0, +) == plan.byteCount(of: segments))
    }
    return packets
}

private func header(
    _ recipe: PacketRecipe, size: Int, needsChecksum: Bool = true, hdrLen: Int = 9
) -> virtio_net_hdr {
    let type: UInt8 =
        switch (recipe.transport, recipe.version) {
        case (.tcp, .ipv4): 1
        case (.tcp, .ipv6): 4
        case (.udp, _): 5
        }
    let start = recipe.version == .ipv6 ? 40 : 20 + recipe.networkOptions.count
    return virtio_net_hdr(
        flags: needsChecksum ? 1 : 0, gso_type: type, hdr_len: UInt16(hdrLen), gso_size: UInt16(size),
        csum_start: UInt16(start), csum_offset: recipe.transport == .tcp ? 16 : 6)
}

@Suite struct SegmentPlanTests {
    @Test("Segments are those of the naive model, byte for byte", arguments: 0..<40)
    func model(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let memory = GuardedMemory(capacity: 65_536)
        defer { withExtendedLifetime(memory) {} }
        for _ in 0..<40 {
            var recipe = PacketRecipe()
            recipe.version = random.oneIn(2) ? .ipv4 : .ipv6
            recipe.transport = random.oneIn(2) ? .tcp : .udp
            recipe.trafficClass = random.byte()
            recipe.flowLabel = random.below(1 << 20)
            recipe.hopLimit = random.byte()
            recipe.dontFragment = random.oneIn(2)
            recipe.identification = random.oneIn(3) ? 0xFFFE : random.below(0x10000)
            recipe.sequence = random.oneIn(3) ? 0xFFFF_FF00 : random.below(1 << 32)
            // Any flags but SYN, RST and URG.
            recipe.flags = random.below(0x1000) & ~0x026
            recipe.window = random.below(0x10000)
            recipe.urgent = random.below(0x10000)
            if recipe.version == .ipv4 { recipe.networkOptions = random.bytes(random.below(11) * 4) }
            recipe.transportOptions = random.bytes(random.below(11) * 4)
            let headroom = 60 + 60
            let size = random.oneIn(3) ? 1 + random.below(40) : 1 + random.below(9000)
            let longest = min(65_535 - headroom, size * 300)
            recipe.payload = random.bytes(1 + random.below(longest))

            let whole = recipe.packet()
            let transportOffset = recipe.version == .ipv6 ? 40 : 20 + recipe.networkOptions.count
            let expected = naiveSegments(whole, transportOffset: transportOffset, segmentPayload: size)
            // What the kernel leaves in the checksum field must not matter.
            var offered = whole
            let needsChecksum = recipe.transport == .udp || random.oneIn(2)
            if needsChecksum {
                offered.setWord(transportOffset + (recipe.transport == .tcp ? 16 : 6), random.below(0x10000))
            }
            if recipe.version == .ipv4 { offered.setWord(10, random.below(0x10000)) }
            let packet = memory.place(offered)
            var virtio = header(
                recipe, size: size, needsChecksum: needsChecksum, hdrLen: random.below(0x10000))
            if recipe.transport == .tcp && random.oneIn(2) { virtio.gso_type |= 0x80 }

            let examined = OffloadedPacket.examine(header: virtio, packet: packet, length: offered.count)
            if expected.count > (recipe.transport == .tcp ? 744 : 128) {
                guard case .refused(.segmentCount) = examined else {
                    Issue.record("seed \(seed): \(examined) for \(expected.count) segments")
                    return
                }
                continue
            }
            guard case .superPacket(let plan) = examined else {
                Issue.record("seed \(seed): \(examined) for \(recipe.version) \(recipe.transport)")
                return
            }
            #expect(plan.segmentCount == expected.count)
            for maximumSegments in [128, 64, 1 + random.below(200)] {
                let packets = sent(plan, packet, maximumSegments: maximumSegments)
                try #require(packets == expected, "seed \(seed)")
            }
            #expect(bytes(packet, offered.count) == offered, "the packet itself is only read")
        }
    }

    @Test("As many segments as the kernel's TCP and UDP make at most are taken", arguments: [744, 128])
    func asManyAsTheKernelMakes(count: Int) {
        var recipe = PacketRecipe()
        recipe.transport = count == 744 ? .tcp : .udp
        recipe.payload = Bytes(repeating: 7, count: count * 88)
        var packet = recipe.packet()
        let plan = packet.withUnsafeMutableBytes {
            OffloadedPacket.examine(
                header: header(recipe, size: 88), packet: $0.baseAddress!, length: $0.count)
        }
        guard case .superPacket(let plan) = plan else {
            Issue.record("\(plan)")
            return
        }
        #expect(plan.segmentCount == count)
    }

    @Test("A send is split evenly")
    func evenSplit() {
        var recipe = PacketRecipe()
        recipe.transportOptions = Bytes(repeating: 1, count: 12)
        // 45 segments of 1,500 bytes are 67,500 bytes, more than a send holds.
        recipe.payload = Bytes(repeating: 7, count: 45 * 1448 - 100)
        var packet = recipe.packet()
        packet.withUnsafeMutableBytes { bytes in
            let virtio = header(recipe, size: 1448)
            guard
                case .superPacket(let plan) = OffloadedPacket.examine(
                    header: virtio, packet: bytes.baseAddress!, length: bytes.count)
            else {
                Issue.record("no plan")
                return
            }
            #expect(plan.segmentCount == 45)
            #expect(plan.lastPayloadBytes == 1348)
            #expect(plan.segmentBytes == 1500)
            #expect(plan.byteCount(of: 0..<23) == 23 * 1500)
            #expect(plan.byteCount(of: 23..<45) == 22 * 1500 - 100)
        }
    }

    @Test("UDP over IPv4 without a checksum stays without")
    func noChecksum() {
        var recipe = PacketRecipe()
        recipe.transport = .udp
        recipe.hasChecksum = false
        recipe.payload = Bytes(0..<100)
        var packet = recipe.packet()
        let expected = naiveSegments(
            packet, transportOffset: 20, segmentPayload: 30, hasTransportChecksum: false)
        packet.withUnsafeMutableBytes { bytes in
            let virtio = header(recipe, size: 30, needsChecksum: false)
            guard
                case .superPacket(let plan) = OffloadedPacket.examine(
                    header: virtio, packet: bytes.baseAddress!, length: bytes.count)
            else {
                Issue.record("no plan")
                return
            }
            #expect(sent(plan, bytes.baseAddress!, maximumSegments: 64) == expected)
        }
    }

    @Test("A UDP checksum that comes to 0 is sent as 0xFFFF", arguments: [Version.ipv4, .ipv6])
    func udpChecksumZero(version: Version) throws {
        var recipe = PacketRecipe()
        recipe.version = version
        recipe.transport = .udp
        recipe.payload = [0, 0, 1, 2]
        // The payload's first word makes up what the sum lacks of 0xFFFF.
        let plain = recipe.packet()
        let checksum = plain.word(version == .ipv4 ? 26 : 46)
        recipe.payload = [UInt8(checksum >> 8), UInt8(checksum & 0xFF), 1, 2]
        var packet = recipe.packet()
        let field = version == .ipv4 ? 26 : 46
        #expect(packet.word(field) == 0xFFFF)

        // Completed in place, from the sum of the pseudo header.
        let transportOffset = field - 6
        var partial = packet
        partial.setWord(field, naiveSum(pseudoHeader(packet, transportOffset: transportOffset)))
        let virtio = virtio_net_hdr(
            flags: 1, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: UInt16(transportOffset),
            csum_offset: 6)
        partial.withUnsafeMutableBytes { bytes in
            guard
                case .whole = OffloadedPacket.examine(
                    header: virtio, packet: bytes.baseAddress!, length: bytes.count)
            else {
                Issue.record("not whole")
                return
            }
        }
        #expect(partial == packet)

        // And as the only segment of a super-packet.
        packet.withUnsafeMutableBytes { bytes in
            guard
                case .superPacket(let plan) = OffloadedPacket.examine(
                    header: header(recipe, size: 10), packet: bytes.baseAddress!, length: bytes.count)
            else {
                Issue.record("no plan")
                return
            }
            #expect(sent(plan, bytes.baseAddress!, maximumSegments: 64) == [Bytes(bytes)])
        }
    }

    @Test("A checksum left open is completed in place", arguments: 0..<20)
    func partialChecksum(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let memory = GuardedMemory(capacity: 4096)
        defer { withExtendedLifetime(memory) {} }
        for _ in 0..<50 {
            var recipe = PacketRecipe()
            recipe.version = random.oneIn(2) ? .ipv4 : .ipv6
            recipe.transport = random.oneIn(2) ? .tcp : .udp
            recipe.payload = random.bytes(random.below(1600))
            let whole = recipe.packet()
            let start = recipe.version == .ipv4 ? 20 : 40
            let offset = recipe.transport == .tcp ? 16 : 6
            var partial = whole
            partial.setWord(start + offset, naiveSum(pseudoHeader(whole, transportOffset: start)))
            let packet = memory.place(partial)
            let virtio = virtio_net_hdr(
                flags: 1, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: UInt16(start),
                csum_offset: UInt16(offset))
            guard
                case .whole = OffloadedPacket.examine(
                    header: virtio, packet: packet, length: partial.count)
            else {
                Issue.record("not whole")
                return
            }
            #expect(bytes(packet, whole.count) == whole)
        }
    }

    @Test("A packet that asks for nothing is left alone, whatever it is")
    func untouched() {
        let memory = GuardedMemory(capacity: 4096)
        defer { withExtendedLifetime(memory) {} }
        for count in [0, 1, 64] {
            let garbage = Bytes(repeating: 0xA5, count: count)
            let packet = memory.place(garbage)
            guard
                case .whole = OffloadedPacket.examine(
                    header: virtio_net_hdr(), packet: packet, length: count)
            else {
                Issue.record("not whole")
                return
            }
            #expect(bytes(packet, count) == garbage)
        }
    }

    /// One thing wrong, and the reason that it is refused for.
    struct Wrong: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let refusal: OffloadRefusal
        var recipe = PacketRecipe()
        var change: @Sendable (inout virtio_net_hdr, inout Bytes) -> Void = { _, _ in }

        init(
            _ description: String, _ refusal: OffloadRefusal,
            _ set: (inout PacketRecipe) -> Void = { _ in },
            change: @escaping @Sendable (inout virtio_net_hdr, inout Bytes) -> Void
        ) {
            testDescription = description
            self.refusal = refusal
            recipe.payload = Bytes(repeating: 1, count: 300)
            set(&recipe)
            self.change = change
        }
    }

    static let wrongs: [Wrong] = [
        Wrong("empty", .truncated) { $1 = [] },
        Wrong("19 bytes", .truncated) { $1 = Bytes($1[..<19]) },
        Wrong("39 bytes of IPv6", .truncated, { $0.version = .ipv6 }) { $1 = Bytes($1[..<39]) },
        Wrong("IHL of 4", .truncated) { $1[0] = 0x44 },
        Wrong("IHL past the end", .truncated) {
            $1 = Bytes($1[..<24])
            $1[0] = 0x4F
        },
        Wrong("TCP cut", .truncated) {
            $1 = Bytes($1[..<39])
            $1.setWord(2, 39)
        },
        Wrong("data offset of 4", .truncated) { $1[32] = 0x40 },
        Wrong("data offset past the end", .truncated) {
            $1 = Bytes($1[..<44])
            $1.setWord(2, 44)
            $1[32] = 0xF0
        },
        Wrong("UDP cut", .truncated, { $0.transport = .udp }) {
            $1 = Bytes($1[..<27])
            $1.setWord(2, 27)
        },
        Wrong("IPv6 as TCPV4", .version, { $0.version = .ipv6 }) { header, _ in header.gso_type = 1 },
        Wrong("IPv4 as TCPV6", .version) { header, _ in header.gso_type = 4 },
        Wrong("version 5", .version, { $0.transport = .udp }) { $1[0] = 0x55 },
        Wrong("total length short", .length) { $1.setWord(2, $1.count - 1) },
        Wrong("total length 0", .length) { $1.setWord(2, 0) },
        Wrong("payload length long", .length, { $0.version = .ipv6 }) { $1.setWord(4, $1.count - 39) },
        Wrong("UDP length", .length, { $0.transport = .udp }) { $1.setWord(24, 8) },
        Wrong("TCP as UDP", .transport) { header, _ in header.gso_type = 5 },
        Wrong("UDP as TCP", .transport, { $0.transport = .udp }) { header, _ in header.gso_type = 1 },
        Wrong("hop-by-hop options", .transport, { $0.version = .ipv6 }) { $1[6] = 0 },
        Wrong("fragment", .fragment) { $1.setWord(6, 0x2000) },
        Wrong("last fragment", .fragment) { $1.setWord(6, 1) },
        Wrong("UDP fragmentation", .segmentation) { header, _ in header.gso_type = 3 },
        Wrong("unknown type", .segmentation) { header, _ in header.gso_type = 0x20 },
        Wrong("ECN alone", .segmentation) { header, _ in header.gso_type = 0x80 },
        Wrong("size 0", .segmentSize) { header, _ in header.gso_size = 0 },
        Wrong("no payload", .segmentSize, { $0.payload = [] }) { _, _ in },
        Wrong("no payload in UDP", .segmentSize, { ($0.transport, $0.payload) = (.udp, []) }) { _, _ in },
        Wrong("longer than a datagram", .segmentSize, { $0.payload = Bytes(repeating: 0, count: 65_468) }) {
            header, _ in header.gso_size = 65_535
        },
        Wrong("745 segments of TCP", .segmentCount, { $0.payload = Bytes(repeating: 0, count: 745 * 80) }) {
            header, _ in header.gso_size = 80
        },
        Wrong("one byte a segment", .segmentCount, { $0.payload = Bytes(repeating: 0, count: 65_000) }) {
            header, _ in header.gso_size = 1
        },
        Wrong(
            "129 segments of UDP", .segmentCount,
            { ($0.transport, $0.payload) = (.udp, Bytes(repeating: 0, count: 129)) }
        ) { header, _ in header.gso_size = 1 },
        Wrong("SYN", .flags, { $0.flags = 0x12 }) { _, _ in },
        Wrong("RST", .flags, { $0.flags = 0x14 }) { _, _ in },
        Wrong("URG", .flags, { $0.flags = 0x30 }) { _, _ in },
        Wrong("csum_start", .checksumPlace) { header, _ in header.csum_start = 22 },
        Wrong("csum_offset", .checksumPlace) { header, _ in header.csum_offset = 6 },
        Wrong("plain, checksum past the end", .checksumPlace) { header, bytes in
            header.gso_type = 0
            header.csum_start = UInt16(bytes.count - 17)
        },
        Wrong("plain, checksum in the IP header", .checksumPlace) { header, _ in
            header.gso_type = 0
            header.csum_start = 12
            header.csum_offset = 4
        },
        Wrong("plain, checksum in the IPv6 header", .checksumPlace, { $0.version = .ipv6 }) { header, _ in
            header.gso_type = 0
            header.csum_start = 24
        },
        Wrong("plain, empty", .checksumPlace) { header, bytes in
            header.gso_type = 0
            bytes = []
        },
    ]

    @Test("What contradicts itself is refused for the right reason, and not written to", arguments: wrongs)
    func refused(wrong: Wrong) {
        var packet = wrong.recipe.packet()
        var virtio = header(wrong.recipe, size: 100)
        wrong.change(&virtio, &packet)
        let placed = GuardedMemory(capacity: 65_536)
        defer { withExtendedLifetime(placed) {} }
        let start = placed.place(packet)
        let examined = OffloadedPacket.examine(header: virtio, packet: start, length: packet.count)
        guard case .refused(let refusal) = examined else {
            Issue.record("\(examined)")
            return
        }
        #expect(refusal == wrong.refusal)
        #expect(bytes(start, packet.count) == packet)
    }
}
