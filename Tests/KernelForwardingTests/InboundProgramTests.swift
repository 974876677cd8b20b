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
    static let own = IPv4Prefix("8.0.1.0/24")!
    static let peer = ForwardingPeer(
        ipv4: IPv4Prefix("8.0.2.0/24")!, endpoint: Endpoint(address: IPv4Address(10, 0, 0, 2), port: 8285),
        counterSlot: 3)

    let forwarder: KernelForwarder

    /// - Parameters:
    ///   - peers: who is published and able.
    ///   - workers: among how many workers packets are steered.
    ///   - former: where the workers receive as well.
    init(
        peers: [ForwardingPeer] = [peer], mtu: Int = 1400, workers: Int = 1, former: Endpoint? = nil
    ) throws {
        forwarder = try KernelForwarder(
            underlay: (IPv4Address(10, 0, 0, 1), 8285), former: former, packetLimitBytes: 256, mtu: mtu,
            workers: workers)
        forwarder.publish(ForwardingRoutes(localIPv4: Self.own, mtu: mtu, peers: peers))
        forwarder.attached(underlayIndex: 1, tunnelIndex: 1)
        for peer in peers { forwarder.allow(peer.endpoint, forMilliseconds: 60_000) }
    }

    func receive(_ frame: OuterFrame) throws -> KernelProgram.Run {
        try #require(forwarder.programs.inbound.run(on: frame.bytes))
    }

    /// Looks after the table first: on a busy machine a test takes longer than that is good.
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
    @Test func takesAPeersPacketAndCountsIt() throws {
        let node = try ProgramNode()
        let run = try node.receive(OuterFrame())
        #expect(run.verdict == ProgramNode.redirected)
        var delivered = InnerPacket()
        delivered.hops = 63
        #expect(run.packet == OuterFrame.link + [8, 0] + delivered.bytes)
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

    /// Each is wrong in one thing alone, and goes up as it came.
    static let wrong: [(String, @Sendable (inout OuterFrame) -> Void)] = [
        ("another type", { $0.ethernetType = 0x86DD }),
        ("outer options", { $0.firstByte = 0x46 }),
        ("outer version", { $0.firstByte = 0x65 }),
        ("outer total length", { $0.totalLength = 59 }),
        ("outer checksum", { $0.checksumError = 1 }),
        ("outer fragment", { $0.fragment = 0x2000 }),
        ("outer later fragment", { $0.fragment = 1 }),
        ("outer transport", { $0.transport = 6 }),
        ("another peer's address", { $0.source = IPv4Address(10, 0, 0, 3) }),
        ("not our address", { $0.destination = IPv4Address(10, 0, 0, 9) }),
        ("another port", { $0.port = 8286 }),
        ("UDP length", { $0.udpLength = 39 }),
        ("UDP checksum", { $0.udpChecksum = 0x1234 }),
        ("padding", { $0.trailer = [0] }),
        ("inner options", { $0.inner.firstByte = 0x46 }),
        ("inner version", { $0.inner.firstByte = 0x65 }),
        ("inner header too short", { $0.inner.firstByte = 0x44 }),
        ("inner total length", { $0.inner.totalLength = 31 }),
        ("inner checksum", { $0.inner.checksumError = 1 }),
        ("inner fragment", { $0.inner.fragment = 0x2000 }),
        ("inner later fragment", { $0.inner.fragment = 8 }),
        ("inner reserved bit", { $0.inner.fragment = 0x8000 }),
        ("no hops", { $0.inner.hops = 0 }),
        ("the last hop", { $0.inner.hops = 1 }),
        ("not to our pods", { $0.inner.destination = IPv4Address(8, 0, 3, 1) }),
        ("to the peer's own pods", { $0.inner.destination = IPv4Address(8, 0, 2, 1) }),
        ("from our own pods", { $0.inner.source = IPv4Address(8, 0, 1, 1) }),
        ("from nobody's pods", { $0.inner.source = IPv4Address(8, 0, 9, 1) }),
        ("from the peer itself", { $0.inner.source = IPv4Address(10, 0, 0, 2) }),
        (
            "larger than the MTU",
            { $0.inner.payload = [UInt8](repeating: 0, count: 1400 - 19) }
        ),
        (
            "a hello",
            {
                $0.totalLength = 28 + 12
                $0.udpLength = 20
            }
        ),
    ]

    @Test(arguments: wrong.indices)
    func leavesWhatIsWrongToTheRing(index: Int) throws {
        let node = try ProgramNode()
        var frame = OuterFrame()
        Self.wrong[index].1(&frame)
        let run = try node.receive(frame)
        #expect(run.verdict == ProgramNode.passed, "\(Self.wrong[index].0)")
        #expect(run.packet == frame.bytes, "\(Self.wrong[index].0)")
        #expect(node.counters()[.packetsDelivered] == 0)
    }

    @Test func takesWhatIsAsLargeAsTheMTU() throws {
        var frame = OuterFrame()
        frame.inner.payload = [UInt8](repeating: 0, count: 1400 - 20)
        #expect(try ProgramNode().receive(frame).verdict == ProgramNode.redirected)
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
        while try node.receive(OuterFrame()).verdict == ProgramNode.redirected, waited < 200 {
            usleep(100_000)
            waited += 1
        }
        #expect(waited < 200)
        #expect(!node.forwarder.receives)
        node.forwarder.refresh()
        try node.work(.in)
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
    }

    @Test func goesByTheRoutesThatWerePublishedLast() throws {
        let node = try ProgramNode()
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.redirected)
        var moved = ProgramNode.peer
        moved.endpoint = Endpoint(address: IPv4Address(10, 0, 0, 3), port: 8285)
        node.forwarder.publish(ForwardingRoutes(localIPv4: ProgramNode.own, mtu: 1400, peers: [moved]))
        #expect(try node.receive(OuterFrame()).verdict == ProgramNode.passed)
        try node.work(.in)
        var frame = OuterFrame()
        frame.source = IPv4Address(10, 0, 0, 3)
        #expect(try node.receive(frame).verdict == ProgramNode.redirected)
    }

    /// What the ring takes from the peer at the address that the datagram came from is taken, and nothing else, whatever
    /// the bytes: the checks of `Inbound`, in other words.
    @Test func judgesAsTheRingDoesWhateverTheBytes() throws {
        var generator = SeededRandom(seed: 88)
        let peers = [
            ProgramNode.peer,
            // In the same subnet's wider one, at another address.
            ForwardingPeer(
                ipv4: IPv4Prefix("8.0.0.0/16")!,
                endpoint: Endpoint(address: IPv4Address(10, 0, 0, 3), port: 8285)),
        ]
        let node = try ProgramNode(peers: peers)
        let snapshot = ForwardingSnapshot.build(
            ForwardingRoutes(localIPv4: ProgramNode.own, mtu: 1400, peers: peers))
        defer { snapshot.deallocate() }
        var taken = 0
        for _ in 0..<20_000 {
            var frame = OuterFrame()
            if Bool.random(using: &generator) { frame.source = IPv4Address(10, 0, 0, 3) }
            if Bool.random(using: &generator) {
                frame.inner.source = IPv4Address(8, 0, UInt8.random(in: 0...4, using: &generator), 9)
            }
            frame.inner.hops = UInt8.random(in: 0...4, using: &generator)
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
            let inner = Array(bytes.dropFirst(42))
            #expect(Self.ringTakes(inner, from: frame.source, snapshot), "\(bytes)")
            #expect(Array(run.packet.dropFirst(14)) == Self.oneHopLess(inner))
        }
        #expect(taken > 1000)
    }

    private static func ringTakes(
        _ inner: [UInt8], from source: IPv4Address, _ snapshot: ForwardingSnapshot
    ) -> Bool {
        var inner = inner
        let count = inner.count
        return inner.withUnsafeMutableBytes { bytes in
            let start = bytes.baseAddress!
            guard IPPacket.flaw(start, length: count, verifyingChecksum: true) == nil else { return false }
            let packet = IPPacket(start, length: count)
            guard let peer = snapshot.peer(at: .v4(source)), snapshot.isLocal(packet.destinationIPv4),
                let holder = snapshot.peer(holding: packet.sourceIPv4),
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
