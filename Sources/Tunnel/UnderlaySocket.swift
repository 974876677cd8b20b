import Addresses
import CLinux
import Glibc

/// What the kernel can do for UDP sockets.
public struct UnderlayOffloads: Sendable, Equatable {
    /// Whether one send can carry many datagrams (`UDP_SEGMENT`, Linux 4.18).
    public var segmentation: Bool
    /// Whether one receive can bring many (`UDP_GRO`, Linux 5.0).
    public var coalescing: Bool
    /// How many datagrams one send takes at most: 128, or 64 before Linux 6.9.
    public var segmentLimit: Int

    /// Makes a set.
    public init(segmentation: Bool, coalescing: Bool, segmentLimit: Int) {
        self.segmentation = segmentation
        self.coalescing = coalescing
        self.segmentLimit = segmentLimit
    }
}

/// Why a socket could not be made.
public struct UnderlaySocketError: Error, CustomStringConvertible, Equatable {
    /// What was tried, on what.
    public let action: String
    /// The kernel's error number.
    public let errorNumber: Int32

    /// What happened, to what, and what to do about it.
    public var description: String {
        let advice: String =
            switch errorNumber {
            case EADDRINUSE:
                "; another program has the port (flanneld? a second twilld?): stop it, or set Backend.Port in the network config"
            case EADDRNOTAVAIL: "; no interface of this machine has that address: see --iface and --public-ip"
            case EPERM, EACCES: "; run as root, or with CAP_NET_ADMIN"
            default: ""
            }
        return "cannot \(action): \(String(cString: strerror(errorNumber)))\(advice)"
    }
}

/// A UDP socket on the underlay.
public struct UnderlaySocket: Sendable {
    /// The socket; the owner closes it.
    public let descriptor: Int32
    /// What it can do.
    public let offloads: UnderlayOffloads
    /// The receive buffer in bytes as the kernel grants it (the kernel doubles what is asked for).
    public let receiveBufferBytes: Int

    /// Opens a socket and binds it.
    ///
    /// Datagrams leave with DF set (IP_PMTUDISC_DO), as flannel's do. Buffers are forced where CAP_NET_ADMIN
    /// allows it, and else go as high as net.core.rmem_max and wmem_max let them.
    ///
    /// - Parameters:
    ///   - endpoint: the address and port to bind.
    ///   - sharesPort: whether further sockets of this process bind the same port (SO_REUSEPORT).
    ///   - bufferBytes: send and receive buffer each.
    ///   - segmentation, coalescing: whether to use the offload where the kernel has it.
    public static func open(
        _ endpoint: Endpoint, sharesPort: Bool, bufferBytes: Int, segmentation: Bool, coalescing: Bool
    ) throws(UnderlaySocketError) -> UnderlaySocket {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else {
            throw UnderlaySocketError(action: "open a UDP socket", errorNumber: errno)
        }
        func set(_ level: Int32, _ option: Int32, _ value: Int32) -> Bool {
            var value = value
            return setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) == 0
        }
        if sharesPort { _ = set(SOL_SOCKET, SO_REUSEPORT, 1) }
        _ = set(Int32(IPPROTO_IP), IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        let bytes = Int32(clamping: bufferBytes)
        if !set(SOL_SOCKET, SO_RCVBUFFORCE, bytes) { _ = set(SOL_SOCKET, SO_RCVBUF, bytes) }
        if !set(SOL_SOCKET, SO_SNDBUFFORCE, bytes) { _ = set(SOL_SOCKET, SO_SNDBUF, bytes) }

        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = endpoint.port.bigEndian
        address.sin_addr.s_addr = endpoint.address.networkBytes
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard bound == 0 else {
            let error = UnderlaySocketError(action: "bind UDP \(endpoint)", errorNumber: errno)
            Glibc.close(descriptor)
            throw error
        }
        let coalesces = coalescing && set(Int32(IPPROTO_UDP), UDP_GRO, 1)
        var granted: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &granted, &size)
        let limit = segmentation ? probeSegmentLimit() : 0
        return UnderlaySocket(
            descriptor: descriptor,
            offloads: UnderlayOffloads(
                segmentation: limit > 0, coalescing: coalesces, segmentLimit: max(limit, 1)),
            receiveBufferBytes: Int(granted))
    }

    /// How many segments one send takes on this kernel: 128 or 64, found by sending that many one-byte segments
    /// to a socket of our own on loopback; 0 where `UDP_SEGMENT` is missing.
    public static func probeSegmentLimit() -> Int {
        for limit in [128, 64] where twill_udp_segments_accepted(Int32(limit)) == 1 { return limit }
        return 0
    }

    /// Closes the socket.
    public func close() { Glibc.close(descriptor) }
}
