import Addresses
import Netlink

/// The kernel's interfaces, addresses and routes at one moment.
public struct NetworkState: Sendable, Hashable {
    /// All interfaces, by rising index.
    public var links: [Link]
    /// All addresses of both families.
    public var addresses: [InterfaceAddress]
    /// The main table's routes, those of them that matter here: default routes, and those that touch the
    /// overlay.
    public var routes: [Route]
    /// The neighbour and forwarding tables of those devices whose entries are wanted (`NeighborItem`).
    public var neighbors: [Neighbor]

    /// Makes a state.
    public init(
        links: [Link] = [], addresses: [InterfaceAddress] = [], routes: [Route] = [],
        neighbors: [Neighbor] = []
    ) {
        self.neighbors = neighbors
        self.links = links
        self.addresses = addresses
        self.routes = routes
    }

    /// Reads routes, with the next hops of those that name a next-hop object alone (as the kernel tells them where
    /// `net.ipv4.nexthop_compat_mode` is 0).
    ///
    /// - Throws: `NetlinkError` with the kernel's error number.
    package static func routes(
        from socket: RouteSocket, interest: RouteInterest
    ) throws(NetlinkError) -> [Route] {
        var routes = try socket.routes(of: interest)
        func isIncomplete(_ route: Route) -> Bool {
            route.nextHopGroup != nil && route.interfaceIndexes.isEmpty
        }
        guard routes.contains(where: isIncomplete) else { return routes }
        let hops = try socket.nextHops()
        for index in routes.indices where isIncomplete(routes[index]) {
            routes[index].nextHops = routes[index].nextHopGroup.flatMap { hops[$0] } ?? []
        }
        return routes
    }

    /// The interface of that name.
    public func link(named name: String) -> Link? { links.first { $0.name == name } }

    /// The interface of that number.
    public func link(index: Int32) -> Link? { links.first { $0.index == index } }

    /// The interfaces that hold an address, by rising index.
    package func holders(of address: IPAddress) -> [Link] {
        links.filter { link in
            addresses.contains { $0.interfaceIndex == link.index && $0.address == address }
        }
    }

    /// What log lines and problems call an interface.
    package func name(ofLink index: Int32) -> String { link(index: index)?.name ?? "interface \(index)" }

    /// A route as ip-route(8) has it, with who made it: `10.66.0.0/16 via 10.0.0.1 dev eth0 proto 186 (bgp)`.
    package func text(of route: Route) -> String {
        "\(route.text(interfaceName: name(ofLink:))) \(route.originText)"
    }

    /// The tunnel device of that name, which the data plane makes.
    ///
    /// - Throws: `DeviceMissingError` where there is none.
    package func device(_ name: String) throws(DeviceMissingError) -> Link {
        guard let link = link(named: name) else { throw DeviceMissingError(interfaceName: name) }
        return link
    }

    /// The addresses of one family that tunnel datagrams may leave by, the preferred one first, in flannel's order:
    /// global before link-local, permanent before dynamic, those drawn by lot for a while last (RFC 8981), then as the
    /// kernel lists them. Loopback and deprecated ones are none, nor is what IPv6 has on its link alone (fe80::/10: it
    /// names nobody without an interface), or does not know yet to be its own.
    package func usableAddresses(ofLink index: Int32, _ family: AddressFamily) -> [IPAddress] {
        let usable = addresses.compactMap { entry -> (address: IPAddress, rank: Int)? in
            guard entry.interfaceIndex == index, entry.address.addressFamily == family,
                entry.address.isReachable, entry.address.v6?.isLinkLocal != true,
                entry.flags.isDisjoint(with: [.deprecated, .tentative, .duplicate])
            else { return nil }
            let rank =
                (entry.address.v4?.isLinkLocal == true ? 4 : 0) + (entry.isTemporary ? 2 : 0)
                + (entry.flags.contains(.permanent) ? 0 : 1)
            return (entry.address, rank)
        }
        // By rank; the standard sort is not promised to be stable, so the place in the list decides the rest.
        return usable.enumerated()
            .sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }
            .map(\.element.address)
    }

    /// The default route of one family that the kernel would take: the one with the lowest metric that names an
    /// interface, or several.
    package func defaultRoute(
        _ family: AddressFamily, where isWanted: (Route) -> Bool = { _ in true }
    ) -> Route? {
        routes
            .filter {
                $0.destination.length == 0 && $0.destination.addressFamily == family && $0.kind == .unicast
                    && $0.typeOfService == 0 && !$0.interfaceIndexes.isEmpty && isWanted($0)
            }
            .min { $0.metric < $1.metric }
    }
}

extension InterfaceAddress {
    /// Whether it is drawn by lot for a while. With IPv4 the same bit says that another address of the prefix came first.
    fileprivate var isTemporary: Bool { address.v6 != nil && flags.contains(.temporary) }
}
