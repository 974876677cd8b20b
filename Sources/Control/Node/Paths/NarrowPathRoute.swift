import Addresses
import Glibc
import Netlink
import Reconciler

/// The route to one peer's subnet, for as long as the path to that peer is narrower than the tunnel: the kernel then
/// tells pods by ICMP how large their packets may be. Other peers keep the full size.
///
/// No `DesiredItem`: there may be thousands, which are compared with the kernel's routes all at once.
struct NarrowPathRoute: Sendable, Hashable {
    let interfaceName: String
    let subnet: IPPrefix
    /// The largest inner packet in bytes. IPv6 knows none below 1280: what is less does not get through, which is told.
    let mtu: Int

    init(interfaceName: String, subnet: IPPrefix, mtu: Int) {
        self.interfaceName = interfaceName
        self.subnet = subnet
        self.mtu = subnet.addressFamily == .ipv6 ? max(mtu, TunnelMTU.minimumIPv6) : mtu
    }

    var name: String { "route \(subnet) dev \(interfaceName)" }

    private func wanted(on link: Link) -> Route {
        // IPv6 has no scopes of routes.
        Route(
            to: subnet, interfaceIndex: link.index, metric: subnet.usualRouteMetric,
            scope: subnet.addressFamily == .ipv4 ? .link : .global, origin: Route.twillOrigin, mtu: mtu)
    }

    /// Those of `wanted` that the kernel does not have, or not so.
    static func missing(of wanted: [NarrowPathRoute], in state: NetworkState) -> [NarrowPathRoute] {
        guard let name = wanted.first?.interfaceName, let link = state.link(named: name) else { return [] }
        let present = Set(state.routes.filter { $0.interfaceIndex == link.index && $0.mtu != nil })
        return wanted.filter { !present.contains($0.wanted(on: link)) }
    }

    /// The routes as the kernel has them, all through one device.
    static func routes(of wanted: [NarrowPathRoute], in state: NetworkState) -> Set<Route> {
        guard let link = (wanted.first?.interfaceName).flatMap({ state.link(named: $0) }) else { return [] }
        return Set(wanted.map { $0.wanted(on: link) })
    }

    /// Makes it so.
    func update(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName) else { return }
        try socket.replaceRoute(wanted(on: link))
    }

    /// Takes it away.
    func delete(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName) else { return }
        do {
            try socket.deleteRoute(wanted(on: link))
        } catch {
            // Somebody else took it away.
            guard error.code == ESRCH else { throw error }
        }
    }
}
