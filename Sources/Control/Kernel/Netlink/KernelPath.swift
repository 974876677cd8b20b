import Addresses

/// What the kernel knows of the way of packets to an address.
public struct KernelPath: Sendable, Hashable {
    /// The interface that they leave by; nil where the answer names none.
    public var interfaceIndex: Int32?
    /// The MTU in bytes that somebody gave the route (`ip route add … mtu 1400`, with or without `lock`); nil where
    /// the interface's own counts.
    public var routeMTU: Int?
    /// The MTU in bytes that an ICMP error told of (RFC 1191, RFC 8201), which anybody can have sent; nil for none. The
    /// kernel forgets it after `net.ipv4.route.mtu_expires` or its like of IPv6, 10 minutes unless set otherwise.
    public var learntMTU: Int?

    /// Makes a path.
    public init(interfaceIndex: Int32? = nil, routeMTU: Int? = nil, learntMTU: Int? = nil) {
        self.interfaceIndex = interfaceIndex
        self.routeMTU = routeMTU
        self.learntMTU = learntMTU
    }
}

extension RouteSocket {
    /// What is known of the way to an address: one question, or two where an ICMP error hides what the route says.
    ///
    /// - Parameters:
    ///   - address: where packets go.
    ///   - source: the packets' own address, of the same family, by which rules may choose another route.
    /// - Returns: nil where packets to it do not leave this machine: it is this machine's own, or forbidden.
    /// - Throws: `NetlinkError` with the kernel's error number.
    public func path(to address: IPAddress, from source: IPAddress?) throws(NetlinkError) -> KernelPath? {
        let messages = try list(.path(to: address, from: source, asEntry: false)) { $0 }
        for message in messages {
            guard let route = Route(answer: message) else { continue }
            guard route.kind == .unicast else { return nil }
            var path = KernelPath(interfaceIndex: route.interfaceIndex)
            if Route.expires(message) {
                path.learntMTU = route.mtu
                let entries = try list(.path(to: address, from: source, asEntry: true)) { Route(answer: $0) }
                path.routeMTU = entries.first?.mtu
            } else {
                path.routeMTU = route.mtu
            }
            return path
        }
        return nil
    }
}

extension Route {
    /// Whether an answer holds what the kernel will forget again: `rta_expires` of `struct rta_cacheinfo`, in which
    /// the times since and until come third, is not 0 for what an ICMP error told of (rt_fill_info,
    /// net/ipv4/route.c).
    static func expires(_ message: Message) -> Bool {
        let attributes = message.attributes(after: MessageLayout.routeSize)
        return (attributes[RouteAttribute.cacheInformation]?.number(at: 8, as: Int32.self) ?? 0) != 0
    }
}
