import Addresses
import CLinux
import Glibc

/// Sends probes through the tunnel, and takes what comes back. Nothing here waits.
///
/// A probe is a UDP datagram to a port that nobody listens on, and its answer ICMP's "port unreachable": any socket
/// may send and read these, where echo requests need CAP_NET_RAW. The answer quotes 576 bytes at most, so that it
/// says something about this direction alone, which is the one that this node can do something about. The ports are
/// traceroute's: firewalls and whoever watches them know what it is.
final class PathProbeSocket {
    /// The first of `PathSearch.sequences` ports. Each attempt goes to another one, so that a program that happens to
    /// listen on one of them swallows one of them only.
    static let firstPort: UInt16 = 33_434

    /// So many answers are taken in one turn: all that can be under way.
    private static let answersPerTurn = 256

    /// IPv4's header and UDP's, without options.
    private static let headerBytes = 28

    private let descriptor: Int32
    private let local: IPv4Address
    private let nonce: UInt64
    private var payload: [UInt8] = []

    /// Opens a socket in the network namespace of the calling thread, bound to this node's tunnel address. Gives nil
    /// where the kernel refuses (the address is not there yet).
    init?(address: IPv4Address) {
        local = address
        nonce = UInt64.random(in: 1...UInt64.max)
        descriptor = socket(
            AF_INET,
            Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        var discovery = Int32(IP_PMTUDISC_PROBE)
        var name = PathProbeSocket.name(address, port: 0)
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        // DF, and whatever a route of ours says the path carries: that is what is asked.
        guard
            setsockopt(
                descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &discovery,
                socklen_t(MemoryLayout<Int32>.size))
                == 0,
            twill_keep_icmp_errors(descriptor) == 0,
            withUnsafePointer(
                to: &name,
                { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, size) } }) == 0
        else {
            close(descriptor)
            return nil
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Whether it sends from this address.
    func isBound(to address: IPv4Address) -> Bool { address == local }

    /// Sends an inner packet of `size` bytes, and gives whether the kernel took it.
    func send(to address: IPv4Address, sequence: Int, size: Int) -> Bool {
        let count = max(size - PathProbeSocket.headerBytes, MemoryLayout<UInt64>.size)
        if payload.count < count { payload += Array(repeating: 0, count: count - payload.count) }
        withUnsafeBytes(of: nonce) { payload.replaceSubrange(0..<$0.count, with: $0) }
        var name = PathProbeSocket.name(
            address, port: PathProbeSocket.firstPort + UInt16(truncatingIfNeeded: sequence))
        // An error that came for an earlier probe is told by the next send, which then sends nothing.
        for _ in 0..<PathProbeSocket.answersPerTurn {
            let sent = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    sendto(
                        descriptor, payload, count, Int32(MSG_DONTWAIT), $0,
                        socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            if sent == count { return true }
            // A full queue: lost, as anywhere on the way.
            if errno == ENOBUFS || errno == EAGAIN { return true }
            guard [ECONNREFUSED, EHOSTUNREACH, EACCES, EPROTO].contains(errno) else { return false }
            var pending: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            guard getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &pending, &size) == 0, pending != 0 else {
                continue
            }
        }
        return false
    }

    /// Takes the answers that are there: whom each is from, and to which probe.
    func answers() -> [(peer: IPv4Address, sequence: Int)] {
        var answers: [(peer: IPv4Address, sequence: Int)] = []
        var quoted: UInt64 = 0
        for _ in 0..<PathProbeSocket.answersPerTurn {
            var error = twill_icmp_error()
            let count = twill_next_icmp_error(descriptor, &quoted, MemoryLayout<UInt64>.size, &error)
            if count < 0 { break }
            let sequence = Int(UInt16(bigEndian: error.port)) - Int(PathProbeSocket.firstPort)
            // "Port unreachable", or what a firewall of the peer says instead: it has arrived either way. All other
            // errors are routers', or this machine's own.
            guard error.type == 3, [3, 9, 10, 13].contains(error.code),
                error.offender == error.destination, count == MemoryLayout<UInt64>.size, quoted == nonce,
                (0..<PathSearch.sequences).contains(sequence)
            else { continue }
            answers.append((IPv4Address(networkBytes: error.destination), sequence))
        }
        // What a program on one of the ports answers is not read; it must not fill the buffer that errors share.
        var byte: UInt8 = 0
        for _ in 0..<PathProbeSocket.answersPerTurn {
            if recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) < 0 { break }
        }
        return answers
    }

    private static func name(_ address: IPv4Address, port: UInt16) -> sockaddr_in {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = port.bigEndian
        name.sin_addr.s_addr = address.networkBytes
        return name
    }
}
