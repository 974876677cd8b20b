import CLinux
import Offload

/// Adds packets, each of which ends at a page that faults, and reads back what the TUN would be written.
final class CoalescerHarness {
    /// One write, and the packets that the kernel makes of it.
    struct Write {
        let header: virtio_net_hdr
        let packetCount: Int
        let whole: Bytes
        let segments: [Bytes]
    }

    private var coalescer: Coalescer
    private let memory: [GuardedMemory]
    private var used = 0

    init(
        slotLimit: Int = 64, merges: MergedKinds = .all,
        maximumSuperPacketBytes: Int = 65_535, packetLimit: Int = 160, packetBytes: Int = 4096
    ) {
        coalescer = Coalescer(
            slotLimit: slotLimit, merges: merges,
            maximumSuperPacketBytes: maximumSuperPacketBytes)
        memory = (0..<packetLimit).map { _ in GuardedMemory(capacity: packetBytes) }
    }

    var isFull: Bool { used == memory.count }

    func add(_ packet: Bytes) -> Coalescer.Addition {
        let addition = coalescer.add(memory[used].place(packet), length: packet.count)
        if addition != .full { used += 1 }
        return addition
    }

    /// Closes, reads all writes, resets.
    func flush() -> [Write] {
        coalescer.close()
        let writes = (0..<coalescer.slotCount).map { index in
            let slot = coalescer.slot(index)
            let all = gathered(slot.vectors, slot.vectorCount)
            precondition(all.count == slot.byteCount)
            precondition(slot.vectors[0].iov_len == 10)
            let header = all.withUnsafeBytes { virtio_net_hdr(bytes: $0.baseAddress!) }
            let whole = Bytes(all[10...])
            return Write(
                header: header, packetCount: slot.packetCount, whole: whole,
                segments: CoalescerHarness.kernelSegments(header, whole))
        }
        coalescer.reset()
        used = 0
        return writes
    }

    /// Everything that `packets` becomes, flushed when the coalescer or the memory is full.
    func run(_ packets: [Bytes]) -> [Write] {
        var writes: [Write] = []
        for packet in packets {
            if isFull { writes += flush() }
            if add(packet) == .full {
                writes += flush()
                let again = add(packet)
                precondition(again == .opened)
            }
        }
        return writes + flush()
    }

    /// What becomes of packets that merge into one slot, when the write of that is refused; resets.
    func separated(_ packets: [Bytes]) -> [Bytes] {
        for packet in packets { _ = add(packet) }
        coalescer.close()
        precondition(coalescer.slotCount == 1 && coalescer.merged(0) != nil)
        var written: [Bytes] = []
        while let write = coalescer.separate(0) {
            let all = gathered(write.vectors, write.vectorCount)
            precondition(all.count == write.byteCount && write.packetCount == 1)
            let header = all.withUnsafeBytes { virtio_net_hdr(bytes: $0.baseAddress!) }
            written.append(CoalescerHarness.completed(header, Bytes(all[10...])))
        }
        precondition(coalescer.isSeparated(0) && coalescer.packetsToSeparate(0) == 0)
        precondition(coalescer.merged(0) == nil)
        coalescer.reset()
        used = 0
        return written
    }

    /// A packet that is none of several, as the kernel completes it.
    private static func completed(_ header: virtio_net_hdr, _ packet: Bytes) -> Bytes {
        precondition(header.gso_type == 0)
        guard header.flags == 1 else { return packet }
        let (start, field) = (Int(header.csum_start), Int(header.csum_start) + Int(header.csum_offset))
        let pseudoHeader = pseudoHeader(packet, transportOffset: start)
        precondition(packet.word(field) == naiveSum(pseudoHeader))
        var packet = packet
        packet.setWord(field, 0)
        packet.setWord(field, ~naiveSum(pseudoHeader + packet[start...]) & 0xFFFF)
        return packet
    }

    /// What the kernel makes of a TUN write: it trusts header and checksum, as the virtio-net header tells it to.
    private static func kernelSegments(_ header: virtio_net_hdr, _ packet: Bytes) -> [Bytes] {
        guard header.flags != 0 || header.gso_type != 0 else { return [packet] }
        let start = Int(header.csum_start)
        let isIPv6 = packet[0] >> 4 == 6
        let isTCP = header.gso_type != 5
        // What the kernel refuses, `virtio_net_hdr_to_skb` in include/linux/virtio_net.h, or would get wrong.
        precondition(header.flags == 1 && header.gso_size > 0)
        precondition(header.gso_type == (isTCP ? (isIPv6 ? 4 : 1) : 5))
        precondition(start == (isIPv6 ? 40 : 20))
        precondition(header.csum_offset == (isTCP ? 16 : 6))
        precondition(Int(header.hdr_len) == start + (isTCP ? Int(packet[start + 12] >> 4) * 4 : 8))
        precondition(packet.count > Int(header.hdr_len) + Int(header.gso_size), "no super-packet at all")
        precondition(packet.word(isIPv6 ? 4 : 2) == packet.count - (isIPv6 ? 40 : 0))
        precondition(isIPv6 || naiveSum(packet[..<20]) == 0xFFFF)
        precondition(isTCP || packet.word(start + 4) == packet.count - start)
        precondition(
            packet.word(start + Int(header.csum_offset))
                == naiveSum(pseudoHeader(packet, transportOffset: start)))
        return naiveSegments(packet, transportOffset: start, segmentPayload: Int(header.gso_size))
    }
}
