package import Addresses
import Health
package import JSON
import Netlink
package import Reconciler

/// flannel's host-gw: pods' packets go from node to node as they are, by a route to each node on the link that all are
/// on. It has no keys, announces nothing, and adds no byte to a packet.
package struct HostGatewayBackend: Backend {
    package static let typeName = "host-gw"
    package static let announcedType: String? = "host-gw"
    package static let keys: Set<String> = []
    package static let hasEndpointOfEachFamily = true
    package static let hasDataPlane = false

    /// There are no ports.
    package var port: UInt16 { 0 }

    /// flannel's host-gw, which has nothing to be set.
    package init() {}

    /// Reads nothing.
    ///
    /// - Throws: nothing: there is no key that could be wrong.
    package init(reading _: BackendSettings) throws(BackendError) {}

    /// Nothing is announced.
    ///
    /// - Throws: nothing: whatever a lease says there is left out.
    package static func data(reading _: JSONValue?) throws(BackendError) -> (any BackendData)? { nil }

    package func mtu(over _: AddressFamily) -> Int? { nil }
    package func data(for _: IPPrefix, port _: UInt16?) -> (any BackendData)? { nil }
    package func overhead(over _: AddressFamily) -> Int { 0 }
    package func interfaceName(in place: BackendPlace) -> String { place.underlayName }

    /// A route to each peer.
    package func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        let addresses = Dictionary(
            peers.map { ($0.subnet, $0.address) }, uniquingKeysWith: { first, _ in first })
        return [
            ForwardingEnabled(family: place.network.addressFamily), OwnGateway(place: place),
            PeerRoutes(
                network: place.network, interfaceName: place.underlayName, isOnLink: false,
                directInterfaceName: nil, gateways: addresses, addresses: addresses,
                remedy:
                    "host-gw needs all nodes on one link: put these nodes there (--iface says which link that is), "
                    + "or set Backend.Type to vxlan"),
        ]
    }

    package func hops(to peer: BackendPeer, in place: BackendPlace) -> [BackendHop]? {
        [BackendHop(interfaceName: place.underlayName, gateway: peer.address)]
    }
}

extension HostGatewayBackend: CustomStringConvertible {
    /// `host-gw`.
    package var description: String { Self.typeName }
}

/// The address that the others send to is this node's own on the link, or somebody is told: behind a NAT it is a router's,
/// which knows nothing of the overlay. flanneld does not start there.
private struct OwnGateway: DesiredItem {
    let place: BackendPlace

    var name: String { "gateway address\(place.network.addressFamily.suffix)" }
    var component: Component { Component(.underlay, "gateway\(place.network.addressFamily.suffix)") }
    var isEssential: Bool { false }

    func deviation(in _: NetworkState) throws -> String? {
        if place.publicAddress == place.underlayAddress { return nil }
        throw ItemProblem(
            Problem(
                .cutOff,
                "the other nodes are told to send to \(place.publicAddress), which is not this node's address on "
                    + "\(place.underlayName), \(place.underlayAddress): host-gw does not pass a NAT",
                remedy:
                    "leave out --public-ip or give \(place.underlayAddress), or set Backend.Type to vxlan or udp"
            ))
    }
}
