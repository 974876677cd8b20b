import Addresses

/// A route (rtnetlink(7), `RTM_NEWROUTE`), or the kernel's answer where a packet would go.
public struct Route: Sendable, Hashable {
    /// What is done with a packet: `RTN_*` of linux/rtnetlink.h.
    public struct Kind: RawRepresentable, Sendable, Hashable {
        /// The kernel's number.
        public var rawValue: UInt8
        /// Makes a kind from the kernel's number.
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// Sent on.
        public static let unicast = Kind(rawValue: 1)
        /// Taken in: the destination is this machine.
        public static let local = Kind(rawValue: 2)
        /// Dropped in silence.
        public static let blackhole = Kind(rawValue: 6)
        /// Refused: the sender gets ICMP "host unreachable".
        public static let unreachable = Kind(rawValue: 7)
        /// Refused: the sender gets ICMP "communication administratively prohibited".
        public static let prohibit = Kind(rawValue: 8)
    }

    /// One of several next hops.
    public struct NextHop: Sendable, Hashable {
        /// The interface.
        public var interfaceIndex: Int32
        /// The next hop's address; nil for what is on the link.
        public var gateway: IPAddress?

        /// Makes a next hop.
        public init(interfaceIndex: Int32, gateway: IPAddress? = nil) {
            self.interfaceIndex = interfaceIndex
            self.gateway = gateway
        }
    }

    /// The destination; a length of 0 makes it the default route.
    public var destination: IPPrefix
    /// What is done with a packet.
    public var kind: Kind
    /// The next hop, of either family (RFC 5549); nil for one that is on the link.
    public var gateway: IPAddress?
    /// The interface; nil for routes without one (blackhole, several next hops).
    public var interfaceIndex: Int32?
    /// The source address that the kernel prefers on this route.
    public var preferredSource: IPAddress?
    /// The priority: the lower one wins between routes to one destination.
    public var metric: UInt32
    /// The routing table; 254 is the main one.
    public var table: UInt32
    /// How far the destination is.
    public var scope: Scope
    /// Who made it: `RTPROT_*`; 3 is boot, what `ip route add` writes, 2 the kernel.
    public var origin: UInt8
    /// The MTU in bytes that the route (or what the kernel learnt of the path) limits packets to; nil for none.
    public var mtu: Int?
    /// The next hops of a route that has several; each packet's flow decides which one it takes.
    public var nextHops: [NextHop] = []
    /// The kernel's next-hop object or group that the route uses (ip-nexthop(8)); nil for none.
    public var nextHopGroup: UInt32?
    /// The type of service that a packet must have for the route to count; 0 for any.
    public var typeOfService: UInt8 = 0
    /// Whether the next hop counts as one of the link though no address there says so (`onlink`).
    public var isOnLink = false

    /// All interfaces that packets may leave by.
    public var interfaceIndexes: [Int32] {
        interfaceIndex.map { [$0] } ?? nextHops.map(\.interfaceIndex)
    }

    /// The main table's number, `RT_TABLE_MAIN`.
    public static let mainTable: UInt32 = 254

    /// The number of the table with this machine's own addresses, `RT_TABLE_LOCAL`.
    public static let localTable: UInt32 = 255

    /// Makes a route of the main table.
    public init(
        to destination: IPPrefix, kind: Kind = .unicast, gateway: IPAddress? = nil,
        interfaceIndex: Int32? = nil,
        preferredSource: IPAddress? = nil, metric: UInt32 = 0, table: UInt32 = Route.mainTable,
        scope: Scope = .global, origin: UInt8 = Route.bootOrigin, mtu: Int? = nil
    ) {
        self.destination = destination
        self.kind = kind
        self.gateway = gateway
        self.interfaceIndex = interfaceIndex
        self.preferredSource = preferredSource
        self.metric = metric
        self.table = table
        self.scope = scope
        self.origin = origin
        self.mtu = mtu
    }
}

extension Route: CustomStringConvertible {
    /// As ip-route(8) has it: `10.66.0.0/16 via 10.0.0.1 dev 7 metric 100`, interfaces by their numbers.
    public var description: String { text { "\($0)" } }

    /// As ip-route(8) has it, with interfaces as `interfaceName` calls them.
    public func text(interfaceName: (Int32) -> String) -> String {
        var words = kind.name.map { "\($0) \(destination)" } ?? "\(destination)"
        if let gateway { words += " via \(gateway)" }
        if let interfaceIndex { words += " dev \(interfaceName(interfaceIndex))" }
        for hop in nextHops where interfaceIndex == nil {
            words += " nexthop" + (hop.gateway.map { " via \($0)" } ?? "")
            words += " dev \(interfaceName(hop.interfaceIndex))"
        }
        if let preferredSource { words += " src \(preferredSource)" }
        if metric != 0 { words += " metric \(metric)" }
        if isOnLink { words += " onlink" }
        if table != Route.mainTable { words += " table \(table)" }
        if let mtu { words += " mtu \(mtu)" }
        return words
    }

    /// Who made it, by the kernel's number and the name that iproute2 gives it (`rt_protos`): `proto 186 (bgp)`.
    public var originText: String {
        let name: String? =
            switch origin {
            case 2: "kernel"
            case 3: "boot"
            case 4: "static"
            case 8: "gated"
            case 9: "router advertisement"
            case 11: "zebra"
            case 12: "bird"
            case 16: "dhcp"
            case 18: "keepalived"
            case 42: "babel"
            case Route.twillOrigin: "twill"
            case 186: "bgp"
            case 187: "isis"
            case 188: "ospf"
            case 189: "rip"
            case 192: "eigrp"
            default: nil
            }
        return "proto \(origin)" + (name.map { " (\($0))" } ?? "")
    }

    /// The number by which twill knows its own routes, rules and addresses again after a restart: what carries it and
    /// is not wanted is taken away. Nobody else has it in linux/rtnetlink.h, iproute2's rt_protos, FRR, BIRD, Calico
    /// or Cilium.
    public static let twillOrigin: UInt8 = 116

    /// `RTPROT_BOOT`: what ip(8) and flanneld write where nothing else is said.
    public static let bootOrigin: UInt8 = 3

    /// `RTPROT_KERNEL`: the kernel made it for an address of an interface.
    public static let kernelOrigin: UInt8 = 2
}

extension IPPrefix {
    /// The metric of a route to it where nobody says another: 0, and with IPv6 1024 (`IP6_RT_PRIO_USER`).
    public var usualRouteMetric: UInt32 {
        switch self {
        case .v4: 0
        case .v6: 1024
        }
    }
}

extension Route.Kind {
    /// The word of ip-route(8); nil for a unicast route, which has none.
    fileprivate var name: String? {
        switch self {
        case .unicast: nil
        case .local: "local"
        case .blackhole: "blackhole"
        case .unreachable: "unreachable"
        case .prohibit: "prohibit"
        default: "type \(rawValue)"
        }
    }
}
