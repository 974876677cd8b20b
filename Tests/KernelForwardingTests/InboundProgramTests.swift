import Addresses
import CKernelForwarding
import Counters
import Forwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import PacketHeaders
import Seeded
import Testing

@testable import KernelForwarding

/// A node with one peer, whose programs are attached to nothing: the kernel runs them on packets of the test.
struct ProgramNode {
    static let redirected: Int32 = 7
    static let passed: Int32 = -1
    static let peer = Families.ipv4.endpoint(2)

    let families: Families
    let forwarder: KernelForwarder

    /// - Parameters:
    ///   - families: by which nodes and pods are addressed.
    ///   - peers: who is published and able; nil: node 2.
    ///   - workers: among how many workers packets are steered.
    ///   - former: where the workers receive as well.
    init(
        _ families: Families = .ipv4, peers: [ForwardingPeer]? = nil, mtu: Int = 1400, workers: Int = 1,
        former: Endpoint? = nil
    ) throws {
        self.families = families
        forwarder = try KernelForwarder(
            underlay: families.endpoint(1), former: former, packetLimitBytes: 256, mtu: mtu,
            workers: workers)
        let peers = peers ?? [Self.peer(at: families.endpoint(2))]
        forwarder.publish(Self.routes(peers, mtu: mtu))
        forwarder.attached(underlayIndex: 1, tunnelIndex: 1)
        for peer in peers { forwarder.allow(peer.endpoint, forMilliseconds: 60_000) }
    }

    static func routes(_ peers: [ForwardingPeer], mtu: Int = 1400) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: IPv4Prefix("8.0.1.0/24")!, localIPv6: IPv6Prefix("fd00:0:86dd:1::/64")!, mtu: mtu,
            peers: peers)
    }

    static func peer(at endpoint: Endpoint) -> ForwardingPeer {
        ForwardingPeer(
            ipv4: IPv4Prefix("8.0.2.0/24")!, ipv6: IPv6Prefix("fd00:0:86dd:2::/64")!, endpoint: endpoint,
            counterSlot: 3)
    }

    /// Looks after the table first: on a busy machine a test takes longer than that is good.
    func receive(_ frame: OuterFrame, isLookedAfter: Bool = true) throws -> KernelProgram.Run {
        if isLookedAfter { forwarder.refresh() }
        return try #require(forwarder.programs.inbound.run(on: frame.bytes))
    }

    /// Looks after the table first, as well.
    func send(_ packet: InnerPacket) throws -> Bool {
        forwarder.refresh()
        let verdict = try #require(forwarder.programs.outbound.run(on: packet.bytes)).verdict
        #expect(verdict == Self.redirected || verdict == Self.passed)
        return verdict == Self.redirected
    }

    /// What is noted of each flow.
    var flows: [kernel_flow] {
        let map = forwarder.programs[KERNEL_MAP_FLOWS]
        return (0..<UInt32(KERNEL_FLOWS)).map {
            map.value(of: $0, startingWith: kernel_flow()) ?? kernel_flow()
        }
    }

    func counters() -> CounterTotals {
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        forwarder.count(into: block)
        return CounterTotals([block])
    }
}

