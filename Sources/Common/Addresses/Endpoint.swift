/// Where datagrams to a node are sent on the underlay: an address of either family and a UDP port.
@frozen
public struct Endpoint: Sendable, Hashable {
    /// The node's underlay address.
    public var address: IPAddress
    /// The node's UDP port, host byte order.
    public var port: UInt16

    /// Makes an endpoint; `port` is in host byte order.
    @inlinable
    public init(address: IPAddress, port: UInt16) {
        self.address = address
        self.port = port
    }

    /// Makes an endpoint on IPv4; `port` is in host byte order.
    @inlinable
    public init(address: IPv4Address, port: UInt16) { self.init(address: .v4(address), port: port) }
}

extension Endpoint: CustomStringConvertible {
    /// `10.0.0.1:8285` or `[fd00::1]:8285`; where there are no ports (0), the address alone.
    public var description: String {
        guard port != 0 else { return "\(address)" }
        return switch address {
        case .v4(let address): "\(address):\(port)"
        case .v6(let address): "[\(address)]:\(port)"
        }
    }
}
