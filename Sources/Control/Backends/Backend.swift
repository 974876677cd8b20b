package import Addresses
package import JSON
package import Reconciler

// How it works. A backend is one way to carry packets between nodes, as flannel's network configuration names it
// (`Backend.Type`). A type that conforms to `Backend` is that way, and a value of it is what one network's
// configuration makes of it. All that is the backend's own (its keys, what a node announces for it, how many bytes it
// adds, what it wants of the kernel) stands in its folder; `BackendRegistry.all` lists it. docs/adr/0077.

/// A way to carry packets between the nodes of a network, as the network's configuration sets it up.
///
/// Where the text says that only another backend of flannel's needs a requirement, udp meets it all the same.
package protocol Backend: Sendable, Hashable, CustomStringConvertible {
    /// How `Backend.Type` names it, in lower case.
    static var typeName: String { get }

    /// What its nodes write as `BackendType` into their leases; nil where they write none, as flannel's udp does.
    static var announcedType: String? { get }

    /// The keys of the configuration's `Backend` that it reads beside `Type`, in lower case.
    static var keys: Set<String> { get }

    /// Whether, in a network of both families, packets of each go to the other nodes' addresses of the same family
    /// (vxlan, host-gw). Else both go to one address (udp): IPv4, and IPv6 where the network has no IPv4.
    static var hasEndpointOfEachFamily: Bool { get }

    /// Whether its packets pass through this process (udp), and not through the kernel alone (vxlan, host-gw).
    static var hasDataPlane: Bool { get }

    /// Makes what a configuration without `Backend` means: flannel's values.
    init()

    /// Reads the members of the configuration's `Backend`.
    ///
    /// - Throws: which key does not hold, its value and the rule.
    init(reading settings: BackendSettings) throws(BackendError)

    /// Reads `BackendData` of another node's lease; what the backend does not know of it is left out.
    ///
    /// - Parameter value: nil where the lease has none.
    /// - Returns: nil where there is nothing in it for this backend.
    /// - Throws: what is wrong with it, as the end of a sentence that begins with the lease's key.
    static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)?

    /// The port that packets are sent to where a lease names none, host byte order (udp, vxlan); 0 where there are no
    /// ports (host-gw).
    var port: UInt16 { get }

    /// The overlay's MTU in bytes that the configuration asks for over a family; nil where it follows the underlay's.
    func mtu(over family: AddressFamily) -> Int?

    /// What this node announces for the backend in its lease.
    ///
    /// - Parameters:
    ///   - subnet: this node's, of one family.
    ///   - ownPort: the port of this node alone (`--port`), which backends of the kernel do not have; nil for the
    ///     network's.
    /// - Returns: nil where there is nothing to announce.
    func data(for subnet: IPPrefix, ownPort: UInt16?) -> (any BackendData)?

    /// Why a node that announces this cannot be sent to, as the end of a sentence that begins with its lease's key; nil
    /// where it can (vxlan: without a hardware address it cannot).
    ///
    /// - Parameter announced: nil where it announces nothing.
    func refusal(of announced: BackendAnnouncement?) -> String?

    /// The bytes that the outer headers of one packet take.
    func overhead(over family: AddressFamily) -> Int

    /// The name of the interface that packets for the peers leave by.
    ///
    /// - Parameter place: where on this machine, of one family.
    func interfaceName(in place: BackendPlace) -> String

    /// What the kernel must have, in the order in which it can be made, for one family. A network of both has it twice.
    ///
    /// - Parameters:
    ///   - place: where on this machine, of one family.
    ///   - peers: the nodes to reach, ordered by subnet (vxlan: a neighbour entry for each; host-gw: a route); empty
    ///     where the backend has a data plane, which is told of them instead.
    func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem]

    /// The interfaces and next hops by which packets may leave for a peer; nil where the whole network is routed to
    /// `interfaceName` itself.
    func hops(to peer: BackendPeer, in place: BackendPlace) -> [BackendHop]?
}

