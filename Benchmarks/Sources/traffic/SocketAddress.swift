import Addresses
import ArgumentParser
import EndpointArgument
import Glibc

/// An address and a port of either family, as the kernel takes them.
struct SocketAddress: CustomStringConvertible {
    /// Large enough for a `sockaddr_in` too, which is what it holds for IPv4.
    private var storage = sockaddr_in6()
    let description: String

    init(_ endpoint: Endpoint) {
        description = "\(endpoint)"
        withUnsafeMutableBytes(of: &storage) {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = endpoint.port.bigEndian
            address.sin_addr.s_addr = endpoint.addressIPv4.networkBytes
            $0.storeBytes(of: address, as: sockaddr_in.self)
        }
    }

    init(_ address: IPv6Address, port: UInt16) {
        description = "[\(address)]:\(port)"
        storage.sin6_family = sa_family_t(AF_INET6)
        storage.sin6_port = port.bigEndian
        withUnsafeMutableBytes(of: &storage.sin6_addr) {
            $0.storeBytes(of: address.high.bigEndian, as: UInt64.self)
            $0.storeBytes(of: address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
    }

    /// Parses `192.0.2.1:7000` and `[2001:db8::1]:7000`.
    static func parse(_ text: String) throws -> SocketAddress {
        guard text.hasPrefix("[") else { return SocketAddress(try parseEndpoint(text)) }
        let parts = text.dropFirst().split(separator: "]:", maxSplits: 1)
        guard parts.count == 2, let address = IPv6Address(parts[0]), let port = UInt16(parts[1]) else {
            throw ValidationError("\(text): expected ADDRESS:PORT or [ADDRESS]:PORT")
        }
        return SocketAddress(address, port: port)
    }

    var family: Int32 { Int32(storage.sin6_family) }
    var isIPv6: Bool { family == AF_INET6 }

    /// Calls a function with the address for as long as that call lasts.
    func withPointer<Result>(
        _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result
    ) rethrows -> Result {
        let length = isIPv6 ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
        return try withUnsafePointer(to: storage) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { try body($0, socklen_t(length)) }
        }
    }
}
