public import Addresses
public import Health

/// Where a node learns of its network: the configuration and the peers.
///
/// A store of leases says both (`LeaseKeeper`); Kubernetes says the one in a file and the other by its nodes. How
/// this node's own subnet comes to be is a `SubnetClaim`.
public protocol PeerSource: Sendable {
    /// What is known of the network, each time that it is something else. A slow reader gets the newest only. One
    /// reader.
    var networks: AsyncStream<KnownNetwork> { get }

    /// Makes the source go round its loop once, for nothing but the heartbeat that it gives each time.
    func poke() async
}

/// How this node's subnet comes to be: acquired with a time to live, and renewed (`LeaseKeeper`), or assigned from
/// outside (Kubernetes: the node's `podCIDR`).
public protocol SubnetClaim: Sendable {
    /// This node's subnet, each time that it is another one; nil while there is none. A slow reader gets the newest
    /// only. One reader.
    var subnets: AsyncStream<OwnLease?> { get }

    /// Tells the other nodes another address or port of this node from now on; the subnet stays.
    func announce(_ announcement: NodeAnnouncement) async
}

/// What a node knows of its network beside its own subnet.
public struct KnownNetwork: Sendable, Hashable {
    /// The network configuration in effect; nil before the first valid one.
    public var configuration: NetworkConfiguration?
    /// The networks of a configuration that is not in effect, since this node's own underlay address lies inside of
    /// it: another underlay would do.
    public var refusedNetworks: [IPPrefix] = []
    /// The other nodes, ordered by subnet.
    public var peers: [Peer] = []
    /// The entries that are no peers, with the reason, ordered by key.
    public var skipped: [SkippedLease] = []
    /// Whether the last request succeeded and changes are being followed.
    public var isStoreConnected = false
    /// How what the network is known from is, where not good.
    public var conditions: [Component: Problem] = [:]

    /// Nothing is known yet.
    public init() {}

    /// What a table says beside this node's own subnet.
    init(_ table: PeerTable) {
        configuration = table.configuration
        refusedNetworks = table.refusedNetworks
        peers = table.peers
        skipped = table.skipped
        isStoreConnected = table.isStoreConnected
        conditions = table.conditions
    }
}

extension PeerTable {
    /// Joins what is known of the network with this node's subnet.
    ///
    /// The two may be a step apart. A peer that overlaps this node's own subnet is left out, so that packets of this
    /// node's pods are never sent elsewhere.
    public init(_ network: KnownNetwork, ownLease: OwnLease?) {
        self.init()
        configuration = network.configuration
        refusedNetworks = network.refusedNetworks
        self.ownLease = ownLease
        peers = network.peers
        if let own = ownLease?.subnet { peers.removeAll { $0.subnet.overlaps(own) } }
        skipped = network.skipped
        isStoreConnected = network.isStoreConnected
        conditions = network.conditions
    }
}
