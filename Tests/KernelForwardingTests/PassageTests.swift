import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import Testing

@testable import KernelForwarding

extension ProgramNode {
    /// The way through a worker.
    func passage(_ way: KernelPathTraffic.Way, ofWorker worker: Int = 0) throws -> KernelPathPassage {
        try #require(forwarder.traffic.passage(way, ofWorker: worker))
    }

    /// Says for a worker that everything is through, as the worker would.
    func work(_ way: KernelPathTraffic.Way, ofWorker worker: Int = 0) throws {
        let passage = try passage(way, ofWorker: worker)
        let ticket = passage.lastTicket
        passage.publish(through: ticket, entered: passage.entered)
    }
}

/// Nothing of a flow passes what was left to the ring of it before the workers have said that this is through.
@Suite(.enabled(if: namespacesAreExpected)) struct PassageTests {
    private static func packet(port: UInt8 = 0x39) -> InnerPacket {
        var packet = InnerPacket(source: IPv4Address(8, 0, 1, 7), destination: IPv4Address(8, 0, 2, 9))
        packet.payload[1] = port
        packet.payload += [UInt8](repeating: 0, count: 8)
        return packet
    }

    private static var lastHop: InnerPacket {
        var packet = packet()
        packet.hops = 1
        return packet
    }

    /// As a peer's ring sends it: with a UDP checksum.
    private static var ofTheRing: OuterFrame {
        var frame = OuterFrame()
        frame.udpChecksum = 0x1234
        return frame
    }

    @Test func itsNumbersAreWhereTheProgramsHaveThem() {
        #expect(KernelPathPassage.byteCount == MemoryLayout<kernel_passage>.stride)
        #expect(KernelPathPassage.Offset.entered == MemoryLayout<kernel_passage>.offset(of: \.entered))
        #expect(KernelPathPassage.Offset.tickets == MemoryLayout<kernel_passage>.offset(of: \.tickets))
        #expect(KernelPathPassage.Offset.wanted == MemoryLayout<kernel_passage>.offset(of: \.wanted))
        #expect(KernelPathPassage.Offset.through == MemoryLayout<kernel_passage>.offset(of: \.through))
        #expect(
            KernelPathPassage.Offset.enteredThrough
                == MemoryLayout<kernel_passage>.offset(of: \.entered_through))
        #expect(KernelPathPassage.Offset.accounted == MemoryLayout<kernel_passage>.offset(of: \.accounted))
        #expect(KernelPathTraffic.workerLimit == Int(KERNEL_WORKERS))
        #expect(KernelPathTraffic.Way.out.rawValue == Int(KERNEL_WAY_OUT.rawValue))
        #expect(KernelPathTraffic.Way.in.rawValue == Int(KERNEL_WAY_IN.rawValue))
    }

    // MARK: Out

    @Test func whatWasLeftToTheRingGoesBeforeItsFlowsNext() throws {
        let node = try ProgramNode()
        let passage = try node.passage(.out)
        #expect(try !node.send(Self.lastHop))
        #expect(passage.entered == 1 && passage.lastTicket == 1 && passage.wanted == 0)
        #expect(try !node.send(Self.packet()))
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        // The workers hear of it; what it went behind by now is not asked for.
        #expect(passage.entered == 2 && passage.wanted == 1)
        #expect(try node.send(Self.packet(port: 0x40)))
        try node.work(.out)
        #expect(try node.send(Self.packet()))
        #expect(passage.entered == 2)
    }

    /// However long that takes: no time counts.
    @Test func whatIsNotSaidToBeThroughIsNot() throws {
        let node = try ProgramNode()
        #expect(try !node.send(Self.lastHop))
        usleep(100_000)
        #expect(try !node.send(Self.packet()))
        // Through up to a ticket before the flow's last.
        try node.passage(.out).publish(through: 1, entered: 1)
        #expect(try !node.send(Self.packet()))
        try node.passage(.out).publish(through: 3, entered: 0)
        // More was left to it since, of another flow.
        var other = Self.packet(port: 0x40)
        other.hops = 1
        #expect(try !node.send(other))
        #expect(try node.send(Self.packet()))
    }

    @Test func whatIsLeftWhileItTakesNothingIsNotedAndCounted() throws {
        let node = try ProgramNode()
        node.forwarder.suspend("test")
        #expect(try !node.send(Self.packet()))
        #expect(try node.passage(.out).entered == 1)
        node.forwarder.suspend(nil)
        #expect(try !node.send(Self.packet()))
        try node.work(.out)
        #expect(try node.send(Self.packet()))
    }

    @Test func whatDoesNotTellItsPortsIsNotedToo() throws {
        let node = try ProgramNode()
        var fragment = Self.packet()
        fragment.fragment = 0x2000
        #expect(try !node.send(fragment))
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        let place = try #require(node.flows.firstIndex { $0.sent_ticket > 0 })
        var noted = node.flows[place]
        #expect(noted.bulk_until > monotonicNanoseconds())
        // Its time alone is no reason to pass.
        noted.bulk_until = 0
        #expect(flows.set(UInt32(place), to: noted))
        #expect(try !node.send(Self.packet()))
        try node.work(.out)
        #expect(try node.send(Self.packet()))
    }

    @Test func whatIsLargeStaysForItsTimeAndUntilItIsThrough() throws {
        let node = try ProgramNode()
        var large = Self.packet()
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        try node.work(.out)
        #expect(try !node.send(Self.packet()))
        #expect(try node.passage(.out).wanted == 0)
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        let place = try #require(node.flows.firstIndex { $0.sent_ticket > 0 })
        var noted = node.flows[place]
        noted.bulk_until = 0
        #expect(flows.set(UInt32(place), to: noted))
        #expect(try !node.send(Self.packet()))
        try node.work(.out)
        #expect(try node.send(Self.packet()))
    }

    /// A bare acknowledgement passes its flow's packets, and they pass it.
    @Test func aBareAcknowledgementIsCountedAndNotNoted() throws {
        let node = try ProgramNode()
        node.forwarder.disallow(ProgramNode.peer.endpoint)
        var segment = InnerPacket.segment(flags: 0x10)
        (segment.source, segment.destination) = (segment.destination, segment.source)
        #expect(try !node.send(segment))
        #expect(try node.passage(.out).entered == 1)
        node.forwarder.allow(ProgramNode.peer.endpoint, forMilliseconds: 60_000)
        segment.payload[13] = 0x18
        #expect(try node.send(segment))
    }

    /// Among several workers, a packet is counted where the device's steering puts it: by the very sums of
    /// `twill_steer_packets`, in other words.
    @Test(arguments: [2, 3, 8, 64])
    func eachIsCountedForTheWorkerThatItComesTo(workers: Int) throws {
        let node = try ProgramNode(workers: workers)
        func steered(_ words: [UInt32]) -> Int {
            Int((words.reduce(0, &+) &* 0x9E37_79B1) >> 16) % workers
        }
        var expected = [UInt64](repeating: 0, count: workers)
        for port in 0..<100 as Range<UInt8> {
            var packet = Self.packet(port: port)
            packet.hops = 1
            #expect(try !node.send(packet))
            let addresses = [packet.source.bits, packet.destination.bits]
            expected[steered(addresses + [0x3000 + UInt32(port), 0xD431])] += 1
            packet.fragment = 0x2000
            #expect(try !node.send(packet))
            expected[steered(addresses)] += 1
            packet.fragment = 0
            packet.transport = 1
            #expect(try !node.send(packet))
            expected[steered(addresses)] += 1
            // Options: the ports stand four bytes further on.
            packet.transport = 17
            packet.firstByte = 0x46
            #expect(try !node.send(packet))
            expected[steered(addresses + [0x000C, 0])] += 1
        }
        let entered = try (0..<workers).map { try node.passage(.out, ofWorker: $0).entered }
        #expect(entered == expected)
        // One ticket for each, whoever's it was.
        #expect(try node.passage(.out).lastTicket == 400)
    }

    @Test func aFlowWaitsForItsOwnWorkerAlone() throws {
        let node = try ProgramNode(workers: 4)
        #expect(try !node.send(Self.lastHop))
        let own = try #require(try (0..<4).first { try node.passage(.out, ofWorker: $0).entered == 1 })
        for worker in 0..<4 where worker != own { try node.work(.out, ofWorker: worker) }
        #expect(try !node.send(Self.packet()))
        try node.work(.out, ofWorker: own)
        #expect(try node.send(Self.packet()))
    }

    // MARK: In

    @Test func whatThePeersRingSentGoesFirst() throws {
        let node = try ProgramNode()
        #expect(try node.receive(Self.ofTheRing).verdict == ProgramNode.passed)
        let passage = try node.passage(.in)
        #expect(passage.entered == 1 && passage.wanted == 0)
        let run = try node.receive(OuterFrame())
        #expect(run.verdict == ProgramNode.passed && run.packet == OuterFrame().bytes)
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        #expect(passage.entered == 2 && passage.wanted == 1)
        // It may pass: it does nothing but acknowledge. And another flow is another.
        var acknowledgement = OuterFrame()
        acknowledgement.inner = InnerPacket.segment(flags: 0x10)
        #expect(try node.receive(acknowledgement).verdict == ProgramNode.redirected)
        var other = OuterFrame()
        other.inner.payload[1] = 0x40
        #expect(try node.receive(other).verdict == ProgramNode.redirected)
        try node.work(.in)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
        // What goes out is another way's.
        #expect(try node.passage(.out).entered == 0)
    }

    @Test func whateverIsForTheRingIsCounted() throws {
        let node = try ProgramNode(former: Endpoint(address: IPv4Address(10, 0, 0, 8), port: 9000))
        let passage = try node.passage(.in)
        var hello = Self.ofTheRing.bytes
        hello.removeLast(hello.count - 58)
        _ = node.forwarder.programs.inbound.run(on: hello)
        #expect(passage.entered == 1)
        var stranger = Self.ofTheRing
        stranger.source = IPv4Address(10, 0, 0, 77)
        _ = try node.receive(stranger)
        #expect(passage.entered == 2)
        var former = Self.ofTheRing
        (former.destination, former.port) = (IPv4Address(10, 0, 0, 8), 9000)
        _ = try node.receive(former)
        #expect(passage.entered == 3)
        // The kernel path's own form there is not for the kernel path.
        former.udpChecksum = 0
        #expect(try node.receive(former).verdict == ProgramNode.passed)
        #expect(passage.entered == 4)
        for change: @Sendable (inout OuterFrame) -> Void in [
            { $0.port = 9001 }, { $0.port = 9000 }, { $0.destination = IPv4Address(10, 0, 0, 8) },
            { $0.transport = 6 }, { $0.fragment = 0x2000 }, { $0.firstByte = 0x46 },
        ] {
            var another = Self.ofTheRing
            change(&another)
            _ = try node.receive(another)
        }
        #expect(passage.entered == 4)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
    }

    @Test func aFragmentOfThePeersRingKeepsBackAllBetweenTheTwo() throws {
        let node = try ProgramNode()
        var frame = Self.ofTheRing
        frame.inner.fragment = 0x2000
        _ = try node.receive(frame)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        try node.work(.in)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
    }

    /// Datagrams of the peer's ring that the kernel has merged: small ones are all noted, of large ones the first and the last.
    @Test(arguments: [(1, 20), (31, 20), (59, 20), (2, 1100)])
    func eachOfWhatWasMergedIsNoted(last: Int, payloadBytes: Int) throws {
        let node = try ProgramNode()
        func inner(_ number: Int) -> InnerPacket {
            var inner = InnerPacket()
            inner.payload[1] = UInt8(number)
            inner.payload += [UInt8](repeating: 0, count: payloadBytes)
            return inner
        }
        var frame = Self.ofTheRing
        frame.inner = inner(0)
        let size = frame.inner.bytes.count
        let bytes = frame.bytes + (1...last).flatMap { inner($0).bytes }
        // A page is the most that the kernel runs a program on.
        let verdict = node.forwarder.programs.inbound.run(on: bytes, segmentBytes: size)?.verdict
        #expect(verdict == ProgramNode.passed)
        #expect(try node.passage(.in).entered == UInt64(last + 1))
        #expect(try node.passage(.in).lastTicket == 1)
        let noted = (payloadBytes < 1024 ? Array(0...last) : [0, last])
        for number in noted {
            var frame = OuterFrame()
            frame.inner.payload[1] = UInt8(number)
            #expect(try node.receive(frame).verdict == ProgramNode.passed, "\(number)")
        }
        #expect(node.flows.filter { $0.received_ticket > 0 }.count == noted.count)
    }

    /// A peer with several workers sends from several ports, and its kernel path from one of them: what both sent of a flow
    /// may be two workers' here.
    @Test func allWorkersThatHaveSomethingAreWaitedFor() throws {
        let node = try ProgramNode(workers: 3)
        // 10.0.0.2 from port 8285 is worker 2's.
        _ = try node.receive(Self.ofTheRing)
        #expect(try (0..<3).map { try node.passage(.in, ofWorker: $0).entered } == [0, 0, 1])
        var bytes = Self.ofTheRing.bytes
        bytes[35] += 1
        _ = node.forwarder.programs.inbound.run(on: bytes)
        #expect(try (0..<3).map { try node.passage(.in, ofWorker: $0).entered } == [1, 0, 1])
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: 2)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: 0)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: 2)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
    }
}
