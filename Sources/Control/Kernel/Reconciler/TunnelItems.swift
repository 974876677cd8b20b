import Addresses
import Health
import Netlink

/// The tunnel device as it shall be for one family of the overlay; for both the device is the same. The data plane makes
/// the device; this is what the control side does to it.
public struct TunnelSettings: Sendable, Hashable {
    /// The device's name.
    public var interfaceName: String
    /// The device's only address of the family, with no prefix but itself: the first of this node's subnet.
    public var address: IPAddress
    /// The overlay, routed to the device.
    public var network: IPPrefix
    /// The device's MTU in bytes.
    public var mtu: Int
    /// The bytes that the outer headers of a packet take on the underlay.
    public var overhead: Int
    /// The device's transmit queue length in packets.
    public var transmitQueueLength: Int

    /// Makes settings.
    public init(
        interfaceName: String, address: IPAddress, network: IPPrefix, mtu: Int, overhead: Int,
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
        let link: [any DesiredItem] = [TunnelLink(settings: self)]
        let forwarding = ForwardingDevice(interfaceName: interfaceName, family: network.addressFamily)
        let overlay: [any DesiredItem] = [
            TunnelAddress(interfaceName: interfaceName, address: address),
            OverlayRoute(interfaceName: interfaceName, network: network),
        ]
        switch network {
        case .v4(let network):
            return link + [InterfaceSetting.acceptsLocalSources(interfaceName)] + forwarding.desiredItems
                + overlay + [NoForeignNetworks(interfaceName: interfaceName, network: network)]
        case .v6:
            return link + forwarding.desiredItems + overlay
        }
    }
}

/// A device that packets of the overlay are forwarded from, whichever kind it is of.
package struct ForwardingDevice: Sendable {
    /// The device's name.
    package var interfaceName: String
    /// What it carries.
    package var family: AddressFamily

    /// Names a device.
    package init(interfaceName: String, family: AddressFamily) {
        self.interfaceName = interfaceName
        self.family = family
    }

    /// It forwards what comes out of it, whatever way back the kernel would take, and so does the machine. With IPv6 all
    /// interfaces forward or none, and there is no filter of ways back but in the packet filter's rules.
    package var desiredItems: [any DesiredItem] {
        switch family {
        case .ipv4:
            [
                InterfaceSetting.forwards(interfaceName), LooseReversePath(interfaceName: interfaceName),
                ForwardingEnabled(family: .ipv4),
            ]
        case .ipv6: [CarriesIPv6(interfaceName: interfaceName), ForwardingEnabled(family: .ipv6)]
        }
    }
}

/// The device is up, with its MTU and queue length. The data plane makes it and takes it away.
struct TunnelLink: DeviceItem {
    let settings: TunnelSettings

