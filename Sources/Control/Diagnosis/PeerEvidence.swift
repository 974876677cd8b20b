public import Addresses

/// A node to examine.
public struct ExaminedPeer: Sendable, Hashable {
    /// The subnet behind it, as `twilld status` shows it.
    public var subnet: String
    /// Where its datagrams are sent.
    public var endpoint: Endpoint
    /// Its address in the tunnel: the first of its subnet.
    public var tunnelAddress: IPAddress
    /// Whether small packets go there past the daemons.
    public var hasKernelPath: Bool

    /// Names a peer.
    public init(
        subnet: String, endpoint: Endpoint, tunnelAddress: IPAddress, hasKernelPath: Bool = false
    ) {
        self.hasKernelPath = hasKernelPath
        self.subnet = subnet
        self.endpoint = endpoint
        self.tunnelAddress = tunnelAddress
    }
}

/// What an examination found out about one way to a peer.
public struct WayEvidence: Sendable, Hashable {
    /// Small probes that were sent.
    public var sent = 0
    /// The times that answers took, in the order of the answers.
    public var roundTrips: [Duration] = []
    /// The last ICMP error that came instead of an answer: its code and who sent it.
    public var unreachable: Unreachable?
    /// Why this machine's kernel did not send the last one; nil where it sent all.
    public var notSent: String?
    /// The largest packet that was answered, in bytes; nil where none was.
    public var largestAnswered: Int?

    /// An ICMP error "destination unreachable".
    public struct Unreachable: Sendable, Hashable {
        /// RFC 792 and RFC 1812, 5.2.7.1: 0 network, 1 host, 3 port, 9, 10 and 13 prohibited.
        public var code: UInt8
        /// Who sent it.
        public var sender: IPAddress
        /// Whether that was this machine's own kernel, which says so where nobody on the local network answers for an
        /// address.
        public var isFromThisMachine: Bool

        /// Makes an error.
        public init(code: UInt8, sender: IPAddress, isFromThisMachine: Bool = false) {
            self.code = code
            self.sender = sender
            self.isFromThisMachine = isFromThisMachine
        }
    }

    /// Nothing was sent yet.
    public init() {}

    /// Whether anything was answered.
    public var isAnswered: Bool { !roundTrips.isEmpty }

    /// The median of the round trips; nil where nothing was answered.
    public var medianRoundTrip: Duration? {
        isAnswered ? roundTrips.sorted()[roundTrips.count / 2] : nil
    }
}

/// Everything that an examination found out about a peer, before it is judged.
public struct PeerEvidence: Sendable, Hashable {
    /// Whom it is about.
    public var peer: ExaminedPeer
    /// Over the underlay, to the host.
    public var host = WayEvidence()
    /// To the UDP port.
    public var port = WayEvidence()
    /// Through the tunnel and back.
    public var tunnel = WayEvidence()
    /// Through the tunnel, the way there alone, where the way there and back did not carry the full size.
    public var tunnelThere = WayEvidence()
    /// Through the tunnel and back past the daemons, where the daemons' way carried something.
    public var kernelPath = WayEvidence()
    /// The size in bytes of a full packet in the tunnel.
    public var fullSize: Int
    /// Whether datagrams of no known peer reached this node while it was examined: answers that came from another
    /// address than the lease has.
    public var strangersWereHeard = false
    /// Whether packets of this peer's pods arrived meanwhile.
    public var peerWasHeard = false

    /// Nothing is known of `peer` yet.
    ///
    /// - Parameters:
    ///   - peer: whom it is about.
    ///   - fullSize: bytes of a full packet in the tunnel: its MTU.
    public init(_ peer: ExaminedPeer, fullSize: Int) {
        self.peer = peer
        self.fullSize = fullSize
    }

    /// What is known of a way.
    subscript(way: Probe.Way) -> WayEvidence {
        get {
            switch way {
            case .host: host
            case .port: port
            case .tunnel: tunnel
            case .tunnelThere: tunnelThere
            case .kernelPath: kernelPath
            }
        }
        set {
            switch way {
            case .host: host = newValue
            case .port: port = newValue
            case .tunnel: tunnel = newValue
            case .tunnelThere: tunnelThere = newValue
            case .kernelPath: kernelPath = newValue
            }
        }
    }
}
