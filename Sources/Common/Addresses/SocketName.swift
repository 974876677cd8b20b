// The names of sockets, `sockaddr_in` and `sockaddr_in6`, as the kernel reads and writes them (ip(7), ipv6(7)). Both
// begin with the family (16 bits, the machine's order) and the port (network order). An IPv4 address follows at
// offset 4; an IPv6 address at offset 8, between the flow information and the scope, which are 0 here.

import Glibc

/// Where the parts of a socket's name lie.
public enum SocketName {
    /// Bytes of room that a name of either family fits into.
    @inlinable @inline(__always)
    public static var room: Int { 32 }
    /// Bytes of a `sockaddr_in`.
    @inlinable @inline(__always)
    public static var bytesIPv4: Int { 16 }
    /// Bytes of a `sockaddr_in6`.
    @inlinable @inline(__always)
    public static var bytesIPv6: Int { 28 }
    @usableFromInline @inline(__always)
    static var port: Int { 2 }
    @usableFromInline @inline(__always)
    static var addressIPv4: Int { 4 }
    @usableFromInline @inline(__always)
    static var addressIPv6: Int { 8 }
}

extension Endpoint {
    /// Writes the endpoint as a socket's name.
    ///
    /// - Parameter name: `SocketName.room` bytes, aligned to 4; those of an IPv6 name that are not written here are 0
    ///   already.
    /// - Returns: how many of the bytes are the name.
    @inlinable @inline(__always)
    public func writeSocketName(to name: UnsafeMutableRawPointer) -> Int {
        name.storeBytes(of: port.bigEndian, toByteOffset: SocketName.port, as: UInt16.self)
        switch address {
        case .v4(let address):
            name.storeBytes(of: UInt16(truncatingIfNeeded: AF_INET), as: UInt16.self)
            name.storeBytes(of: address.networkBytes, toByteOffset: SocketName.addressIPv4, as: UInt32.self)
            return SocketName.bytesIPv4
        case .v6(let address):
            name.storeBytes(of: UInt16(truncatingIfNeeded: AF_INET6), as: UInt16.self)
            name.storeBytes(of: 0, toByteOffset: SocketName.addressIPv4, as: UInt32.self)
            name.storeBytes(
                of: address.high.bigEndian, toByteOffset: SocketName.addressIPv6, as: UInt64.self)
            name.storeBytes(
                of: address.low.bigEndian, toByteOffset: SocketName.addressIPv6 &+ 8, as: UInt64.self)
            return SocketName.bytesIPv6
        }
    }

    /// Calls `body` with the endpoint as a socket's name, which is valid during the call alone, and its length.
    public func withSocketName<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var storage = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
        return withUnsafeMutableBytes(of: &storage) { bytes in
            // checked: a tuple of 32 bytes has a base address.
            let start = bytes.baseAddress.unsafelyUnwrapped
            let length = writeSocketName(to: start)
            return body(
                UnsafePointer(start.assumingMemoryBound(to: sockaddr.self)),
                socklen_t(truncatingIfNeeded: length))
        }
    }
}

extension Endpoint {
    /// What a socket is bound to; nil where it is of neither family, or the descriptor is no socket.
    public init?(boundBy descriptor: Int32) {
        var storage = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
        var length = socklen_t(truncatingIfNeeded: SocketName.room)
        let bound = withUnsafeMutableBytes(of: &storage) { bytes -> Endpoint? in
            // checked: a tuple of 32 bytes has a base address.
            let start = bytes.baseAddress.unsafelyUnwrapped
            guard getsockname(descriptor, start.assumingMemoryBound(to: sockaddr.self), &length) == 0 else {
                return nil
            }
            return Endpoint(socketName: start)
        }
        guard let bound else { return nil }
        self = bound
    }

    /// Reads a socket's name; nil where it is of neither family.
    public init?(_ name: sockaddr_storage) {
        // checked: a structure of 128 bytes has a base address.
        let read = withUnsafeBytes(of: name) { Endpoint(socketName: $0.baseAddress.unsafelyUnwrapped) }
        guard let read else { return nil }
        self = read
    }

    /// Reads a socket's name; nil where it is of neither family.
    ///
    /// - Parameter name: `SocketName.room` bytes, aligned to 4, as the kernel left them.
    @inlinable
    public init?(socketName name: UnsafeRawPointer) {
        guard let address = IPAddress(socketName: name) else { return nil }
        self.init(
            address: address,
            port: UInt16(bigEndian: name.load(fromByteOffset: SocketName.port, as: UInt16.self)))
    }
}

extension IPAddress {
    /// Reads the address of a socket's name; nil where it is of neither family.
    ///
    /// - Parameter name: `SocketName.room` bytes, aligned to 4, as the kernel left them.
    @inlinable @inline(__always)
    public init?(socketName name: UnsafeRawPointer) {
        switch Int32(name.load(as: UInt16.self)) {
        case AF_INET:
            self = .v4(
                IPv4Address(
                    networkBytes: name.load(fromByteOffset: SocketName.addressIPv4, as: UInt32.self)))
        case AF_INET6:
            self = .v6(
                IPv6Address(
                    high: UInt64(
                        bigEndian: name.loadUnaligned(
                            fromByteOffset: SocketName.addressIPv6, as: UInt64.self)),
                    low: UInt64(
                        bigEndian: name.loadUnaligned(
                            fromByteOffset: SocketName.addressIPv6 &+ 8, as: UInt64.self))))
        default: return nil
        }
    }
}
