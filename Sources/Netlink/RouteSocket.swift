import Addresses

/// Requests to rtnetlink of the network namespace in which the socket was made.
public final class RouteSocket: Sendable {
    /// Opens the socket.
    public init() throws(NetlinkError) { fatalError("skeleton") }

    /// All interfaces.
    public func links() throws(NetlinkError) -> [Link] { fatalError("skeleton") }
    /// The interface of that name; nil for none.
    public func link(named name: String) throws(NetlinkError) -> Link? { fatalError("skeleton") }
    /// The interface of that number; nil for none.
    public func link(index: Int32) throws(NetlinkError) -> Link? { fatalError("skeleton") }
    /// Changes an interface.
    public func setLink(index: Int32, _ change: LinkChange) throws(NetlinkError) { fatalError("skeleton") }
    /// Deletes an interface.
    public func deleteLink(index: Int32) throws(NetlinkError) { fatalError("skeleton") }

    /// All addresses of both families.
    public func addresses() throws(NetlinkError) -> [InterfaceAddress] { fatalError("skeleton") }
    /// Adds an address; one that is there already is no error.
    public func addAddress(_ address: InterfaceAddress) throws(NetlinkError) { fatalError("skeleton") }
    /// Deletes an address.
    public func deleteAddress(_ address: InterfaceAddress) throws(NetlinkError) { fatalError("skeleton") }

    /// All routes of both families in all tables but `local`.
    public func routes() throws(NetlinkError) -> [Route] { fatalError("skeleton") }
    /// Where a packet to `address` would go: with `interfaceIndex`, `preferredSource` and `mtu`.
    public func route(to address: IPAddress) throws(NetlinkError) -> Route { fatalError("skeleton") }
    /// Adds a route, or changes the one with the same destination and metric to it.
    public func replaceRoute(_ route: Route) throws(NetlinkError) { fatalError("skeleton") }
    /// Deletes a route.
    public func deleteRoute(_ route: Route) throws(NetlinkError) { fatalError("skeleton") }
}
