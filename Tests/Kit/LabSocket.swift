import Addresses
import Glibc
import NetworkNamespaces

/// A socket could not be had.
public struct NoSocket: Error, CustomStringConvertible {
    /// What was tried, and the error.
    public let description: String
}

/// A UDP socket in a node's or a pod's namespace. It is closed with this object.
public final class LabSocket: Sendable {
    private let descriptor: Int32

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// Opens a socket that receives what comes to a port, at any address of the host.
    public static func receiving(on port: UInt16, of host: some LabHost) async throws -> LabSocket {
        try await make(host, named: .v4(IPv4Address(bits: 0)), port: port, "bind to port \(port)") {
            bind($0, $1, $2)
        }
    }

    /// Opens a socket that sends to an address. What the network says of what it sent is its error.
    ///
    /// - Parameter hasChecksum: whether its datagrams have a checksum; those of a kernel path have none.
    public static func sending(
        to address: IPv4Address, port: UInt16, from host: some LabHost, hasChecksum: Bool = true
    ) async throws -> LabSocket {
        try await sending(to: .v4(address), port: port, from: host, hasChecksum: hasChecksum)
    }

    /// The same to an address of either family.
    public static func sending(
        to address: IPAddress, port: UInt16, from host: some LabHost, hasChecksum: Bool = true
    ) async throws -> LabSocket {
        let socket = try await make(host, named: address, port: port, "reach \(address)") {
            connect($0, $1, $2)
        }
        func set(_ level: Int32, _ option: Int32) {
            var on: Int32 = 1
            setsockopt(socket.descriptor, level, option, &on, socklen_t(MemoryLayout<Int32>.size))
        }
        switch address {
        case .v4:
            set(Int32(IPPROTO_IP), IP_RECVERR)
            if !hasChecksum { set(SOL_SOCKET, SO_NO_CHECK) }
        case .v6:
            set(Int32(IPPROTO_IPV6), IPV6_RECVERR)
            // UDP_NO_CHECK6_TX of linux/udp.h.
            if !hasChecksum { set(Int32(IPPROTO_UDP), 101) }
        }
        return socket
    }

    /// Opens a socket whose datagrams leave by an interface as IP packets of whatever bytes, past the host's own IP
    /// (packet(7)).
    public static func injecting(
        into interface: String, of host: some LabHost, family: AddressFamily = .ipv4
    ) async throws -> LabSocket {
        try await host.namespace.run {
            let made = LabSocket(
                socket(AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
            // struct sockaddr_ll: family, protocol (ETH_P_IP or ETH_P_IPV6), the interface's number.
            var name = [UInt8](repeating: 0, count: 20)
            let number = if_nametoindex(interface)
            name.withUnsafeMutableBytes { bytes in
                bytes.storeBytes(of: UInt16(AF_PACKET), as: UInt16.self)
                bytes.storeBytes(
                    of: UInt16(family == .ipv4 ? 0x0800 : 0x86DD).bigEndian, toByteOffset: 2, as: UInt16.self)
                bytes.storeBytes(of: Int32(bitPattern: number), toByteOffset: 4, as: Int32.self)
            }
            let result = name.withUnsafeBytes { bytes in
                bind(made.descriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), 20)
            }
            guard number > 0, result == 0 else {
                throw NoSocket(
                    description: "cannot inject into \(interface): \(String(cString: strerror(errno)))")
            }
            return made
        }
    }

    private static func make(
        _ host: some LabHost, named address: IPAddress, port: UInt16, _ action: String,
        _ call: @escaping @Sendable (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) async throws -> LabSocket {
        try await host.namespace.run {
            let made = LabSocket(
                socket(
                    address.v4 == nil ? AF_INET6 : AF_INET,
                    Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
            let result = Endpoint(address: address, port: port).withSocketName {
                call(made.descriptor, $0, $1)
            }
            guard result == 0 else {
                throw NoSocket(description: "cannot \(action): \(String(cString: strerror(errno)))")
            }
            return made
        }
    }

    /// Sends one datagram, once there is room for it.
    public func send(_ bytes: [UInt8] = [0x78]) { _ = Glibc.send(descriptor, bytes, bytes.count, 0) }

    /// Takes a datagram of up to 64 KiB; nil where none is there.
    public func receive() -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes[..<count]) : nil
    }

    /// Takes the error that the network answered what was sent with; 0 where there is none.
    public func error() -> Int32 {
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length)
        return number
    }

    /// Sends datagrams one after the other, over and over, on a thread of its own.
    ///
    /// - Parameters:
    ///   - rate: datagrams a second.
    /// - Returns: how many were sent.
    public func flood(_ datagrams: [[UInt8]], seconds: Double, rate: Int) async -> Int {
        await withCheckedContinuation { continuation in
            let job = Unmanaged.passRetained(
                Job { continuation.resume(returning: self.work(datagrams, seconds: seconds, rate: rate)) })
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    if let argument { Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().run() }
                    return nil
                }, job.toOpaque())
            pthread_detach(thread)
        }
    }

    private final class Job: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private func work(_ datagrams: [[UInt8]], seconds: Double, rate: Int) -> Int {
        let clock = ContinuousClock()
        let start = clock.now
        var sent = 0
        while true {
            let elapsed = (clock.now - start) / .seconds(1)
            if elapsed >= seconds { return sent }
            guard Double(sent) < elapsed * Double(rate) else {
                usleep(200)
                continue
            }
            for _ in 0..<16 {
                send(datagrams[sent % datagrams.count])
                sent += 1
            }
        }
    }
}
