// How it works. Whatever twill makes in the kernel carries its number (`Route.twillOrigin`). So what carries the
// number and nobody wants is known without any memory of who made it: a daemon that was killed, one of another
// configuration, an item that could not be taken away. docs/adr/0073 has the reasons, and what is another twilld's.

import Addresses
import Netlink

/// What carries twill's number, and whether it is wanted.
package struct Pruning {
    /// Something in the kernel that nobody wants.
    package enum Leftover: Hashable {
        /// A route of whichever table.
        case route(Route)
        /// A rule that says which table decides.
        case rule(RoutingRule)
        /// An address of an interface.
        case address(InterfaceAddress)
    }

    /// The kernel's interfaces and addresses.
    let state: NetworkState
    /// The tunnel device's name; nil where there is none.
    let tunnel: String?

    /// Looks at what there is.
    ///
    /// - Parameters:
    ///   - state: the kernel's interfaces and addresses; its routes are given to `leftovers`.
    ///   - tunnel: the tunnel device's name; nil where there is none.
    package init(state: NetworkState, tunnel: String?) {
        self.state = state
        self.tunnel = tunnel
    }

    /// Of what carries the number, that which is neither wanted nor another twilld's.
    ///
    /// - Parameters:
    ///   - routes: those of all tables with the number.
    ///   - rules: all rules.
    ///   - isWanted: whether a route is an item's.
    package func leftovers(
        among routes: [Route], _ rules: [RoutingRule], where isWanted: (Route) -> Bool
    ) -> [Leftover] {
        let others = routes.filter { $0.interfaceIndexes.contains(where: isOfAnotherTunnel) }
        let networks = others.map(\.destination)
        func isAnothers(_ route: Route) -> Bool {
            others.contains(route)
                || route.interfaceIndexes.isEmpty && networks.contains { $0.contains(route.destination) }
        }
        return routes.filter { !isWanted($0) && !isAnothers($0) }.map { .route($0) }
            // twill makes no rules yet: one with its number is of a release to come.
            + rules.filter { $0.origin == Route.twillOrigin }.map { .rule($0) }
            + state.addresses.filter(isLeftover).map { .address($0) }
    }

    /// The addresses of the tunnel device itself are an item's.
    private func isLeftover(_ address: InterfaceAddress) -> Bool {
        address.origin == Route.twillOrigin && !isOfAnotherTunnel(address.interfaceIndex)
            && state.link(index: address.interfaceIndex)?.name != tunnel
    }

    /// Whether an interface is another twilld's tunnel: those are point-to-point, and what is not one can be none.
    private func isOfAnotherTunnel(_ index: Int32) -> Bool {
        guard let link = state.link(index: index) else { return false }
        return link.name != tunnel && link.flags.contains(.pointToPoint)
    }
}

extension Pruning.Leftover {
    /// What log lines call it.
    package func name(in state: NetworkState) -> String {
        switch self {
        case .route(let route): "route \(route.text(interfaceName: state.name(ofLink:)))"
        case .rule(let rule): "rule \(rule)"
        case .address(let address):
            "address \(address.address)/\(address.prefixLength) of \(state.name(ofLink: address.interfaceIndex))"
        }
    }

    /// Takes it away.
    ///
    /// - Throws: `NetlinkError` where the kernel does not delete it.
    package func delete(using socket: RouteSocket) throws(NetlinkError) {
        switch self {
        case .route(let route): try socket.deleteRoute(route)
        case .rule(let rule): try socket.deleteRule(rule)
        case .address(let address): try socket.deleteAddress(address)
        }
    }
}

extension IPPrefix {
    /// Whether all of `other` lies in it. Of IPv4 alone: twill makes no routes of IPv6.
    fileprivate func contains(_ other: IPPrefix) -> Bool {
        guard case .v4(let network) = self, case .v4(let subnet) = other else { return false }
        return network.contains(subnet)
    }
}
