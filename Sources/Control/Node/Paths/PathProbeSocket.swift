import Addresses
import CLinux
import Glibc

/// Sends probes through the tunnel, and takes what comes back. Nothing here waits.
///
/// A probe is a UDP datagram to a port that nobody listens on, and its answer ICMP's "port unreachable": any socket
/// may send and read these, where echo requests need CAP_NET_RAW. The answer quotes 576 bytes at most, or of IPv6 what
/// makes it 1280 long, so that it says something about this direction alone, which is the one that this node can do
/// something about. The ports are traceroute's: firewalls and whoever watches them know what it is.
final class PathProbeSocket {
    /// The first of `PathSearch.sequences` ports. Each attempt goes to another one, so that a program that happens to
    /// listen on one of them swallows one of them only.
    static let firstPort: UInt16 = 33_434

    /// So many answers are taken in one turn: all that can be under way.
    private static let answersPerTurn = 256

    /// UDP's header.
    private static let headerBytes = 8

    /// The address that it sends from.
    let address: IPAddress
    private let descriptor: Int32
    private let nonce: UInt64
    private var payload: [UInt8] = []

    /// Opens a socket in the network namespace of the calling thread, bound to this node's tunnel address. Gives nil
    /// where the kernel refuses (the address is not there yet).
    init?(address: IPAddress) {
        self.address = address
        nonce = UInt64.random(in: 1...UInt64.max)
        let isIPv6 = address.addressFamily == .ipv6
        descriptor = socket(
            isIPv6 ? AF_INET6 : AF_INET,
            Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        // DF, and whatever a route of ours says the path carries: that is what is asked.
        func set(_ level: Int32, _ option: Int32, _ value: Int32) -> Bool {
            var value = value
            let size = socklen_t(MemoryLayout<Int32>.size)
            return setsockopt(descriptor, level, option, &value, size) == 0
        }
        let isSet =
            isIPv6
            ? set(Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
                && set(Int32(IPPROTO_IPV6), IPV6_DONTFRAG, 1)
            : set(Int32(IPPROTO_IP), IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        guard isSet, twill_keep_icmp_errors(descriptor, isIPv6 ? 1 : 0) == 0,
            Endpoint(address: address, port: 0).withSocketName({ bind(descriptor, $0, $1) }) == 0
        else { return nil }
    }

    // It runs for one that could not be made, too.
    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Sends an inner packet of `size` bytes, and gives whether the kernel took it.
    func send(to address: IPAddress, sequence: Int, size: Int) -> Bool {
        let headers = PathProbeSocket.headerBytes + address.addressFamily.headerBytes
        let count = max(size - headers, MemoryLayout<UInt64>.size)
        if payload.count < count { payload += Array(repeating: 0, count: count - payload.count) }
        withUnsafeBytes(of: nonce) { payload.replaceSubrange(0..<$0.count, with: $0) }
        let target = Endpoint(
            address: address, port: PathProbeSocket.firstPort + UInt16(truncatingIfNeeded: sequence))
        // An error that came for an earlier probe is told by the next send, which then sends nothing.
        for _ in 0..<PathProbeSocket.answersPerTurn {
            let sent = target.withSocketName {
                sendto(descriptor, payload, count, Int32(MSG_DONTWAIT), $0, $1)
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
    func answers() -> [(peer: IPAddress, sequence: Int)] {
        var answers: [(peer: IPAddress, sequence: Int)] = []
        var quoted: UInt64 = 0
        for _ in 0..<PathProbeSocket.answersPerTurn {
            var error = twill_icmp_error()
            let count = twill_next_icmp_error(descriptor, &quoted, MemoryLayout<UInt64>.size, &error)
            if count < 0 { break }
            guard let destination = Endpoint(error.destination) else { continue }
            let sequence = Int(destination.port) - Int(PathProbeSocket.firstPort)
            guard isArrival(error), Endpoint(error.offender)?.address == destination.address,
                count == MemoryLayout<UInt64>.size, quoted == nonce,
                (0..<PathSearch.sequences).contains(sequence)
            else { continue }
            answers.append((destination.address, sequence))
        }
        // What a program on one of the ports answers is not read; it must not fill the buffer that errors share.
        var byte: UInt8 = 0
        for _ in 0..<PathProbeSocket.answersPerTurn {
            if recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) < 0 { break }
        }
        return answers
    }

    /// Whether an error is "port unreachable", or what a firewall of the peer says instead: it has arrived either way. All
    /// other errors are routers', or this machine's own.
    private func isArrival(_ error: twill_icmp_error) -> Bool {
        switch address {
        case .v4: error.type == 3 && [3, 9, 10, 13].contains(error.code)
        case .v6: error.type == 1 && [1, 4, 5, 6].contains(error.code)
        }
    }
}
