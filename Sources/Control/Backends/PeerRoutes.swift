internal import Addresses
import Glibc
import Health
import Netlink
internal import Reconciler

/// A route to each peer's subnet by a next hop (flannel's host-gw, and each backend with a device of the kernel's that has
/// many ends). All peers are one item, since there may be thousands, which are compared with the kernel's routes all at
/// once; what carries twill's number and is not among them is pruned.
///
/// A peer that cannot be reached so keeps no other peer from it: it is named, with what to do.
struct PeerRoutes: RouteItem, OwnedItem {
    /// How many peers a sentence names.
    private static let namedPeers = 3

    /// The overlay's part of one family.
    let network: IPPrefix
    /// The interface that the peers are reached by.
    let interfaceName: String
    /// Whether next hops there count as ones of the link whatever addresses it has.
    let isOnLink: Bool
    /// An interface on whose link some of the peers are, which then are reached by it without a tunnel; nil for none.
    let directInterfaceName: String?
    /// The next hop on `interfaceName`, by each peer's subnet.
    let gateways: [IPPrefix: IPAddress]
    /// Each peer's address on the underlay, by its subnet.
    let addresses: [IPPrefix: IPAddress]
    /// What to do about a peer that is not on the link.
    let remedy: String

    var name: String { "routes of peers by \(interfaceName)\(network.addressFamily.suffix)" }
    var component: Component { Component(.route, "peers\(network.addressFamily.suffix)") }
    var isEssential: Bool { false }
    var destinations: [IPPrefix] { [network] }

    // MARK: What is wanted

    /// The route of one peer; nil where there is no such peer, or no interface.
    private func wanted(_ subnet: IPPrefix, in look: Look) -> Route? {
        if let address = addresses[subnet], let direct = look.directIndex, look.isDirect(address) {
            return Route(
                to: subnet, gateway: address, interfaceIndex: direct, metric: subnet.usualRouteMetric,
                origin: Route.twillOrigin)
        }
        guard let gateway = gateways[subnet], let index = look.index else { return nil }
        var route = Route(
            to: subnet, gateway: gateway, interfaceIndex: index, metric: subnet.usualRouteMetric,
            origin: Route.twillOrigin)
        route.isOnLink = isOnLink
        return route
    }

    /// What of a state the routes depend on.
    private struct Look {
        var index: Int32?
        var directIndex: Int32?
        var directPrefixes: [IPPrefix] = []

        init(_ routes: PeerRoutes, in state: NetworkState) {
            index = state.link(named: routes.interfaceName)?.index
            guard let name = routes.directInterfaceName, let link = state.link(named: name), link.isUp else {
                return
            }
            directIndex = link.index
            directPrefixes = state.addresses.compactMap { entry in
                guard entry.interfaceIndex == link.index, entry.prefixLength < entry.address.bitWidth,
                    entry.address.v6?.isLinkLocal != true
                else { return nil }
                return IPPrefix(entry.address, length: entry.prefixLength)
            }
        }

        func isDirect(_ address: IPAddress) -> Bool { directPrefixes.contains { $0.contains(address) } }
    }

    func isWanted(_ route: Route, in state: NetworkState) -> Bool {
        gateways[route.destination] != nil && route == wanted(route.destination, in: Look(self, in: state))
    }

    /// The routes that stand where wanted ones belong: the kernel holds routes apart by destination, metric and type of
    /// service, and of several alike takes the first.
    private func present(in routes: [Route]) -> [IPPrefix: [Route]] {
        let inPlace = routes.filter {
            gateways[$0.destination] != nil && $0.table == Route.mainTable && $0.typeOfService == 0
                && $0.metric == $0.destination.usualRouteMetric
        }
        return Dictionary(grouping: inPlace, by: \.destination)
    }

    // MARK: Item

    func deviation(in state: NetworkState) throws -> String? {
        guard state.link(named: interfaceName) != nil else {
            throw DeviceMissingError(interfaceName: interfaceName)
        }
        let look = Look(self, in: state)
        let present = present(in: state.routes)
        let wrong = gateways.keys.filter { present[$0]?.first != wanted($0, in: look) }.sorted()
        guard !wrong.isEmpty else { return nil }
        let words = wrong.prefix(Self.namedPeers).map { subnet in
            present[subnet]?.first.map { "\(subnet) goes by another route: \(state.text(of: $0))" }
                ?? "\(subnet) missing"
        }
        return words.joined(separator: ", ")
            + (wrong.count > Self.namedPeers ? " and \(wrong.count &- Self.namedPeers) more" : "")
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        let look = Look(self, in: state)
        let present = present(in: state.routes)
        var failures: [(subnet: IPPrefix, error: NetlinkError)] = []
        for subnet in gateways.keys.sorted() {
            guard let wanted = wanted(subnet, in: look), present[subnet]?.first != wanted else { continue }
            do throws(NetlinkError) {
                // Where another one stands before it, replacing that is refused (EEXIST): there would be two alike.
                if present[subnet]?.contains(wanted) == true {
                    for other in present[subnet] ?? [] where other != wanted { try socket.deleteRoute(other) }
                } else {
                    try socket.replaceRoute(wanted)
                }
            } catch {
                failures.append((subnet, error))
            }
        }
        if !failures.isEmpty { throw ItemProblem(problem(failures)) }
    }

    func delete(using socket: RouteSocket) throws {
        let state = NetworkState(links: try socket.links(), addresses: try socket.addresses())
        for route in try socket.routes(ofOrigin: Route.twillOrigin) where isWanted(route, in: state) {
            try socket.deleteRoute(route)
        }
    }

    private func problem(_ failures: [(subnet: IPPrefix, error: NetlinkError)]) -> Problem {
        let peers = failures.prefix(Self.namedPeers).map { failure in
            "\(failure.subnet) at \(addresses[failure.subnet].map { "\($0)" } ?? "?")"
        }
        let names =
            peers.joined(separator: ", ")
            + (failures.count > Self.namedPeers ? " and \(failures.count &- Self.namedPeers) more" : "")
        let isOffLink = failures.allSatisfy { $0.error.isUnreachableGateway }
        return Problem(
            failures.count == gateways.count ? .cutOff : .degraded,
            isOffLink
                ? "not on the link of \(interfaceName), so that no route leads to them: \(names)"
                : "no route can be set to \(names): \(failures.first.map { "\($0.error)" } ?? "")",
            remedy: isOffLink ? remedy : "it is tried again every few seconds")
    }
}

extension NetlinkError {
    /// Whether the kernel refused a route since its next hop is not on the link (`fib_check_nh`, `ip6_route_check_nh`).
    fileprivate var isUnreachableGateway: Bool {
        [ENETUNREACH, EHOSTUNREACH, EINVAL].contains(code)
    }
}
