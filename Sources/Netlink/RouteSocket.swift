import Addresses
import Glibc
import Synchronization

/// Requests to rtnetlink (rtnetlink(7)) of the network namespace in which the socket was made, whichever thread asks.
///
/// Every call sends one request and waits for its reply, which the kernel gives within the call: microseconds, or
/// milliseconds for a list of thousands. Calls from several threads take turns.
public final class RouteSocket: Sendable {
    private struct State: ~Copyable {
        let descriptor: NetlinkDescriptor
        var sequence: UInt32 = 0
    }

    /// How often a list is asked for again because a table changed while the kernel read it out.
    private static let attemptsAtAList = 16

    private let state: Mutex<State>

    /// Opens the socket in the network namespace of the calling thread.
    public init() throws(NetlinkError) {
        state = Mutex(
            State(descriptor: try NetlinkDescriptor(groups: [], operation: "open a netlink socket")))
    }

    // MARK: Links

    /// All interfaces, by rising index.
    public func links() throws(NetlinkError) -> [Link] {
        try perform(.links).compactMap { $0.type == .newLink ? Link($0) : nil }
    }

    /// The interface of that name; nil for none.
    public func link(named name: String) throws(NetlinkError) -> Link? { try link(.link(named: name)) }

    /// The interface of that number; nil for none.
    public func link(index: Int32) throws(NetlinkError) -> Link? { try link(.link(index: index)) }

    private func link(_ request: Request) throws(NetlinkError) -> Link? {
        do {
            return try perform(request).lazy.compactMap { Link($0) }.first
        } catch {
            if error.code == ENODEV { return nil }
            throw error
        }
    }

    /// Changes an interface.
    public func setLink(index: Int32, _ change: LinkChange) throws(NetlinkError) {
        _ = try perform(.setLink(index: index, change))
    }

    /// Deletes an interface.
    public func deleteLink(index: Int32) throws(NetlinkError) { _ = try perform(.deleteLink(index: index)) }

    // MARK: Addresses

    /// All addresses of both families.
    public func addresses() throws(NetlinkError) -> [InterfaceAddress] {
        try perform(.addresses).compactMap { $0.type == .newAddress ? InterfaceAddress($0) : nil }
    }

    /// Adds an address without a lifetime; one that is there already is no error. Its `flags` are not used.
    public func addAddress(_ address: InterfaceAddress) throws(NetlinkError) {
        do {
            _ = try perform(.addAddress(address))
        } catch {
            guard error.code == EEXIST else { throw error }
        }
    }

    /// Deletes an address.
    public func deleteAddress(_ address: InterfaceAddress) throws(NetlinkError) {
        _ = try perform(.deleteAddress(address))
    }

    // MARK: Routes

    /// The main table's IPv4 and IPv6 routes, as the kernel orders them.
    public func routes() throws(NetlinkError) -> [Route] {
        var routes: [Route] = []
        for family in [Family.v4, Family.v6] {
            // A kernel without IPv6 answers with every family's routes: only what was asked for counts.
            routes += try perform(.routes(family: family)).compactMap {
                $0.type == .newRoute && $0.payload.first == family ? Route($0) : nil
            }
        }
        return routes.filter { $0.table == Route.mainTable }
    }

    /// Where a packet of this machine to `address` would go: with `interfaceIndex`, `preferredSource`, and as `mtu`
    /// what the route says or the kernel learnt of the path, nil where the interface's own counts.
    public func route(to address: IPAddress) throws(NetlinkError) -> Route {
        let request = Request.route(to: address)
        guard let route = try perform(request).lazy.compactMap({ Route(answer: $0) }).first else {
            throw NetlinkError(
                operation: request.operation, code: EBADMSG, message: "the reply holds no route")
        }
        return route
    }

    /// Adds a route, or changes the one with the same destination and metric to it.
    public func replaceRoute(_ route: Route) throws(NetlinkError) { _ = try perform(.replaceRoute(route)) }

    /// Deletes a route.
    public func deleteRoute(_ route: Route) throws(NetlinkError) { _ = try perform(.deleteRoute(route)) }

    // MARK: -

    /// Sends a request and gathers its reply; a list that changed under the kernel's hand is asked for again.
    func perform(_ request: Request) throws(NetlinkError) -> [Message] {
        try state.withLock { state throws(NetlinkError) in
            for _ in 0..<RouteSocket.attemptsAtAList {
                state.sequence &+= 1
                let message = request.message.finish(sequence: state.sequence)
                try state.descriptor.send(message, operation: request.operation)
                var reply = Reply(to: request.operation, sequence: state.sequence)
                var status = Reply.Status.incomplete
                while status == .incomplete {
                    status = try reply.take(state.descriptor.receive(operation: request.operation))
                }
                if status == .complete { return reply.messages }
            }
            throw NetlinkError(
                operation: request.operation, code: EAGAIN,
                message: "the table changed during each of \(RouteSocket.attemptsAtAList) attempts to read it"
            )
        }
    }
}
