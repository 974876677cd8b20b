import Addresses
import Leases
import Synchronization
import Testing

/// A cluster that assigns subnets to its nodes, as Kubernetes does by `podCIDR`: nothing is acquired, renewed or
/// released.
private final class AssigningCluster: PeerSource, SubnetClaim {
    let networks: AsyncStream<KnownNetwork>
    let subnets: AsyncStream<OwnLease?>
    private let network: AsyncStream<KnownNetwork>.Continuation
    private let subnet: AsyncStream<OwnLease?>.Continuation
    private let told = Mutex<[NodeAnnouncement]>([])

    var announcements: [NodeAnnouncement] { told.withLock { $0 } }

    init() {
        (networks, network) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (subnets, subnet) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    func poke() async {}
    func announce(_ announcement: NodeAnnouncement) async { told.withLock { $0.append(announcement) } }

    /// Gives the node a subnet for good.
    func assign(_ key: String, at address: String) {
        let now = ContinuousClock.now
        subnet.yield(
            LeaseSubnet(key: key).map {
                OwnLease(
                    subnet: $0, endpoint: Endpoint(address: IPv4Address(address)!, port: 8285),
                    isReservation: true, acquired: now, renewed: now, expiry: nil)
            })
    }

    func tell(_ configuration: NetworkConfiguration, peers: [(String, String)]) {
        var known = KnownNetwork()
        known.configuration = configuration
        known.isStoreConnected = true
        known.peers = peers.map {
            Peer(
                subnet: LeaseSubnet(key: $0)!, endpoint: Endpoint(address: IPv4Address($1)!, port: 8285))
        }
        network.yield(known)
    }
}

@Suite("A subnet that is assigned from outside")
struct AssignedSubnetTests {
    @Test("a source of peers and a claim that are no store make a node's table, whichever speaks first")
    func assigned() async throws {
        let cluster = AssigningCluster()
        let source: any PeerSource = cluster
        let claim: any SubnetClaim = cluster
        var networks = source.networks.makeAsyncIterator()
        var subnets = claim.subnets.makeAsyncIterator()
        // The first subnet of the network too, which no store hands out.
        let configuration = try NetworkConfiguration(parsing: #"{"Network":"10.244.0.0/16"}"#)

        cluster.tell(
            configuration, peers: [("10.244.1.0-24", "198.18.9.2"), ("10.244.2.0-24", "198.18.9.3")])
        let network = try #require(await networks.next())
        let before = PeerTable(network, ownLease: nil)
        #expect(before.ownLease == nil && before.peers.count == 2 && before.isStoreConnected)

        cluster.assign("10.244.0.0-24", at: "198.18.9.1")
        let first = try #require(await subnets.next())
        let table = PeerTable(network, ownLease: first)
        #expect(table.ownLease?.subnet.key == "10.244.0.0-24" && table.ownLease?.expiry == nil)
        #expect(table.peers.map(\.subnet.key) == ["10.244.1.0-24", "10.244.2.0-24"])
        #expect(table.configuration == configuration)

        // The node was made anew and has a subnet that was another node's a moment ago: its own packets stay here.
        cluster.assign("10.244.2.0-24", at: "198.18.9.1")
        let second = try #require(await subnets.next())
        #expect(PeerTable(network, ownLease: second).peers.map(\.subnet.key) == ["10.244.1.0-24"])

        await claim.announce(NodeAnnouncement(publicAddress: IPv4Address("198.18.9.7")!))
        #expect(cluster.announcements.map(\.publicAddress?.description) == ["198.18.9.7"])
    }
}
