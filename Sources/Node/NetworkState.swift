import Addresses
import Netlink

/// The kernel's interfaces, addresses and routes at one moment.
public struct NetworkState: Sendable, Hashable {
    /// All interfaces, by rising index.
    public var links: [Link]
    /// All addresses of both families.
    public var addresses: [InterfaceAddress]
    /// The main table's routes of both families.
    public var routes: [Route]

    /// Makes a state.
    public init(links: [Link] = [], addresses: [InterfaceAddress] = [], routes: [Route] = []) {
        self.links = links
        self.addresses = addresses
        self.routes = routes
    }

    /// Reads the state of the socket's network namespace.
    public init(from socket: RouteSocket) throws(NetlinkError) {
        links = try socket.links()
        addresses = try socket.addresses()
        routes = try socket.routes()
    }

    /// The interface of that name.
    public func link(named name: String) -> Link? { links.first { $0.name == name } }

    /// The interface of that number.
    public func link(index: Int32) -> Link? { links.first { $0.index == index } }

    /// The tunnel device of that name, which the data plane makes.
    func device(_ name: String) throws(DeviceMissingError) -> Link {
        guard let link = link(named: name) else { throw DeviceMissingError(interfaceName: name) }
        return link
    }

    /// The IPv4 addresses that tunnel datagrams may leave by, the preferred one first, in flannel's order: global
    /// before link-local, permanent before dynamic, then as the kernel lists them. Loopback and deprecated ones
    /// are none.
    func usableAddresses(ofLink index: Int32) -> [IPv4Address] {
        let usable = addresses.compactMap { entry -> (address: IPv4Address, rank: Int)? in
            guard entry.interfaceIndex == index, let address = entry.address.v4, address.isUnicast,
                !address.isLoopback, !entry.flags.contains(.deprecated)
            else { return nil }
            return (address, (address.isLinkLocal ? 2 : 0) + (entry.flags.contains(.permanent) ? 0 : 1))
        }
        // By rank; the standard sort is not promised to be stable, so the place in the list decides the rest.
        return usable.enumerated()
            .sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }
            .map(\.element.address)
    }

    /// The default route that the kernel would take: the one with the lowest metric that names an interface.
    func defaultRoute(where isWanted: (Route) -> Bool = { _ in true }) -> Route? {
        routes
            .filter {
                $0.destination == .v4(IPv4Prefix(.any, length: 0)) && $0.kind == .unicast
                    && $0.interfaceIndex != nil && isWanted($0)
            }
            .min { $0.metric < $1.metric }
    }
}
