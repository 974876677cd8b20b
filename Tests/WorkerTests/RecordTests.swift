import Addresses
import Counters
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// What a worker keeps of packets for people: the last that it dropped, copies, times.
@Suite struct RecordTests {
    @Test func theLastPacketsOfAReasonAreKept() throws {
        var bench = Bench()
        for index in 0..<7 {
            bench.fromPod(
                Packets.udp(
                    pod(1), pod(200), ports: (1000, UInt16(index)),
                    payload: [UInt8](repeating: 1, count: index)))
        }
        bench.run(rounds: 12)
        #expect(bench.counters[.dropOutboundNoRoute] == 7)
        let kept = bench.records.drops[.dropOutboundNoRoute]
        #expect(kept.count == DropRecords.recordsOfReason)
        #expect(Set(kept.map(\.length)) == [28 + 3, 28 + 4, 28 + 5, 28 + 6])
        let longest = try #require(kept.first { $0.length == 34 })
        #expect(
            longest.head
                == Packets.udp(pod(1), pod(200), ports: (1000, 6), payload: [UInt8](repeating: 1, count: 6)))
        // There is no peer.
        #expect(longest.socketName.allSatisfy { $0 == 0 })
        #expect(longest.nanoseconds > 0 && longest.nanoseconds <= UInt64(bench.kernel.nowNanoseconds))
        #expect(bench.records.drops[.dropOutboundTimeToLive].isEmpty)
    }

    @Test func whoSentWhatIsNotLetInIsKept() throws {
        var bench = Bench()
        bench.fromPeer(9, Packets.udp(pod(9), pod(1), payload: [1, 2, 3]))
        bench.fromPeer(3, Packets.udp(pod(4), pod(1), payload: [UInt8](repeating: 7, count: 100)))
        // One of three is too short.
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1]) + [0x45, 0], segmentBytes: 29)
        bench.run(rounds: 12)
        let stranger = try #require(bench.records.drops[.dropInboundUnknownPeer].first)
        #expect(stranger.length == 31 && stranger.head == Packets.udp(pod(9), pod(1), payload: [1, 2, 3]))
        #expect(Array(stranger.socketName[4..<8]) == Packets.bytes(Bench.underlay(9).bits))
        let source = try #require(bench.records.drops[.dropInboundSource].first)
        #expect(source.length == 128 && source.head.count == DropRecords.headBytes)
        #expect(Array(source.socketName[2..<4]) == Packets.bytes(UInt16(8285)))
        let short = try #require(bench.records.drops[.dropInboundTooShort].first)
        #expect(short.length == 2 && short.head == [0x45, 0])
    }

    @Test func whatCouldNotBeSentIsKeptWithItsPeer() throws {
        var bench = Bench()
        bench.kernel.sendFailurePercent = 100
        bench.kernel.sendErrors = [EHOSTUNREACH]
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [5, 6]))
        bench.run(rounds: 12)
        let kept = try #require(bench.records.drops[.dropOutboundUnreachable].first)
        #expect(kept.head == Packets.udp(pod(1), pod(3), timeToLive: 63, payload: [5, 6]))
        #expect(Array(kept.socketName[4..<8]) == Packets.bytes(Bench.underlay(3).bits))
    }

    @Test func aCaptureHasEachPacketBeforeAndAfterTheTunnel() {
        var bench = Bench()
        bench.records.copies.set(CaptureFilter())
        var traffic = TCPTraffic()
        let made = traffic.packet(flow: 1000, segments: 3, segmentBytes: 1000, tailBytes: 200)
        bench.fromPod(made.packet, header: made.header)
        bench.fromPod(Packets.udp(pod(1), pod(4), payload: [1, 2, 3]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [4, 5]))
        bench.fromPod(Packets.udp(pod(1), pod(200), payload: [9]))
        bench.run(rounds: 12)
        var copies: [PacketCopy] = []
        bench.records.copies.drain { copies.append($0) }
        func bytes(_ point: CapturePoint) -> [[UInt8]] { copies.filter { $0.point == point }.map(\.bytes) }
        #expect(bytes(.tunnelRead).map(\.count) == [PacketCopies.packetBytes, 31, 29])
        #expect(copies.first { $0.point == .tunnelRead }?.length == made.packet.count)
        #expect(
            bytes(.underlaySent)
                == bench.kernel.sent.map { Array($0.payload.prefix(PacketCopies.packetBytes)) })
        #expect(bytes(.underlaySent).count == 4)
        #expect(bytes(.underlayReceived) == [Packets.udp(pod(3), pod(1), payload: [4, 5])])
        #expect(
            bytes(.tunnelWritten)
                == [Packets.udp(pod(3), pod(1), timeToLive: 63, payload: [4, 5])])
        let dropped = copies.filter(\.point.isDrop)
        #expect(dropped.map(\.reason) == [.dropOutboundNoRoute])
        #expect(bench.records.copies.missed == 0)
    }

    @Test func aFilterLetsThroughWhatIsAskedFor() {
        func captured(_ change: (inout CaptureFilter) -> Void) -> [String] {
            var bench = Bench()
            var filter = CaptureFilter()
            change(&filter)
            bench.records.copies.set(filter)
            for node in [3, 4, 200] { bench.fromPod(Packets.udp(pod(1), pod(node), payload: [UInt8(node)])) }
            bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [7]))
            bench.fromPeer(4, Packets.udp(pod(4), pod(9), payload: [8]))
            bench.run(rounds: 12)
            var points: [String] = []
            bench.records.copies.drain { points.append("\($0.point) \($0.bytes.last ?? 0)") }
            return points.sorted()
        }
        #expect(captured { $0.isOfDropsAlone = true } == ["droppedInbound 8", "droppedOutbound 200"])
        #expect(
            captured { $0.host = [10, 66, 4, 2] }
                == ["droppedInbound 8", "tunnelRead 4", "underlayReceived 8", "underlaySent 4"])
        #expect(
            captured { $0.peer = [192, 168, 0, 3] } == ["underlayReceived 7", "underlaySent 3"])
        #expect(
            captured {
                $0.peer = [192, 168, 0, 4]
                $0.isOfDropsAlone = true
            } == ["droppedInbound 8"])
        #expect(captured { $0.host = [UInt8](repeating: 0, count: 16) } == [])
    }

    @Test func aReaderThatDoesNotKeepUpCostsCopiesAndNoPackets() {
        var bench = Bench()
        bench.records.copies.set(CaptureFilter())
        let count = PacketCopies.slotCount
        for index in 0..<count {
            bench.fromPod(Packets.udp(pod(1), pod(3), identification: UInt16(index), payload: [1]))
        }
        bench.drain()
        #expect(bench.counters[.packetsSent] == UInt64(count))
        #expect(bench.records.copies.missed == UInt64(count))
        var copies = 0
        bench.records.copies.drain { _ in copies += 1 }
        #expect(copies == count)
        // There is room again; and after the end nothing is copied.
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.drain()
        copies = 0
        bench.records.copies.drain { _ in copies += 1 }
        #expect(copies == 2)
        bench.records.copies.set(nil)
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.drain()
        bench.records.copies.drain { _ in copies += 1 }
        #expect(copies == 2 && bench.records.copies.missed == UInt64(count))
    }

    @Test func oneBufferAMillisecondIsTimedOnItsWay() {
        var bench = Bench()
        let histograms: [CounterHistogram] = [
            .outboundWaitTime, .outboundSendTime, .inboundWaitTime, .inboundWriteTime,
        ]
        func samples() -> [UInt64] { histograms.map { bench.counters[$0].counts.reduce(0, +) } }
        for _ in 0..<20 {
            bench.kernel.nowNanoseconds += 1_000_000
            for _ in 0..<3 {
                bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
                bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [7]))
            }
            bench.drain()
        }
        #expect(samples().allSatisfy { $0 >= 15 && $0 <= 25 }, "\(samples())")
        // What is dropped is not timed on its way, and what comes after it is.
        let before = samples()
        for _ in 0..<10 {
            bench.kernel.nowNanoseconds += 1_000_000
            bench.fromPod(Packets.udp(pod(1), pod(200), payload: [1]))
            bench.fromPeer(9, Packets.udp(pod(3), pod(1), payload: [7]))
            bench.drain()
        }
        #expect(samples() == before)
        bench.kernel.nowNanoseconds += 1_000_000
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [7]))
        bench.drain()
        #expect(zip(samples(), before).allSatisfy { $0 == $1 + 1 }, "\(samples())")
    }
}
