import Addresses
import Counters
import Testing

@testable import Worker

/// Packets of a peer's kernel path that came to the ring.
@Suite struct KernelPathPacketTests {
    /// The packet as it is on the way between two kernels: the pseudo header's sum in the place of the checksum.
    private func unfinished(_ packet: [UInt8]) -> [UInt8] {
        var packet = packet
        let source = IPv4Address(bits: packet[12..<16].reduce(0) { $0 << 8 | UInt32($1) })
        let destination = IPv4Address(bits: packet[16..<20].reduce(0) { $0 << 8 | UInt32($1) })
        let sum = ~Packets.checksum([], Packets.pseudoSum(source, destination, packet[9], packet.count - 20))
        let field = packet[9] == 6 ? 36 : 26
        packet.replaceSubrange(field..<field + 2, with: Packets.bytes(sum))
        return packet
    }

    @Test func theirChecksumsAreCompleted() {
        let packets = [
            Packets.tcp(pod(3), pod(1), sequence: 1, flags: 0x02, payload: []),
            Packets.tcp(pod(3), pod(1), sequence: 2, payload: [1, 2, 3]),
            Packets.udp(pod(3), pod(1), payload: [4, 5, 6, 7]),
            Packets.udp(pod(3), pod(1), payload: []),
        ]
        var bench = Bench()
        for packet in packets { bench.fromPeer(3, packet) }
        bench.run()
        var kernels = Bench()
        for packet in packets { kernels.fromPeer(3, unfinished(packet)) }
        kernels.run()
        #expect(kernels.kernel.written == bench.kernel.written && bench.kernel.written.count == 4)
        #expect(kernels.counters[.kernelPathStrays] == 4)
        #expect(bench.counters[.kernelPathStrays] == 0)
    }

    /// Completed, they are as good as any other: what follows each other is merged.
    @Test func theyMergeWithTheRings() {
        let payload = [UInt8](repeating: 9, count: 200)
        let packets = (0..<4).map {
            Packets.tcp(
                pod(3), pod(1), sequence: UInt32($0 * 200), identification: UInt16($0), payload: payload)
        }
        var bench = Bench()
        for (number, packet) in packets.enumerated() {
            bench.fromPeer(3, number % 2 == 0 ? packet : unfinished(packet))
        }
        bench.run()
        #expect(bench.kernel.written.count == 1)
        #expect(bench.counters[.segmentsCoalesced] == 4)
    }

    /// A sender's super-packet has its checksums: the kernel merges none without.
    @Test func inABundleNobodyLooks() {
        let packet = unfinished(Packets.udp(pod(3), pod(1), payload: [4, 5, 6, 7]))
        var bench = Bench()
        bench.fromPeer(3, packet + packet, segmentBytes: packet.count)
        bench.run()
        #expect(bench.counters[.kernelPathStrays] == 0)
        #expect(bench.counters[.packetsDelivered] == 2)
    }
}
