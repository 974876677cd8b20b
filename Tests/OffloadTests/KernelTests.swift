import CLinux
import Glibc
import NetworkNamespaces
import Offload
import Seeded
import Testing

/// A TUN device with a virtio-net header, in the namespace of the thread that makes it.
private struct TunnelDevice: Sendable {
    let descriptor: Int32

    /// `offloads`: `TUN_F_*`, what the device's reader takes from the kernel.
    init(_ name: String, index: Int, offloads: UInt32) throws {
        descriptor = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)
        try #require(descriptor >= 0 && twill_tun_attach(descriptor, name, 0) == 0)
        try #require(twill_tun_set_offload(descriptor, offloads) == 0)
        // 10.0.0.x and fd00::…:x are behind the device with index x.
        try execute(
            """
            sysctl -q -w net.ipv6.conf.\(name).accept_dad=0 && ip link set \(name) txqueuelen 2000 up &&
            ip route add 10.0.0.\(index)/32 dev \(name) && ip -6 route add fd00::\(index) dev \(name)
            """)
    }

    func write(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> Int {
        writev(descriptor, vectors, Int32(count))
    }

    /// Everything that comes until nothing has come for 100 ms, without what the kernel says of its own (ICMPv6).
    func read() -> [(header: virtio_net_hdr, packet: Bytes)] {
        var packets: [(virtio_net_hdr, Bytes)] = []
        var buffer = Bytes(repeating: 0, count: 70_000)
        while true {
            var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&ready, 1, 100) > 0 else { return packets }
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            guard count > 10 else { return packets }
            let header = buffer.withUnsafeBytes { virtio_net_hdr(bytes: $0.baseAddress!) }
            let packet = Bytes(buffer[10..<count])
            if [6, 17].contains(packet[packet[0] >> 4 == 6 ? 6 : 9]) { packets.append((header, packet)) }
        }
    }
}

/// As the kernel forwards it.
private func oneHopOn(_ packet: Bytes) -> Bytes {
    var packet = packet
    if packet[0] >> 4 == 6 {
        packet[7] -= 1
    } else {
        packet[8] -= 1
        packet.setWord(10, 0)
        packet.setWord(10, ~naiveSum(packet[..<(Int(packet[0] & 0xF) * 4)]) & 0xFFFF)
    }
    return packet
}

private func recipe(_ version: Version, _ transport: Transport, _ random: inout SeededRandom) -> PacketRecipe
{
    var recipe = PacketRecipe()
    recipe.version = version
    recipe.transport = transport
    recipe.trafficClass = UInt8(random.below(4))
    recipe.flowLabel = random.below(1 << 20)
    recipe.dontFragment = random.oneIn(2)
    recipe.identification = random.oneIn(2) ? 0xFFFE : random.below(0x10000)
    recipe.sequence = random.oneIn(2) ? 0xFFFF_FF00 : random.below(1 << 32)
    recipe.transportOptions = [1, 1, 8, 10] + random.bytes(8)
    return recipe
}

