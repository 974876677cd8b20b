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
    }

    /// The destination; a length of 0 makes it the default route.
    public var destination: IPPrefix
    /// What is done with a packet.
    public var kind: Kind
    /// The next hop; nil for one that is on the link.
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

    /// The main table's number, `RT_TABLE_MAIN`.
    public static let mainTable: UInt32 = 254

    /// Makes a route of the main table.
    public init(
        to destination: IPPrefix, kind: Kind = .unicast, gateway: IPAddress? = nil,
        interfaceIndex: Int32? = nil,
        preferredSource: IPAddress? = nil, metric: UInt32 = 0, table: UInt32 = Route.mainTable,
        scope: Scope = .global, origin: UInt8 = 3, mtu: Int? = nil
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
    /// As ip-route(8) has it: `10.66.0.0/16 via 10.0.0.1 dev 7 metric 100`, the interface by its number.
    public var description: String {
        var words = kind == .blackhole ? "blackhole \(destination)" : "\(destination)"
        if let gateway { words += " via \(gateway)" }
        if let interfaceIndex { words += " dev \(interfaceIndex)" }
        if let preferredSource { words += " src \(preferredSource)" }
        if metric != 0 { words += " metric \(metric)" }
        if table != Route.mainTable { words += " table \(table)" }
        if let mtu { words += " mtu \(mtu)" }
        return words
    }
}
