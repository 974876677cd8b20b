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

extension Endpoint {
    /// Parses what `description` says.
    public init?(_ text: some StringProtocol) {
        if let address = IPAddress(text) {
            self.init(address: address, port: 0)
            return
        }
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        let host = text[..<colon]
        let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
        guard let address = IPAddress(isBracketed ? host.dropFirst().dropLast() : host[...]),
            isBracketed == (address.v4 == nil)
        else { return nil }
        self.init(address: address, port: port)
    }
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
