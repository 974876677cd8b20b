public import Addresses

/// What a node announces in its lease: the JSON value of the lease's key.
///
/// Read tolerantly (any key case, unknown fields, absent ones), written exactly as flannel writes it.
public struct LeaseValue: Sendable, Hashable {
    /// `PublicIP`: where peers send to.
    public var publicAddress: IPv4Address
    /// `PublicIPv6`: announced, unused by the udp backend.
    public var publicIPv6Address: IPv6Address?
    /// `BackendData.Port`: the UDP port of this node; nil for the network configuration's.
    public var port: UInt16?

    /// Makes a value.
    public init(publicAddress: IPv4Address, publicIPv6Address: IPv6Address? = nil, port: UInt16? = nil) {
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        self.port = port
    }

    /// Parses the value of a udp node's lease.
    ///
    /// - Throws: what is wrong with it, as the end of a sentence that begins with the key.
    public init(parsing json: String) throws(LeaseValueError) {
        guard let value = JSONValue(parsing: json), case .object = value else {
            throw LeaseValueError("the value is no JSON object")
        }
        if let type = value["BackendType"], type != .string("") {
            guard type.text?.lowercased() == "udp" else {
                throw LeaseValueError("BackendType is \(type), and twill carries udp alone")
            }
        }
        guard let address = value["PublicIP"] else { throw LeaseValueError("it has no PublicIP") }
        guard let parsed = address.text.flatMap({ IPv4Address($0) }) else {
            throw LeaseValueError("PublicIP is \(address), which is no IPv4 address")
        }
        guard parsed.isUnicast, !parsed.isLoopback else {
            throw LeaseValueError("PublicIP is \(parsed), which no other node can send to")
        }
        publicAddress = parsed
        if let address = value["PublicIPv6"] {
            guard let parsed = address.text.flatMap({ IPv6Address($0) }) else {
                throw LeaseValueError("PublicIPv6 is \(address), which is no IPv6 address")
            }
            publicIPv6Address = parsed
        }
        if let port = value["BackendData"]?["Port"] {
            guard case .integer(let number) = port, let parsed = UInt16(exactly: number), parsed > 0 else {
                throw LeaseValueError("BackendData.Port is \(port), which is no port (1 to 65535)")
            }
            self.port = parsed
        }
    }

    /// The value as flannel writes it: `{"PublicIP":"198.18.9.2","PublicIPv6":null}`; with a port of the node's
    /// own, a `BackendData` that flannel's udp backend leaves alone follows.
    public var json: String {
        let ipv6 = publicIPv6Address.map { "\"\($0)\"" } ?? "null"
        let data = port.map { ",\"BackendData\":{\"Port\":\($0)}" } ?? ""
        return "{\"PublicIP\":\"\(publicAddress)\",\"PublicIPv6\":\(ipv6)\(data)}"
    }
}

/// What is wrong with a lease's value.
public struct LeaseValueError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The end of a sentence that begins with the key.
    public let description: String

    init(_ description: String) { self.description = description }
}
