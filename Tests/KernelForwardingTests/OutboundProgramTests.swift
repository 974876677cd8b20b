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
    private static func packet(_ families: Families = .ipv4, hops: UInt8 = 64) -> InnerPacket {
        var packet = InnerPacket.leaving(families)
        packet.header.hops = hops
        return packet
    }

    private static func segment(
        _ families: Families = .ipv4, flags: UInt8, payload: [UInt8] = []
    ) -> InnerPacket {
        InnerPacket.segment(families, flags: flags, payload: payload).turned
    }

    private static let (push, finish, reset, synchronize): (UInt8, UInt8, UInt8, UInt8) = (
        0x18, 0x11, 0x14, 0x02
    )
    private static let acknowledgement: UInt8 = 0x10

    @Test(arguments: Families.all)
    func takesASparseFlowsSmallPacketAndCountsIt(families: Families) throws {
        let node = try ProgramNode(families)
        #expect(try node.send(Self.packet(families)))
        #expect(try node.send(Self.packet(families)))
        let counters = node.counters()
        let bytes = UInt64(2 * (families.innerHeaderBytes + 20))
        #expect(counters[.kernelPathPacketsSent] == 2)
        #expect(counters[.packetsSent] == 2)
        #expect(counters[.bytesSent] == bytes)
        #expect(node.forwarder.counts(ofSlot: 3).packetsSent == 2)
        #expect(node.forwarder.counts(ofSlot: 3).bytesSent == bytes)
    }

    /// One thing that is wrong: of either family, or of that which is named.
    struct Wrong: Sendable {
        let name: String
        let family: AddressFamily?
        let change: @Sendable (inout InnerPacket, Families) -> Void

        init(
            _ name: String, _ family: AddressFamily? = nil,
            _ change: @escaping @Sendable (inout InnerPacket, Families) -> Void
        ) {
            self.name = name
            self.family = family
            self.change = change
        }
    }

    /// Each is wrong in one thing alone.
    private static let wrong: [Wrong] = [
        Wrong("options", .ipv4) { packet, _ in packet.header.firstByte = 0x46 },
        Wrong("version") { $0.header.firstByte = $1.inner == .ipv4 ? 0x65 : 0x45 },
        Wrong("no version") { packet, _ in packet.header.firstByte = 0x05 },
        Wrong("length, one less") { $0.header.length = ($1.inner == .ipv4 ? 20 : 0) + 19 },
        Wrong("length, one more") { $0.header.length = ($1.inner == .ipv4 ? 20 : 0) + 21 },
        Wrong("a fragment") { packet, _ in packet.hideItsPorts() },
        Wrong("a later fragment", .ipv4) { packet, _ in packet.header.fragment = 1 },
        Wrong("the last hop") { packet, _ in packet.header.hops = 1 },
        Wrong("no hops") { packet, _ in packet.header.hops = 0 },
        Wrong("to nobody") { $0.header.destination = $1.pod(9, 9) },
        Wrong("to our own pods") { $0.header.destination = $1.pod(1, 9) },
        Wrong("large") { $0.payload = [UInt8](repeating: 0, count: 257 - $1.innerHeaderBytes) },
    ]
    private static let extensions: [Wrong] = Families.extensions.map { number in
        Wrong("extension \(number)", .ipv6) { packet, _ in packet.header.transport = number }
    }

    @Test(arguments: Families.all) func leavesEverythingElseToTheRing(families: Families) throws {
        let node = try ProgramNode(families)
        let others = (Self.wrong + Self.extensions).filter { $0.family ?? families.inner == families.inner }
        var host: UInt8 = 9
        var sent = 0
        for wrong in others {
            var packet = Self.packet(families)
            // To the next pod that nothing before keeps packets back from.
            repeat {
                host += 1
                packet.header.destination = families.pod(2, host)
            } while try !node.send(packet)
            sent += 1
            wrong.change(&packet, families)
            #expect(try !node.send(packet), "\(wrong.name)")
            #expect(node.counters()[.packetsSent] == sent, "\(wrong.name)")
        }
    }

    @Test(arguments: Families.all) func takesWhatIsAsLargeAsItMayBe(families: Families) throws {
        var packet = Self.packet(families)
        packet.payload = [UInt8](repeating: 0, count: 256 - families.innerHeaderBytes)
        #expect(try ProgramNode(families).send(packet))
    }

    @Test(arguments: Families.all) func sendsToAPeerOnlyWhileItIsAllowed(families: Families) throws {
        let node = try ProgramNode(families)
        let peer = families.endpoint(2)
        node.forwarder.disallow(peer)
        #expect(try !node.send(Self.packet(families)))
        // Another flow, of which nothing has gone by the ring.
        var other = Self.packet(families)
        other.payload[1] = 0x40
        node.forwarder.allow(peer, forMilliseconds: 60_000)
        #expect(try node.send(other))
        #expect(node.forwarder.standing.able == [peer])
        node.forwarder.allow(peer, forMilliseconds: 0)
        #expect(try !node.send(other))
        node.forwarder.refresh()
        #expect(node.forwarder.standing.able.isEmpty)
    }

    @Test(arguments: Families.all)
    func sendsNothingToAPeerThatIsRoutedElsewhere(families: Families) throws {
        let node = try ProgramNode(families)
        node.forwarder.ask { $0 != families.node(2) }
        node.forwarder.allow(families.endpoint(2), forMilliseconds: 60_000)
        #expect(try !node.send(Self.packet(families)))
    }

    @Test func sendsNothingWithoutATableThatIsGood() throws {
        let node = try ProgramNode()
        node.forwarder.stop()
        #expect(try !node.send(Self.packet()))
    }

    /// A peer with an endpoint of the other family.
    @Test(arguments: Families.all) func aPeerThatIsReachedOtherwiseIsTheRings(families: Families) throws {
        let others = Families(
            underlay: families.underlay == .ipv4 ? .ipv6 : .ipv4, inner: families.inner)
        let node = try ProgramNode(families, peers: [ProgramNode.peer(at: others.endpoint(2))])
        #expect(try !node.send(Self.packet(families)))
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        #expect(node.forwarder.standing.able.isEmpty)
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

    @Test(arguments: AddressFamily.allCases)
    func aFlowWithAnythingLargeStaysInTheRingAndComesBack(inner: AddressFamily) throws {
        let families = Families(underlay: .ipv4, inner: inner)
        let node = try ProgramNode(families)
        var large = Self.segment(families, flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        let small = Self.segment(families, flags: Self.push, payload: [1])
        #expect(try node.send(small))
        #expect(try !node.send(large))
        #expect(try !node.send(small))
        #expect(node.counters()[.kernelPathKeptInOrder] == 1)
        try Self.waitUntilTaken(small, by: node)
    }

    @Test(arguments: Families.all) func anotherFlowIsNotKeptBack(families: Families) throws {
        let node = try ProgramNode(families)
        var large = Self.segment(families, flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        #expect(try node.send(Self.packet(families)))
    }

    @Test(arguments: Families.all)
    func aBareAcknowledgementMayPassAndNothingElseOfAFlow(families: Families) throws {
        let node = try ProgramNode(families)
        var large = Self.segment(families, flags: Self.push)
        large.payload += [UInt8](repeating: 0, count: 1000)
        #expect(try !node.send(large))
        #expect(try node.send(Self.segment(families, flags: Self.acknowledgement)))
        for flags in [Self.finish, Self.reset, Self.synchronize, Self.push, 0x30] {
            #expect(try !node.send(Self.segment(families, flags: flags)), "\(flags)")
        }
        #expect(try !node.send(Self.segment(families, flags: Self.acknowledgement, payload: [1])))
        #expect(try node.send(Self.segment(families, flags: Self.acknowledgement)))
    }

    @Test(arguments: Families.all)
    func whatDoesNotTellItsPortsKeepsBackAllBetweenTheTwo(families: Families) throws {
        let node = try ProgramNode(families)
        #expect(try node.send(Self.packet(families)))
        var fragment = Self.packet(families)
        fragment.hideItsPorts()
        #expect(try !node.send(fragment))
        #expect(try !node.send(Self.packet(families)))
        var toAnother = Self.packet(families)
        toAnother.header.destination = families.pod(2, 10)
        #expect(try node.send(toAnother))
    }

    /// Addresses of one network differ in any word, and their flows are others.
    @Test func eachWordOfAnIPv6AddressTellsFlowsApart() throws {
        let families = Families(underlay: .ipv6, inner: .ipv6)
        let node = try ProgramNode(families)
        #expect(try !node.send(Self.packet(families, hops: 1)))
        for change in [(1 << 63, 0), (1 << 3, 0), (0, 1 << 63), (0, 1 << 3)] as [(UInt64, UInt64)] {
            var packet = Self.packet(families)
            let source = try #require(packet.header.source.v6)
            packet.header.source = .v6(IPv6Address(high: source.high ^ change.0, low: source.low ^ change.1))
            #expect(try node.send(packet), "\(change)")
        }
        #expect(try !node.send(Self.packet(families)))
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

    @Test(arguments: Families.all)
    func anAnswerEndsTheCountAndABareAcknowledgementDoesNot(families: Families) throws {
        let node = try ProgramNode(families)
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        #expect(try node.send(Self.segment(families, flags: Self.push, payload: [1])))
        let (number, flow) = try Self.place(in: node)
        #expect(flow.unanswered == 1)
        var frame = OuterFrame(families)
        func answer(flags: UInt8, payload: [UInt8]) throws {
            frame.inner = InnerPacket.segment(families, flags: flags, payload: payload)
            // From the other end: the ports the other way round.
            frame.inner.payload[0...3] = [0xD4, 0x31, 0x30, 0x39]
            #expect(try node.receive(frame).verdict == ProgramNode.redirected)
        }
        try answer(flags: Self.acknowledgement, payload: [])
        #expect(flows.value(of: number, startingWith: kernel_flow())?.unanswered == 1)
        try answer(flags: Self.push, payload: [1])
        #expect(flows.value(of: number, startingWith: kernel_flow())?.unanswered == 0)
    }

    /// Sends one more packet of a flow in whose window so many went without an answer, and so many of others on each CPU.
    private static func isTaken(
        by node: ProgramNode, of place: (number: UInt32, flow: kernel_flow), after unanswered: UInt32,
        beside others: UInt64
    ) throws -> Bool {
        var flow = place.flow
        flow.unanswered = unanswered
        flow.bulk_until = 0
        try node.work(.out)
        flow.window_began = monotonicNanoseconds()
        #expect(node.forwarder.programs[KERNEL_MAP_FLOWS].set(place.number, to: flow))
        let crowd = kernel_crowd(window_began: flow.window_began, unanswered: others, flooding: 0)
        #expect(node.forwarder.programs[KERNEL_MAP_CROWDS].setOnEachCPU(0, to: crowd))
        return try node.send(packet())
    }

    @Test func aFloodIsBulk() throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        let place = try Self.place(in: node)
        func isTaken(after unanswered: UInt32) throws -> Bool {
            try Self.isTaken(by: node, of: place, after: unanswered, beside: 0)
        }
        #expect(try isTaken(after: 255))
        // On a busy machine the window may be over before the next packet is sent, and then nothing is a flood.
        let hasBeenLeft = try (0..<100).contains { _ in try !isTaken(after: 256) }
        #expect(hasBeenLeft)
        #expect(try !node.send(Self.packet()))
    }

    /// Each of them sends less than a flood, and all of them together more: of those that have had some without an answer already. One
    /// that has had few is none of them.
    @Test(arguments: [(before: UInt32(4), isLeft: true), (before: 0, isLeft: false)])
    func manyFlowsThatNobodyAnswersAreAFloodTogether(before: UInt32, isLeft: Bool) throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        let place = try Self.place(in: node)
        func isTaken(beside others: UInt64) throws -> Bool {
            try Self.isTaken(by: node, of: place, after: before, beside: others)
        }
        #expect(try isTaken(beside: 255))
        // On a busy machine the window may be over before the next packet is sent, and then nothing is a flood.
        let hasBeenLeft = try (0..<100).contains { _ in try !isTaken(beside: 256) }
        #expect(hasBeenLeft == isLeft)
    }

    /// A flood that goes by the ring stays there for as long as it lasts, by itself or with the others that do; what stays for something
    /// large does not, however much of it there is.
    @Test(arguments: [
        (isFlood: true, own: UInt32(256), others: UInt64(0), goesOn: true),
        (true, 4, 256, true),
        (true, 4, 255, false),
        (true, 3, 256, false),
        (false, 256, 256, false),
    ])
    func aFloodThatGoesOnStaysInTheRing(isFlood: Bool, own: UInt32, others: UInt64, goesOn: Bool) throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        var (number, flow) = try Self.place(in: node)
        let (flows, crowds) = (
            node.forwarder.programs[KERNEL_MAP_FLOWS], node.forwarder.programs[KERNEL_MAP_CROWDS]
        )
        /// Whether it stays for longer than it had to, after so many in this window.
        func staysForLonger() throws -> Bool {
            try node.work(.out)
            flow.window_began = monotonicNanoseconds()
            flow.bulk_until = flow.window_began + 500_000_000
            flow.unanswered = own
            flow.is_flood = isFlood ? 1 : 0
            #expect(flows.set(number, to: flow))
            let crowd = kernel_crowd(window_began: flow.window_began, unanswered: 0, flooding: others)
            #expect(crowds.setOnEachCPU(0, to: crowd))
            #expect(try !node.send(Self.packet()))
            let now = try #require(flows.value(of: number, startingWith: kernel_flow()))
            return now.bulk_until > flow.bulk_until
        }
        // On a busy machine the window may be over before the packet is sent.
        let stays = try (0..<100).contains { _ in try staysForLonger() }
        #expect(stays == goesOn)
    }

    /// One that was a flood and is none is back in the kernel path, as any other.
    @Test func aFloodThatIsOverIsNone() throws {
        let node = try ProgramNode()
        #expect(try node.send(Self.packet()))
        var (number, flow) = try Self.place(in: node)
        let flows = node.forwarder.programs[KERNEL_MAP_FLOWS]
        flow.is_flood = 1
        flow.bulk_until = 0
        #expect(flows.set(number, to: flow))
        try node.work(.out)
        #expect(try node.send(Self.packet()))
        #expect(flows.value(of: number, startingWith: kernel_flow())?.is_flood == 0)
    }

    @Test(arguments: Families.all) func whateverTheBytesItIsTakenOrLeft(families: Families) throws {
        var random = SeededRandom(seed: 89)
        let node = try ProgramNode(families)
        let destination = families.inner == .ipv4 ? 16..<19 : 24..<32
        let subnet = addressBytes(families.pod(2, 0)).prefix(destination.count)
        var taken = 0
        for _ in 0..<10_000 {
            // Of many flows: one with something odd keeps all between its addresses in the ring for a second.
            var packet = Self.packet(families)
            packet.header.destination = families.pod(2, random.byte())
            packet.header.source = families.pod(1, random.byte())
            var bytes = packet.bytes
            if random.oneIn(4) { bytes += random.bytes(random.below(40)) }
            for _ in 0..<random.below(4) {
                let place = random.below(bytes.count)
                // The kernel takes these for the frame's type.
                if place != 12, place != 13 { bytes[place] = random.byte() }
            }
            bytes = Array(bytes.prefix(random.oneIn(4) ? 14 + random.below(bytes.count - 13) : bytes.count))
            node.forwarder.refresh()
            try node.work(.out)
            guard let run = node.forwarder.programs.outbound.run(on: bytes) else { continue }
            guard run.verdict == ProgramNode.redirected else {
                #expect(run.verdict == ProgramNode.passed)
                #expect(run.packet == bytes)
                continue
            }
            taken += 1
            #expect(bytes.count <= 256 && bytes[destination] == ArraySlice(subnet))
            switch families.inner {
            case .ipv4:
                #expect(bytes[0] == 0x45 && bytes[8] > 1)
                #expect(Int(bytes[2]) << 8 | Int(bytes[3]) == bytes.count)
            case .ipv6:
                #expect(bytes[0] >> 4 == 6 && bytes[7] > 1 && bytes[6] != 44)
                #expect(Int(bytes[4]) << 8 | Int(bytes[5]) == bytes.count - 40)
            }
        }
        #expect(taken > 500)
    }
}
