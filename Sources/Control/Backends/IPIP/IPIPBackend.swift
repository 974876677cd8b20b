package import Addresses
package import JSON
import Netlink
package import Reconciler

/// flannel's ipip: the kernel carries each IPv4 packet in another one (RFC 2003), by one device with a route to each peer.
/// Nothing is announced but its name.
package struct IPIPBackend: Backend {
    package static let typeName = "ipip"
    package static let announcedType: String? = "ipip"
    package static let keys: Set<String> = ["directrouting"]
    package static let hasEndpointOfEachFamily = false
    package static let carriesIPv6 = false
    package static let hasDataPlane = false

    /// flannel's name of the device: `tunl0`, which the kernel makes by itself, may be somebody's.
    private static let deviceName = "flannel.ipip"

    /// `Backend.DirectRouting`: whether nodes on the underlay's link are reached without a tunnel.
    private var routesDirectly = false

    /// There are no ports.
    package var port: UInt16 { 0 }

    /// flannel's ipip as it is where a configuration says no more of it.
    package init() {}

    /// Reads the key `DirectRouting`.
    ///
    /// - Throws: `BackendError` where it is neither true nor false.
    package init(reading settings: BackendSettings) throws(BackendError) {
        routesDirectly = try settings.bool("DirectRouting") ?? false
    }

    /// Nothing is announced.
    ///
    /// - Throws: nothing: whatever a lease says there is left out.
    package static func data(reading _: JSONValue?) throws(BackendError) -> (any BackendData)? { nil }

    package func mtu(over _: AddressFamily) -> Int? { nil }
    /// One header more.
    package func overhead(over family: AddressFamily) -> Int { family.headerBytes }
    package func interfaceName(in _: BackendPlace) -> String { Self.deviceName }

    /// The device with its address, and a route to each peer by its address on the underlay.
    package func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        guard case .v4(let localAddress) = place.underlayAddress else { return [] }
        let name = Self.deviceName
        let device: [any DesiredItem] = [
            KernelDevice(
                interfaceName: name, kind: .ipip(IPIPAttributes(localAddress: localAddress)), mtu: place.mtu,
                alias: place.alias)
        ]
        let addresses = Dictionary(
            peers.map { ($0.subnet, $0.address) }, uniquingKeysWith: { first, _ in first })
        return device + ForwardingDevice(interfaceName: name, family: .ipv4).desiredItems + [
            TunnelAddress(interfaceName: name, address: place.subnet.address),
            PeerRoutes(
                network: place.network, interfaceName: name, isOnLink: true,
                directInterfaceName: routesDirectly ? place.underlayName : nil, gateways: addresses,
                addresses: addresses,
                remedy: "see ip -d link show \(name); it is tried again every few seconds"),
            NoFormerRoutes(interfaceName: name, wanted: Set(peers.map(\.subnet))),
        ]
    }

    package func hops(to peer: BackendPeer, in place: BackendPlace) -> [BackendHop]? {
        let tunnel = BackendHop(interfaceName: Self.deviceName, gateway: peer.address)
        guard routesDirectly else { return [tunnel] }
        return [tunnel, BackendHop(interfaceName: place.underlayName, gateway: peer.address)]
    }
}

extension IPIPBackend: CustomStringConvertible {
    /// `ipip`, `ipip, direct routing`.
    package var description: String { Self.typeName + (routesDirectly ? ", direct routing" : "") }
}
