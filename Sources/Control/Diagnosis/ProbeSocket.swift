import Addresses
import CLinux
import Glibc

/// A socket that keeps the ICMP errors about what it sent, and never fragments. Nothing here waits.
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
        /// What it says.
        enum Kind: Equatable {
            /// The packet is too large for the way.
            case tooLarge
            /// "Destination unreachable", with the code of RFC 792, for IPv6 too.
            case unreachable(UInt8)
        }

        /// What it says.
        var kind: Kind
        /// Where the packet went; the port in host byte order, 0 for an ICMP message.
        var destination: Endpoint
        /// Who sent the error.
        var sender: IPAddress
        /// What it quotes of the payload, 8 bytes at most.
        var quoted: [UInt8]
    }

    /// `SOL_RAW` and `ICMP_FILTER` of linux/icmp.h, `ICMPV6_FILTER` of linux/icmpv6.h, which Swift's Glibc lacks.
    private static let rawLevel: Int32 = 255
    private static let icmpFilter: Int32 = 1
    private static let icmpv6Filter: Int32 = 1

    /// The file descriptor, which this object closes.
    let descriptor: Int32
    /// Of the address that it sends from.
    let family: AddressFamily

    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// - Parameter source: the address that it sends from.
    /// - Throws: `ProbeSocketError`, where the kernel refuses.
    init(_ kind: Kind, source: IPAddress) throws(ProbeSocketError) {
        family = source.addressFamily
        let isIPv4 = family == .ipv4
        let type = kind == .echo ? Int32(SOCK_RAW.rawValue) : Int32(SOCK_DGRAM.rawValue)
        descriptor = socket(
            isIPv4 ? AF_INET : AF_INET6,
            type | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue),
            kind != .echo ? 0 : isIPv4 ? Int32(IPPROTO_ICMP) : Int32(IPPROTO_ICMPV6))
        guard descriptor >= 0 else { throw ProbeSocketError("open a socket for echo requests") }
        set(SOL_SOCKET, SO_RCVBUF, 1 << 20)
        if kind == .echo { hideAllButReplies() }
        let isBound = Endpoint(address: source, port: 0).withSocketName { bind(descriptor, $0, $1) } == 0
        guard isBound else { throw ProbeSocketError("send from \(source)") }
        let keepsSize =
            isIPv4
            ? set(Int32(IPPROTO_IP), IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            : set(Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
                && set(Int32(IPPROTO_IPV6), IPV6_DONTFRAG, 1)
        guard keepsSize, twill_keep_icmp_errors(descriptor, isIPv4 ? 0 : 1) == 0 else {
            throw ProbeSocketError("ask for ICMP errors")
        }
    }

    /// Has the kernel keep all types but echo replies back: a bit that is set hides a type (raw(7), icmp6_filter of RFC
    /// 3542), in one word for ICMP, in eight for ICMPv6. Errors come by the error queue all the same.
    private func hideAllButReplies() {
        let type = Int(EchoMessage.replyType(family))
        var hidden = [UInt32](repeating: .max, count: family == .ipv4 ? 1 : 8)
        hidden[type / 32] &= ~(UInt32(1) << UInt32(truncatingIfNeeded: type % 32))
        _ = setsockopt(
            descriptor, family == .ipv4 ? Self.rawLevel : Int32(IPPROTO_ICMPV6),
            family == .ipv4 ? Self.icmpFilter : Self.icmpv6Filter, &hidden,
            socklen_t(truncatingIfNeeded: hidden.count * MemoryLayout<UInt32>.size))
    }

    @discardableResult
    private func set(_ level: Int32, _ option: Int32, _ value: Int32) -> Bool {
        var value = value
        return setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) == 0
    }

    // It runs for one that could not be made, too.
    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Sends bytes; gives the kernel's error number, 0 where it took them.
    func send(_ bytes: [UInt8], to destination: Endpoint) -> Int32 {
        let count = destination.withSocketName { name, length in
            sendto(descriptor, bytes, bytes.count, Int32(MSG_DONTWAIT), name, length)
        }
        return count == bytes.count ? 0 : errno
    }

    /// Takes the next error that says that a packet did not arrive; nil where there is none.
    func nextFailure() -> Failure? {
        var quoted = [UInt8](repeating: 0, count: 8)
        while true {
            var error = twill_icmp_error()
            let count = twill_next_icmp_error(descriptor, &quoted, quoted.count, &error)
            guard count >= 0 else { return nil }
            guard let destination = Endpoint(error.destination), let sender = Endpoint(error.offender),
                let kind = Failure.Kind(destination.address.addressFamily, type: error.type, code: error.code)
            else { continue }
            return Failure(
                kind: kind, destination: destination, sender: sender.address,
                quoted: Array(quoted.prefix(count)))
        }
    }

    /// Takes the next echo reply, of IPv4 with the packet's header before it; nil where there is none.
    func nextReply() -> [UInt8]? {
        // IPv4's header with options, and ICMP's: what is behind them is not read.
        var bytes = [UInt8](repeating: 0, count: 68)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes.prefix(count)) : nil
    }
}

extension ProbeSocket.Failure.Kind {
    /// Reads an error's type and code as RFC 792 has them, or RFC 4443 (3.1, 3.2) for IPv6; nil for one that is about
    /// something else.
    init?(_ family: AddressFamily, type: UInt8, code: UInt8) {
        switch (family, type, code) {
        case (.ipv4, 3, 4), (.ipv6, 2, _): self = .tooLarge
        case (.ipv4, 3, let code): self = .unreachable(code)
        // An address that does not answer; a port; and what is prohibited, by a filter, a policy or a route.
        case (.ipv6, 1, 3): self = .unreachable(1)
        case (.ipv6, 1, 4): self = .unreachable(3)
        case (.ipv6, 1, 1), (.ipv6, 1, 5), (.ipv6, 1, 6): self = .unreachable(13)
        case (.ipv6, 1, _): self = .unreachable(0)
        default: return nil
        }
    }
}

/// A socket for probes could not be made.
public struct ProbeSocketError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What could not be done, and why.
    public let description: String
    /// Whether a right is lacking.
    public let isPermission: Bool

    /// Reads `errno`.
    init(_ action: String) {
        let number = errno
        description = "cannot \(action): \(String(cString: strerror(number)))"
        isPermission = number == EPERM || number == EACCES
    }
}
