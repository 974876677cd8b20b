package import Addresses
package import JSON
package import Reconciler

/// flannel's udp: each packet is the payload of one datagram, written and read by this process.
package struct UDPBackend: Backend {
    package static let typeName = "udp"
    package static let announcedType: String? = nil
    package static let keys: Set<String> = ["port", "mtu"]
    package static let hasEndpointOfEachFamily = false
    package static let hasDataPlane = true

    /// The bytes of a datagram's header (RFC 768).
    private static let headerBytes = 8

    /// The MTUs that a configuration may ask for, in bytes: every IPv4 host takes 576 (RFC 791), and 65,507 is the
    /// largest payload of a datagram over IPv4.
    private static let mtuRange = 576...65_507

    /// `Backend.Port`: the port of nodes that announce none of their own.
    package var port: UInt16 = 8285
    /// `Backend.MTU`, which flanneld does not read for udp.
    private var mtu: Int?

    /// flannel's udp as it is where a configuration says no more of it.
    package init() {}

    /// Reads the keys `Port` and `MTU`.
    ///
    /// - Throws: `BackendError` that names the key and its rule.
    package init(reading settings: BackendSettings) throws(BackendError) {
        let port = try settings.integer(
            "Port", within: 1...Int(UInt16.max), rule: "a port is needed (1 to 65535)")
        if let port = port.flatMap({ UInt16(exactly: $0) }) { self.port = port }
        mtu = try settings.integer("MTU", within: Self.mtuRange, rule: "it must be 576 to 65507 bytes")
    }

    /// Reads the port of a node's own, if `BackendData` has one.
    ///
    /// - Throws: `BackendError` where it is no port.
    package static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)? {
        guard let port = value?["Port"] else { return nil }
        guard case .integer(let number) = port, let parsed = UInt16(exactly: number), parsed > 0 else {
            throw BackendError("BackendData.Port is \(port), which is no port (1 to 65535)")
        }
        return UDPData(port: parsed)
    }

    package func mtu(over _: AddressFamily) -> Int? { mtu }

    package func data(for _: IPPrefix, port: UInt16?) -> (any BackendData)? { port.map { UDPData(port: $0) } }

    package func overhead(over family: AddressFamily) -> Int { family.headerBytes &+ Self.headerBytes }

    package func interfaceName(in place: BackendPlace) -> String { place.tunnelName }

    /// The device with its address and its one route. The data plane, which makes the device, knows the peers.
    package func desiredItems(in place: BackendPlace, peers _: [BackendPeer]) -> [any DesiredItem] {
        place.tunnel(overhead: overhead(over: place.underlayAddress.addressFamily)).desiredItems
    }
}

extension UDPBackend: CustomStringConvertible {
    /// `udp, port 8285, MTU of the underlay less 28 bytes`.
    package var description: String {
        "udp, port \(port), MTU \(mtu.map(String.init) ?? "of the underlay less \(overhead(over: .ipv4)) bytes")"
    }
}

/// `{"Port":9000}`: the port of one node, which twill announces and follows, and flanneld leaves alone.
package struct UDPData: BackendData {
    /// The port, host byte order, 1 or more.
    private var number: UInt16

    /// Makes an announcement of a port.
    package init(port: UInt16) { number = port }

    package var json: String { "{\"Port\":\(number)}" }
    package var port: UInt16? { number }
}
