import Addresses
import CLinux
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
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public convenience init() throws(NetlinkError) { try self.init(protocolNumber: NETLINK_ROUTE) }

    /// Opens the socket for another protocol of netlink's, whose requests `list` sends.
    init(protocolNumber: Int32) throws(NetlinkError) {
        state = Mutex(
            State(
                descriptor: try NetlinkDescriptor(
                    protocolNumber: protocolNumber, groups: [], operation: "open a netlink socket")))
    }

    // MARK: Links

    /// All interfaces, by rising index.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func links() throws(NetlinkError) -> [Link] {
        try list(.links) { $0.type == .newLink ? Link($0) : nil }
    }

    /// The interface of that name; nil for none.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func link(named name: String) throws(NetlinkError) -> Link? { try link(.link(named: name)) }

    /// The interface of that number; nil for none.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func link(index: Int32) throws(NetlinkError) -> Link? { try link(.link(index: index)) }

    private func link(_ request: Request) throws(NetlinkError) -> Link? {
        do {
            return try list(request) { Link($0) }.first
        } catch {
            if error.code == ENODEV { return nil }
            throw error
        }
    }

    /// Changes an interface.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func setLink(index: Int32, _ change: LinkChange) throws(NetlinkError) {
        try perform(.setLink(index: index, change))
    }

    /// Makes a tunnel device, which is down at first.
    ///
    /// - Parameters:
    ///   - name: its name, 15 bytes at most.
    ///   - mtu: bytes; the kernel takes less where the lower interface's does not allow for it.
    ///   - hardwareAddress: its own, to which other nodes send (VXLAN); nil for the kernel's choice, or none.
    ///   - kind: what it is.
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any: `EOPNOTSUPP` where it
    ///   has no devices of the kind, `EEXIST` where there is a device of that name, or one that would get the same packets.
    public func addLink(
        named name: String, mtu: Int, hardwareAddress: HardwareAddress?, _ kind: LinkKind
    ) throws(NetlinkError) {
        try perform(.addLink(named: name, mtu: mtu, hardwareAddress: hardwareAddress, kind))
    }

    /// Deletes an interface.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteLink(index: Int32) throws(NetlinkError) { try perform(.deleteLink(index: index)) }

    // MARK: Addresses

    /// All addresses of both families.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func addresses() throws(NetlinkError) -> [InterfaceAddress] {
        try list(.addresses(family: Family.unspecified)) {
            $0.type == .newAddress ? InterfaceAddress($0) : nil
        }
    }

    /// Adds an address without a lifetime; one that is there already is no error. Of its `flags` only
    /// `withoutDuplicateDetection` counts.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func addAddress(_ address: InterfaceAddress) throws(NetlinkError) {
        do {
            try perform(.addAddress(address))
        } catch {
            guard error.code == EEXIST else { throw error }
        }
    }

    /// Deletes an address.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteAddress(_ address: InterfaceAddress) throws(NetlinkError) {
        try perform(.deleteAddress(address))
    }

    // MARK: Routes

    /// The main table's IPv4 and IPv6 routes, as the kernel orders them.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func routes() throws(NetlinkError) -> [Route] {
        var routes: [Route] = []
        for family in [Family.v4, Family.v6] {
            // A kernel without IPv6 answers with every family's routes: only what was asked for counts.
            routes += try list(.routes(family: family)) { message in
                guard message.type == .newRoute, message.payload.first == family, let route = Route(message),
                    route.table == Route.mainTable
                else { return nil }
                return route
            }
        }
        return routes
    }

    /// The main table's routes that are of interest, as the kernel orders them, IPv4 first. The others cost the kernel
    /// 0.2 µs each to list, and no memory here.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func routes(of interest: RouteInterest) throws(NetlinkError) -> [Route] {
        var routes: [Route] = []
        for family in interest.includesIPv6 ? [Family.v4, Family.v6] : [Family.v4] {
            let request = Request.routes(inTable: Route.mainTable, kind: nil, family: family)
            // A kernel without IPv6 answers with every family's routes: only what was asked for counts.
            routes += try list(request, interest: interest) { message in
                guard message.type == .newRoute, message.payload.first == family, let route = Route(message),
                    route.table == Route.mainTable
                else { return nil }
                return route
            }
        }
        return routes
    }

    /// The routes of all tables that one maker has made. The kernel passes over the others.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func routes(ofOrigin origin: UInt8) throws(NetlinkError) -> [Route] {
        var routes: [Route] = []
        for family in [Family.v4, Family.v6] {
            routes += try list(.routes(ofOrigin: origin, family: family)) { message in
                guard message.type == .newRoute, message.payload.first == family, let route = Route(message),
                    route.origin == origin
                else { return nil }
                return route
            }
        }
        return routes
    }

    /// A table's routes of one kind and family; none where there is no such table, as where a rule leads to one that nobody
    /// has filled.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func routes(
        inTable table: UInt32, of kind: Route.Kind, _ family: AddressFamily
    ) throws(NetlinkError) -> [Route] {
        let number = Family.number(family)
        do {
            return try list(.routes(inTable: table, kind: kind, family: number)) { message in
                guard message.type == .newRoute, message.payload.first == number, let route = Route(message),
                    route.table == table, route.kind == kind
                else { return nil }
                return route
            }
        } catch {
            guard error.code == ENOENT else { throw error }
            return []
        }
    }

    /// The routing rules of a family, the first that is looked at first; none where the kernel has no such rules
    /// (`CONFIG_IP_MULTIPLE_TABLES`, `CONFIG_IPV6_MULTIPLE_TABLES`).
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func rules(_ family: AddressFamily) throws(NetlinkError) -> [RoutingRule] {
        do {
            return try list(.rules(family: Family.number(family))) { message in
                // A kernel that knows no rules of the family answers with every family's.
                message.type == .newRule
                    ? RoutingRule(message).flatMap { $0.family == family ? $0 : nil } : nil
            }
        } catch {
            guard error.code == EAFNOSUPPORT else { throw error }
            return []
        }
    }

    /// The routing rules of both families.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func rules() throws(NetlinkError) -> [RoutingRule] { try rules(.ipv4) + rules(.ipv6) }

    /// Deletes a routing rule.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteRule(_ rule: RoutingRule) throws(NetlinkError) { try perform(.deleteRule(rule)) }

    /// What the kernel does with a packet: the route of a table that it goes by, whichever rule led to that table.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func answer(to question: RouteQuestion) throws(NetlinkError) -> RouteAnswer {
        let request = Request.match(question)
        do throws(NetlinkError) {
            guard let route = try list(request, { Route(answer: $0) }).first else {
                throw NetlinkError(
                    operation: request.operation, code: EBADMSG, message: "the reply holds no route")
            }
            return .route(route)
        } catch {
            guard RouteSocket.refusals.contains(error.code) else { throw error }
            return .refused(error.code)
        }
    }

    /// What a look-up of a packet that goes nowhere ends with; EXDEV where its source should not come in that way.
    private static let refusals = [EINVAL, EHOSTUNREACH, ENETUNREACH, EACCES, EXDEV]

    /// The next hops of the kernel's next-hop objects and groups by their numbers; none where the kernel has no such
    /// thing (before Linux 5.3).
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func nextHops() throws(NetlinkError) -> [UInt32: [Route.NextHop]] {
        let objects: [NextHopObject]
        do {
            objects = try list(.nextHops) { $0.type == .newNextHop ? NextHopObject($0) : nil }
        } catch {
            guard error.code == EOPNOTSUPP else { throw error }
            return [:]
        }
        let hops = Dictionary(
            objects.compactMap { object in object.hop.map { (object.identifier, $0) } },
            uniquingKeysWith: { first, _ in first })
        return Dictionary(
            objects.map { object in
                (object.identifier, object.hop.map { [$0] } ?? object.members.compactMap { hops[$0] })
            }, uniquingKeysWith: { first, _ in first })
    }

    /// Where a packet of this machine to `address` would go: with `interfaceIndex`, `preferredSource`, and as `mtu`
    /// what the route says or the kernel learnt of the path, nil where the interface's own counts.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func route(to address: IPAddress) throws(NetlinkError) -> Route {
        let request = Request.route(to: address)
        guard let route = try list(request, { Route(answer: $0) }).first else {
            throw NetlinkError(
                operation: request.operation, code: EBADMSG, message: "the reply holds no route")
        }
        return route
    }

    /// Adds a route, or changes the one with the same destination and metric to it.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func replaceRoute(_ route: Route) throws(NetlinkError) { try perform(.replaceRoute(route)) }

    /// Deletes a route.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteRoute(_ route: Route) throws(NetlinkError) { try perform(.deleteRoute(route)) }

    // MARK: Neighbours

    /// An interface's entries of one table, of both families.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func neighbors(
        _ table: Neighbor.Table, ofInterface index: Int32
    ) throws(NetlinkError) -> [Neighbor] {
        var neighbors: [Neighbor] = []
        // The forwarding database has no families of its own: one question is for all of it.
        for family in table == .forwarding ? [Family.bridge] : [Family.v4, Family.v6] {
            neighbors += try list(.neighbors(table, family: family, ofInterface: index)) { message in
                guard message.type == .newNeighbor, message.payload.first == family,
                    let neighbor = Neighbor(message), neighbor.interfaceIndex == index
                else { return nil }
                return neighbor
            }
        }
        return neighbors
    }

    /// Adds an entry for good, or changes the one of the same key to it: in the neighbour table that of the same
    /// address, in the forwarding table that of the same hardware address.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func replaceNeighbor(_ neighbor: Neighbor) throws(NetlinkError) {
        try perform(.replaceNeighbor(neighbor))
    }

    /// Deletes an entry.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteNeighbor(_ neighbor: Neighbor) throws(NetlinkError) {
        try perform(.deleteNeighbor(neighbor))
    }

    // MARK: -

    /// Sends a request that is answered by an acknowledgement alone.
    private func perform(_ request: Request) throws(NetlinkError) {
        _ = try list(request) { _ -> Never? in nil }
    }

    /// Sends a request and gathers what `element` makes of its reply's messages; a list that changed under the
    /// kernel's hand is asked for again.
    func list<Element>(
        _ request: Request, interest: RouteInterest? = nil, _ element: (Message) -> Element?
    ) throws(NetlinkError) -> [Element] {
        try state.withLock { state throws(NetlinkError) in
            for _ in 0..<RouteSocket.attemptsAtAList {
                state.sequence &+= 1
                let message = request.message.finish(sequence: state.sequence)
                try state.descriptor.send(message, operation: request.operation)
                var reply = Reply(to: request.operation, sequence: state.sequence)
                var status = Reply.Status.incomplete
                var elements: [Element] = []
                while status == .incomplete {
                    status = try reply.take(
                        state.descriptor.receive(operation: request.operation), interest: interest)
                    for message in reply.takeMessages() {
                        if let element = element(message) { elements.append(element) }
                    }
                }
                if status == .complete { return elements }
            }
            throw NetlinkError(
                operation: request.operation, code: EAGAIN,
                message: "the table changed during each of \(RouteSocket.attemptsAtAList) attempts to read it"
            )
        }
    }
}
