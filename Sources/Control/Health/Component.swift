/// One thing that a node's work depends on: the unit in which the node's condition is known and told.
public struct Component: Sendable, Hashable {
    /// What sort of thing it is. The raw values are the names in `twilld status`, its JSON and the metrics.
    public enum Kind: String, Sendable, CaseIterable, Codable {
        /// The interface and address that tunnel datagrams leave by.
        case underlay
        /// The UDP port, and who else may be listening on it.
        case port
        /// The threads that move packets, and what they run on.
        case dataPlane = "data-plane"
        /// The tunnel device: there, up, with its address and MTU.
        case tunnel
        /// A route, judged by where the kernel really sends a packet.
        case route
        /// Packet filter rules: twill's own, and those of others that drop what twill carries.
        case firewall
        /// A kernel setting, such as `net.ipv4.ip_forward`.
        case setting
        /// `subnet.env`.
        case subnetFile = "subnet-file"
        /// What pods of this node get their network by, beside `subnet.env`: the CNI list, its bridge.
        case podNetwork = "pod-network"
        /// The store of leases, or the cluster that assigns subnets.
        case store
        /// The network's configuration.
        case configuration
        /// This node's lease.
        case lease
        /// What tells this node from another.
        case identity
        /// Another node's entry, or another node itself.
        case peer
        /// The way to another node: how large a datagram it takes.
        case path
        /// The machine's clock beside others'.
        case clock
        /// The daemon's own log.
        case log
        /// One of the daemon's own loops, by name: whether it still goes round.
        case loop
        /// A limit of the process: open files, connections, memory.
        case limit
        /// What answers from outside: health, metrics, status.
        case endpoint
    }

    /// What sort of thing it is.
    public var kind: Kind
    /// Which one, where a node has several of the kind (`100.96.2.0/24`); empty where it has one.
    public var subject: String

    /// Names a component.
    public init(_ kind: Kind, _ subject: String = "") {
        self.kind = kind
        self.subject = subject
    }
}

extension Component: CustomStringConvertible, Comparable {
    /// `underlay`, `route 100.96.2.0/24`.
    public var description: String { subject.isEmpty ? kind.rawValue : "\(kind.rawValue) \(subject)" }

    /// By kind in the order of their declaration, then by subject.
    public static func < (left: Component, right: Component) -> Bool {
        let order = Kind.allCases
        let (leftRank, rightRank) = (order.firstIndex(of: left.kind), order.firstIndex(of: right.kind))
        if leftRank != rightRank { return (leftRank ?? 0) < (rightRank ?? 0) }
        return left.subject < right.subject
    }
}
