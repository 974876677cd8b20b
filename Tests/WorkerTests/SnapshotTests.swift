import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// What a new snapshot of the routes changes, and what it must not.
@Suite struct SnapshotTests {
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
        // One, one, and a burst of two that came full, which leaves its message open for the next round.
        for index in 0..<4 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        while !bench.kernel.tunnelQueue.isEmpty { bench.run(rounds: 1) }
        #expect(bench.worker.messages.openCount == 1)
        let wereSent = bench.kernel.sent.count
        // Peer 3's place is peer 5's now, and what goes to 5 comes right behind.
        var routes = Bench.routes()
        routes.peers.swapAt(1, 3)
        bench.publication.publish(routes)
        for index in 4..<7 { bench.fromPod(Packets.udp(pod(1), pod(5), payload: [UInt8(index), 0, 0])) }
        bench.run()
        #expect(wereSent < 4 && bench.kernel.sent.count == 7)
        for sent in bench.kernel.sent {
            let isFor3 = sent.payload[28] < 4
            #expect(sent.endpoint == Bench.endpoint(isFor3 ? 3 : 5))
        }
        #expect((2..<6).map { bench.peerCounters[UInt16($0)].packetsSent } == [0, 4, 0, 3])
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
}
