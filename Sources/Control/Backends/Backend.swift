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

    /// Whether it carries no network without IPv4: udp does not, vxlan and host-gw do.
    static var needsIPv4: Bool { get }

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

    /// The overlay's MTU in bytes that the configuration asks for; nil where it follows the underlay's.
    var mtu: Int? { get }

    /// What this node announces for the backend in its lease.
    ///
    /// - Parameter ownPort: the port of this node alone (`--port`); nil for the network's.
    /// - Returns: nil where there is nothing to announce.
    func data(ownPort: UInt16?) -> (any BackendData)?

    /// The bytes that the outer headers of one packet take.
    func overhead(over family: UnderlayFamily) -> Int

    /// What the kernel must have, in the order in which it can be made.
    ///
    /// - Parameters:
    ///   - tunnel: the device that leads into the overlay.
    ///   - peers: the nodes to reach, ordered by subnet (vxlan: a neighbour entry for each; host-gw: a route); empty
    ///     where the backend has a data plane, which is told of them instead.
    func desiredItems(for tunnel: TunnelSettings, peers: [BackendPeer]) -> [any DesiredItem]
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
    /// What to send to it.
    package var subnet: IPv4Prefix
    /// Its address on the underlay.
    package var address: IPAddress
    /// What it announced for the backend; nil for nothing.
    package var announced: BackendAnnouncement?

    /// Makes a peer.
    package init(subnet: IPv4Prefix, address: IPAddress, announced: BackendAnnouncement?) {
        self.subnet = subnet
        self.address = address
        self.announced = announced
    }
}

/// Which addresses the outer headers have.
package enum UnderlayFamily: Sendable, Hashable {
    /// IPv4, with a header of 20 bytes without options (RFC 791).
    case ipv4
    /// IPv6, with a header of 40 bytes without extensions (RFC 8200).
    case ipv6

    /// The bytes of the address family's own header.
    package var headerBytes: Int {
        switch self {
        case .ipv4: 20
        case .ipv6: 40
        }
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
