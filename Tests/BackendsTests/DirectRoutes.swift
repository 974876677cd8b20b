import Addresses
import Backends
import Health
import JSON
import Leases
import Netlink
import Reconciler

/// A backend like flannel's host-gw, for tests: the kernel carries the packets, by a route to each peer; each node
/// announces the number of its rack. This file is all that there is of it.
struct DirectRoutes: Backend {
    static let typeName = "direct-routes"
    static let announcedType: String? = "direct-routes"
    static let keys: Set<String> = ["rack"]
    static let hasEndpointOfEachFamily = false
    static let hasDataPlane = false

    var rack = 1
    var port: UInt16 { 0 }
    init() {}

    init(reading settings: BackendSettings) throws(BackendError) {
        rack = try settings.integer("Rack", within: 1...99, rule: "it must be 1 to 99") ?? 1
    }

    static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)? {
        guard let rack = value?["Rack"] else { return nil }
        guard case .integer(let number) = rack else { throw BackendError("Rack is \(rack)") }
        return Announced(rack: number)
    }

    func mtu(over _: AddressFamily) -> Int? { nil }
    func data(for _: IPPrefix, port _: UInt16?) -> (any BackendData)? { Announced(rack: rack) }
    func overhead(over _: AddressFamily) -> Int { 0 }
    func interfaceName(in place: BackendPlace) -> String { place.underlayName }

    func desiredItems(in _: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        peers.map { PeerRoute(peer: $0) }
    }

    var description: String { "direct-routes, rack \(rack)" }

    struct Announced: BackendData {
        var rack: Int
        var json: String { "{\"Rack\":\(rack)}" }
        var port: UInt16? { nil }
    }

    struct PeerRoute: DesiredItem {
        let peer: BackendPeer
        var name: String { "route \(peer.subnet) via \(peer.address)" }
        var component: Component { Component(.route, "\(peer.subnet)") }
        func deviation(in _: NetworkState) -> String? { nil }
        func restore(in _: NetworkState, using _: RouteSocket) {}
        func withdraw(using _: RouteSocket) {}
    }
}
