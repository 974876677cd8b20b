import Addresses
import CLinux
import Counters
import Forwarding
import Offload
import Testing

@testable import Worker

/// What one packet, and one pod, may take of the worker. Counted in packets that leave, not in time.
@Suite struct FairnessTests {
    /// A TCP super-packet as the kernel leaves it, with its virtio header.
    private func superPacket(
        from source: IPv4Address, port: UInt16 = 1000, segments: Int, segmentBytes: Int
    ) -> (packet: [UInt8], header: [UInt8]) {
        let payload = [UInt8](repeating: 7, count: segments * segmentBytes)
        let packet = Packets.tcp(source, pod(3), ports: (port, 2000), sequence: 1, payload: payload)
        let size = UInt16(segmentBytes)
        return (packet, [1, 1, 40, 0, UInt8(size & 0xFF), UInt8(size >> 8), 20, 0, 16, 0])
    }

    /// Where in all that left a pod's segments are.
    private func places(of source: IPv4Address, in bench: borrowing Bench) -> [Int] {
        let bytes = Packets.bytes(source.bits)
        return bench.kernel.sent.indices.filter { Array(bench.kernel.sent[$0].payload[12..<16]) == bytes }
    }

    /// Brings the worker to read in full bursts.
    private func warmUp(_ bench: inout Bench) {
        for _ in 0..<200 { bench.fromPod(Packets.udp(pod(1, 9), pod(3), payload: [1])) }
        while !bench.kernel.tunnelQueue.isEmpty { bench.run(rounds: 1) }
    }

    @Test func aSuperPacketOfOneByteSegmentsCostsNothing() {
        var bench = Bench()
        for _ in 0..<50 {
            let heavy = superPacket(from: pod(1, 4), segments: 65_000, segmentBytes: 1)
            bench.fromPod(heavy.packet, header: heavy.header)
        }
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
        bench.drain()
        #expect(bench.counters[.dropOutboundSuperPacketSegmentCount] == 50)
        #expect(bench.counters[.segmentsSent] == 0)
        #expect(bench.kernel.sent.count == 1)
    }

    @Test func whatWaitsInSmallSegmentsHasALimitAndOthersLoseNothing() {
        var bench = Bench()
        warmUp(&bench)
        bench.kernel.sent = []
        for place in 0..<64 {
            let heavy = superPacket(from: pod(1, 4), segments: 740, segmentBytes: 80)
            if place % 8 != 0 {
                bench.fromPod(heavy.packet, header: heavy.header)
            } else {
                let usual = superPacket(from: pod(1, 5), segments: 44, segmentBytes: 1400)
                bench.fromPod(usual.packet, header: usual.header)
            }
        }
        bench.fromPod(Packets.udp(pod(1, 6), pod(3), payload: [1, 2, 3]))
        bench.drain()
        #expect(bench.counters[.dropOutboundSmallSegments] > 40)
        #expect(places(of: pod(1, 5), in: bench).count == 8 * 44)
        #expect(places(of: pod(1, 6), in: bench).count == 1)
        #expect(bench.counters[.dropOutboundNoBuffer] == 0)
        // Behind all that was read before it, which is what two such packets and the usual ones make.
        let last = places(of: pod(1, 6), in: bench).last ?? .max
        #expect(last <= WorkerLimits.waitingSmallSegments + 8 * 44)
    }

    @Test func podsAreServedInTurnHoweverManyFlowsOneHas() {
        var bench = Bench()
        warmUp(&bench)
        bench.kernel.sent = []
        // Somebody waits for an answer, so that all that comes is read, and waits in here. One pod's fifty flows were there
        // first; then come eight of another's.
        bench.worker.shortRoundsUntilNanoseconds = .max
        for port in 0..<50 {
            let greedy = superPacket(from: pod(1, 4), port: UInt16(port), segments: 44, segmentBytes: 1400)
            bench.fromPod(greedy.packet, header: greedy.header)
        }
        for _ in 0..<8 {
            let other = superPacket(from: pod(1, 5), segments: 44, segmentBytes: 1400)
            bench.fromPod(other.packet, header: other.header)
        }
        bench.drain()
        let last = places(of: pod(1, 5), in: bench).last ?? .max
        #expect(places(of: pod(1, 4), in: bench).count == 50 * 44)
        #expect(places(of: pod(1, 5), in: bench).count == 8 * 44)
        // As many of the one's as of the other's, and what was sent before the other's were read, one a round.
        #expect(last < (8 + 2 * 8 + 2) * 44)
    }

