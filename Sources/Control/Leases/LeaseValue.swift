public import Addresses
package import Backends
import JSON

/// What a node announces in its lease: the JSON value of the lease's key.
///
/// Read tolerantly (any key case, unknown fields, absent ones), written exactly as flannel writes it, with one key
/// of twill's own behind that, which flannel passes over: `TwillHost`. ADR 100.
public struct LeaseValue: Sendable, Hashable {
    /// `PublicIP`: where peers send to; nil in a network of IPv6 alone, for which flannel writes `0.0.0.0`.
    public var publicAddress: IPv4Address?
    /// `PublicIPv6`: where peers send to in a network of IPv6 alone, and with vxlan and host-gw what is IPv6.
    public var publicIPv6Address: IPv6Address?
    /// The name of the backend that the node carries packets by.
    package private(set) var backendName: String
    /// `BackendType` as it is written; nil where the backend writes none.
    package private(set) var backendType: String?
    /// `BackendData`: what the node announces for its backend; nil for nothing.
    package var announced: BackendAnnouncement?
    /// `BackendV6Data`: the same for IPv6, of backends with an endpoint of each family.
    package var announcedIPv6: BackendAnnouncement?

    /// `TwillHost`: what the node is called; nil where it does not tell.
    public private(set) var hostName: String?

    /// The port of this node alone; nil for the network configuration's.
    public var port: UInt16? { announced?.value.port }

    /// Where peers send to that have an address of a family.
    ///
    /// - Parameter defaultPort: what a lease means that names no port, host byte order.
    func endpoint(_ family: AddressFamily, defaultPort: UInt16) -> Endpoint? {
        let address: IPAddress? =
            switch family {
            case .ipv4: publicAddress.map { .v4($0) }
            case .ipv6: publicIPv6Address.map { .v6($0) }
            }
        return address.map { Endpoint(address: $0, port: port ?? defaultPort) }
    }

    /// Makes the value of a node's lease.
    ///
    /// - Parameters:
    ///   - backend: the backend that the node carries packets by.
    ///   - data: what the node announces for it; nil for nothing.
    ///   - ipv6Data: the same for IPv6.
    ///   - hostName: what the node is called; what is no host name is left out.
    package init(
        publicAddress: IPv4Address?, publicIPv6Address: IPv6Address? = nil, backend: any Backend.Type,
        data: (any BackendData)? = nil, ipv6Data: (any BackendData)? = nil, hostName: String? = nil
    ) {
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        backendName = backend.typeName
        backendType = backend.announcedType
        announced = data.map { BackendAnnouncement($0) }
        announcedIPv6 = ipv6Data.map { BackendAnnouncement($0) }
        self.hostName = hostName.flatMap { LeaseValue.isHostName($0) ? $0 : nil }
    }

    /// Bytes of a host name, at most (`HOST_NAME_MAX` of Linux).
    private static let hostNameBytes = 64

    /// Whether a text is what hosts are called: letters, digits, `-`, `.` and `_` of ASCII. Nothing else gets from a
    /// store into a terminal by this way.
    private static func isHostName(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= hostNameBytes
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
                    UInt8(ascii: "_"):
                    true
                default: false
                }
            }
    }

    /// Parses the value of a node's lease.
    ///
    /// - Parameter backends: those that this daemon has.
    /// - Throws: what is wrong with it, as the end of a sentence that begins with the key.
    package init(parsing json: String, backends: BackendRegistry = .all) throws(LeaseValueError) {
        guard let value = JSONValue(parsing: json), case .object = value else {
            throw LeaseValueError("the value is no JSON object")
        }
        let backend = try LeaseValueError.translating { () throws(BackendError) in
            try backends.announced(by: value["BackendType"])
        }
        var ipv6: IPv6Address?
        if let address = value["PublicIPv6"] {
            guard let parsed = address.text.flatMap({ IPv6Address($0) }) else {
                throw LeaseValueError("PublicIPv6 is \(address), which is no IPv6 address")
            }
            // One that nobody can send to is as good as none: the node may be reached by IPv4.
            ipv6 = IPAddress.v6(parsed).isReachable ? parsed : nil
        }
        guard let address = value["PublicIP"] else { throw LeaseValueError("it has no PublicIP") }
        guard let stated = address.text.flatMap({ IPv4Address($0) }) else {
            throw LeaseValueError("PublicIP is \(address), which is no IPv4 address")
        }
        let ipv4 = stated == .any && ipv6 != nil ? nil : stated
        if let ipv4, !IPAddress.v4(ipv4).isReachable {
            throw LeaseValueError("PublicIP is \(ipv4), which no other node can send to")
        }
        let data = try LeaseValueError.translating { () throws(BackendError) in
            (
                try backend.data(reading: value["BackendData"]),
                try backend.data(reading: value["BackendV6Data"])
            )
        }
        self.init(
            publicAddress: ipv4, publicIPv6Address: ipv6, backend: backend, data: data.0, ipv6Data: data.1,
            hostName: value["TwillHost"]?.text)
    }

    /// The value as flannel writes it: `{"PublicIP":"198.18.9.2","PublicIPv6":null}`, then `BackendType` where the
    /// backend writes it, `BackendData` and `BackendV6Data` where there is something to announce; then twill's own
    /// `TwillHost`.
    public var json: String {
        let ipv6 = publicIPv6Address.map { "\"\($0)\"" } ?? "null"
        let type = backendType.map { ",\"BackendType\":\"\($0)\"" } ?? ""
        let data = announced.map { ",\"BackendData\":\($0.value.json)" } ?? ""
        let ipv6Data = announcedIPv6.map { ",\"BackendV6Data\":\($0.value.json)" } ?? ""
        let name = hostName.map { ",\"TwillHost\":\"\($0)\"" } ?? ""
        let address = publicAddress ?? .any
        return "{\"PublicIP\":\"\(address)\",\"PublicIPv6\":\(ipv6)\(type)\(data)\(ipv6Data)\(name)}"
    }
}

/// What is wrong with a lease's value.
public struct LeaseValueError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The end of a sentence that begins with the key.
    public let description: String

    init(_ description: String) { self.description = description }

    fileprivate static func translating<Value>(
        _ body: () throws(BackendError) -> Value
    ) throws(LeaseValueError) -> Value {
        do { return try body() } catch { throw LeaseValueError(error.description) }
    }
}
