/// Where datagrams to a peer are sent on the underlay: an IPv4 address and a UDP port.
@frozen
public struct Endpoint: Sendable, Hashable {
    /// The peer's underlay address.
    public var address: IPv4Address
    /// The peer's UDP port, host byte order.
    public var port: UInt16

    /// Makes an endpoint; `port` is in host byte order.
    @inlinable
    public init(address: IPv4Address, port: UInt16) {
        self.address = address
        self.port = port
    }
}

extension Endpoint: CustomStringConvertible {
    /// `10.0.0.1:8285`.
    public var description: String { "\(address):\(port)" }
}
