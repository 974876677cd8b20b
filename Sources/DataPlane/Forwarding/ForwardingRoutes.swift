import Addresses

/// What the data plane must know to forward: this node's own subnets and every peer's.
public struct ForwardingRoutes: Sendable, Equatable {
    /// What this node's pods have as addresses; only packets to these are taken from peers.
    public var localIPv4: IPv4Prefix?
    /// The same for IPv6.
    public var localIPv6: IPv6Prefix?
    /// The largest inner packet that is taken from peers, bytes: the TUN device's MTU.
    public var mtu: Int
    /// The other nodes.
    public var peers: [ForwardingPeer]

    /// Makes routes; at most 65,536 peers are used by a snapshot.
    public init(
        localIPv4: IPv4Prefix? = nil, localIPv6: IPv6Prefix? = nil, mtu: Int = 65_535,
        peers: [ForwardingPeer] = []
    ) {
        self.localIPv4 = localIPv4
        self.localIPv6 = localIPv6
        self.mtu = mtu
        self.peers = peers
    }
}

/// One other node: the subnets behind it, and where to send what is for them.
public struct ForwardingPeer: Sendable, Hashable {
    /// The peer's IPv4 subnet.
    public var ipv4: IPv4Prefix?
    /// The peer's IPv6 subnet.
    public var ipv6: IPv6Prefix?
    /// The peer's address and port on the underlay.
    public var endpoint: Endpoint
    /// Where what is carried to and from the peer is counted; whoever publishes the routes gives the number.
    public var counterSlot: UInt16
    /// Whether it takes in what comes in bursts, as a twill does. flanneld's socket holds some 90 datagrams, and what
    /// goes there is spread over time.
    public var takesBursts: Bool

    /// Makes a peer.
    public init(
        ipv4: IPv4Prefix? = nil, ipv6: IPv6Prefix? = nil, endpoint: Endpoint, counterSlot: UInt16 = 0,
        takesBursts: Bool = true
    ) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.endpoint = endpoint
        self.counterSlot = counterSlot
        self.takesBursts = takesBursts
    }
}

/// What names a peer while its address changes: the subnets behind it.
public struct PeerSubnets: Sendable, Hashable {
    /// The peer's IPv4 subnet.
    public var ipv4: IPv4Prefix?
    /// The peer's IPv6 subnet.
    public var ipv6: IPv6Prefix?

    /// Makes a name.
    public init(ipv4: IPv4Prefix?, ipv6: IPv6Prefix?) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }
}

extension ForwardingPeer {
    /// What names the peer.
    public var subnets: PeerSubnets { PeerSubnets(ipv4: ipv4, ipv6: ipv6) }
}
