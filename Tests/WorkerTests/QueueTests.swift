import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// Who waits for whom: priority of sparse flows, standing queues, and who has the processor.
@Suite struct QueueTests {
    @Test(arguments: [(32, true), (1392, false)])
    func aWorkerLetsOthersRunAfterManySmallPacketsAlone(payloadBytes: Int, letsRun: Bool) {
        var bench = Bench()
        let packet = Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 7, count: payloadBytes))
        for _ in 0..<20 { bench.fromPeer(3, (0..<20).flatMap { _ in packet }, segmentBytes: packet.count) }
        bench.run(rounds: 60)
        #expect((bench.counters[.yields] > 0) == letsRun)
        #expect(bench.counters[.sleeps] > 0)
    }

    /// A worker whose socket holds more than it had room for has not run dry: the queue there would grow for as long as others run.
    @Test func aWorkerLetsNobodyRunWhileItsSocketHoldsMore() {
        var bench = Bench()
        let packet = Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 7, count: 32))
        for _ in 0..<(20 * Tuning().receiveBuffers + 8) { bench.fromPeer(3, packet) }
        var rounds = 0
        while !bench.kernel.socketQueue.isEmpty {
            bench.run(rounds: 1)
            rounds += 1
        }
        #expect(rounds > 10)
        #expect(bench.counters[.yields] == 0)
        // The last ones left room.
        bench.run(rounds: 20)
        #expect(bench.counters[.yields] > 0)
        #expect(bench.counters[.sleeps] > 0)
    }

    @Test(arguments: 1...6, [false, true])
    func whatAPodSendsToOnePeerLeavesInOrderHoweverItIsMixed(seed: Int, isPaced: Bool) {
        var generator = SeededGenerator(seed: UInt64(seed) &* 31)
        var bench = Bench(seed: UInt64(seed), segmentLimit: [1, 64, 128][seed % 3])
        if isPaced { bench.publication.publish(Bench.routes(paced: [3])) }
        // Where sends are refused and replayed, nothing is lost, but packets pass each other.
        bench.kernel.refusesSegmentation = seed == 6
        var traffic = TCPTraffic()
        for _ in 0..<15 {
            for _ in 0..<Int.random(in: 0...9, using: &generator) {
                // Two flows send whatever a flow can send, four more send single packets.
                let flow = UInt16.random(in: 1...(generator.chance(80) ? 2 : 6), using: &generator)
                let isSparse = flow > 2
                let segmentBytes = generator.chance(80) ? 1432 : 500
                let made = traffic.packet(
                    flow: flow,
                    segments: isSparse || generator.chance(50)
                        ? 1 : Int.random(in: 2...45, using: &generator),
                    segmentBytes: segmentBytes,
                    tailBytes: generator.chance(isSparse ? 20 : 70)
                        ? segmentBytes : Int.random(in: 1...segmentBytes, using: &generator))
                bench.fromPod(made.packet, header: made.header)
            }
            #expect(bench.worker.round() == 0)
            // More would be dropped as a standing queue.
            while bench.worker.pacedReads.count > bench.worker.limits.pacedReads / 2 { bench.run(rounds: 1) }
        }
        bench.drain()
        #expect(bench.kernel.sent.count == traffic.expected.count)
        if bench.kernel.refusesSegmentation {
            let areTheSame = Set(bench.kernel.sent.map(\.payload)) == Set(traffic.expected)
            #expect(areTheSame)
        } else {
            for flow in UInt8(1)...6 {
                let sent = bench.kernel.sent.map(\.payload).filter { $0[21] == flow }
                #expect(firstDifference(sent, traffic.expected.filter { $0[21] == flow }) == nil)
            }
        }
    }

    @Test func aRequestIsPrioritizedOverABulkFlowThatWaitsAndLeavesAlone() throws {
        var bench = Bench()
        var traffic = TCPTraffic()
        // The first six bring the worker to read eight in a burst.
        for _ in 0..<6 {
            let made = traffic.packet(flow: 1, segments: 1, segmentBytes: 1432, tailBytes: 1432)
            bench.fromPod(made.packet, header: made.header)
        }
        for place in 0..<8 {
            let made = traffic.packet(
                flow: 1, segments: place < 6 ? 20 : 1, segmentBytes: 1432, tailBytes: 1432)
            bench.fromPod(made.packet, header: made.header)
            if place == 4 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3])) }
        }
        bench.run(rounds: 20)
        let sent = bench.kernel.sent.map(\.payload)
        let request = sent.firstIndex { $0[9] == 17 }
        let requestsPlace = try #require(request)
        // Read behind five super-packets, of which it passed some.
        #expect(requestsPlace < 6 + 4 * 20)
        #expect(bench.counters[.outboundPassed] == 1)
        #expect(firstDifference(sent.filter { $0[9] == 6 }, traffic.expected) == nil)
        // Nothing shares its send: at the receiver's it may go ahead again.
        #expect(bench.kernel.sent[requestsPlace].segmentCount == 1)
        // Somebody waits for it, and has the CPU in between.
        #expect(bench.counters[.yields] > 0)
    }

    @Test func aBulkFlowAloneKeepsTheCPU() {
        var bench = Bench()
        var traffic = TCPTraffic()
        for _ in 0..<40 {
            let made = traffic.packet(flow: 1, segments: 20, segmentBytes: 1432, tailBytes: 1432)
            bench.fromPod(made.packet, header: made.header)
        }
        bench.run(rounds: 40)
        #expect(bench.kernel.sent.count == traffic.expected.count)
        #expect(bench.counters[.yields] == 0)
    }

    @Test func aYieldIsFollowedByAsLongWithoutOneAndALongOneByARest() {
        var yielding = Yielding()
        #expect(yielding.isDue(atNanoseconds: 5_000_000))
        yielding.note(beganNanoseconds: 5_000_000, endedNanoseconds: 5_300_000)
        #expect(!yielding.isDue(atNanoseconds: 5_599_999))
        #expect(yielding.isDue(atNanoseconds: 5_600_000))
        yielding.note(beganNanoseconds: 6_000_000, endedNanoseconds: 7_000_001)
        #expect(!yielding.isDue(atNanoseconds: 107_000_000))
        #expect(yielding.isDue(atNanoseconds: 107_000_001))
    }

    @Test func aStandingQueueIsMarkedFasterAndFasterUntilItBreaks() {
        let start = 5_000_000_000
        let interval = WorkerLimits.standingQueueNanoseconds
        var queue = StandingQueue()
        func marks(_ times: some Sequence<Int>, _ queue: inout StandingQueue) -> [Int] {
            times.filter { queue.marks(whileFull: true, atNanoseconds: start + $0) }
        }
        let step = interval / 100
        // Nothing goes for one interval, nor when a break came in it.
        #expect(marks(stride(from: 0, to: interval, by: step), &queue) == [])
        _ = queue.marks(whileFull: false, atNanoseconds: start + interval)
        #expect(marks(stride(from: interval, to: 2 * interval, by: step), &queue) == [])
        // Then one at a time, after an interval over the roots of 1, 2, 3 …, to the next step.
        let gone = marks(stride(from: 2 * interval, to: 6 * interval, by: step), &queue)
        var expected = [2 * interval]
        var due = Double(2 * interval)
        for count in 1... {
            due += Double(interval) / Double(count).squareRoot()
            let next = Int((due / Double(step)).rounded(.up)) * step
            guard next < 6 * interval else { break }
            expected.append(next)
        }
        #expect(expected.count > 5)
        #expect(zip(gone, expected).allSatisfy { abs($0 - $1) <= step } && gone.count == expected.count)
        // After a short break it goes on as dense as it was; after a long one it begins anew.
        for (pause, isDense) in [(interval, true), (17 * interval, false)] {
            var again = queue
            _ = again.marks(whileFull: false, atNanoseconds: start + 6 * interval)
            let from = 6 * interval + pause
            let gone = marks(stride(from: from, to: from + 3 * interval, by: step), &again)
            #expect(gone.first == from + interval)
            #expect((gone[1] - gone[0] < interval / 2) == isDense)
        }
    }

    @Test(arguments: [false, true])
    func whileTheQueueStaysFullBulkIsMarkedOrDropped(withCongestionNotification: Bool) {
        var bench = Bench()
        var bulk = BulkTraffic(withCongestionNotification: withCongestionNotification)
        let marks: Counter = withCongestionNotification ? .congestionMarks : .dropOutboundStandingQueue
        let other: Counter = withCongestionNotification ? .dropOutboundStandingQueue : .congestionMarks
        var requests = 0
        // A round that carries super-packets takes half a millisecond.
        bench.kernel.nanosecondsPerEnter = 500_000
        let began = bench.kernel.nowNanoseconds
        while bench.kernel.nowNanoseconds - began < 4 * WorkerLimits.standingQueueNanoseconds {
            let elapsed = bench.kernel.nowNanoseconds - began
            #expect(
                elapsed >= WorkerLimits.standingQueueNanoseconds || bench.counters[marks] == 0,
                "marked after \(elapsed) ns")
            bulk.fill(&bench)
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
            requests += 1
            bench.run(rounds: 20)
        }
        bench.drain()
        // At 100 ms, and then after 100 ms over the roots of 1, 2, 3 …
        #expect((5...10).contains(bench.counters[marks]))
        #expect(bench.counters[other] == 0)
        let sent = bench.kernel.sent.map(\.payload)
        #expect(sent.filter { $0[9] == 17 }.count == requests)
        let segments = sent.filter { $0[9] == 6 }
        #expect(segments.allSatisfy { Packets.checksum(Array($0[..<20])) == 0 })
        let segmentCount = BulkTraffic.segmentCount
        #expect(
            segments.filter { $0[1] == 0x03 }.count == segmentCount * Int(bench.counters[.congestionMarks]))
        let dropped = Int(bench.counters[.dropOutboundStandingQueue])
        #expect(segments.count == segmentCount * (bulk.count - dropped))
        // Whole super-packets are missing, and the others are in order.
        for flow in UInt8(1)...4 {
            let places = segments.filter { $0[21] == flow }
                .map { $0[24..<28].reduce(0) { $0 << 8 | Int($1) } / BulkTraffic.segmentBytes }
            let isWhole = zip(places, places.dropFirst()).allSatisfy { place, next in
                next == place + 1
                    || (next > place && next % segmentCount == 0 && (place + 1) % segmentCount == 0)
            }
            #expect(isWhole, "flow \(flow)")
        }
    }

    @Test func whereNobodyElseWaitsBulkMayStand() {
        var bench = Bench()
        var bulk = BulkTraffic()
        bench.kernel.nanosecondsPerEnter = 500_000
        let end = bench.kernel.nowNanoseconds + 3 * WorkerLimits.standingQueueNanoseconds
        while bench.kernel.nowNanoseconds < end {
            bulk.fill(&bench)
            bench.run(rounds: 2)
        }
        bench.drain()
        #expect(bench.kernel.sent.count == BulkTraffic.segmentCount * bulk.count)
    }

    @Test func anAnswerIsPrioritizedOverABulkFlowAndThatFlowsOwnPacketsAreNot() {
        func segment(_ place: Int, port: UInt16, bytes: Int) -> [UInt8] {
            Packets.tcp(
                pod(3), pod(1), ports: (port, 2), sequence: UInt32(place * 1432),
                identification: UInt16(truncatingIfNeeded: place),
                payload: [UInt8](repeating: UInt8(truncatingIfNeeded: place), count: bytes))
        }
        var bench = Bench(coalesces: false)
        for bundle in 0..<5 {
            bench.fromPeer(
                3, (0..<40).flatMap { segment(bundle * 40 + $0, port: 7, bytes: 1432) }, segmentBytes: 1472)
        }
        bench.fromPeer(3, segment(200, port: 7, bytes: 10))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1, 2, 3]))
        bench.fromPeer(
            3,
            Packets.ipv4(
                pod(3), pod(1), transport: 17, fragment: 0x2000, payload: [UInt8](repeating: 1, count: 16)))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), ports: (5, 6), payload: [4, 5, 6]))
        bench.run(rounds: 20)
        let written = bench.kernel.written.map { Array($0[10...]) }
        #expect(written.count == 204)
        #expect(written[0] == Packets.udp(pod(3), pod(1), timeToLive: 63, payload: [1, 2, 3]))
        // The bulk flow in order to its end, the fragment behind it, and nothing ahead of that.
        let bulk = written[1...201]
        #expect(bulk.allSatisfy { $0[9] == 6 })
        #expect(bulk.map { Array($0[24..<28]) } == (0...200).map { Packets.bytes(UInt32($0 * 1432)) })
        #expect(written[202][6] == 0x20)
        #expect(written[203][22...23].elementsEqual([0, 6]))
        #expect(bench.counters[.inboundPassed] == 1)
    }
}
