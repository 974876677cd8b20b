import Addresses
import CLinux
import Glibc

/// Hears what hosts say of datagrams that nobody took there: ICMP "port unreachable" (RFC 792), which the kernel gives to
/// none of the data plane's sockets, as anybody can forge it (ADR 13). Needs CAP_NET_RAW. Nothing here waits.
final class RefusalSocket {
    /// So many are taken at once; a kernel sends one a second to each other host (icmp_ratelimit).
    private static let messagesPerLook = 64
    /// What the kernel keeps of them meanwhile, in bytes.
    private static let bufferBytes: Int32 = 64 << 10
    /// `SOL_RAW` and `ICMP_FILTER` of linux/icmp.h, which Swift's Glibc lacks.
    private static let rawLevel: Int32 = 255
    private static let icmpFilter: Int32 = 1
    /// RFC 792's type of "destination unreachable", and its code of a port.
    private static let unreachable: UInt8 = 3
    private static let port: UInt8 = 3
    /// UDP's number in IPv4's header.
    private static let udp: UInt8 = 17

    private let descriptor: Int32

    /// Opens a socket in the network namespace of the calling thread; gives nil where the kernel refuses.
    init?() {
        descriptor = socket(
            AF_INET, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue),
            Int32(IPPROTO_ICMP))
        guard descriptor >= 0 else { return nil }
        let size = socklen_t(MemoryLayout<Int32>.size)
        var bytes = RefusalSocket.bufferBytes
        _ = setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, size)
        // A bit that is set hides a type (raw(7)).
        var hidden = ~(UInt32(1) << UInt32(RefusalSocket.unreachable))
        guard
            setsockopt(descriptor, RefusalSocket.rawLevel, RefusalSocket.icmpFilter, &hidden, size) == 0
        else {
            close(descriptor)
            return nil
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Takes what has come: where the datagrams went that hosts refused by themselves.
    func refusals() -> [Endpoint] {
        var found: [Endpoint] = []
        // Two IPv4 headers with options, ICMP's and UDP's: what is behind them is not read.
        var bytes = [UInt8](repeating: 0, count: 136)
        for _ in 0..<RefusalSocket.messagesPerLook {
            let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            if count < 0 { break }
            if let endpoint = RefusalSocket.refused(bytes.prefix(count)) { found.append(endpoint) }
        }
        return found
    }

    /// Where the datagram went that a message is about; nil where it is about something else, or not from the
    /// host that the datagram went to.
    ///
    /// - Parameter packet: an IPv4 packet, as raw sockets get it.
    static func refused(_ packet: ArraySlice<UInt8>) -> Endpoint? {
        guard let sender = address(in: packet, at: 12) else { return nil }
        let message = packet.dropFirst(headerBytes(packet))
        guard message.count >= 8, message.first == unreachable, message.dropFirst().first == port else {
            return nil
        }
        let quoted = message.dropFirst(8)
        guard quoted.dropFirst(9).first == udp, let target = address(in: quoted, at: 16),
            target == sender
        else { return nil }
        let numbers = quoted.dropFirst(headerBytes(quoted)).dropFirst(2).prefix(2)
        guard numbers.count == 2 else { return nil }
        return Endpoint(address: target, port: numbers.reduce(0) { $0 << 8 | UInt16($1) })
    }

    private static func headerBytes(_ packet: ArraySlice<UInt8>) -> Int { Int(packet.first ?? 0) % 16 * 4 }

    private static func address(in packet: ArraySlice<UInt8>, at offset: Int) -> IPv4Address? {
        let four = packet.dropFirst(offset).prefix(4)
        return four.count == 4 ? IPv4Address(bits: four.reduce(0) { $0 << 8 | UInt32($1) }) : nil
    }
}
