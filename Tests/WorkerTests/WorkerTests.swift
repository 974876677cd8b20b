import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// A worker over a simulated kernel: this node is 10.66.1.0/24, its peers 10.66.2.0/24 … behind 192.168.0.2 ….
struct Bench: ~Copyable {
    let kernel: SimulatedKernel
    let memory: PacketMemory
    let counters = CounterBlock.allocate()
    let peerCounters = PeerCounterBlock.allocate()
    let publication = ForwardingPublication(workers: 1)
    var worker: Worker<SimulatedEngine>

    static let local = IPv4Prefix("10.66.1.0/24")!
    static func subnet(_ peer: Int) -> IPv4Prefix { IPv4Prefix("10.66.\(peer).0/24")! }
    static func underlay(_ peer: Int) -> IPv4Address { IPv4Address("192.168.0.\(peer)")! }
    static func endpoint(_ peer: Int) -> Endpoint { Endpoint(address: underlay(peer), port: 8285) }
    /// - Parameter paced: which peers take no bursts.
    static func routes(peers: Range<Int> = 2..<6, mtu: Int = 1472, paced: Set<Int> = []) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: local, mtu: mtu,
            peers: peers.map {
                ForwardingPeer(
                    ipv4: subnet($0), endpoint: endpoint($0), counterSlot: UInt16($0),
                    takesBursts: !paced.contains($0))
            })
    }

    init(
        seed: UInt64 = 1, segmentLimit: Int = 64, acceptsAnySource: Bool = false,
        coalesces: Bool = true,
        busyPollMicroseconds: Int = 0, minimumWaitMicroseconds: Int = 0, tuning: Tuning = Tuning()
    ) {
        let limits = try! WorkerLimits(tuning)
        kernel = SimulatedKernel(seed: seed)
        memory = PacketMemory(limits, hugePages: false)!
        publication.publish(Bench.routes())
        worker = Worker(
            engine: SimulatedEngine(kernel: kernel, memory: memory, entries: limits.ringEntries),
            memory: memory,
            limits: limits,
            settings: WorkerSettings(
                tunnelAddress: IPv4Address("10.66.1.0")!, acceptsAnySource: acceptsAnySource,
                segmentLimit: segmentLimit, coalesces: coalesces ? .all : [],
                busyPollMicroseconds: busyPollMicroseconds,
                minimumWaitMicroseconds: minimumWaitMicroseconds),
            counters: counters, peerCounters: peerCounters, reader: publication.reader(0))
    }

    deinit {
        memory.deallocate()
        counters.deallocate()
        peerCounters.deallocate()
    }

    mutating func fromPod(_ packet: [UInt8], header: [UInt8] = [UInt8](repeating: 0, count: 10)) {
        kernel.tunnelQueue.append(header + packet)
    }

    mutating func fromPeer(_ peer: Int, _ payload: [UInt8], segmentBytes: Int = 0) {
        kernel.socketQueue.append(
            SimulatedKernel.Datagrams(
                source: Bench.endpoint(peer), segmentBytes: segmentBytes, payload: payload))
    }

    /// Whether nothing is under way or in line.
    var isDrained: Bool {
        kernel.tunnelQueue.isEmpty && kernel.socketQueue.isEmpty && worker.engine.isIdle
            && worker.waitingReads.count == 0 && worker.pacedReads.count == 0 && worker.arrivalCount == 0
    }

    mutating func run(rounds: Int = 8) {
        for _ in 0..<rounds { #expect(worker.round() == 0) }
    }

    /// Rounds until nothing is under way or in line, and further ones bring nothing: in the first of those goes out what a full
    /// last burst left open. Late operations hold back those behind them, so that can take many rounds.
    mutating func drain() {
        let limit = 50_000
        var rounds = 0
        var rests = 0
        while rests < 4, rounds < limit {
            #expect(worker.round() == 0)
            rests = isDrained ? rests + 1 : 0
            rounds += 1
        }
        #expect(rounds < limit)
    }
}

func pod(_ node: Int, _ host: Int = 2) -> IPv4Address { IPv4Address("10.66.\(node).\(host)")! }

