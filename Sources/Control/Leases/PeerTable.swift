public import Addresses
package import Backends
public import Health

/// What a node knows of its network at one moment: its own lease, its peers, and what is wrong.
public struct PeerTable: Sendable, Hashable {
    /// The network configuration in effect; nil before the first valid one.
    public var configuration: NetworkConfiguration?
    /// The network of the configuration, where none is in effect because that one holds this node's own underlay
    /// address: another underlay would do.
    public var refusedNetwork: IPv4Prefix?
    /// This node's lease; nil before it has one.
    public var ownLease: OwnLease?
    /// The nodes to send to, ordered by subnet; never this node.
    public var peers: [Peer] = []
    /// The entries that are no peers, with the reason, ordered by key.
    public var skipped: [SkippedLease] = []
    /// Whether the last request succeeded and the watch is in place.
    public var isStoreConnected = false
    /// How the store, the network's configuration, this node's lease and its peers' entries are, where not
    /// good.
    public var conditions: [Component: Problem] = [:]

    /// The sentences of `conditions`, ordered by component.
    public var problems: [String] { conditions.sorted { $0.key < $1.key }.map(\.value.sentence) }

    /// A table of nothing: what stands before the store answered.
    public init() {}
}

/// The lease of this node.
public struct OwnLease: Sendable, Hashable {
    /// The node's subnet.
    public var subnet: LeaseSubnet
    /// What the lease announces: where peers send to.
    public var endpoint: Endpoint
    /// Whether it is a reservation, which does not expire and is not renewed.
    public var isReservation: Bool
    /// When it was acquired, or found at start.
    public var acquired: ContinuousClock.Instant
    /// When it was last renewed; at first `acquired`.
    public var renewed: ContinuousClock.Instant
    /// When it ends unless renewed; nil for a reservation.
    public var expiry: ContinuousClock.Instant?
    /// The subnet that it replaces, where another node took that one from this node.
    public var replaced: LeaseSubnet?

    /// Makes a lease.
    public init(
        subnet: LeaseSubnet, endpoint: Endpoint, isReservation: Bool, acquired: ContinuousClock.Instant,
        renewed: ContinuousClock.Instant, expiry: ContinuousClock.Instant?, replaced: LeaseSubnet? = nil
    ) {
        self.subnet = subnet
        self.endpoint = endpoint
        self.isReservation = isReservation
        self.acquired = acquired
        self.renewed = renewed
        self.expiry = expiry
        self.replaced = replaced
    }
}

/// Another node of the network.
public struct Peer: Sendable, Hashable {
    /// What to send to it.
    public var subnet: LeaseSubnet
    /// Where to send it.
    public var endpoint: Endpoint
    /// Whether the node runs twill, as far as its entry tells: flanneld writes neither a holder nor a port. A
    /// reservation, which a person wrote, tells nothing and counts as twill's.
    public var isTwill: Bool
    /// What the node is called; nil where nothing tells.
    public var name: String?
    /// What it announced for the network's backend; nil for nothing.
    package var announced: BackendAnnouncement?

    /// Makes a peer.
    public init(subnet: LeaseSubnet, endpoint: Endpoint, isTwill: Bool = true) {
        self.subnet = subnet
        self.endpoint = endpoint
        self.isTwill = isTwill
    }
}

extension BackendPeer {
    /// Another node, as far as a backend goes by its IPv4 side.
    package init(_ peer: Peer) {
        self.init(subnet: .v4(peer.subnet.ipv4), address: peer.endpoint.address, announced: peer.announced)
    }
}

/// An entry of the store that is not used, and why.
public struct SkippedLease: Sendable, Hashable {
    /// The key as the store has it.
    public var key: String
    /// One sentence for an operator.
    public var reason: String

    /// Makes a skipped entry.
    public init(key: String, reason: String) {
        self.key = key
        self.reason = reason
    }
}
