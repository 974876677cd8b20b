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
    private static func packet(_ families: Families = .ipv4, port: UInt8 = 0x39, hops: UInt8 = 64)
        -> InnerPacket
    {
        var packet = InnerPacket.leaving(families)
        packet.payload[1] = port
        packet.header.hops = hops
        return packet
    }

    private static func lastHop(_ families: Families = .ipv4) -> InnerPacket { packet(families, hops: 1) }

    /// As a peer's ring sends it: with a UDP checksum.
    private static func ofTheRing(_ families: Families = .ipv4) -> OuterFrame {
        var frame = OuterFrame(families)
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

    @Test(arguments: Families.all) func whatWasLeftToTheRingGoesBeforeItsFlowsNext(families: Families) throws
    {
        let node = try ProgramNode(families)
        let passage = try node.passage(.out)
        #expect(try !node.send(Self.lastHop(families)))
        #expect(passage.entered == 1 && passage.lastTicket == 1 && passage.wanted == 0)
        #expect(try !node.send(Self.packet(families)))
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        // The workers hear of it; what it went behind by now is not asked for.
        #expect(passage.entered == 2 && passage.wanted == 1)
        #expect(try node.send(Self.packet(families, port: 0x40)))
        try node.work(.out)
        #expect(try node.send(Self.packet(families)))
        #expect(passage.entered == 2)
    }

    /// However long that takes: no time counts.
    @Test func whatIsNotSaidToBeThroughIsNot() throws {
        let node = try ProgramNode()
        #expect(try !node.send(Self.lastHop()))
        usleep(100_000)
        #expect(try !node.send(Self.packet()))
        // Through up to a ticket before the flow's last.
        try node.passage(.out).publish(through: 1, entered: 1)
        #expect(try !node.send(Self.packet()))
        try node.passage(.out).publish(through: 3, entered: 0)
        // More was left to it since, of another flow.
        var other = Self.packet(port: 0x40)
        other.header.hops = 1
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

    @Test(arguments: Families.all) func whatDoesNotTellItsPortsIsNotedToo(families: Families) throws {
        let node = try ProgramNode(families)
        var fragment = Self.packet(families)
        fragment.hideItsPorts()
        #expect(try !node.send(fragment))
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        let place = try #require(node.flows.firstIndex { $0.sent_ticket > 0 })
        var noted = node.flows[place]
        #expect(noted.bulk_until > monotonicNanoseconds())
        // Its time alone is no reason to pass.
        noted.bulk_until = 0
        #expect(flows.set(UInt32(place), to: noted))
        #expect(try !node.send(Self.packet(families)))
        try node.work(.out)
        #expect(try node.send(Self.packet(families)))
    }

    @Test(arguments: Families.all) func whatIsLargeStaysForItsTimeAndUntilItIsThrough(families: Families)
        throws
    {
        let node = try ProgramNode(families)
        var large = Self.packet(families)
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        try node.work(.out)
        #expect(try !node.send(Self.packet(families)))
        #expect(try node.passage(.out).wanted == 0)
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        let place = try #require(node.flows.firstIndex { $0.sent_ticket > 0 })
        var noted = node.flows[place]
        noted.bulk_until = 0
        #expect(flows.set(UInt32(place), to: noted))
        #expect(try !node.send(Self.packet(families)))
        try node.work(.out)
        #expect(try node.send(Self.packet(families)))
    }

    /// A bare acknowledgement passes its flow's packets, and they pass it.
    @Test func aBareAcknowledgementIsCountedAndNotNoted() throws {
        let node = try ProgramNode()
        node.forwarder.disallow(ProgramNode.peer)
        var segment = InnerPacket.segment(flags: 0x10).turned
        #expect(try !node.send(segment))
        #expect(try node.passage(.out).entered == 1)
        node.forwarder.allow(ProgramNode.peer, forMilliseconds: 60_000)
        segment.payload[13] = 0x18
        #expect(try node.send(segment))
    }

    /// Among several workers, a packet is counted where the device's steering puts it: by the very sums of
    /// `twill_steer_packets`, in other words.
    @Test(arguments: Families.all, [2, 3, 8, 64])
    func eachIsCountedForTheWorkerThatItComesTo(families: Families, workers: Int) throws {
        let node = try ProgramNode(families, workers: workers)
        var expected = [UInt64](repeating: 0, count: workers)
        func send(_ packet: InnerPacket, _ ports: [UInt32]) throws {
            #expect(try !node.send(packet))
            let bytes = addressBytes(packet.header.source) + addressBytes(packet.header.destination)
            let addresses = stride(from: 0, to: bytes.count, by: 4).map { place in
                bytes[place..<place + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            }
            expected[Int(((addresses + ports).reduce(0, &+) &* 0x9E37_79B1) >> 16) % workers] += 1
        }
        for port in 0..<100 as Range<UInt8> {
            let packet = Self.packet(families, port: port, hops: 1)
            try send(packet, [0x3000 + UInt32(port), 0xD431])
            var fragment = packet
            fragment.hideItsPorts()
            try send(fragment, [])
            var another = packet
            another.header.transport = 1
            try send(another, [])
            another.header.transport = 59
            try send(another, [])
            // Options: the ports stand four bytes further on.
            var optional = packet
            optional.header.firstByte = families.inner == .ipv4 ? 0x46 : 0x61
            try send(
                optional, families.inner == .ipv4 ? [0x000C, 0] : [0x3000 + UInt32(port), 0xD431])
        }
        let entered = try (0..<workers).map { try node.passage(.out, ofWorker: $0).entered }
        #expect(entered == expected)
        // One ticket for each, whoever's it was.
        #expect(try node.passage(.out).lastTicket == 500)
    }

    @Test func aFlowWaitsForItsOwnWorkerAlone() throws {
        let node = try ProgramNode(workers: 4)
        #expect(try !node.send(Self.lastHop()))
        let own = try #require(try (0..<4).first { try node.passage(.out, ofWorker: $0).entered == 1 })
        for worker in 0..<4 where worker != own { try node.work(.out, ofWorker: worker) }
        #expect(try !node.send(Self.packet()))
        try node.work(.out, ofWorker: own)
        #expect(try node.send(Self.packet()))
    }

    // MARK: In

    @Test(arguments: Families.all) func whatThePeersRingSentGoesFirst(families: Families) throws {
        let node = try ProgramNode(families)
        #expect(try node.receive(Self.ofTheRing(families)).verdict == ProgramNode.passed)
        let passage = try node.passage(.in)
        #expect(passage.entered == 1 && passage.wanted == 0)
        let run = try node.receive(OuterFrame(families))
        #expect(run.verdict == ProgramNode.passed && run.packet == OuterFrame(families).bytes)
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        #expect(passage.entered == 2 && passage.wanted == 1)
        // It may pass: it does nothing but acknowledge. And another flow is another.
        var acknowledgement = OuterFrame(families)
        acknowledgement.inner = InnerPacket.segment(families, flags: 0x10)
        #expect(try node.receive(acknowledgement).verdict == ProgramNode.redirected)
        var other = OuterFrame(families)
        other.inner.payload[1] = 0x40
        #expect(try node.receive(other).verdict == ProgramNode.redirected)
        try node.work(.in)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.redirected)
        // What goes out is another way's.
        #expect(try node.passage(.out).entered == 0)
    }

    @Test(arguments: AddressFamily.allCases) func whateverIsForTheRingIsCounted(underlay: AddressFamily)
        throws
    {
        let families = Families(underlay: underlay, inner: .ipv4)
        let node = try ProgramNode(
            families, former: Endpoint(address: families.node(8), port: 9000))
        let passage = try node.passage(.in)
        var hello = Self.ofTheRing(families).bytes
        hello.removeLast(hello.count - families.innerOffset - 16)
        _ = node.forwarder.programs.inbound.run(on: hello)
        #expect(passage.entered == 1)
        var stranger = Self.ofTheRing(families)
        stranger.header.source = families.node(77)
        _ = try node.receive(stranger)
        #expect(passage.entered == 2)
        var former = Self.ofTheRing(families)
        (former.header.destination, former.port) = (families.node(8), 9000)
        _ = try node.receive(former)
        #expect(passage.entered == 3)
        // The kernel path's own form there is not for the kernel path.
        former.udpChecksum = 0
        #expect(try node.receive(former).verdict == ProgramNode.passed)
        #expect(passage.entered == 4)
        for change: @Sendable (inout OuterFrame) -> Void in [
            { $0.port = 9001 }, { $0.port = 9000 }, { $0.header.destination = families.node(8) },
            { $0.header.transport = 6 }, { $0.header.firstByte = 0x46 },
        ] {
            var another = Self.ofTheRing(families)
            change(&another)
            _ = try node.receive(another)
        }
        var fragment = Self.ofTheRing(families)
        if underlay == .ipv4 { fragment.header.fragment = 0x2000 } else { fragment.header.transport = 44 }
        _ = try node.receive(fragment)
        #expect(passage.entered == 4)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
    }

    @Test(arguments: Families.all) func aFragmentOfThePeersRingKeepsBackAllBetweenTheTwo(families: Families)
        throws
    {
        let node = try ProgramNode(families)
        var frame = Self.ofTheRing(families)
        frame.inner.hideItsPorts()
        _ = try node.receive(frame)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        try node.work(.in)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.redirected)
    }

    /// Datagrams of the peer's ring that the kernel has merged: small ones are all noted, of large ones the first and the last.
    @Test(arguments: Families.all, [(1, 20), (31, 20), (49, 20), (2, 1100)])
    func eachOfWhatWasMergedIsNoted(families: Families, merged: (last: Int, payloadBytes: Int)) throws {
        let (last, payloadBytes) = merged
        let node = try ProgramNode(families)
        func inner(_ number: Int) -> InnerPacket {
            var inner = InnerPacket(families)
            inner.payload[1] = UInt8(number)
            inner.payload += [UInt8](repeating: 0, count: payloadBytes)
            return inner
        }
        var frame = Self.ofTheRing(families)
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
            var frame = OuterFrame(families)
            frame.inner.payload[1] = UInt8(number)
            #expect(try node.receive(frame).verdict == ProgramNode.passed, "\(number)")
        }
        #expect(node.flows.filter { $0.received_ticket > 0 }.count == noted.count)
    }

    /// A peer with several workers sends from several ports, and its kernel path from one of them: what both sent of a flow
    /// may be two workers' here. Of an IPv6 address its end tells whose.
    @Test(arguments: Families.all) func allWorkersThatHaveSomethingAreWaitedFor(families: Families) throws {
        let node = try ProgramNode(families, workers: 3)
        let end = addressBytes(families.node(2)).suffix(4).reduce(0) { $0 << 8 | Int($1) }
        let (first, second) = ((end + 8285) % 3, (end + 8286) % 3)
        func entered() throws -> [UInt64] { try (0..<3).map { try node.passage(.in, ofWorker: $0).entered } }
        _ = try node.receive(Self.ofTheRing(families))
        #expect(try entered() == (0..<3).map { $0 == first ? 1 : 0 })
        var another = Self.ofTheRing(families)
        another.sourcePort += 1
        _ = try node.receive(another)
        #expect(try entered() == (0..<3).map { $0 == first || $0 == second ? 1 : 0 })
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: first)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: second)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        try node.work(.in, ofWorker: first)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.redirected)
    }
}