/// What the kernel itself makes of super-packets is the last word: the naive model only says what we think of it.
@Suite(.enabled(if: namespacesAreExpected, "network namespaces need root and /sbin/ip"))
struct KernelTests {
    @Test("The kernel cuts a merged write into the very packets that arrived", arguments: flows)
    func coalescer(version: Version, transport: Transport) async throws {
        let namespace = try await NetworkNamespace.make()
        let isSame = try await namespace.run { () -> Bool in
            try execute("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            let entrance = try TunnelDevice("entrance", index: 1, offloads: 0)
            // Takes no segmentation, so the kernel has to do it, and to complete the checksums.
            let exit = try TunnelDevice("exit", index: 2, offloads: 0)
            var random = SeededRandom(seed: 7)
            for size in [1, 36, 500, 1400] {
                for count in [1, 2, 3, 40] {
                    var base = recipe(version, transport, &random)
                    let packets = (0..<count).map { index in
                        base.payload = random.bytes(index == count - 1 ? 1 + random.below(size) : size)
                        base.flags = index == count - 1 && random.oneIn(2) ? 0x18 : 0x10
                        defer {
                            base.sequence += base.payload.count
                            base.identification += 1
                        }
                        return base.packet()
                    }
                    var coalescer = Coalescer(slotLimit: 4, merges: .all)
                    let memory = packets.map { _ in GuardedMemory(capacity: 4096) }
                    defer { withExtendedLifetime(memory) {} }
                    for (bytes, memory) in zip(packets, memory) {
                        _ = coalescer.add(memory.place(bytes), length: bytes.count)
                    }
                    coalescer.close()
                    defer { coalescer.reset() }
                    try #require(coalescer.slotCount == 1)
                    let slot = coalescer.slot(0)
                    let written = entrance.write(slot.vectors, slot.vectorCount)
                    try #require(written == slot.byteCount, "errno \(errno)")
                    let arrived = exit.read().map(\.packet)
                    try #require(arrived == packets.map(oneHopOn), "\(count) of \(size) bytes")
                }
            }
            return true
        }
        #expect(isSame)
    }

    @Test("A super-packet of the kernel is cut as the kernel would have cut it", arguments: flows)
    func segmentPlan(version: Version, transport: Transport) async throws {
        let namespace = try await NetworkNamespace.make()
        let isSame = try await namespace.run { () -> Bool in
            try execute("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            let entrance = try TunnelDevice("entrance", index: 1, offloads: 0)
            let cut = try TunnelDevice("cut", index: 2, offloads: 0)
            // TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6.
            let whole = try TunnelDevice("whole", index: 3, offloads: 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40)
            var random = SeededRandom(seed: 11)
            for size in [1, 36, 500, 1400] {
                for count in [2, 3, 45] {
                    var base = recipe(version, transport, &random)
                    base.payload = random.bytes(size * count - random.below(size))
                    // FIN and PSH; ECE and CWR.
                    base.flags = 0x10 | (random.oneIn(2) ? 0x09 : 0) | (random.oneIn(2) ? 0xC0 : 0)
                    var cuts: [Bytes] = []
                    for index in [2, 3] {
                        base.destination = index
                        var superPacket = base.packet()
                        let start = version == .ipv6 ? 40 : 20
                        let field = transport == .tcp ? 16 : 6
                        superPacket.setWord(
                            start + field, naiveSum(pseudoHeader(superPacket, transportOffset: start)))
                        var type: UInt8 = transport == .udp ? 5 : version == .ipv6 ? 4 : 1
                        if transport == .tcp && base.flags & 0x80 != 0 { type |= 0x80 }
                        var header = virtio_net_hdr(
                            flags: 1, gso_type: type, hdr_len: UInt16(start + (transport == .tcp ? 32 : 8)),
                            gso_size: UInt16(size), csum_start: UInt16(start), csum_offset: UInt16(field))
                        let written = superPacket.withUnsafeMutableBytes { bytes in
                            withUnsafeMutableBytes(of: &header) { header in
                                var vectors = [
                                    iovec(iov_base: header.baseAddress, iov_len: 10),
                                    iovec(iov_base: bytes.baseAddress, iov_len: bytes.count),
                                ]
                                return entrance.write(&vectors, 2)
                            }
                        }
                        try #require(written == superPacket.count + 10, "errno \(errno)")
                        if index == 2 { cuts = cut.read().map(\.packet) }
                    }
                    let offered = whole.read()
                    try #require(offered.count == 1 && cuts.count == count)
                    var bytes = offered[0].packet
                    let header = offered[0].header
                    let ours: [Bytes] = try bytes.withUnsafeMutableBytes { bytes in
                        let examined = OffloadedPacket.examine(
                            header: header, packet: bytes.baseAddress!, length: bytes.count)
                        guard case .superPacket(let plan) = examined else {
                            throw Refused(description: "\(examined) of \(header)")
                        }
                        return segments(plan, bytes.baseAddress!)
                    }
                    // The destination is not the same, and the checksums that cover it.
                    func comparable(_ packet: Bytes) -> Bytes {
                        var packet = packet
                        #expect(transportChecksumIsRight(packet, transportOffset: version == .ipv6 ? 40 : 20))
                        packet[version == .ipv6 ? 39 : 19] = 2
                        fixChecksums(&packet, transportOffset: version == .ipv6 ? 40 : 20)
                        return packet
                    }
                    try #require(ours.map(comparable) == cuts.map(comparable), "\(count) of \(size) bytes")
                }
            }
            return true
        }
        #expect(isSame)
    }

    private struct Refused: Error { let description: String }
}

/// All segments of a plan.
private func segments(_ plan: SegmentPlan, _ packet: UnsafeMutableRawPointer) -> [Bytes] {
    let all = 0..<plan.segmentCount
    let memory = GuardedMemory(capacity: plan.segmentCount * SegmentPlan.headerStride)
    defer { withExtendedLifetime(memory) {} }
    let arena = memory.ending(plan.segmentCount * SegmentPlan.headerStride)
    let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: plan.segmentCount * 2)
    defer { vectors.deallocate() }
    plan.writeHeaders(of: all, packet: packet, into: arena)
    _ = plan.writeVectors(of: all, packet: packet, arena: arena, into: vectors)
    return all.map { gathered(vectors + $0 * 2, 2) }
}
