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
        /// A device that an earlier run of this daemon made.
        case device(Link)
    }

    /// The kernel's interfaces and addresses.
    let state: NetworkState
    /// The names of the devices that are wanted.
    let devices: [String]
    /// What the devices are called that this daemon makes; nil where it makes none.
    let alias: String?

    /// Looks at what there is.
    ///
    /// - Parameters:
    ///   - state: the kernel's interfaces and addresses; its routes are given to `leftovers`.
    ///   - devices: the names of the devices that are wanted; empty where there are none.
    ///   - alias: what the devices are called that this daemon makes; nil where it makes none.
    package init(state: NetworkState, devices: [String], alias: String?) {
        self.state = state
        self.devices = devices
        self.alias = alias
    }

    /// Of what carries the number, that which is neither wanted nor another twilld's.
    ///
    /// - Parameters:
    ///   - routes: those of all tables with the number.
    ///   - rules: all rules.
    ///   - hasOtherDaemon: whether another twilld runs on this machine, whose routes by gateways look like an earlier
    ///     run's; asked where there are such.
    ///   - isWanted: whether a route is an item's.
    package func leftovers(
        among routes: [Route], _ rules: [RoutingRule], besideOther hasOtherDaemon: () -> Bool = { false },
        where isWanted: (Route) -> Bool
    ) -> [Leftover] {
        let others = routes.filter { $0.interfaceIndexes.contains(where: isOfAnotherTunnel) }
        let networks = others.map(\.destination)
        func isAnothers(_ route: Route) -> Bool {
            others.contains(route)
                || route.interfaceIndexes.isEmpty && networks.contains { $0.contains(route.destination) }
        }
        var unwanted = routes.filter { !isWanted($0) && !isAnothers($0) }
        if unwanted.contains(where: \.isByGateway), hasOtherDaemon() {
            unwanted.removeAll(where: \.isByGateway)
        }
        return unwanted.map { .route($0) }
            // twill makes no rules yet: one with its number is of a release to come.
            + rules.filter { $0.origin == Route.twillOrigin }.map { .rule($0) }
            + state.addresses.filter(isLeftover).map { .address($0) }
            + state.links.filter { alias != nil && $0.alias == alias && !devices.contains($0.name) }
            .map { .device($0) }
    }

    /// The addresses of the tunnel device itself are an item's.
    private func isLeftover(_ address: InterfaceAddress) -> Bool {
        address.origin == Route.twillOrigin && !isOfAnotherTunnel(address.interfaceIndex)
            && state.link(index: address.interfaceIndex).map { devices.contains($0.name) } != true
    }

    /// Whether an interface is another twilld's tunnel: those are point-to-point, or of a kind that twill makes and not
    /// called as this daemon calls its own.
    private func isOfAnotherTunnel(_ index: Int32) -> Bool {
        guard let link = state.link(index: index), !devices.contains(link.name) else { return false }
        return link.flags.contains(.pointToPoint) || link.kind != nil && link.alias != alias
    }
}

extension Route {
    /// Whether it leads to another machine of the link (host-gw), which says nothing of who made it.
    fileprivate var isByGateway: Bool { gateway != nil && !isOnLink }
}

extension Pruning.Leftover {
    /// What log lines call it.
    package func name(in state: NetworkState) -> String {
        switch self {
        case .route(let route): "route \(route.text(interfaceName: state.name(ofLink:)))"
        case .rule(let rule): "rule \(rule)"
        case .address(let address):
            "address \(address.address)/\(address.prefixLength) of \(state.name(ofLink: address.interfaceIndex))"
        case .device(let link): "device \(link.name)"
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
        case .device(let link): try socket.deleteLink(index: link.index)
        }
    }
}