    var interfaceName: String { settings.interfaceName }
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

/// The device has its address, with no prefix but itself, and no other of that family: a former lease's would still
/// answer. What the kernel gives a device of IPv6 by itself, a link-local one, stays. It ends with the device.
package struct TunnelAddress: KeptItem {
    let interfaceName: String
    let address: IPAddress

    /// Gives a device its address.
    package init(interfaceName: String, address: IPAddress) {
        self.interfaceName = interfaceName
        self.address = address
    }

    package var name: String { "address of \(interfaceName)\(address.addressFamily.suffix)" }
    package var component: Component {
        Component(.tunnel, "address of \(interfaceName)\(address.addressFamily.suffix)")
    }

    private func isWanted(_ entry: InterfaceAddress) -> Bool {
        entry.address == address && entry.prefixLength == address.bitWidth
    }

    private func present(in state: NetworkState, on link: Link) -> [InterfaceAddress] {
        state.addresses.filter {
            $0.interfaceIndex == link.index && $0.address.bitWidth == address.bitWidth
                && $0.address.v6?.isLinkLocal != true
        }
    }

    /// Says what is missing, and what is there and should not be.
    ///
    /// - Throws: `DeviceMissingError` where there is no such device.
    package func deviation(in state: NetworkState) throws -> String? {
        let present = present(in: state, on: try state.device(interfaceName))
        let surplus = present.filter { !isWanted($0) }.map { "\($0.address)/\($0.prefixLength)" }
        var differences: [String] = []
        if !present.contains(where: isWanted) { differences.append("\(address)/\(address.bitWidth) missing") }
        if !surplus.isEmpty { differences.append("\(surplus.joined(separator: ", ")) not wanted") }
        return differences.isEmpty ? nil : differences.joined(separator: ", ")
    }

    /// Adds the address, then takes others away.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses.
    package func update(in state: NetworkState, using socket: RouteSocket) throws {
        let link = try state.device(interfaceName)
        let present = present(in: state, on: link)
        // First the new one: with the last address the kernel also takes the interface's routes away.
        if !present.contains(where: isWanted) {
            try socket.addAddress(
                // No other machine has it: the subnet is this node's. So it is usable at once.
                InterfaceAddress(
                    interfaceIndex: link.index, address: address, prefixLength: address.bitWidth,
                    flags: address.v6 == nil ? .permanent : [.permanent, .withoutDuplicateDetection],
                    origin: Route.twillOrigin))
        }
        for surplus in present where !isWanted(surplus) { try socket.deleteAddress(surplus) }
    }
}

/// The overlay is routed to the device, and nothing else is that is not wanted: routes of a former network, say.
package struct OverlayRoute: RouteItem, OwnedItem {
    let interfaceName: String
    let network: IPPrefix

    /// Routes a family's part of the overlay to a device.
    package init(interfaceName: String, network: IPPrefix) {
        self.interfaceName = interfaceName
        self.network = network
    }

    package var name: String { "route \(network) dev \(interfaceName)" }
    package var component: Component { Component(.route, "\(network)") }
    package var destinations: [IPPrefix] { [network] }

    private func wanted(on link: Link) -> Route {
        // IPv6 has no scopes of routes.
        Route(
            to: network, interfaceIndex: link.index, metric: network.usualRouteMetric,
            scope: network.addressFamily == .ipv4 ? .link : .global, origin: Route.twillOrigin)
    }

    /// Whether a route is this one.
    package func isWanted(_ route: Route, in state: NetworkState) -> Bool {
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
        route.destination == network && route.table == Route.mainTable
            && route.metric == network.usualRouteMetric && route.typeOfService == 0
    }

    /// Says whether it is missing, or another one is in its place.
    ///
    /// - Throws: `DeviceMissingError` where there is no such device.
    package func deviation(in state: NetworkState) throws -> String? {
        let link = try state.device(interfaceName)
        guard let found = state.routes.first(where: isInPlace) else { return "missing" }
        return isWanted(found, on: link) ? nil : "another route is in its place: \(state.text(of: found))"
    }

    /// Sets it.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses.
    package func update(in state: NetworkState, using socket: RouteSocket) throws {
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

    /// Deletes it.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses.
    package func delete(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName) else { return }
        for route in try socket.routes(of: RouteInterest(touching: network)) where isWanted(route, on: link) {
            try socket.deleteRoute(route)
        }
    }
}

/// Drops what is for this node's subnet and has no more precise route (`--ip-blackhole-route`), so that packets to
/// a pod that is gone do not go back into the overlay or out by the default route.
public struct BlackholeRoute: OwnedItem, RouteItem, Hashable {
    /// This node's subnet, of one family.
    public let subnet: IPPrefix

    /// Makes an item.
    public init(subnet: IPPrefix) { self.subnet = subnet }

    /// `route blackhole 10.66.28.0/24`.
    public var name: String { "route \(wanted)" }

    /// The route.
    public var component: Component { Component(.route, "blackhole \(subnet)") }

    /// Where it leads: nowhere.
    package var destinations: [IPPrefix] { [subnet] }

    /// The bridge's route has the same destination and metric 0: this one must come after it, and after all others.
    private static let metric = UInt32.max

    private var wanted: Route {
        Route(
            to: subnet, kind: .blackhole, metric: BlackholeRoute.metric, origin: Route.twillOrigin)
    }

    /// Whether a route does what this one does, whoever made it: releases before twill had a number of its own wrote
    /// boot's.
    private func isAlike(_ route: Route) -> Bool {
        route.destination == wanted.destination && route.kind == .blackhole && route.metric == wanted.metric
    }

    /// Whether a route is this one.
    package func isWanted(_ route: Route, in state: NetworkState) -> Bool {
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
        for route in try socket.routes(of: RouteInterest(touching: subnet)) where isAlike(route) {
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
