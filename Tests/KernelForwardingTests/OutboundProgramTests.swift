import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import Seeded
import Testing

@testable import KernelForwarding

/// What goes out by the kernel path, and what is left to the ring. The headers that it gets are seen on a real device
/// (`KernelPathDeviceTests`): the kernel runs a program on a frame alone, and what leaves a TUN device has no link header.
@Suite(.enabled(if: namespacesAreExpected)) struct OutboundProgramTests {
    private static func packet() -> InnerPacket {
        var packet = InnerPacket(source: IPv4Address(8, 0, 1, 7), destination: IPv4Address(8, 0, 2, 9))
        // The kernel runs a program on nothing shorter than an Ethernet and an IPv4 header.
        packet.payload += [UInt8](repeating: 0, count: 8)
        return packet
    }

    private static func segment(flags: UInt8, payload: [UInt8] = []) -> InnerPacket {
        var packet = InnerPacket.segment(flags: flags, payload: payload)
        (packet.source, packet.destination) = (packet.destination, packet.source)
        return packet
    }

    private static let (push, finish, reset, synchronize): (UInt8, UInt8, UInt8, UInt8) = (
        0x18, 0x11, 0x14, 0x02
    )
    private static let acknowledgement: UInt8 = 0x10

    @Test func takesASparseFlowsSmallPacketAndCountsIt() throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        #expect(try node.send(Self.packet()))
        let counters = node.counters()
        #expect(counters[.kernelPathPacketsSent] == 2)
        #expect(counters[.packetsSent] == 2)
        #expect(counters[.bytesSent] == 80)
        #expect(node.forwarder.counts(ofSlot: 3).packetsSent == 2)
        #expect(node.forwarder.counts(ofSlot: 3).bytesSent == 80)
    }

    /// Each is wrong in one thing alone.
    static let left: [(String, @Sendable (inout InnerPacket) -> Void)] = [
        ("options", { $0.firstByte = 0x46 }),
        ("version 6", { $0.firstByte = 0x65 }),
        ("total length", { $0.totalLength = 39 }),
        ("a fragment", { $0.fragment = 0x2000 }),
        ("a later fragment", { $0.fragment = 1 }),
        ("the last hop", { $0.hops = 1 }),
        ("no hops", { $0.hops = 0 }),
        ("to nobody", { $0.destination = IPv4Address(8, 0, 9, 9) }),
        ("to our own pods", { $0.destination = IPv4Address(8, 0, 1, 9) }),
        ("large", { $0.payload = [UInt8](repeating: 0, count: 237) }),
    ]

    @Test(arguments: left.indices)
    func leavesEverythingElseToTheRing(index: Int) throws {
        let node = try ProgramNode()
        var packet = Self.packet()
        Self.left[index].1(&packet)
        #expect(try !node.send(packet), "\(Self.left[index].0)")
        #expect(node.counters()[.packetsSent] == 0)
    }

    @Test func takesWhatIsAsLargeAsItMayBe() throws {
        var packet = Self.packet()
        packet.payload = [UInt8](repeating: 0, count: 236)
        #expect(try ProgramNode().send(packet))
    }

    @Test func sendsToAPeerOnlyWhileItIsAllowed() throws {
        let node = try ProgramNode()
        node.forwarder.disallow(ProgramNode.peer.endpoint)
        #expect(try !node.send(Self.packet()))
        // Another flow, of which nothing has gone by the ring.
        var other = Self.packet()
        other.payload[1] = 0x40
        node.forwarder.allow(ProgramNode.peer.endpoint, forMilliseconds: 60_000)
        #expect(try node.send(other))
        #expect(node.forwarder.standing.able == [ProgramNode.peer.endpoint])
        node.forwarder.allow(ProgramNode.peer.endpoint, forMilliseconds: 0)
        #expect(try !node.send(other))
        node.forwarder.refresh()
        #expect(node.forwarder.standing.able.isEmpty)
    }

    @Test func sendsNothingToAPeerThatIsRoutedElsewhere() throws {
        let node = try ProgramNode()
        node.forwarder.ask { $0 != IPv4Address(10, 0, 0, 2) }
        node.forwarder.allow(ProgramNode.peer.endpoint, forMilliseconds: 60_000)
        #expect(try !node.send(Self.packet()))
    }

    @Test func sendsNothingWithoutATableThatIsGood() throws {
        let node = try ProgramNode()
        node.forwarder.stop()
        #expect(try !node.send(Self.packet()))
    }

    @Test func aPeerWithoutAnIPv4EndpointIsTheRings() throws {
        var peer = ProgramNode.peer
        peer.endpoint = Endpoint(address: .v6(IPv6Address(high: 1, low: 2)), port: 8285)
        #expect(try !ProgramNode(peers: [peer]).send(Self.packet()))
    }

    /// The workers see when somebody waits for a packet that goes past them. Bulk's acknowledgements are none.
    @Test func theWorkersSeeWhenSomebodyWaits() throws {
        let node = try ProgramNode()
        let traffic = node.forwarder.traffic
        #expect(try node.send(Self.segment(flags: Self.acknowledgement)))
        var frame = OuterFrame()
        frame.inner = InnerPacket.segment(flags: Self.acknowledgement)
        #expect(try node.receive(frame).verdict == ProgramNode.redirected)
        #expect(traffic.lastAwaitedNanoseconds == 0)
        let before = monotonicNanoseconds()
        #expect(try node.send(Self.packet()))
        let sent = traffic.lastAwaitedNanoseconds
        #expect(sent >= Int(before) && sent <= Int(monotonicNanoseconds()))
        usleep(2_000)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
        #expect(traffic.lastAwaitedNanoseconds > sent)
    }

    // MARK: Order

    /// Sends until the kernel path takes the packet again, as long as that takes.
    private static func waitUntilTaken(_ packet: InnerPacket, by node: ProgramNode) throws {
        for _ in 0..<50 {
            usleep(200_000)
            try node.work(.out)
            if try node.send(packet) { return }
        }
        Issue.record("the flow never came back to the kernel path")
    }

    @Test func aFlowWithAnythingLargeStaysInTheRingAndComesBack() throws {
        let node = try ProgramNode()
        var large = Self.segment(flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        let small = Self.segment(flags: Self.push, payload: [1])
        #expect(try node.send(small))
        #expect(try !node.send(large))
        #expect(try !node.send(small))
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        try Self.waitUntilTaken(small, by: node)
    }

    @Test func anotherFlowIsNotKeptBack() throws {
        let node = try ProgramNode()
        var large = Self.segment(flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        #expect(try node.send(Self.packet()))
    }

    @Test func aBareAcknowledgementMayPassAndNothingElseOfAFlow() throws {
        let node = try ProgramNode()
        var large = Self.segment(flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        #expect(try node.send(Self.segment(flags: Self.acknowledgement)))
        for flags in [Self.finish, Self.reset, Self.synchronize, Self.push, 0x30] {
            #expect(try !node.send(Self.segment(flags: flags)), "\(flags)")
        }
        #expect(try !node.send(Self.segment(flags: Self.acknowledgement, payload: [1])))
        #expect(try node.send(Self.segment(flags: Self.acknowledgement)))
    }

    @Test func whatDoesNotTellItsPortsKeepsBackAllBetweenTheTwo() throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        var fragment = Self.packet()
        fragment.fragment = 0x2000
        #expect(try !node.send(fragment))
        #expect(try !node.send(Self.packet()))
        var toAnother = Self.packet()
        toAnother.destination = IPv4Address(8, 0, 2, 10)
        #expect(try node.send(toAnother))
    }

    /// The place of the one flow that has sent something unanswered.
    private static func place(in node: ProgramNode) throws -> (number: UInt32, flow: kernel_flow) {
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        for number in 0..<UInt32(KERNEL_FLOWS) {
            if let flow = flows.value(of: number, startingWith: kernel_flow()), flow.unanswered > 0 {
                return (number, flow)
            }
        }
        throw NoPlace()
    }

    private struct NoPlace: Error {}

    @Test func anAnswerEndsTheCountAndABareAcknowledgementDoesNot() throws {
        let node = try ProgramNode()
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        #expect(try node.send(Self.segment(flags: Self.push, payload: [1])))
        let (number, flow) = try Self.place(in: node)
        #expect(flow.unanswered == 1)
        var frame = OuterFrame()
        func answer(flags: UInt8, payload: [UInt8]) throws {
            frame.inner = InnerPacket.segment(flags: flags, payload: payload)
            // From the other end: the ports the other way round.
            frame.inner.payload[0...3] = [0xD4, 0x31, 0x30, 0x39]
            #expect(try node.receive(frame).verdict == ProgramNode.redirected)
        }
        try answer(flags: Self.acknowledgement, payload: [])
        #expect(flows.value(of: number, startingWith: kernel_flow())?.unanswered == 1)
        try answer(flags: Self.push, payload: [1])
        #expect(flows.value(of: number, startingWith: kernel_flow())?.unanswered == 0)
    }

    @Test func aFloodIsBulk() throws {
        let node = try ProgramNode()
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        #expect(try node.send(Self.packet()))
        let place = try Self.place(in: node)
        // On a busy machine the window may be over before the next packet is sent, and then nothing is a flood.
        func isTaken(after unanswered: UInt32) throws -> Bool {
            var flow = place.flow
            flow.unanswered = unanswered
            flow.bulk_until = 0
            try node.work(.out)
            flow.window_began = monotonicNanoseconds()
            #expect(flows.set(place.number, to: flow))
            return try node.send(Self.packet())
        }
        #expect(try isTaken(after: 255))
        let hasBeenLeft = try (0..<100).contains { _ in try !isTaken(after: 256) }
        #expect(hasBeenLeft)
        #expect(try !node.send(Self.packet()))
    }

    @Test func whateverTheBytesItIsTakenOrLeft() throws {
        var random = SeededRandom(seed: 89)
        let node = try ProgramNode()
        for _ in 0..<20_000 {
            var bytes = Self.packet().bytes
            bytes += random.bytes(random.below(40))
            for _ in 0..<random.below(4) {
                let place = random.below(bytes.count)
                // The kernel takes these for the frame's type.
                if place != 12, place != 13 { bytes[place] = random.byte() }
            }
            bytes = Array(bytes.prefix(random.oneIn(4) ? 14 + random.below(bytes.count - 13) : bytes.count))
            try node.work(.out)
            guard let run = node.forwarder.programs.outbound.run(on: bytes) else { continue }
            if run.verdict == ProgramNode.redirected {
                #expect(bytes[0] == 0x45 && bytes.count <= 256 && bytes[8] > 1)
                #expect(Int(bytes[2]) << 8 | Int(bytes[3]) == bytes.count)
                #expect(bytes[16...18] == [8, 0, 2])
            } else {
                #expect(run.verdict == ProgramNode.passed)
                #expect(run.packet == bytes)
            }
        }
    }
}
