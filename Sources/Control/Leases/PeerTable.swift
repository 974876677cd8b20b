public import Addresses
package import Backends
public import Health

/// What a node knows of its network at one moment: its own lease, its peers, and what is wrong.
public struct PeerTable: Sendable, Hashable {
    /// The network configuration in effect; nil before the first valid one.
    public var configuration: NetworkConfiguration?
    /// The networks of the configuration, where none is in effect because that one holds this node's own underlay
    /// address: another underlay would do.
    public var refusedNetworks: [IPPrefix] = []
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
    /// Where to send it: of IPv4, and of IPv6 in a network of that alone.
    public var endpoint: Endpoint
    /// Where to send what is IPv6, with a backend that has an endpoint of each family.
    package var ipv6Address: IPv6Address?
    /// Whether the node runs twill, as far as its entry tells: flanneld writes neither a holder nor a port. A
    /// reservation, which a person wrote, tells nothing and counts as twill's.
    public var isTwill: Bool
    /// What the node is called; nil where nothing tells.
    public var name: String?
    /// What it announced for the network's backend; nil for nothing.
    package var announced: BackendAnnouncement?
    /// The same for IPv6.
    package var announcedIPv6: BackendAnnouncement?

    /// Makes a peer.
    public init(subnet: LeaseSubnet, endpoint: Endpoint, isTwill: Bool = true) {
        self.subnet = subnet
        self.endpoint = endpoint
        self.isTwill = isTwill
    }
}

extension BackendPeer {
    /// Another node, as far as a backend of the kernel's goes by one family; nil where it has nothing of that.
    package init?(_ peer: Peer, _ family: AddressFamily) {
        guard let subnet = peer.subnet.prefix(family) else { return nil }
        switch family {
        case .ipv4:
            self.init(subnet: subnet, address: peer.endpoint.address, announced: peer.announced)
            if let subnet = peer.subnet.prefix(.ipv6), let address = peer.ipv6Address {
                ipv6 = BackendSide(subnet: subnet, address: .v6(address))
            }
        case .ipv6:
            guard let address = peer.ipv6Address else { return nil }
            self.init(subnet: subnet, address: .v6(address), announced: peer.announcedIPv6)
        }
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
