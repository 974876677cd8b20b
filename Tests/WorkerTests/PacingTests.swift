import Addresses
import Counters
import Testing

@testable import Worker

/// What leaves for a peer that takes no bursts, as flanneld; on simulated time.
@Suite struct PacingTests {
    private static let segments = 44, segmentBytes = 1400
    private static let pause = segments * WorkerLimits.pacedDatagramNanoseconds

    /// Puts a TCP super-packet for a peer into the TUN device's queue.
    private func sendSuperPacket(to peer: Int, port: UInt16 = 1000, in bench: inout Bench) {
        let payload = [UInt8](repeating: 7, count: Self.segments * Self.segmentBytes)
        let packet = Packets.tcp(pod(1), pod(peer), ports: (port, 2000), sequence: 1, payload: payload)
        let size = UInt16(Self.segmentBytes)
        bench.fromPod(packet, header: [1, 1, 40, 0, UInt8(size & 0xFF), UInt8(size >> 8), 20, 0, 16, 0])
    }

    private func bench() -> Bench {
        let bench = Bench()
        bench.publication.publish(Bench.routes(paced: [3, 4]))
        return bench
    }

    private func sentCount(to peer: Int, in bench: borrowing Bench) -> Int {
        bench.kernel.sent.count { $0.endpoint == Bench.endpoint(peer) }
    }

    /// Runs until nothing waits; gives, after each round, the time and how much had left for a peer.
    private func record(_ bench: inout Bench, peer: Int) -> [(nanoseconds: Int, sent: Int)] {
        var record: [(Int, Int)] = []
        var rounds = 0
        repeat {
            bench.run(rounds: 1)
            record.append((bench.kernel.nowNanoseconds, sentCount(to: peer, in: bench)))
            rounds += 1
        } while !bench.isDrained && rounds < 5000
        bench.drain()
        return record
    }

    @Test func superPacketsLeaveWithAPauseBetweenThem() {
        var bench = bench()
        let count = 12
        for _ in 0..<count { sendSuperPacket(to: 3, in: &bench) }
        let record = record(&bench, peer: 3)
        #expect(bench.kernel.sent.count == count * Self.segments)
        // In no stretch of time leave more than its pauses allow, and two super-packets.
        for (index, start) in record.enumerated() {
            for end in record[index...] {
                let allowed = (end.nanoseconds - start.nanoseconds) / Self.pause + 2
                #expect(end.sent - start.sent <= allowed * Self.segments)
            }
        }
        // Nor is the worker awake meanwhile: each pause is slept through, in a round or a few.
        #expect(record.count < count * 8)
    }

    @Test func whoTakesBurstsWaitsForNobody() {
        var bench = bench()
        for _ in 0..<10 { sendSuperPacket(to: 3, in: &bench) }
        for _ in 0..<10 { sendSuperPacket(to: 2, in: &bench) }
        for _ in 0..<4 { sendSuperPacket(to: 4, port: 1001, in: &bench) }
        while sentCount(to: 2, in: bench) < 10 * Self.segments { bench.run(rounds: 1) }
        #expect(sentCount(to: 3, in: bench) <= 4 * Self.segments)
        // Another such peer has a pace of its own.
        while sentCount(to: 4, in: bench) < 4 * Self.segments { bench.run(rounds: 1) }
        #expect(sentCount(to: 3, in: bench) < 9 * Self.segments)
        bench.drain()
        #expect(bench.kernel.sent.count == 24 * Self.segments)
    }

    @Test func aRequestGoesAheadAndItsFlowsOwnPacketsDoNot() throws {
        var bench = bench()
        for _ in 0..<10 { sendSuperPacket(to: 3, in: &bench) }
        let last = Packets.tcp(pod(1), pod(3), ports: (1000, 2000), sequence: 9, payload: [1, 2, 3])
        bench.fromPod(last)
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
        bench.drain()
        let sent = bench.kernel.sent.map(\.payload)
        let request = try #require(sent.firstIndex { $0[9] == 17 })
        #expect(request < 4 * Self.segments)
        #expect(try #require(sent.lastIndex { $0[9] == 6 }) == sent.count - 1)
        #expect(sent[sent.count - 1].count == last.count)
    }

