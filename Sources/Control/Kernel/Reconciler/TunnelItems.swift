import Addresses
import Health
import Netlink

/// The tunnel device as it shall be. The data plane makes the device; this is what the control side does to it.
public struct TunnelSettings: Sendable, Hashable {
    /// The device's name.
    public var interfaceName: String
    /// The device's only IPv4 address, given as a /32: the lease's network address.
    public var address: IPv4Address
    /// The overlay, routed to the device.
    public var network: IPv4Prefix
    /// The device's MTU in bytes.
    public var mtu: Int
    /// The bytes that the outer headers of a packet take on the underlay.
    public var overhead: Int
    /// The device's transmit queue length in packets.
    public var transmitQueueLength: Int

    /// Makes settings.
    public init(
        interfaceName: String, address: IPv4Address, network: IPv4Prefix, mtu: Int, overhead: Int,
        transmitQueueLength: Int
    ) {
        self.interfaceName = interfaceName
        self.address = address
        self.network = network
        self.mtu = mtu
        self.overhead = overhead
        self.transmitQueueLength = transmitQueueLength
    }

    /// The items that keep the device so, in the order in which they can be made.
    public var desiredItems: [any DesiredItem] {
        [
            TunnelLink(settings: self),
            InterfaceSetting.acceptsLocalSources(interfaceName),
            InterfaceSetting.forwards(interfaceName),
            LooseReversePath(interfaceName: interfaceName),
            ForwardingEnabled(),
            TunnelAddress(interfaceName: interfaceName, address: address),
            OverlayRoute(interfaceName: interfaceName, network: network),
            NoForeignNetworks(interfaceName: interfaceName, network: network),
        ]
    }
}

/// The device is up, with its MTU and queue length. The data plane makes it and takes it away.
struct TunnelLink: KeptItem {
    let settings: TunnelSettings

    var name: String { "device \(settings.interfaceName)" }
    var component: Component { Component(.tunnel) }

    func deviation(in state: NetworkState) throws -> String? {
        let link = try state.device(settings.interfaceName)
        var differences: [String] = []
        if !link.isUp { differences.append("down") }
        if link.mtu != settings.mtu { differences.append("MTU \(link.mtu) instead of \(settings.mtu)") }
        if link.transmitQueueLength != settings.transmitQueueLength {
            differences.append(
                "queue length \(link.transmitQueueLength) instead of \(settings.transmitQueueLength)")
        }
        return differences.isEmpty ? nil : differences.joined(separator: ", ")
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.setLink(
            index: state.device(settings.interfaceName).index,
            LinkChange(isUp: true, mtu: settings.mtu, transmitQueueLength: settings.transmitQueueLength))
    }
}

/// The device has its address as a /32 and no other of IPv4: a former lease's would still answer. It ends with the
/// device.
struct TunnelAddress: KeptItem {
    let interfaceName: String
    let address: IPv4Address

    var name: String { "address of \(interfaceName)" }
    var component: Component { Component(.tunnel, "address") }

    private func isWanted(_ entry: InterfaceAddress) -> Bool {
        entry.address == .v4(address) && entry.prefixLength == 32
    }

    private func present(in state: NetworkState, on link: Link) -> [InterfaceAddress] {
        state.addresses.filter { $0.interfaceIndex == link.index && $0.address.v4 != nil }
    }

    func deviation(in state: NetworkState) throws -> String? {
        let present = present(in: state, on: try state.device(interfaceName))
        let surplus = present.filter { !isWanted($0) }.map { "\($0.address)/\($0.prefixLength)" }
        var differences: [String] = []
        if !present.contains(where: isWanted) { differences.append("\(address)/32 missing") }
        if !surplus.isEmpty { differences.append("\(surplus.joined(separator: ", ")) not wanted") }
        return differences.isEmpty ? nil : differences.joined(separator: ", ")
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        let link = try state.device(interfaceName)
        let present = present(in: state, on: link)
        // First the new one: with the last address the kernel also takes the interface's routes away.
        if !present.contains(where: isWanted) {
            try socket.addAddress(
                InterfaceAddress(
                    interfaceIndex: link.index, address: .v4(address), prefixLength: 32,
                    origin: Route.twillOrigin))
        }
        for surplus in present where !isWanted(surplus) { try socket.deleteAddress(surplus) }
    }
}

/// The overlay is routed to the device, and nothing else is that is not wanted: routes of a former network, say.
struct OverlayRoute: RouteItem, OwnedItem {
    let interfaceName: String
    let network: IPv4Prefix

    var name: String { "route \(network) dev \(interfaceName)" }
    var component: Component { Component(.route, "\(network)") }
    var destination: IPv4Prefix { network }

    private func wanted(on link: Link) -> Route {
        Route(to: .v4(network), interfaceIndex: link.index, scope: .link, origin: Route.twillOrigin)
    }