/// What comes in by the kernel path, and what is left to the ring.
@Suite(.enabled(if: namespacesAreExpected)) struct InboundProgramTests {
    @Test(arguments: Families.all) func takesAPeersPacketAndCountsIt(families: Families) throws {
        let node = try ProgramNode(families)
        let run = try node.receive(OuterFrame(families))
        #expect(run.verdict == ProgramNode.redirected)
        var delivered = InnerPacket(families)
        delivered.header.hops = 63
        #expect(run.packet == OuterFrame.link + word(families.ethernetType) + delivered.bytes)
        let counters = node.counters()
        #expect(counters[.kernelPathPacketsReceived] == 1)
        #expect(counters[.packetsDelivered] == 1)
        #expect(counters[.bytesDelivered] == UInt64(delivered.bytes.count))
        #expect(counters[.kernelPathLeftToRing] == 0)
        let ofPeer = node.forwarder.counts(ofSlot: 3)
        #expect(ofPeer.packetsReceived == 1)
        #expect(ofPeer.bytesReceived == UInt64(delivered.bytes.count))
        #expect(ofPeer.lastReceivedNanoseconds > 0)
    }

    /// One thing that is wrong.
    struct Wrong: Sendable {
        let name: String
        /// The families of which it is; nil: either.
        var underlay: AddressFamily?
        var inner: AddressFamily?
        let change: @Sendable (inout OuterFrame, Families) -> Void

        init(
            _ name: String, underlay: AddressFamily? = nil, inner: AddressFamily? = nil,
            _ change: @escaping @Sendable (inout OuterFrame, Families) -> Void
        ) {
            self.name = name
            self.underlay = underlay
            self.inner = inner
            self.change = change
        }

        func exists(_ families: Families) -> Bool {
            underlay ?? families.underlay == families.underlay && inner ?? families.inner == families.inner
        }
    }

    /// Each is wrong in one thing alone, and goes up as it came.
    private static let fields: [Wrong] = [
        Wrong("another type") { $0.ethernetType = $1.underlay == .ipv4 ? 0x86DD : 0x0800 },
        Wrong("outer options", underlay: .ipv4) { frame, _ in frame.header.firstByte = 0x46 },
        Wrong("outer version") { $0.header.firstByte = $1.underlay == .ipv4 ? 0x65 : 0x40 },
        Wrong("outer length") { frame, _ in frame.header.length = frame.bytes.count - 55 },
        Wrong("outer checksum", underlay: .ipv4) { frame, _ in frame.header.checksumError = 1 },
        Wrong("outer fragment", underlay: .ipv4) { frame, _ in frame.header.fragment = 0x2000 },
        Wrong("outer later fragment", underlay: .ipv4) { frame, _ in frame.header.fragment = 1 },
        Wrong("outer transport") { frame, _ in frame.header.transport = 6 },
        Wrong("outer extension", underlay: .ipv6) { frame, _ in frame.header.transport = 60 },
        Wrong("another peer's address") { $0.header.source = $1.node(3) },
        Wrong("another peer's address in its first half", underlay: .ipv6) { frame, _ in
            frame.header.source = .v6(IPv6Address(high: 0xFD00 << 48 | 1, low: 2))
        },
        Wrong("not our address") { $0.header.destination = $1.node(9) },
        Wrong("not our address in its first half", underlay: .ipv6) { frame, _ in
            frame.header.destination = .v6(IPv6Address(high: 0xFD00 << 48 | 1, low: 1))
        },
        Wrong("another port") { frame, _ in frame.port = 8286 },
        Wrong("UDP length") { frame, _ in frame.udpLength = 7 + frame.inner.bytes.count },
        Wrong("UDP checksum") { frame, _ in frame.udpChecksum = 0x1234 },
        Wrong("padding") { frame, _ in frame.trailer = [0] },
        Wrong("inner options", inner: .ipv4) { frame, _ in frame.inner.header.firstByte = 0x46 },
        Wrong("inner version") { $0.inner.header.firstByte = $1.inner == .ipv4 ? 0x65 : 0x45 },
        Wrong("no inner version") { frame, _ in frame.inner.header.firstByte = 0x75 },
        Wrong("inner header too short", inner: .ipv4) { frame, _ in frame.inner.header.firstByte = 0x44 },
        Wrong("inner length, one less") { $0.inner.header.length = ($1.inner == .ipv4 ? 20 : 0) + 11 },
        Wrong("inner length, one more") { $0.inner.header.length = ($1.inner == .ipv4 ? 20 : 0) + 13 },
        Wrong("inner checksum", inner: .ipv4) { frame, _ in frame.inner.header.checksumError = 1 },
        Wrong("inner fragment") { frame, _ in frame.inner.hideItsPorts() },
        Wrong("inner later fragment", inner: .ipv4) { frame, _ in frame.inner.header.fragment = 8 },
        Wrong("inner reserved bit", inner: .ipv4) { frame, _ in frame.inner.header.fragment = 0x8000 },
        Wrong("inner ports cut off") { frame, _ in frame.inner.payload = [1, 2, 3] },
        Wrong("no hops") { frame, _ in frame.inner.header.hops = 0 },
        Wrong("the last hop") { frame, _ in frame.inner.header.hops = 1 },
        Wrong("not to our pods") { $0.inner.header.destination = $1.pod(3, 1) },
        Wrong("to the peer's own pods") { $0.inner.header.destination = $1.pod(2, 1) },
        Wrong("from our own pods") { $0.inner.header.source = $1.pod(1, 1) },
        Wrong("from nobody's pods") { $0.inner.header.source = $1.pod(9, 1) },
        Wrong("from the peer itself", underlay: .ipv4, inner: .ipv4) { $0.inner.header.source = $1.node(2) },
        Wrong("from the peer itself", underlay: .ipv6, inner: .ipv6) { $0.inner.header.source = $1.node(2) },
        Wrong("larger than the MTU") {
            $0.inner.payload = [UInt8](repeating: 0, count: 1401 - $1.innerHeaderBytes)
        },
        Wrong("a hello") { frame, families in
            frame.header.length = (families.underlay == .ipv4 ? 20 : 0) + 8 + 16
            frame.udpLength = 24
        },
    ]
    private static let extensions: [Wrong] = Families.extensions.map { number in
        Wrong("inner extension \(number)", inner: .ipv6) { frame, _ in frame.inner.header.transport = number }
    }

    @Test(arguments: Families.all) func leavesWhatIsWrongToTheRing(families: Families) throws {
        let node = try ProgramNode(families)
        let others = (Self.fields + Self.extensions).filter { $0.exists(families) }
        for (number, wrong) in others.enumerated() {
            var frame = OuterFrame(families)
            wrong.change(&frame, families)
            let run = try node.receive(frame)
            #expect(run.verdict == ProgramNode.passed, "\(wrong.name)")
            #expect(run.packet == frame.bytes, "\(wrong.name)")
            #expect(node.counters()[.packetsDelivered] == number)
            node.forwarder.refresh()
            try node.work(.in)
            #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.redirected)
        }
    }

    @Test(arguments: Families.all) func takesWhatIsAsLargeAsTheMTU(families: Families) throws {
        var frame = OuterFrame(families)
        frame.inner.payload = [UInt8](repeating: 0, count: 1400 - families.innerHeaderBytes)
        #expect(try ProgramNode(families).receive(frame).verdict == ProgramNode.redirected)
    }

    /// Any class of service, flow label and transport: only what is between the headers is not known.
    @Test func takesWhateverStandsDirectlyBehindAnIPv6Header() throws {
        let families = Families(underlay: .ipv4, inner: .ipv6)
        let node = try ProgramNode(families)
        for transport: UInt8 in [1, 4, 6, 17, 41, 47, 58, 59, 132] {
            var frame = OuterFrame(families)
            frame.inner.header.transport = transport
            frame.inner.header.firstByte = 0x6F
            #expect(try node.receive(frame).verdict == ProgramNode.redirected, "\(transport)")
        }
    }

    @Test func takesNothingWithoutATableThatIsGood() throws {
        let node = try ProgramNode()
        node.forwarder.suspend("test")
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        #expect(!node.forwarder.receives)
        node.forwarder.suspend(nil)
        try node.work(.in)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
        #expect(node.forwarder.receives)
        node.forwarder.attached(underlayIndex: nil, tunnelIndex: 1)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        #expect(!node.forwarder.receives)
    }

    @Test func takesNothingOnceNobodyLooksAfterTheTable() throws {
        let node = try ProgramNode()
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
        var waited = 0
        func isTaken() throws -> Bool {
            try node.receive(OuterFrame(), isLookedAfter: false).verdict == ProgramNode.redirected
        }
        while try isTaken(), waited < 200 {
            usleep(100_000)
            waited += 1
        }
        #expect(waited < 200)
        #expect(!node.forwarder.receives)
        node.forwarder.refresh()
        try node.work(.in)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
    }

    @Test(arguments: Families.all) func goesByTheRoutesThatWerePublishedLast(families: Families) throws {
        let node = try ProgramNode(families)
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.redirected)
        node.forwarder.publish(ProgramNode.routes([ProgramNode.peer(at: families.endpoint(3))]))
        #expect(try node.receive(OuterFrame(families)).verdict == ProgramNode.passed)
        try node.work(.in)
        var frame = OuterFrame(families)
        frame.header.source = families.node(3)
        #expect(try node.receive(frame).verdict == ProgramNode.redirected)
        // Nobody holds anything of a family any more, and then somebody does again.
        node.forwarder.publish(ForwardingRoutes(mtu: 1400, peers: []))
        #expect(try node.receive(frame).verdict == ProgramNode.passed)
        try node.work(.in)
        node.forwarder.publish(ProgramNode.routes([ProgramNode.peer(at: families.endpoint(3))]))
        #expect(try node.receive(frame).verdict == ProgramNode.redirected)
    }

    /// What the ring takes from the peer at the address that the datagram came from is taken, and nothing else, whatever
    /// the bytes: the checks of `Inbound`, in other words.
    @Test(arguments: Families.all) func judgesAsTheRingDoesWhateverTheBytes(families: Families) throws {
        var generator = SeededRandom(seed: 88)
        let peers = [
            ProgramNode.peer(at: families.endpoint(2)),
            // In the same subnet's wider one, at another address.
            ForwardingPeer(
                ipv4: IPv4Prefix("8.0.0.0/16")!, ipv6: IPv6Prefix("fd00:0:86dd::/48")!,
                endpoint: families.endpoint(3)),
        ]
        let node = try ProgramNode(families, peers: peers)
        let snapshot = ForwardingSnapshot.build(ProgramNode.routes(peers))
        defer { snapshot.deallocate() }
        var taken = 0
        for _ in 0..<10_000 {
            var frame = OuterFrame(families)
            if Bool.random(using: &generator) { frame.header.source = families.node(3) }
            if Bool.random(using: &generator) {
                frame.inner.header.source = families.pod(UInt8.random(in: 0...4, using: &generator), 9)
            }
            frame.inner.header.hops = UInt8.random(in: 0...4, using: &generator)
            var bytes = frame.bytes
            for _ in 0..<Int.random(in: 0...2, using: &generator) {
                bytes[Int.random(in: 12..<bytes.count, using: &generator)] = UInt8.random(
                    in: 0...255, using: &generator)
            }
            node.forwarder.refresh()
            try node.work(.in)
            let run = try #require(node.forwarder.programs.inbound.run(on: bytes))
            guard run.verdict == ProgramNode.redirected else {
                #expect(run.verdict == ProgramNode.passed)
                #expect(run.packet == bytes)
                continue
            }
            taken += 1
            let inner = Array(bytes.dropFirst(families.innerOffset))
            // Of IPv6 the outer source has no checksum: another address is another address.
            let source = try #require(Self.source(of: bytes, families))
            #expect(Self.ringTakes(inner, from: source, snapshot), "\(bytes)")
            #expect(Array(run.packet.dropFirst(14)) == Self.oneHopLess(inner))
        }
        #expect(taken > 1000)
    }

    private static func source(of frame: [UInt8], _ families: Families) -> IPAddress? {
        let place = families.underlay == .ipv4 ? 26 : 22
        return [families.node(2), families.node(3)].first {
            frame.dropFirst(place).starts(with: addressBytes($0))
        }
    }

    private static func ringTakes(
        _ inner: [UInt8], from source: IPAddress, _ snapshot: ForwardingSnapshot
    ) -> Bool {
        var inner = inner
        let count = inner.count
        return inner.withUnsafeMutableBytes { bytes in
            let start = bytes.baseAddress!
            guard IPPacket.flaw(start, length: count, verifyingChecksum: true) == nil else { return false }
            let packet = IPPacket(start, length: count)
            let isLocal =
                packet.isIPv4
                ? snapshot.isLocal(packet.destinationIPv4) : snapshot.isLocal(packet.destinationIPv6)
            let holder =
                packet.isIPv4
                ? snapshot.peer(holding: packet.sourceIPv4) : snapshot.peer(holding: packet.sourceIPv6)
            guard isLocal, let holder, let peer = snapshot.peer(at: source),
                snapshot.isAtAddress(of: peer, holder)
            else { return false }
            return packet.decrementTimeToLive()
        }
    }

    private static func oneHopLess(_ inner: [UInt8]) -> [UInt8] {
        var inner = inner
        let count = inner.count
        inner.withUnsafeMutableBytes {
            _ = IPPacket($0.baseAddress!, length: count).decrementTimeToLive()
        }
        return inner
    }
}
