import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// What a kernel, or a path, does not take: found out, and nothing is lost.
@Suite struct RefusalTests {
    @Test func aPathWithoutSegmentationIsFoundOutAndNothingIsLost() {
        var bench = Bench()
        bench.kernel.refusesSegmentation = true
        for index in 0..<2000 {
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: Packets.bytes(UInt32(index))))
        }
        bench.run(rounds: 400)
        #expect(Set(bench.kernel.sent.map { Array($0.payload[28...]) }).count == 2000)
        #expect(bench.counters[.segmentationFallbacks] == 1)
        #expect(bench.worker.segmentLimit == 1)
    }

    @Test(arguments: [Tuning.extremes[2], Tuning.extremes[3]])
    func withoutSegmentationNoSuperPacketExceedsTheMessages(tuning: Tuning) {
        var bench = Bench(segmentLimit: 1, tuning: tuning)
        var packet = Packets.tcp(
            pod(1), pod(3), sequence: 1, payload: [UInt8](repeating: 7, count: 42 * 1432))
        // As the kernel leaves it: the checksum holds the sum of the pseudo header alone.
        let pseudoHeader = Packets.pseudoSum(pod(1), pod(3), 6, packet.count - 20)
        packet.replaceSubrange(36..<38, with: Packets.bytes(~Packets.checksum([], pseudoHeader)))
        let header: [UInt8] = [1, 1, 40, 0, 0x98, 5, 20, 0, 16, 0]
        for _ in 0..<30 { bench.fromPod(packet, header: header) }
        bench.run(rounds: 80)
        #expect(bench.counters[.superPacketsRead] == 30)
        #expect(bench.kernel.sent.count == 30 * 42)
        #expect(bench.counters[.dropOutboundNoBuffer] == 0)
    }

    /// Gives the worker bundles of `count` datagrams with a shorter one behind, and returns what was delivered.
    private func deliver(bundles: Int, to bench: inout Bench) -> [UInt32] {
        for bundle in 0..<bundles {
            var merged: [UInt8] = []
            for index in 0..<8 {
                var payload = Packets.bytes(UInt32(bundle * 8 + index))
                payload += [UInt8](repeating: 7, count: index == 7 ? 20 : 96)
                merged += Packets.udp(
                    pod(3), pod(1), identification: UInt16(bundle * 8 + index), payload: payload)
            }
            bench.fromPeer(3, merged, segmentBytes: 128)
            bench.run(rounds: 12)
        }
        return bench.kernel.written.flatMap(segments).map {
            $0[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        }
    }

    @Test func aKernelThatTakesNoShortTailsGetsNoneAndNothingIsLost() {
        var bench = Bench()
        bench.kernel.refusesShortTails = true
        #expect(deliver(bundles: 20, to: &bench) == (0..<160).map { UInt32($0) })
        #expect(bench.counters[.shortTailFallbacks] == 1)
        #expect(bench.counters[.mergedWriteFallbacks] == 0)
        #expect(bench.counters[.rewrittenPackets] == 8 * UInt64(WorkerLimits.refusedWritesBeforeFallback))
        #expect(bench.kernel.written.contains { $0[1] != 0 })
    }

    @Test func aKernelThatTakesNothingMergedGetsSinglePacketsAndNothingIsLost() {
        var bench = Bench()
        bench.kernel.refusesMergedWrites = true
        // Until it is known that tails do not go by themselves either, each passes those that it followed.
        #expect(deliver(bundles: 40, to: &bench).sorted() == (0..<320).map { UInt32($0) })
        #expect(bench.counters[.shortTailFallbacks] == 1)
        #expect(bench.counters[.mergedWriteFallbacks] == 1)
        let after = bench.kernel.written.count
        #expect(deliver(bundles: 5, to: &bench)[after...] == (0..<40).map { UInt32($0) }[...])
        #expect(bench.kernel.written.allSatisfy { $0[1] == 0 })
    }

    @Test func oneRefusedWriteSwitchesNothingOff() {
        var bench = Bench()
        bench.kernel.refusesShortTails = true
        _ = deliver(bundles: 1, to: &bench)
        bench.kernel.refusesShortTails = false
        #expect(deliver(bundles: 9, to: &bench).count == 80)
        #expect(bench.counters[.shortTailFallbacks] == 0)
        #expect(bench.kernel.written.count == 8 + 9)
    }

    @Test func aPacketLargerThanThePathIsDroppedWithoutAFallback() {
        var bench = Bench()
        bench.kernel.pathLimit = 1000
        for _ in 0..<500 {
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8](repeating: 7, count: 1200)))
        }
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8](repeating: 7, count: 100)))
        bench.run(rounds: 300)
        #expect(bench.counters[.dropOutboundTooLarge] == 500)
        #expect(bench.counters[.segmentationFallbacks] == 0)
        #expect(bench.kernel.sent.count == 1)
    }
}
