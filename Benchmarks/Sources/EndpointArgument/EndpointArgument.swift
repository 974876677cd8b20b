import Addresses
import ArgumentParser

/// Parses `192.0.2.1:8285`, for the option of a command.
public func parseEndpoint(_ text: String) throws -> Endpoint {
    let parts = text.split(separator: ":", maxSplits: 1)
    guard parts.count == 2, let address = IPv4Address(parts[0]), let port = UInt16(parts[1]) else {
        throw ValidationError("\(text): expected ADDRESS:PORT")
    }
    return Endpoint(address: address, port: port)
}

extension Endpoint {
    /// The IPv4 address, which whatever `parseEndpoint` returns has.
    public var addressIPv4: IPv4Address { address.v4 ?? .any }
}