    @Test func whatIsTooMuchIsDroppedAndCounted() {
        var bench = bench()
        let count = 4 * bench.worker.limits.pacedReads
        for _ in 0..<count { sendSuperPacket(to: 3, in: &bench) }
        bench.drain()
        let dropped = Int(bench.counters[.dropOutboundStandingQueue])
        #expect(dropped > 0)
        #expect(bench.kernel.sent.count == (count - dropped) * Self.segments)
        // The buffers are all there again.
        for _ in 0..<10 { sendSuperPacket(to: 2, in: &bench) }
        bench.drain()
        #expect(sentCount(to: 2, in: bench) == 10 * Self.segments)
    }

    /// Beside bulk for a twill, which waits by itself, and while the peer becomes a twill and a flanneld again.
    @Test(arguments: 1...8, [false, true])
    func flowsKeepTheirOrder(seed: Int, peerChanges: Bool) {
        // One super-packet a round: much waits.
        var tuning = Tuning()
        tuning.superPacketBatch = 1
        var bench = Bench(seed: UInt64(seed), tuning: tuning)
        bench.publication.publish(Bench.routes(paced: [3]))
        var generator = SeededGenerator(seed: UInt64(seed))
        var sequences: [UInt16: UInt32] = [:]
        for step in 0..<60 {
            for _ in 0..<Int.random(in: 0...6, using: &generator) {
                if generator.chance(40) {
                    sendSuperPacket(to: 2, port: 2000, in: &bench)
                    continue
                }
                let flow = UInt16.random(in: 1...3, using: &generator)
                let segments = generator.chance(50) ? 1 : Int.random(in: 2...40, using: &generator)
                let payload = [UInt8](repeating: 7, count: segments * Self.segmentBytes)
                let sequence = sequences[flow, default: 0]
                sequences[flow] = sequence &+ UInt32(payload.count)
                let packet = Packets.tcp(
                    pod(1), pod(3), ports: (flow, 9), sequence: sequence, payload: payload)
                let size = UInt16(Self.segmentBytes)
                bench.fromPod(
                    packet,
                    header: segments == 1
                        ? [UInt8](repeating: 0, count: 10)
                        : [1, 1, 40, 0, UInt8(size & 0xFF), UInt8(size >> 8), 20, 0, 16, 0])
            }
            if peerChanges, step % 5 == 4 {
                bench.publication.publish(Bench.routes(paced: step % 10 == 4 ? [] : [3]))
            }
            bench.run(rounds: 1)
        }
        bench.drain()
        for flow in UInt16(1)...3 {
            let ports = Packets.bytes(flow) + Packets.bytes(UInt16(9))
            let sent = bench.kernel.sent.map(\.payload).filter { Array($0[20..<24]) == ports }
            let numbers = sent.map { payload in
                payload[24..<28].reduce(UInt32(0)) { number, byte in number << 8 | UInt32(byte) }
            }
            #expect(!numbers.isEmpty)
            #expect(zip(numbers, numbers.dropFirst()).allSatisfy { $0.0 < $0.1 }, "flow \(flow)")
        }
    }

    /// Addresses that differ in any part, as nodes of several racks do.
    @Test func peersOfManyNetworksHavePlacesOfTheirOwn() {
        let places = (0..<64).map {
            PacedReads.place(of: Endpoint(address: IPv4Address(bits: 0x0A00_0001 + $0 << 8), port: 8285))
        }
        #expect(Set(places).count > 30)
    }

    @Test func aPeerThatBecomesATwillIsPacedNoMore() {
        var bench = bench()
        for _ in 0..<6 { sendSuperPacket(to: 3, in: &bench) }
        bench.run(rounds: 4)
        bench.publication.publish(Bench.routes())
        for _ in 0..<6 { sendSuperPacket(to: 3, port: 1001, in: &bench) }
        // What waits leaves at once, before what comes after it.
        bench.run(rounds: 1)
        #expect(bench.worker.pacedReads.count == 0)
        bench.drain()
        #expect(bench.kernel.sent.count == 12 * Self.segments)
    }
}
