import Addresses
import CLinux
import Glibc

/// A socket that keeps the ICMP errors about what it sent, and never fragments. IPv4. Nothing here waits.
final class ProbeSocket {
    /// What is sent.
    enum Kind {
        /// ICMP messages, with their header; needs CAP_NET_RAW.
        case echo
        /// UDP payloads.
        case datagrams
    }

    /// An ICMP error about something that was sent.
    struct Failure {
        /// RFC 792: 3 is "destination unreachable"; 255 where the kernel tells something else.
        var type: UInt8
        /// As RFC 792 has it.
        var code: UInt8
        /// Where the packet went; the port in host byte order, 0 for an ICMP message.
        var destination: Endpoint
        /// Who sent the error.
        var sender: IPAddress
        /// What it quotes of the payload, 8 bytes at most.
        var quoted: [UInt8]
    }

    /// `SOL_RAW` and `ICMP_FILTER` of linux/icmp.h, which Swift's Glibc lacks.
    private static let rawLevel: Int32 = 255
    private static let icmpFilter: Int32 = 1

    /// The file descriptor, which this object closes.
    let descriptor: Int32

    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// - Parameter source: the address that it sends from.
    /// - Throws: `ProbeSocketError`, where the kernel refuses.
    init(_ kind: Kind, source: IPAddress) throws(ProbeSocketError) {
        let type = kind == .echo ? Int32(SOCK_RAW.rawValue) : Int32(SOCK_DGRAM.rawValue)
        descriptor = socket(
            AF_INET, type | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue),
            kind == .echo ? Int32(IPPROTO_ICMP) : 0)
        guard descriptor >= 0 else { throw ProbeSocketError("open a socket for echo requests") }
        var discovery = Int32(IP_PMTUDISC_PROBE)
        var bufferBytes: Int32 = 1 << 20
        let size = socklen_t(MemoryLayout<Int32>.size)
        _ = setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bufferBytes, size)
        if kind == .echo {
            // All types but echo replies are filtered out (raw(7)): a bit that is set hides a type. Errors come by the
            // error queue all the same.
            var hidden = ~(UInt32(1) << UInt32(EchoMessage.replyType))
            _ = setsockopt(descriptor, Self.rawLevel, Self.icmpFilter, &hidden, size)
        }
        let isBound = Endpoint(address: source, port: 0).withSocketName { bind(descriptor, $0, $1) } == 0
        guard isBound else { throw ProbeSocketError("send from \(source)", closing: descriptor) }
        guard setsockopt(descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &discovery, size) == 0,
            twill_keep_icmp_errors(descriptor) == 0
        else { throw ProbeSocketError("ask for ICMP errors", closing: descriptor) }
    }

    deinit { close(descriptor) }

    /// Sends bytes; gives the kernel's error number, 0 where it took them.
    func send(_ bytes: [UInt8], to destination: Endpoint) -> Int32 {
        let count = destination.withSocketName { name, length in
            sendto(descriptor, bytes, bytes.count, Int32(MSG_DONTWAIT), name, length)
        }
        return count == bytes.count ? 0 : errno
    }

    /// Takes the next error; nil where there is none.
    func nextFailure() -> Failure? {
        var quoted = [UInt8](repeating: 0, count: 8)
        var error = twill_icmp_error()
        let count = twill_next_icmp_error(descriptor, &quoted, quoted.count, &error)
        guard count >= 0 else { return nil }
        return Failure(
            type: error.type, code: error.code,
            destination: Endpoint(
                address: IPv4Address(networkBytes: error.destination), port: UInt16(bigEndian: error.port)),
            sender: .v4(IPv4Address(networkBytes: error.offender)), quoted: Array(quoted.prefix(count)))
    }

    /// Takes the next echo reply, IPv4's header before it; nil where there is none.
    func nextReply() -> [UInt8]? {
        // IPv4's header with options, and ICMP's: what is behind them is not read.
        var bytes = [UInt8](repeating: 0, count: 68)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes.prefix(count)) : nil
    }
}

/// A socket for probes could not be made.
public struct ProbeSocketError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What could not be done, and why.
    public let description: String
    /// Whether a right is lacking.
    public let isPermission: Bool

    /// Reads `errno`, and closes a descriptor that is of no use any more.
    init(_ action: String, closing descriptor: Int32? = nil) {
        let number = errno
        if let descriptor { close(descriptor) }
        description = "cannot \(action): \(String(cString: strerror(number)))"
        isPermission = number == EPERM || number == EACCES
    }
}