extension Backend {
    /// Every announcement will do.
    package func refusal(of _: BackendAnnouncement?) -> String? { nil }

    /// The whole network is routed to the one device.
    package func hops(to _: BackendPeer, in _: BackendPlace) -> [BackendHop]? { nil }
}

/// Where on this machine a backend works, for one family of addresses.
package struct BackendPlace: Sendable, Hashable {
    /// The overlay.
    package var network: IPPrefix
    /// This node's subnet.
    package var subnet: IPPrefix
    /// `--tun-name`: what the device of a backend is called whose packets pass through this process.
    package var tunnelName: String
    /// What devices are called, beside their names, that this daemon has the kernel make; an earlier run of it called
    /// them the same.
    package var alias: String
    /// The interface that outer packets leave by.
    package var underlayName: String
    /// Its number.
    package var underlayIndex: Int32
    /// This node's address there; of the overlay's family where the backend has an endpoint of each.
    package var underlayAddress: IPAddress
    /// Where the others send to: another address than that one behind a NAT.
    package var publicAddress: IPAddress
    /// The largest inner packet in bytes.
    package var mtu: Int
    /// A device's transmit queue length in packets.
    package var queueLength: Int

    /// Names a place.
    package init(
        network: IPPrefix, subnet: IPPrefix, tunnelName: String, alias: String, underlayName: String,
        underlayIndex: Int32, underlayAddress: IPAddress, publicAddress: IPAddress, mtu: Int, queueLength: Int
    ) {
        self.network = network
        self.subnet = subnet
        self.tunnelName = tunnelName
        self.alias = alias
        self.underlayName = underlayName
        self.underlayIndex = underlayIndex
        self.underlayAddress = underlayAddress
        self.publicAddress = publicAddress
        self.mtu = mtu
        self.queueLength = queueLength
    }

    /// The tunnel device that a data plane of this process makes, as far as this family of the overlay goes.
    ///
    /// - Parameter overhead: the bytes of the outer headers.
    package func tunnel(overhead: Int) -> TunnelSettings {
        TunnelSettings(
            interfaceName: tunnelName, address: subnet.address, network: network, mtu: mtu,
            overhead: overhead,
            transmitQueueLength: queueLength)
    }
}

/// A way to a peer: by an interface, to a next hop there.
package struct BackendHop: Sendable, Hashable {
    /// The interface's name.
    package var interfaceName: String
    /// The next hop.
    package var gateway: IPAddress

    /// Names a way.
    package init(interfaceName: String, gateway: IPAddress) {
        self.interfaceName = interfaceName
        self.gateway = gateway
    }
}

/// What a node announces for its backend: `BackendData` of its lease.
package protocol BackendData: Sendable, Hashable {
    /// The JSON text, with the keys in flannel's case and order.
    var json: String { get }

    /// The port that this node alone receives on, host byte order; nil where the network's configuration has it.
    var port: UInt16? { get }
}

/// Another node, as far as a backend goes by it.
package struct BackendPeer: Sendable, Hashable {
    /// What to send to it, of one family.
    package var subnet: IPPrefix
    /// Its address on the underlay; of the same family where the backend has an endpoint of each.
    package var address: IPAddress
    /// What it announced for the backend; nil for nothing.
    package var announced: BackendAnnouncement?

    /// Makes a peer.
    package init(subnet: IPPrefix, address: IPAddress, announced: BackendAnnouncement?) {
        self.subnet = subnet
        self.address = address
        self.announced = announced
    }
}

/// Why a backend cannot use what it read.
package struct BackendError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What is wrong, for an operator.
    package let description: String

    /// Makes an error.
    package init(_ description: String) { self.description = description }

    /// Makes an error of one key: which, its value, and the rule that it breaks.
    init(key: String, _ value: JSONValue, rule: String) { self.init("\(key) is \(value): \(rule)") }
}