    func isWanted(_ route: Route, in state: NetworkState) -> Bool {
        state.link(named: interfaceName).map { isWanted(route, on: $0) } ?? false
    }

    /// With twill's number: a route that is otherwise the same would outlive twill's interest in it.
    private func isWanted(_ route: Route, on link: Link) -> Bool {
        isInPlace(route) && route.kind == .unicast && route.interfaceIndex == link.index
            && route.gateway == nil && route.origin == Route.twillOrigin
    }

    /// Whether it stands where the wanted one belongs: the kernel holds routes apart by destination, metric and type
    /// of service, and of several alike takes the first.
    private func isInPlace(_ route: Route) -> Bool {
        route.destination == .v4(network) && route.table == Route.mainTable && route.metric == 0
            && route.typeOfService == 0
    }

    func deviation(in state: NetworkState) throws -> String? {
        let link = try state.device(interfaceName)
        guard let found = state.routes.first(where: isInPlace) else { return "missing" }
        return isWanted(found, on: link) ? nil : "another route is in its place: \(state.text(of: found))"
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        let link = try state.device(interfaceName)
        // Where another one stands before it, replacing that is refused (EEXIST): there would be two alike.
        if state.routes.contains(where: { isWanted($0, on: link) }) {
            for route in state.routes where isInPlace(route) && !isWanted(route, on: link) {
                try socket.deleteRoute(route)
            }
        } else {
            try socket.replaceRoute(wanted(on: link))
        }
    }

    func delete(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName) else { return }
        for route in try socket.routes(of: RouteInterest(prefixes: [network])) where isWanted(route, on: link)
        {
            try socket.deleteRoute(route)
        }
    }
}

/// Drops what is for this node's subnet and has no more precise route (`--ip-blackhole-route`), so that packets to
/// a pod that is gone do not go back into the overlay or out by the default route.
public struct BlackholeRoute: OwnedItem, RouteItem, Hashable {
    /// This node's subnet.
    public let subnet: IPv4Prefix

    /// Makes an item.
    public init(subnet: IPv4Prefix) { self.subnet = subnet }

    /// `route blackhole 10.66.28.0/24`.
    public var name: String { "route \(wanted)" }

    /// The route.
    public var component: Component { Component(.route, "blackhole \(subnet)") }

    var destination: IPv4Prefix { subnet }

    /// The bridge's route has the same destination and metric 0: this one must come after it, and after all others.
    private static let metric = UInt32.max

    private var wanted: Route {
        Route(
            to: .v4(subnet), kind: .blackhole, metric: BlackholeRoute.metric, origin: Route.twillOrigin)
    }

    /// Whether a route does what this one does, whoever made it: releases before twill had a number of its own wrote
    /// boot's.
    private func isAlike(_ route: Route) -> Bool {
        route.destination == wanted.destination && route.kind == .blackhole && route.metric == wanted.metric
    }

    func isWanted(_ route: Route, in state: NetworkState) -> Bool {
        isAlike(route) && route.origin == Route.twillOrigin && route.table == Route.mainTable
    }

    /// Whether it is there, whoever made it.
    package func isPresent(in routes: [Route]) -> Bool { routes.contains(where: isAlike) }

    /// Says whether it is missing.
    public func deviation(in state: NetworkState) -> String? {
        state.routes.contains { isWanted($0, in: state) } ? nil : "missing"
    }

    /// Adds it.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses.
    public func update(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.replaceRoute(wanted)
    }

    /// Deletes it.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses.
    public func delete(using socket: RouteSocket) throws {
        for route in try socket.routes(of: RouteInterest(prefixes: [subnet])) where isAlike(route) {
            try socket.deleteRoute(route)
        }
    }
}

/// The device carries no routes but those that lead into the overlay: what a former network left on it (the device
/// may be older than the daemon) would draw packets in that the tunnel has no peer for. What carries twill's own
/// number is pruned.
struct NoForeignNetworks: KeptItem {
    let interfaceName: String
    let network: IPv4Prefix

    var name: String { "other routes of \(interfaceName)" }
    var component: Component { Component(.tunnel, "routes") }
    var isEssential: Bool { false }

    private func surplus(in routes: [Route], on link: Link) -> [Route] {
        routes.filter { route in
            // As flanneld makes them, and former releases of twill; what the kernel or a person made otherwise is
            // left alone.
            guard case .v4(let destination) = route.destination, route.interfaceIndex == link.index else {
                return false
            }
            return !network.contains(destination) && route.origin == Route.bootOrigin && route.scope == .link
                && route.gateway == nil && route.kind == .unicast
        }
    }

    func deviation(in state: NetworkState) throws -> String? {
        let surplus = surplus(in: state.routes, on: try state.device(interfaceName))
        return surplus.isEmpty ? nil : surplus.map(state.text).joined(separator: ", ") + " not wanted"
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        for route in surplus(in: state.routes, on: try state.device(interfaceName)) {
            try socket.deleteRoute(route)
        }
    }
}
