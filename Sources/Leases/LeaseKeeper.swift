public import Addresses
public import Logging

/// What a node tells the others in its lease.
public struct NodeAnnouncement: Sendable, Hashable {
    /// Where peers send to: `PublicIP`.
    public var publicAddress: IPv4Address
    /// `PublicIPv6`; the udp backend announces it and does not use it.
    public var publicIPv6Address: IPv6Address?
    /// A port of this node's own (`BackendData.Port`); nil for the network configuration's.
    public var port: UInt16?

    /// Makes an announcement.
    public init(publicAddress: IPv4Address, publicIPv6Address: IPv6Address? = nil, port: UInt16? = nil) {
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        self.port = port
    }
}

/// How a node keeps its lease.
public struct LeaseOptions: Sendable, Hashable {
    /// What to do when another node has taken this node's subnet.
    public enum LossPolicy: Sendable, Hashable {
        /// Get another lease and go on.
        case reacquire
        /// End `LeaseKeeper.run` with `LeaseLost`, as flannel does.
        case exit
    }

    /// Tells this node from another with the same address.
    public var identity: NodeIdentity
    /// The subnet of the last run, from `subnet.env`.
    public var previousSubnet: LeaseSubnet?
    /// How long a lease lives without a renewal; flannel's is 24 hours.
    public var timeToLive: Duration = .seconds(86_400)
    /// How long before its end a lease is renewed; flannel's is 60 minutes.
    public var renewalMargin: Duration = .seconds(3_600)
    /// What to do when the subnet is lost.
    public var lossPolicy = LossPolicy.reacquire

    /// Makes options with flannel's values.
    public init(identity: NodeIdentity) { self.identity = identity }
}

/// Another node has this node's subnet, and the node was told to end rather than take another.
public struct LeaseLost: Error, Sendable, CustomStringConvertible {
    /// Which subnet, and who has it.
    public let description: String
}

/// Keeps a node's lease in a store and follows its peers: `LeaseMachine` decides, this carries out.
public actor LeaseKeeper {
    /// The tables as they change. A slow reader gets the newest only. One reader.
    public nonisolated let tables: AsyncStream<PeerTable>

    /// Makes a keeper; nothing happens before `run`.
    ///
    /// - Parameters:
    ///   - logger: takes one line for each event, with stable field names; nothing is repeated.
    public init(
        store: any LeaseStore, announcement: NodeAnnouncement, options: LeaseOptions, logger: Logger
    ) {
        (tables, _) = AsyncStream.makeStream(of: PeerTable.self, bufferingPolicy: .bufferingNewest(1))
    }

    /// Runs until its task is cancelled; the lease stays in the store, for the next start to find.
    ///
    /// - Throws: `LeaseLost`, with the policy `exit` only. Whatever a store does ends nothing.
    public func run() async throws(LeaseLost) {
    }

    /// Announces another address or port from now on; the lease is rewritten, the subnet stays.
    public func announce(_ announcement: NodeAnnouncement) {
    }
}
