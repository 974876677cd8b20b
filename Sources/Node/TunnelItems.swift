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
    /// The device's transmit queue length in packets.
    public var transmitQueueLength: Int

    /// Makes settings.
    public init(
        interfaceName: String, address: IPv4Address, network: IPv4Prefix, mtu: Int, transmitQueueLength: Int
    ) {
        self.interfaceName = interfaceName
        self.address = address
        self.network = network
        self.mtu = mtu
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
        ]
    }
}

/// The device is up, with its MTU and queue length.
struct TunnelLink: DesiredItem {
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

    func restore(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.setLink(
            index: state.device(settings.interfaceName).index,
            LinkChange(isUp: true, mtu: settings.mtu, transmitQueueLength: settings.transmitQueueLength))
    }
}

/// The device has its address as a /32 and no other of IPv4: a former lease's would still answer.
struct TunnelAddress: DesiredItem {
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

    func restore(in state: NetworkState, using socket: RouteSocket) throws {
        let link = try state.device(interfaceName)
        let present = present(in: state, on: link)
        // First the new one: with the last address the kernel also takes the interface's routes away.
        if !present.contains(where: isWanted) {
            try socket.addAddress(
                InterfaceAddress(interfaceIndex: link.index, address: .v4(address), prefixLength: 32))
        }
        for surplus in present where !isWanted(surplus) { try socket.deleteAddress(surplus) }
    }
}

/// The overlay is routed to the device.
struct OverlayRoute: DesiredItem {
    let interfaceName: String
    let network: IPv4Prefix

    var name: String { "route \(network) dev \(interfaceName)" }
    var component: Component { Component(.route, "\(network)") }

    private func wanted(on link: Link) -> Route {
        Route(to: .v4(network), interfaceIndex: link.index, scope: .link)
    }

    func deviation(in state: NetworkState) throws -> String? {
        let wanted = wanted(on: try state.device(interfaceName))
        let found = state.routes.first { $0.destination == wanted.destination && $0.metric == wanted.metric }
        guard let found else { return "missing" }
        guard found.kind == .unicast, found.interfaceIndex == wanted.interfaceIndex, found.gateway == nil
        else {
            return "another route is in its place: \(found)"
        }
        return nil
    }

    func restore(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.replaceRoute(wanted(on: state.device(interfaceName)))
    }
}

/// Drops what is for this node's subnet and has no more precise route (`--ip-blackhole-route`), so that packets to
/// a pod that is gone do not go back into the overlay or out by the default route.
public struct BlackholeRoute: DesiredItem, Hashable {
    /// This node's subnet.
    public let subnet: IPv4Prefix

    /// Makes an item.
    public init(subnet: IPv4Prefix) { self.subnet = subnet }

    /// `route blackhole 10.66.28.0/24`.
    public var name: String { "route \(wanted)" }

    /// The route.
    public var component: Component { Component(.route, "blackhole \(subnet)") }

    /// The bridge's route has the same destination and metric 0: this one must come after it, and after all others.
    private static let metric = UInt32.max

    private var wanted: Route { Route(to: .v4(subnet), kind: .blackhole, metric: BlackholeRoute.metric) }

    private func isWanted(_ route: Route) -> Bool {
        route.destination == wanted.destination && route.kind == .blackhole && route.metric == wanted.metric
    }

    func isPresent(in routes: [Route]) -> Bool { routes.contains(where: isWanted) }

    /// Says whether it is missing.
    public func deviation(in state: NetworkState) -> String? {
        isPresent(in: state.routes) ? nil : "missing"
    }

    /// Adds it.
    public func restore(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.replaceRoute(wanted)
    }

    /// Deletes it.
    public func withdraw(using socket: RouteSocket) throws {
        for route in try socket.routes() where isWanted(route) { try socket.deleteRoute(route) }
    }
}