    /// Who waits for a packet of the kernel path gets the processor from a worker of bulk, after four super-packets; and
    /// nobody does once that was a while ago, or where there is no such packet.
    @Test(arguments: [(0, true), (WorkerLimits.sparseAfterNanoseconds, false), (Int.max / 2, false)])
    func whoWaitsBesideAWorkerIsGivenTheProcessor(age: Int, isYielded: Bool) {
        let time = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        defer { time.deallocate() }
        time.initialize(to: 0)
        var bench = Bench(kernelPathTraffic: KernelPathTraffic(time))
        warmUp(&bench)
        for port in 0..<64 {
            let bulk = superPacket(from: pod(1, 4), port: UInt16(port), segments: 44, segmentBytes: 1400)
            bench.fromPod(bulk.packet, header: bulk.header)
        }
        let before = bench.counters[.yields]
        var most = 0
        for _ in 0..<40 where !bench.kernel.tunnelQueue.isEmpty {
            time.pointee = UInt64(clamping: bench.kernel.nowNanoseconds - age)
            bench.run(rounds: 1)
            most = max(most, bench.worker.work.superPackets)
        }
        #expect((bench.counters[.yields] > before) == isYielded)
        #expect(most == (isYielded ? WorkerLimits.superPacketsBesideKernelPath : Tuning().superPacketBatch))
        bench.drain()
        #expect(places(of: pod(1, 4), in: bench).count == 64 * 44)
    }

    private func read(_ buffer: Int, segments: Int) -> WaitingRead {
        WaitingRead(buffer: Int32(buffer), length: 1, segments: Int32(segments), flow: nil)
    }

    @Test func turnsAreOfWorkAndNotOfPackets() {
        var waiting = WaitingReads(capacity: 64)
        for buffer in 0..<4 { waiting.append(read(buffer, segments: 640), from: 7) }
        for buffer in 10..<50 { waiting.append(read(buffer, segments: 64), from: 63) }
        var order: [Int] = []
        while waiting.count > 0 { order.append(Int(waiting.removeFirst().buffer)) }
        #expect(order.count == 44)
        #expect(Set(order).count == 44)
        #expect(order.filter { $0 >= 10 } == Array(10..<50))
        #expect(order.filter { $0 < 10 } == [0, 1, 2, 3])
        // Between two heavy ones there are ten light ones: the same work.
        let heavy = order.indices.filter { order[$0] < 10 }
        for (place, next) in zip(heavy, heavy.dropFirst()) { #expect((9...11).contains(next - place - 1)) }
    }

    @Test func aSourceAloneIsOneLineFirstInFirstOut() {
        var waiting = WaitingReads(capacity: 64)
        var generator = SeededGenerator(seed: 3)
        var expected: [Int] = []
        var free = Set(0..<64)
        for _ in 0..<2000 {
            if let buffer = free.randomElement(using: &generator), generator.chance(52) {
                free.remove(buffer)
                expected.append(buffer)
                waiting.append(read(buffer, segments: Int.random(in: 1...744, using: &generator)), from: 5)
            } else if waiting.count > 0 {
                let buffer = Int(waiting.removeFirst().buffer)
                #expect(buffer == expected.removeFirst())
                free.insert(buffer)
            }
        }
    }

    @Test(arguments: 1...4)
    func everySourceKeepsItsOrderAndIsServed(seed: UInt64) {
        var waiting = WaitingReads(capacity: 129)
        var generator = SeededGenerator(seed: seed)
        var lines: [[Int]] = Array(repeating: [], count: 64)
        var sources: [Int: Int] = [:]
        for _ in 0..<20_000 {
            let free = (0..<129).first { sources[$0] == nil }
            if let buffer = free, generator.chance(53) {
                let source = Int.random(in: 0..<64, using: &generator)
                lines[source].append(buffer)
                sources[buffer] = source
                waiting.append(
                    read(buffer, segments: Int.random(in: 1...744, using: &generator)), from: source)
            } else if waiting.count > 0 {
                let buffer = Int(waiting.removeFirst().buffer)
                let source = sources.removeValue(forKey: buffer) ?? -1
                #expect(lines[source].removeFirst() == buffer)
            }
        }
        while waiting.count > 0 { _ = waiting.removeFirst() }
        let hasRoom = waiting.hasRoom(forSegments: WorkerLimits.waitingSmallSegments)
        #expect(hasRoom)
    }
}
