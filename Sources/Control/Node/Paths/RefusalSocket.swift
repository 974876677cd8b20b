import Addresses
import CLinux
import Glibc

/// Hears what hosts say of datagrams that nobody took there: ICMP "port unreachable" (RFC 792, RFC 4443), which the kernel
/// gives to none of the data plane's sockets, as anybody can forge it (ADR 13). Needs CAP_NET_RAW. Nothing here waits.
final class RefusalSocket {
    /// So many are taken at once; a kernel sends one a second to each other host (icmp_ratelimit).
    private static let messagesPerLook = 64
    /// What the kernel keeps of them meanwhile, in bytes.
    private static let bufferBytes: Int32 = 64 << 10
    /// `SOL_RAW` and `ICMP_FILTER` of linux/icmp.h, `ICMPV6_FILTER` of linux/icmpv6.h, which Swift's Glibc lacks.
    private static let rawLevel: Int32 = 255
    private static let icmpFilter: Int32 = 1
    private static let icmpv6Filter: Int32 = 1
    /// UDP's number in a packet's header.
    private static let udp: UInt8 = 17

    /// Of which addresses the hosts are.
    let family: AddressFamily
    private let descriptor: Int32

    /// Opens a socket in the network namespace of the calling thread; gives nil where the kernel refuses.
    init?(_ family: AddressFamily) {
        self.family = family
        descriptor = socket(
            family == .ipv4 ? AF_INET : AF_INET6,
            Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue),
            family == .ipv4 ? Int32(IPPROTO_ICMP) : Int32(IPPROTO_ICMPV6))
        guard descriptor >= 0 else { return nil }
        var bytes = RefusalSocket.bufferBytes
        _ = setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
        // A bit that is set hides a type (raw(7), icmp6_filter of RFC 3542): one word for ICMP, eight for ICMPv6.
        var hidden = [UInt32](repeating: .max, count: family == .ipv4 ? 1 : 8)
        hidden[0] = ~(UInt32(1) << UInt32(family.unreachable.type))
        let isSet =
            setsockopt(
                descriptor, family == .ipv4 ? RefusalSocket.rawLevel : Int32(IPPROTO_ICMPV6),
                family == .ipv4 ? RefusalSocket.icmpFilter : RefusalSocket.icmpv6Filter, &hidden,
                socklen_t(truncatingIfNeeded: hidden.count * MemoryLayout<UInt32>.size)) == 0
        guard isSet else { return nil }
    }

    // It runs for one that could not be made, too.
    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Takes what has come: where the datagrams went that hosts refused by themselves.
    func refusals() -> [Endpoint] {
        var found: [Endpoint] = []
        // Two IPv4 headers with options, ICMP's and UDP's: what is behind them is not read. Of IPv6 the first is not among
        // what raw sockets get, and the sender stands beside the message.
        var bytes = [UInt8](repeating: 0, count: 136)
        var name = sockaddr_storage()
        for _ in 0..<RefusalSocket.messagesPerLook {
            var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let count = withUnsafeMutablePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    recvfrom(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT), $0, &size)
                }
            }
            if count < 0 { break }
            guard let sender = Endpoint(name)?.address else { continue }
            let packet = bytes.prefix(count)
            let message = family == .ipv4 ? packet.dropFirst(RefusalSocket.headerBytes(packet)) : packet
            if let endpoint = RefusalSocket.refused(message, by: sender) { found.append(endpoint) }
        }
        return found
    }

    /// Where the datagram went that a message is about; nil where it is about something else, or not from the
    /// host that the datagram went to.
    ///
    /// - Parameters:
    ///   - message: ICMP, without the header of the packet that brought it.
    ///   - sender: who sent it.
    static func refused(_ message: ArraySlice<UInt8>, by sender: IPAddress) -> Endpoint? {
        let family = sender.addressFamily
        guard message.count >= 8, message.first == family.unreachable.type,
            message.dropFirst().first == family.unreachable.port
        else { return nil }
        let quoted = message.dropFirst(8)
        // Where a header has the number of what follows, and the address that it went to.
        let (following, target) = family == .ipv4 ? (9, 16) : (6, 24)
        guard quoted.dropFirst(following).first == udp, address(in: quoted, at: target, family) == sender
        else {
            return nil
        }
        let length = family == .ipv4 ? headerBytes(quoted) : family.headerBytes
        let numbers = quoted.dropFirst(length).dropFirst(2).prefix(2)
        guard numbers.count == 2 else { return nil }
        return Endpoint(address: sender, port: numbers.reduce(0) { $0 << 8 | UInt16($1) })
    }

    /// The bytes of an IPv4 header.
    private static func headerBytes(_ packet: ArraySlice<UInt8>) -> Int { Int(packet.first ?? 0) % 16 * 4 }

    private static func address(
        in packet: ArraySlice<UInt8>, at offset: Int, _ family: AddressFamily
    ) -> IPAddress? {
        let bytes = packet.dropFirst(offset).prefix(family == .ipv4 ? 4 : 16)
        func number(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }
        switch family {
        case .ipv4:
            return bytes.count == 4
                ? .v4(IPv4Address(bits: UInt32(truncatingIfNeeded: number(bytes)))) : nil
        case .ipv6:
            return bytes.count == 16
                ? .v6(IPv6Address(high: number(bytes.prefix(8)), low: number(bytes.suffix(8)))) : nil
        }
    }
}

extension AddressFamily {
    /// ICMP's type "destination unreachable", and its code of a port.
    fileprivate var unreachable: (type: UInt8, port: UInt8) { self == .ipv4 ? (3, 3) : (1, 4) }
}
