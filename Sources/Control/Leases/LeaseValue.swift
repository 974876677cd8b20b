public import Addresses
package import Backends
import JSON

/// What a node announces in its lease: the JSON value of the lease's key.
///
/// Read tolerantly (any key case, unknown fields, absent ones), written exactly as flannel writes it, with one key
/// of twill's own behind that, which flannel passes over: `TwillHost`. ADR 100.
public struct LeaseValue: Sendable, Hashable {
    /// `PublicIP`: where peers send to.
    public var publicAddress: IPv4Address
    /// `PublicIPv6`: announced, used by no backend over IPv4.
    public var publicIPv6Address: IPv6Address?
    /// The name of the backend that the node carries packets by.
    package private(set) var backendName: String
    /// `BackendType` as it is written; nil where the backend writes none.
    package private(set) var backendType: String?
    /// `BackendData`: what the node announces for its backend; nil for nothing.
    package var announced: BackendAnnouncement?

    /// `TwillHost`: what the node is called; nil where it does not tell.
    public private(set) var hostName: String?

    /// The port of this node alone; nil for the network configuration's.
    public var port: UInt16? { announced?.value.port }

    /// Makes the value of a node's lease.
    ///
    /// - Parameters:
    ///   - backend: the backend that the node carries packets by.
    ///   - data: what the node announces for it; nil for nothing.
    ///   - hostName: what the node is called; what is no host name is left out.
    package init(
        publicAddress: IPv4Address, publicIPv6Address: IPv6Address? = nil, backend: any Backend.Type,
        data: (any BackendData)? = nil, hostName: String? = nil
    ) {
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        backendName = backend.typeName
        backendType = backend.announcedType
        announced = data.map { BackendAnnouncement($0) }
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
        guard let address = value["PublicIP"] else { throw LeaseValueError("it has no PublicIP") }
        guard let parsed = address.text.flatMap({ IPv4Address($0) }) else {
            throw LeaseValueError("PublicIP is \(address), which is no IPv4 address")
        }
        guard parsed.isUnicast, !parsed.isLoopback else {
            throw LeaseValueError("PublicIP is \(parsed), which no other node can send to")
        }
        var ipv6: IPv6Address?
        if let address = value["PublicIPv6"] {
            guard let parsed = address.text.flatMap({ IPv6Address($0) }) else {
                throw LeaseValueError("PublicIPv6 is \(address), which is no IPv6 address")
            }
            ipv6 = parsed
        }
        let data = try LeaseValueError.translating { () throws(BackendError) in
            try backend.data(reading: value["BackendData"])
        }
        self.init(
            publicAddress: parsed, publicIPv6Address: ipv6, backend: backend, data: data,
            hostName: value["TwillHost"]?.text)
    }

    /// The value as flannel writes it: `{"PublicIP":"198.18.9.2","PublicIPv6":null}`, then `BackendType` where the
    /// backend writes it, and `BackendData` where there is something to announce; then twill's own `TwillHost`.
    public var json: String {
        let ipv6 = publicIPv6Address.map { "\"\($0)\"" } ?? "null"
        let type = backendType.map { ",\"BackendType\":\"\($0)\"" } ?? ""
        let data = announced.map { ",\"BackendData\":\($0.value.json)" } ?? ""
        let name = hostName.map { ",\"TwillHost\":\"\($0)\"" } ?? ""
        return "{\"PublicIP\":\"\(publicAddress)\",\"PublicIPv6\":\(ipv6)\(type)\(data)\(name)}"
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
