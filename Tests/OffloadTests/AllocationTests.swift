import CLinux
import Glibc
import Offload
import Testing

/// A block that the optimizer has to allocate, as a system call (which fails) is shown it.
private func allocated(_ count: Int) -> UnsafeMutableRawPointer? {
    let block = malloc(count)
    _ = write(-1, block, 0)
    return block
}

@Suite struct AllocationTests {
    // A process of its own: no other test allocates in it.
    @Test("No packet costs an allocation")
    // long: all kinds of packets, made before anything is counted.
    func none() async {
        await #expect(processExitsWith: .success) {
            var tcp = PacketRecipe()
            tcp.payload = Bytes(repeating: 1, count: 1400)
            var large = tcp
            large.payload = Bytes(repeating: 1, count: 40_000)
            var udp = tcp
            (udp.version, udp.transport) = (.ipv6, .udp)
            let wire = (0..<40).map { index -> Bytes in
                var recipe = index % 2 == 0 ? tcp : udp
                recipe.sequence = index / 2 * 1400
                recipe.identification = index / 2
                return recipe.packet()
            }
            let originals = UnsafeMutableRawPointer.allocate(byteCount: 40 * 2048, alignment: 64)
            let packets = UnsafeMutableRawPointer.allocate(byteCount: 40 * 2048, alignment: 64)
            for index in 0..<40 {
                wire[index].withUnsafeBytes {
                    (originals + index * 2048).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
                }
            }
            let length = (wire[0].count, wire[1].count)
            let offered = large.packet()
            let superPacket = UnsafeMutableRawPointer.allocate(byteCount: offered.count, alignment: 64)
            offered.withUnsafeBytes { superPacket.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            let superPacketLength = offered.count
            let header = virtio_net_hdr(
                flags: 1, gso_type: 1, hdr_len: 0, gso_size: 1400, csum_start: 20, csum_offset: 16)
            let arena = UnsafeMutableRawPointer.allocate(byteCount: 128 * 128, alignment: 64)
            let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 256)
            var coalescer = Coalescer(slotLimit: 8, merges: .all)

            var joined = 0
            var segments = 0
            var before = 0
            for round in 0...1000 {
                if round == 1 {
                    // The first round was for what the runtime does once. Now the allocator's caches are emptied, so
                    // that a block that is taken and given back at once leaves its trace: it stays in a cache, and
                    // counts as in use.
                    for size in stride(from: 16, through: 1032, by: 8) {
                        for _ in 0..<16 { _ = allocated(size) }
                    }
                    before = mallinfo2().uordblks
                }
                packets.copyMemory(from: originals, byteCount: 40 * 2048)
                for index in 0..<40 {
                    if coalescer.add(packets + index * 2048, length: index % 2 == 0 ? length.0 : length.1)
                        == .joined
                    {
                        joined += 1
                    }
                }
                coalescer.close()
                for index in 0..<coalescer.slotCount { segments += coalescer.slot(index).packetCount }
                coalescer.reset()
                if case .superPacket(let plan) = OffloadedPacket.examine(
                    header: header, packet: superPacket, length: superPacketLength)
                {
                    let all = 0..<plan.segmentCount
                    plan.writeHeaders(of: all, packet: superPacket, into: arena)
                    segments += plan.writeVectors(of: all, packet: superPacket, arena: arena, into: vectors)
                }
            }
            let after = mallinfo2().uordblks
            free(allocated(64))
            let control = mallinfo2().uordblks

            // A status for each, as the child's messages do not come out.
            if joined != 1001 * 38 || segments != 1001 * (40 + 58) { exit(2) }
            // The figures show a block that was given back.
            if control == after { exit(3) }
            if after != before { exit(4) }
        }
    }
}
