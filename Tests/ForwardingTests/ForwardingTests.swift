import Addresses
import Forwarding
import Seeded
import Testing

@Suite struct ForwardingTests {
    static let endpoint = Endpoint(address: IPv4Address("192.168.0.1")!, port: 8285)

    @Test func theLongestPrefixWins() {
        let snapshot = ForwardingSnapshot.build(
            ForwardingRoutes(
                localIPv4: IPv4Prefix("10.66.1.0/24"),
                peers: [
                    ForwardingPeer(ipv4: IPv4Prefix("10.66.0.0/16"), endpoint: Self.endpoint),
                    ForwardingPeer(ipv4: IPv4Prefix("10.66.2.0/24"), endpoint: Self.endpoint),
                ]))
        defer { snapshot.deallocate() }
        #expect(snapshot.peer(holding: IPv4Address("10.66.2.9")!) == 1)
        #expect(snapshot.peer(holding: IPv4Address("10.66.3.9")!) == 0)
        #expect(snapshot.peer(holding: IPv4Address("10.67.0.1")!) == nil)
        #expect(snapshot.isLocal(IPv4Address("10.66.1.200")!))
        #expect(!snapshot.isLocal(IPv4Address("10.66.2.1")!))
        #expect(snapshot.peer(at: .v4(IPv4Address("192.168.0.1")!)) != nil)
        #expect(snapshot.peer(at: .v4(IPv4Address("192.168.0.2")!)) == nil)
    }

    @Test func noRoutesHoldNothing() {
        let snapshot = ForwardingSnapshot.build(ForwardingRoutes())
        defer { snapshot.deallocate() }
        #expect(snapshot.peer(holding: IPv4Address("10.0.0.1")!) == nil)
        #expect(!snapshot.isLocal(IPv4Address.any))
        #expect(!snapshot.isLocal(IPv6Address.any))
        #expect(snapshot.peerCount == 0)
    }

    @Test func lookUpsAgreeWithAPlainSearch() throws {
        var generator = SeededRandom(seed: 17)
        for _ in 0..<20 {
            let peers = (0..<Int.random(in: 1...400, using: &generator)).map { _ in
                let bits = UInt32.random(in: 0x0A00_0000...0x0A00_FFFF, using: &generator)
                let upper = UInt64.random(
                    in: 0xFD00_0000_0000_0000...0xFD00_0000_0000_FFFF, using: &generator)
                return ForwardingPeer(
                    ipv4: IPv4Prefix(
                        IPv4Address(bits: bits), length: Int.random(in: 8...32, using: &generator)),
                    ipv6: IPv6Prefix(
                        IPv6Address(high: upper, low: 0), length: Int.random(in: 40...64, using: &generator)),
                    endpoint: Endpoint(
                        address: generator.chance(50)
                            ? .v4(IPv4Address(bits: ~bits)) : .v6(IPv6Address(high: upper, low: 1)),
                        port: 8285))
            }
            let snapshot = ForwardingSnapshot.build(ForwardingRoutes(peers: peers))
            defer { snapshot.deallocate() }
            for _ in 0..<500 {
                let address = IPv4Address(
                    bits: UInt32.random(in: 0x0A00_0000...0x0A01_FFFF, using: &generator))
                let expected = peers.filter { $0.ipv4!.contains(address) }.map { $0.ipv4!.length }.max()
                let found = snapshot.peer(holding: address).map { peers[$0].ipv4!.length }
                #expect(found == expected)
                let wide = IPv6Address(
                    high: UInt64.random(in: 0xFD00_0000_0000_0000...0xFD00_0000_0001_FFFF, using: &generator),
                    low: 7)
                let expectedIPv6 = peers.filter { $0.ipv6!.contains(wide) }.map { $0.ipv6!.length }.max()
                #expect(snapshot.peer(holding: wide).map { peers[$0].ipv6!.length } == expectedIPv6)
            }
            for (index, peer) in peers.enumerated() {
                let holder = try #require(snapshot.peer(at: peer.endpoint.address))
                #expect(peers[holder].endpoint.address == peer.endpoint.address)
                #expect(snapshot.isAtAddress(of: holder, index))
                let other = Int.random(in: 0..<peers.count, using: &generator)
                let isThere = peers[other].endpoint.address == peer.endpoint.address
                #expect(snapshot.isAtAddress(of: holder, other) == isThere)
                #expect(snapshot.endpoint(index) == peer.endpoint)
            }
        }
    }

    @Test func everySnapshotOfAPublicationHasAGenerationOfItsOwn() {
        let publication = ForwardingPublication(workers: 1)
        let reader = publication.reader(0)
        var generations: Set<UInt64> = [reader.load().generation]
        for _ in 0..<10 {
            publication.publish(ForwardingRoutes())
            generations.insert(reader.load().generation)
        }
        #expect(generations.count == 11)
    }

    @Test func aSubscriberSaysHowManyPeersItLeftOut() {
        let routes = ForwardingRoutes(
            peers: [ForwardingPeer](
                repeating: ForwardingPeer(endpoint: Self.endpoint), count: ForwardingSnapshot.peerLimit + 3))
        let subscriber: any ForwardingSubscriber = ForwardingPublication(workers: 1)
        #expect(subscriber.publish(routes) == 3)
        #expect(subscriber.publish(ForwardingRoutes()) == 0)
    }

    @Test func aReplacedSnapshotIsFreedOnceItsReadersHaveMovedOn() {
        let publication = ForwardingPublication(workers: 2)
        let readers = [publication.reader(0), publication.reader(1)]
        for reader in readers { #expect(reader.load().peerCount == 0) }
        let routes = ForwardingRoutes(peers: [
            ForwardingPeer(ipv4: IPv4Prefix("10.66.2.0/24"), endpoint: Self.endpoint)
        ])
        publication.publish(routes)
        #expect(publication.retiredCount == 1)
        #expect(readers[0].load().peerCount == 1)
        publication.publish(routes)
        // The second reader may still hold the first snapshot.
        #expect(publication.retiredCount == 2)
        for reader in readers { #expect(reader.load().peerCount == 1) }
        publication.publish(routes)
        #expect(publication.retiredCount == 1)
    }
}