@Suite struct WorkerTests {
    @Test func aPacketFromAPodLeavesForItsPeerOneHopOlder() {
        var bench = Bench()
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
        bench.run()
        #expect(bench.kernel.sent.count == 1)
        #expect(bench.kernel.sent[0].endpoint == Bench.endpoint(3))
        #expect(
            bench.kernel.sent[0].payload == Packets.udp(pod(1), pod(3), timeToLive: 63, payload: [1, 2, 3]))
    }

    @Test func aDatagramFromAPeerReachesThePodOneHopOlder() {
        var bench = Bench()
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1, 2, 3]))
        bench.run()
        #expect(bench.kernel.written.count == 1)
        #expect(
            Array(bench.kernel.written[0][10...])
                == Packets.udp(pod(3), pod(1), timeToLive: 63, payload: [1, 2, 3]))
    }

    @Test func equalNeighboursToOnePeerLeaveInOneSend() {
        var bench = Bench()
        for index in 0..<40 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == 40)
        #expect(bench.kernel.sent.map { $0.payload[28] } == (0..<40).map { UInt8($0) })
        #expect(bench.counters[.sends] < 10)
    }

    /// Packets of TCP flows from a pod to one peer, whole ones and super-packets, and what must leave.
    private struct TCPTraffic {
        private(set) var expected: [[UInt8]] = []
        private var sequences: [UInt16: UInt32] = [:]
        private var identification: UInt16 = 0

        /// The next packet of a flow, of `count` segments, the last of them with `tailBytes` of payload.
        mutating func packet(
            flow: UInt16, segments count: Int, segmentBytes: Int, tailBytes: Int
        ) -> (packet: [UInt8], header: [UInt8]) {
            let sequence = sequences[flow, default: 0]
            let payload = (0..<(count - 1) * segmentBytes + tailBytes).map {
                UInt8(truncatingIfNeeded: $0 / 7)
            }
            let first = identification
            for index in 0..<count {
                let start = index * segmentBytes
                let end = min(start + segmentBytes, payload.count)
                expected.append(
                    Packets.tcp(
                        pod(1), pod(3), ports: (flow, 2000), sequence: sequence &+ UInt32(start),
                        flags: index == count - 1 ? 0x18 : 0x10, timeToLive: 63,
                        identification: first &+ UInt16(index), payload: Array(payload[start..<end])))
            }
            sequences[flow] = sequence &+ UInt32(payload.count)
            identification &+= UInt16(count)
            var whole = Packets.tcp(
                pod(1), pod(3), ports: (flow, 2000), sequence: sequence, flags: 0x18, identification: first,
                payload: payload)
            guard count > 1 else { return (whole, [UInt8](repeating: 0, count: 10)) }
            // As the kernel leaves a super-packet: the checksum holds the sum of the pseudo header alone.
            let pseudoHeader = Packets.pseudoSum(pod(1), pod(3), 6, whole.count - 20)
            whole.replaceSubrange(36..<38, with: Packets.bytes(~Packets.checksum([], pseudoHeader)))
            return (whole, [1, 1, 40, 0, UInt8(segmentBytes & 0xFF), UInt8(segmentBytes >> 8), 20, 0, 16, 0])
        }
    }

    @Test(arguments: [
        // One send each for the first two; 44 segments fit a send, and 61 follow.
        ([1, 20, 20, 20], 4), ([20, 1, 20, 20], 4), ([20, 20, 20, 1], 4),
        // Bursts double up to 64 reads; in the last one, whole packets fill a send just before a super-packet.
        ([Int](repeating: 1, count: 62 + 44) + [20], 7),
    ])
    func aFullSizedPacketSharesTheSendsOfTheSuperPacketsAroundIt(counts: [Int], mostSends: Int) {
        var bench = Bench()
        var traffic = TCPTraffic()
        // The first two bring the worker to read in bursts.
        for count in [1, 1] + counts {
            let made = traffic.packet(flow: 1000, segments: count, segmentBytes: 1432, tailBytes: 1432)
            bench.fromPod(made.packet, header: made.header)
        }
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == traffic.expected.count)
        #expect(firstDifference(bench.kernel.sent.map(\.payload), traffic.expected) == nil)
        #expect(Int(bench.counters[.sends]) <= mostSends)
    }

    @Test(arguments: [(32, true), (1392, false)])
    func aWorkerLetsOthersRunAfterManySmallPacketsAlone(payloadBytes: Int, letsRun: Bool) {
        var bench = Bench()
        let packet = Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 7, count: payloadBytes))
        for _ in 0..<20 { bench.fromPeer(3, (0..<20).flatMap { _ in packet }, segmentBytes: packet.count) }
        bench.run(rounds: 60)
        #expect((bench.counters[.yields] > 0) == letsRun)
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

    @Test func aRequestGoesAheadOfABulkFlowThatWaitsAndLeavesAlone() throws {
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

    @Test func aStandingQueueLetsGoFasterAndFasterUntilItBreaks() {
        let start = 5_000_000_000
        let interval = WorkerLimits.standingQueueNanoseconds
        var queue = StandingQueue()
        func releases(_ times: some Sequence<Int>, _ queue: inout StandingQueue) -> [Int] {
            times.filter { queue.releases(whileFull: true, atNanoseconds: start + $0) }
        }
        let step = interval / 100
        // Nothing goes for one interval, nor when a break came in it.
        #expect(releases(stride(from: 0, to: interval, by: step), &queue) == [])
        _ = queue.releases(whileFull: false, atNanoseconds: start + interval)
        #expect(releases(stride(from: interval, to: 2 * interval, by: step), &queue) == [])
        // Then one at a time, after an interval over the roots of 1, 2, 3 …, to the next step.
        let gone = releases(stride(from: 2 * interval, to: 6 * interval, by: step), &queue)
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
            _ = again.releases(whileFull: false, atNanoseconds: start + 6 * interval)
            let from = 6 * interval + pause
            let gone = releases(stride(from: from, to: from + 3 * interval, by: step), &again)
            #expect(gone.first == from + interval)
            #expect((gone[1] - gone[0] < interval / 2) == isDense)
        }
    }

    /// Super-packets of four flows, of 12 segments each: one packet for all, but for its port and place.
    private struct BulkTraffic {
        static let segmentCount = 12
        static let segmentBytes = 1432
        private(set) var count = 0
        private var made: (packet: [UInt8], header: [UInt8])

        init(withCongestionNotification: Bool = false) {
            var traffic = TCPTraffic()
            made = traffic.packet(
                flow: 1, segments: Self.segmentCount, segmentBytes: Self.segmentBytes,
                tailBytes: Self.segmentBytes)
            if withCongestionNotification { made.packet[1] = 0x02 }
        }

        /// Fills the device with more than the worker has buffers for.
        mutating func fill(_ bench: inout Bench) {
            while bench.kernel.tunnelQueue.count < 300 {
                made.packet[21] = UInt8(count % 4 + 1)
                let place = UInt32(count / 4 * Self.segmentCount * Self.segmentBytes)
                made.packet.replaceSubrange(24..<28, with: Packets.bytes(place))
                made.packet.replaceSubrange(10..<12, with: [0, 0])
                let sum = Packets.checksum(Array(made.packet[..<20]))
                made.packet.replaceSubrange(10..<12, with: Packets.bytes(sum))
                bench.fromPod(made.packet, header: made.header)
                count += 1
            }
        }
    }

    @Test(arguments: [false, true])
    func beforeALineThatStaysFullBulkIsToldToSendLess(withCongestionNotification: Bool) {
        var bench = Bench()
        var bulk = BulkTraffic(withCongestionNotification: withCongestionNotification)
        let told: Counter = withCongestionNotification ? .congestionMarks : .dropOutboundStandingQueue
        let other: Counter = withCongestionNotification ? .dropOutboundStandingQueue : .congestionMarks
        var requests = 0
        // A round that carries super-packets takes half a millisecond.
        bench.kernel.nanosecondsPerEnter = 500_000
        let began = bench.kernel.nowNanoseconds
        while bench.kernel.nowNanoseconds - began < 4 * WorkerLimits.standingQueueNanoseconds {
            let elapsed = bench.kernel.nowNanoseconds - began
            #expect(
                elapsed >= WorkerLimits.standingQueueNanoseconds || bench.counters[told] == 0,
                "told after \(elapsed) ns")
            bulk.fill(&bench)
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
            requests += 1
            bench.run(rounds: 20)
        }
        bench.drain()
        // At 100 ms, and then after 100 ms over the roots of 1, 2, 3 …
        #expect((5...10).contains(bench.counters[told]))
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

    @Test func anAnswerGoesAheadOfABulkFlowAndThatFlowsOwnPacketsDoNot() {
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

    /// Where two lists of packets differ first; a failed comparison of the lists would print them.
    private func firstDifference(_ packets: [[UInt8]], _ others: [[UInt8]]) -> Int? {
        zip(packets, others).enumerated().first { $0.element.0 != $0.element.1 }?.offset
    }

    @Test func noRouteIsAnsweredWithUnreachable() {
        var bench = Bench()
        let packet = Packets.udp(pod(1), pod(200), payload: [9])
        bench.fromPod(packet)
        bench.run()
        #expect(bench.kernel.sent.isEmpty)
        #expect(bench.counters[.dropOutboundNoRoute] == 1)
        #expect(bench.kernel.written.count == 1)
        let reply = Array(bench.kernel.written[0][10...])
        #expect(reply[9] == 1)
        #expect(reply[20] == 3 && reply[21] == 0)
        #expect(Array(reply[16..<20]) == Packets.bytes(pod(1).bits))
        #expect(Array(reply[28...]) == packet)
        #expect(Packets.checksum(Array(reply[0..<20])) == 0)
        #expect(Packets.checksum(Array(reply[20...])) == 0)
    }

    @Test func errorsAreLimitedAndNeverAboutErrors() {
        var bench = Bench()
        for _ in 0..<300 { bench.fromPod(Packets.udp(pod(1), pod(200), payload: [9])) }
        bench.fromPod(Packets.ipv4(pod(1), pod(200), transport: 1, payload: [3, 0, 0, 0, 0, 0, 0, 0]))
        bench.fromPod(
            Packets.ipv4(
                pod(1), pod(200), transport: 17, fragment: 0x0010, payload: [3, 0, 0, 0, 0, 0, 0, 0]))
        bench.run(rounds: 40)
        #expect(bench.counters[.dropOutboundNoRoute] == 302)
        #expect(bench.counters[.unreachablesSent] + bench.counters[.errorsSuppressed] == 302)
        #expect(bench.counters[.errorsSuppressed] >= 100)
        #expect(bench.counters[.unreachablesSent] == UInt64(bench.kernel.written.count))
    }

    @Test func timeToLiveRunsOutInBothDirections() {
        var bench = Bench()
        bench.fromPod(Packets.udp(pod(1), pod(3), timeToLive: 1, payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), timeToLive: 1, payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), timeToLive: 0, payload: [1]))
        bench.run()
        #expect(bench.counters[.dropOutboundTimeToLive] == 1)
        #expect(bench.counters[.dropInboundTimeToLive] == 2)
        #expect(bench.kernel.written.count == 1)
        #expect(bench.kernel.written[0][30] == 11)
        #expect(bench.kernel.sent.count == 2)
        #expect(bench.kernel.sent.allSatisfy { $0.payload[20] == 11 && $0.endpoint == Bench.endpoint(3) })
    }

    @Test func whatIsNoWholePacketIsDroppedByReason() {
        var bench = Bench()
        let good = Packets.udp(pod(3), pod(1), payload: [1, 2, 3, 4])
        func broken(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
            var packet = good
            change(&packet)
            return packet
        }
        bench.fromPeer(3, [0x45])
        bench.fromPeer(3, [])
        bench.fromPeer(3, broken { $0[0] = 0x55 })
        bench.fromPeer(3, broken { $0[0] = 0x44 })
        bench.fromPeer(3, broken { $0[0] = 0x4F })
        bench.fromPeer(3, good + [0])
        bench.fromPeer(3, Array(good.dropLast()))
        bench.fromPeer(3, broken { $0[10] ^= 1 })
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 0, count: 1445)))
        bench.fromPeer(3, Packets.udp(pod(3), pod(4), payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(4), pod(1), payload: [1]))
        bench.fromPeer(9, good)
        bench.fromPeer(9, [])
        bench.fromPeer(3, good)
        bench.run()
        #expect(bench.counters[.dropInboundTooShort] == 2)
        #expect(bench.counters[.dropInboundVersion] == 1)
        #expect(bench.counters[.dropInboundHeaderLength] == 2)
        #expect(bench.counters[.dropInboundTotalLength] == 2)
        #expect(bench.counters[.dropInboundHeaderChecksum] == 1)
        #expect(bench.counters[.dropInboundTooLarge] == 1)
        #expect(bench.counters[.dropInboundDestination] == 1)
        #expect(bench.counters[.dropInboundSource] == 1)
        #expect(bench.counters[.dropInboundUnknownPeer] == 2)
        #expect(bench.kernel.written.count == 1)
    }

    @Test func aPeersOwnAddressIsASourceAndAnySourceIfAllowed() {
        var bench = Bench()
        bench.fromPeer(3, Packets.udp(Bench.underlay(3), pod(1), payload: [1]))
        bench.run()
        #expect(bench.kernel.written.count == 1)

        var open = Bench(acceptsAnySource: true)
        open.fromPeer(3, Packets.udp(IPv4Address("8.8.8.8")!, pod(1), payload: [1]))
        open.fromPeer(9, Packets.udp(IPv4Address("8.8.8.8")!, pod(1), payload: [1]))
        open.run()
        #expect(open.kernel.written.count == 1)
        #expect(open.counters[.dropInboundUnknownPeer] == 1)
    }

    @Test func oneBadDatagramInABundleStaysOne() {
        var bench = Bench()
        let good = Packets.udp(pod(3), pod(1), payload: [1, 2])
        let spoofed = Packets.udp(pod(4), pod(1), payload: [1, 2])
        let elsewhere = Packets.udp(pod(3), pod(2), payload: [1, 2])
        var damaged = good
        damaged[13] ^= 1
        let other = Packets.udp(pod(3), pod(1, 9), payload: [1, 2])
        let bundle = [good, good, spoofed, good, elsewhere, other, elsewhere, good, damaged, spoofed]
        bench.fromPeer(3, bundle.flatMap { $0 }, segmentBytes: good.count)
        bench.run()
        #expect(bench.counters[.packetsDelivered] == 5)
        #expect(bench.counters[.dropInboundSource] == 2)
        #expect(bench.counters[.dropInboundDestination] == 2)
        #expect(bench.counters[.dropInboundHeaderChecksum] == 1)
        #expect(bench.peerCounters[3].packetsReceived == 5)
    }

    @Test func aNewSnapshotTakesEffectInTheNextRound() {
        var bench = Bench()
        bench.run()
        bench.publication.publish(Bench.routes(peers: 2..<3))
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.run(rounds: 1)
        #expect(bench.counters[.dropOutboundNoRoute] == 1)
        bench.publication.publish(Bench.routes())
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.run()
        #expect(bench.counters[.dropOutboundNoRoute] == 1)
        #expect(bench.kernel.sent.count == 1)
        // What the worker has let go of is freed at the next publication; the one replaced by it is still in use.
        bench.publication.publish(Bench.routes())
        #expect(bench.publication.retiredCount == 1)
    }

    @Test func whatIsOpenLeavesForThePeerItWasTakenForWhateverPlacesPeersGet() {
        var bench = Bench()
        // A full burst leaves its last message open for the next round.
        for index in 0..<8 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        while !bench.kernel.tunnelQueue.isEmpty { bench.run(rounds: 1) }
        #expect(bench.worker.messages.openCount == 1)
        let wereSent = bench.kernel.sent.count
        // Peer 3's place is peer 5's now, and what goes to 5 comes right behind.
        var routes = Bench.routes()
        routes.peers.swapAt(1, 3)
        bench.publication.publish(routes)
        for index in 8..<11 { bench.fromPod(Packets.udp(pod(1), pod(5), payload: [UInt8(index), 0, 0])) }
        bench.run()
        #expect(wereSent < 8 && bench.kernel.sent.count == 11)
        for sent in bench.kernel.sent {
            let isFor3 = sent.payload[28] < 8
            #expect(sent.endpoint == Bench.endpoint(isFor3 ? 3 : 5))
        }
        #expect((2..<6).map { bench.peerCounters[UInt16($0)].packetsSent } == [0, 8, 0, 3])
    }

    @Test func whatIsReplayedGoesToThePeerOfTheRefusedSend() {
        var bench = Bench()
        bench.kernel.refusesSegmentation = true
        bench.kernel.lateness = 50
        for index in 0..<200 {
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: Packets.bytes(UInt32(index))))
            if index % 20 == 0 { bench.run(rounds: 1) }
        }
        // While sends are under way and replayed, the peers change places.
        for place in [2, 1, 3, 0] {
            var routes = Bench.routes()
            routes.peers.swapAt(1, place)
            bench.publication.publish(routes)
            bench.run(rounds: 3)
        }
        bench.drain()
        #expect(bench.kernel.sent.count == 200)
        #expect(bench.kernel.sent.allSatisfy { $0.endpoint == Bench.endpoint(3) })
        #expect(bench.counters[.replayedSegments] > 0)
        #expect(bench.peerCounters[3].packetsSent == 200)
    }

    @Test func anUnderlayOfIPv6CarriesTheSame() throws {
        var bench = Bench()
        func endpoint(_ peer: Int) throws -> Endpoint {
            Endpoint(address: .v6(try #require(IPv6Address("fd00::\(peer)"))), port: 8285)
        }
        var routes = Bench.routes()
        for index in routes.peers.indices { routes.peers[index].endpoint = try endpoint(2 + index) }
        bench.publication.publish(routes)
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.fromPod(Packets.udp(pod(1), pod(4), payload: [2]))
        let inbound = Packets.udp(pod(3), pod(1), payload: [3])
        for (peer, payload) in [(3, inbound), (4, inbound), (9, inbound)] {
            bench.kernel.socketQueue.append(
                SimulatedKernel.Datagrams(source: try endpoint(peer), segmentBytes: 0, payload: payload))
        }
        bench.run()
        #expect(bench.kernel.sent.map(\.endpoint) == [try endpoint(3), try endpoint(4)])
        #expect(bench.kernel.written.count == 1)
        #expect(bench.counters[.dropInboundSource] == 1)
        #expect(bench.counters[.dropInboundUnknownPeer] == 1)
        #expect(bench.peerCounters[3].packetsReceived == 1)
    }

    @Test func aNewMTUTakesEffectInTheNextRoundAndNothingIsLost() {
        var bench = Bench()
        let large = Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 0, count: 1400))
        bench.fromPeer(3, large)
        bench.run()
        bench.publication.publish(Bench.routes(mtu: 1427))
        bench.fromPeer(3, large)
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 0, count: 1399)))
        bench.run()
        #expect(bench.counters[.dropInboundTooLarge] == 1)
        #expect(bench.kernel.written.count == 2)
        bench.publication.publish(Bench.routes(mtu: 1428))
        bench.fromPeer(3, large)
        bench.run()
        #expect(bench.kernel.written.count == 3)
    }

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

    @Test func aFloodThatFillsEveryReceiveBufferDoesNotMakeItDeaf() {
        var bench = Bench()
        for index in 0..<64 {
            // Sizes that grow cannot be merged: each datagram is a write, and all buffers are held at once.
            bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 1, count: 10 + index)))
        }
        bench.run(rounds: 40)
        #expect(bench.kernel.written.count == 64)
        #expect(bench.kernel.stalls == 0)
    }

    @Test func pollingFollowsSparseTrafficAndNotBulk() {
        let polling = 100_000
        var bench = Bench(busyPollMicroseconds: polling / 1000)
        let packet = Packets.udp(pod(1), pod(3), payload: [1])
        bench.run()
        #expect(bench.counters[.busyPolls] == 0)
        bench.fromPod(packet)
        bench.run(rounds: 1)
        let began = bench.kernel.nowNanoseconds
        // It polls, and lets others run meanwhile, for as long as it was told, and no longer.
        while bench.kernel.nowNanoseconds < began + polling - bench.kernel.nanosecondsPerEnter {
            let polls = bench.counters[.busyPolls]
            bench.run(rounds: 1)
            #expect(bench.counters[.busyPolls] == polls + 1)
        }
        #expect(bench.kernel.yields == Int(bench.counters[.busyPolls]))
        bench.run(rounds: 2)
        let sleeps = bench.counters[.sleeps]
        bench.run(rounds: 1)
        #expect(bench.counters[.sleeps] == sleeps + 1)
    }

    @Test func pollingRestsAfterLoadAndAfterAnAcknowledgementInItsMidst() {
        var bench = Bench(busyPollMicroseconds: 1_000_000)
        let packet = Packets.udp(pod(1), pod(3), payload: [1])
        for _ in 0..<200 { bench.fromPod(packet) }
        while !bench.kernel.tunnelQueue.isEmpty { bench.run(rounds: 1) }
        bench.run(rounds: 1)
        let loadEnded = bench.kernel.nowNanoseconds
        // The first packet of all came alone.
        let polls = bench.counters[.busyPolls]
        bench.run()
        #expect(bench.counters[.busyPolls] == polls)
        bench.fromPod(packet)
        bench.run()
        #expect(bench.counters[.busyPolls] == polls)
        #expect(bench.kernel.nowNanoseconds < loadEnded + WorkerLimits.pollingRestNanoseconds / 2)

        bench.kernel.nowNanoseconds = loadEnded + WorkerLimits.pollingRestNanoseconds
        bench.fromPod(packet)
        bench.run()
        #expect(bench.counters[.busyPolls] > polls)
    }

    @Test func aTunnelThatFailsIsLeftAloneForAWhile() {
        var bench = Bench()
        bench.kernel.readError = EBADFD
        let rest = WorkerRest.microseconds * 1000
        let began = bench.kernel.nowNanoseconds
        bench.run(rounds: 50)
        // One read is asked for in each rest; the worker sleeps for as long, and not for ever.
        let reads = bench.kernel.failedReads
        #expect(reads.count >= 24)
        for (read, next) in zip(reads, reads.dropFirst()) { #expect((rest...2 * rest).contains(next - read)) }
        #expect(bench.kernel.nowNanoseconds - began >= (reads.count - 1) * rest)
        // What comes from peers meanwhile is not left alone.
        bench.kernel.failedReads = []
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1]))
        bench.run(rounds: 2)
        #expect(bench.kernel.written.count == 1 && bench.kernel.failedReads.count <= 1)
        // The device is up again: after the rest it is read from as ever.
        bench.kernel.readError = 0
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.run()
        #expect(bench.kernel.sent.count == 1)
    }

    @Test func anEngineThatCannotGoOnEndsTheRound() {
        var bench = Bench()
        bench.kernel.enterError = ENXIO
        let result = bench.worker.round()
        #expect(result == -ENXIO)
    }

    @Test func aWakeUpIsCounted() {
        var bench = Bench()
        bench.kernel.isWoken = true
        bench.run(rounds: 3)
        #expect(bench.counters[.wakes] == 1)
    }

    @Test func aReceiveThatBroughtNothingCostsNoBuffer() {
        var bench = Bench()
        bench.kernel.receiveFailurePercent = 50
        for index in 0..<200 { bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8(index)])) }
        bench.drain()
        #expect(bench.kernel.receiveFailures > 50)
        #expect(bench.counters[.receives] == 200)
        #expect(bench.counters[.packetsDelivered] == 200)
        #expect(bench.counters[.receiveBuffersFree] == UInt64(Tuning().receiveBuffers))
    }

    @Test(arguments: 1...12)
    func nothingIsLostOrReorderedBesideWhatFailedAndWasCounted(seed: Int) {
        var bench = Bench(
            seed: UInt64(seed), segmentLimit: [1, 64, 128][seed % 3], tuning: Tuning.extremes[seed % 4])
        let kernel = bench.kernel
        kernel.lateness = [0, 2, 10][seed % 3]
        kernel.reluctance = [0, 0, 20, 60][seed % 4]
        kernel.sendFailurePercent = [0, 3][seed % 2]
        // A message that met another error than a full buffer is sent again behind those of its round.
        let keepsOrder = seed % 4 != 3
        if keepsOrder { kernel.sendErrors = [EAGAIN, ENOBUFS] }
        kernel.writeFailurePercent = [0, 3][(seed / 2) % 2]
        kernel.readFailurePercent = [0, 0, 5][seed % 3]
        kernel.receiveFailurePercent = [0, 5][(seed / 3) % 2]
        var generator = SeededGenerator(seed: UInt64(seed) &* 977)
        var sequences: [Int: UInt32] = [:]
        var inbound: [Int: UInt32] = [:]
        var outboundCount = 0
        var inboundCount = 0
        for _ in 0..<300 {
            for _ in 0..<Int.random(in: 0...90, using: &generator) {
                let flow = Int.random(in: 0..<8, using: &generator)
                let size = generator.chance(70) ? 40 : Int.random(in: 8...1400, using: &generator)
                let number = sequences[flow, default: 0]
                sequences[flow] = number + 1
                var payload = [UInt8](repeating: UInt8(flow), count: size)
                payload.replaceSubrange(0..<4, with: Packets.bytes(number))
                bench.fromPod(
                    Packets.udp(pod(1), pod(2 + flow % 4), ports: (UInt16(flow), 9), payload: payload))
                outboundCount += 1
            }
            for _ in 0..<Int.random(in: 0...5, using: &generator) {
                let flow = Int.random(in: 0..<8, using: &generator)
                let peer = 2 + flow % 4
                let size = Int.random(in: 8...1000, using: &generator)
                var merged: [UInt8] = []
                let count = Int.random(in: 1...(generator.chance(50) ? 1 : 40), using: &generator)
                for _ in 0..<count {
                    let number = inbound[flow, default: 0]
                    inbound[flow] = number + 1
                    var payload = [UInt8](repeating: UInt8(flow), count: size)
                    payload.replaceSubrange(0..<4, with: Packets.bytes(number))
                    merged += Packets.udp(
                        pod(peer), pod(1), ports: (UInt16(flow), 9), identification: 5, payload: payload)
                    inboundCount += 1
                }
                bench.fromPeer(peer, merged, segmentBytes: count > 1 ? size + 28 : 0)
            }
            #expect(bench.worker.round() == 0)
        }
        bench.drain()
        #expect(kernel.stalls == 0)

        var next: [Int: UInt32] = [:]
        for sent in kernel.sent {
            let flow = Int(sent.payload[20]) << 8 | Int(sent.payload[21])
            let number = sent.payload[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            #expect(!keepsOrder || number >= next[flow, default: 0], "flow \(flow) out of order")
            next[flow] = number + 1
            #expect(sent.payload[32...].allSatisfy { Int($0) == flow })
            #expect(sent.endpoint == Bench.endpoint(2 + flow % 4))
        }
        let sendDrops =
            bench.counters[.dropOutboundUnderlayFull] + bench.counters[.dropOutboundUnreachable]
            + bench.counters[.dropOutboundError]
        #expect(
            kernel.sent.count + kernel.lostInSend + Int(bench.counters[.dropOutboundNoBuffer])
                == outboundCount)
        #expect(Int(sendDrops) == kernel.lostInSend)
        #expect(Int(bench.counters[.packetsSent]) == kernel.sent.count)
        // What is counted for the peers is what is counted in all, and each packet for the peer that it went to.
        let peers = (2..<6).map { bench.peerCounters[UInt16($0)] }
        for (index, peer) in peers.enumerated() {
            let bytes = kernel.sent.filter { $0.endpoint == Bench.endpoint(2 + index) }.map(
                \.payload.count)
            #expect(peer.packetsSent == bytes.count && peer.bytesSent == bytes.reduce(0, +))
        }
        #expect(peers.reduce(0) { $0 + $1.packetsReceived } == bench.counters[.packetsDelivered])
        #expect(peers.reduce(0) { $0 + $1.bytesReceived } == bench.counters[.bytesDelivered])

        var nextInbound: [Int: UInt32] = [:]
        var delivered = 0
        for frame in kernel.written {
            for packet in segments(frame) {
                let flow = Int(packet[20]) << 8 | Int(packet[21])
                let number = packet[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
                #expect(number >= nextInbound[flow, default: 0], "flow \(flow) out of order")
                nextInbound[flow] = number + 1
                #expect(packet[32...].allSatisfy { Int($0) == flow })
                delivered += 1
            }
        }
        let writeDrops =
            bench.counters[.dropInboundTunnelDown] + bench.counters[.dropInboundTunnelFull]
            + bench.counters[.dropInboundError]
        #expect(delivered + Int(writeDrops) == inboundCount)
    }

    /// The UDP packets of one write: header and payload of each, whatever was merged.
    private func segments(_ frame: [UInt8]) -> [[UInt8]] {
        let size = Int(frame[4]) | Int(frame[5]) << 8
        let packet = Array(frame[10...])
        guard frame[1] != 0 else { return [packet] }
        var result: [[UInt8]] = []
        var offset = 28
        while offset < packet.count {
            result.append(Array(packet[0..<28]) + packet[offset..<min(offset + size, packet.count)])
            offset += size
        }
        return result
    }
}
