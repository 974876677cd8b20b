import Addresses
import CLinux
import Glibc

/// Probes through the kernel's sockets. Only `events(until:)` waits.
///
/// Its sockets are of the network namespace of the thread that makes it. Echo requests need CAP_NET_RAW.
public final class KernelProbes: ProbeNetwork {
    /// traceroute's first port: firewalls, and whoever watches them, know what it is.
    private static let firstClosedPort: UInt16 = 33_434
    /// So many ports are used, so that a program that happens to listen on one of them hides one probe alone.
    private static let closedPortCount: UInt16 = 90

    private let hostEchoes: ProbeSocket
    private let tunnelEchoes: ProbeSocket
    private let hostDatagrams: ProbeSocket
    private let tunnelDatagrams: ProbeSocket
    /// The numbers of the datagrams, which their errors do not quote, by where they went.
    private var datagrams: [Endpoint: UInt16] = [:]
    private var found: [ProbeEvent] = []
    /// In each echo request, so that another program's answers are not taken for these.
    private let identifier = UInt16.random(in: 1...UInt16.max)

    /// Opens the sockets.
    ///
    /// - Throws: `ProbeSocketError`, where the kernel refuses one.
    public init(from node: ExaminingNode) throws(ProbeSocketError) {
        hostEchoes = try ProbeSocket(.echo, source: node.underlayAddress)
        tunnelEchoes = try ProbeSocket(.echo, source: node.tunnelAddress)
        hostDatagrams = try ProbeSocket(.datagrams, source: node.underlayAddress)
        tunnelDatagrams = try ProbeSocket(.datagrams, source: node.tunnelAddress)
    }

    /// The time.
    public var now: ContinuousClock.Instant { .now }

    private func socket(_ way: Probe.Way) -> ProbeSocket {
        switch way {
        case .host: hostEchoes
        case .tunnel, .kernelPath: tunnelEchoes
        case .port: hostDatagrams
        case .tunnelThere: tunnelDatagrams
        }
    }

    /// Sends a probe; what keeps it from being sent is an event.
    public func send(_ probe: Probe) {
        let socket = socket(probe.way)
        var destination = probe.destination
        let bytes: [UInt8]
        switch probe.way {
        case .host, .tunnel, .kernelPath:
            destination.port = 0
            bytes = EchoMessage.request(
                socket.family, identifier: identifier, sequence: probe.number, packetBytes: probe.size)
        case .port, .tunnelThere:
            if probe.way == .tunnelThere {
                destination.port = Self.firstClosedPort + probe.number % Self.closedPortCount
            }
            datagrams[destination] = probe.number
            let headers = ExaminationTiming.emptyDatagramSize(socket.family)
            bytes = [UInt8](repeating: 0, count: max(0, probe.size - headers))
        }
        // An error about an earlier probe may be what a send tells; it is taken first, and by the next try.
        for isLastTry in [false, false, true] {
            takeFailures(of: socket)
            let error = socket.send(bytes, to: destination)
            switch error {
            // Lost in a full queue, as anywhere on the way.
            case 0, ENOBUFS, EAGAIN: return
            case ECONNREFUSED where !isLastTry, EHOSTUNREACH where !isLastTry: continue
            case EMSGSIZE: return note(probe.number, .tooLarge)
            case EPERM:
                return note(probe.number, .notSent("a packet filter rule of this machine drops it"))
            default: return note(probe.number, .notSent(String(cString: strerror(error))))
            }
        }
    }

    /// Waits until something has come, or until `deadline`; gives what has come.
    public func events(until deadline: ContinuousClock.Instant) -> [ProbeEvent] {
        let sockets = [hostEchoes, tunnelEchoes, hostDatagrams, tunnelDatagrams]
        while true {
            for socket in sockets { takeFailures(of: socket) }
            takeReplies(of: hostEchoes)
            takeReplies(of: tunnelEchoes)
            if !found.isEmpty {
                defer { found = [] }
                return found
            }
            let left = deadline - now
            guard left > .zero else { return [] }
            let (seconds, attoseconds) = left.components
            let milliseconds = seconds &* 1000 &+ attoseconds / 1_000_000_000_000_000
            var waits = sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
            poll(&waits, nfds_t(clamping: waits.count), Int32(clamping: milliseconds &+ 1))
        }
    }

    private func note(_ number: UInt16, _ outcome: ProbeEvent.Outcome) {
        found.append(ProbeEvent(number: number, outcome: outcome, instant: now))
    }

    private func takeReplies(of socket: ProbeSocket) {
        while let bytes = socket.nextReply() {
            guard let reply = EchoMessage(reply: bytes, socket.family), reply.identifier == identifier else {
                continue
            }
            note(reply.sequence, .answered)
        }
    }

    private func takeFailures(of socket: ProbeSocket) {
        while let failure = socket.nextFailure() {
            guard let number = number(of: failure) else { continue }
            switch failure.kind {
            case .tooLarge:
                note(number, .tooLarge)
            case .unreachable(3)
            where socket === tunnelDatagrams && failure.sender == failure.destination.address:
                // It has arrived where nobody listens.
                note(number, .answered)
            case .unreachable(let code):
                note(number, .unreachable(code: code, from: failure.sender))
            }
        }
        // What a program on one of the ports may answer is not read; it must not fill the buffer.
        if socket === hostDatagrams || socket === tunnelDatagrams { while socket.nextReply() != nil {} }
    }

    private func number(of failure: ProbeSocket.Failure) -> UInt16? {
        if failure.destination.port != 0 { return datagrams[failure.destination] }
        guard let message = EchoMessage(message: failure.quoted[...]), message.identifier == identifier
        else { return nil }
        return message.sequence
    }
}

/// An ICMP echo message (RFC 792, RFC 4443).
struct EchoMessage {
    /// The type of a reply.
    static func replyType(_ family: AddressFamily) -> UInt8 { family == .ipv4 ? 0 : 129 }
    private static func requestType(_ family: AddressFamily) -> UInt8 { family == .ipv4 ? 8 : 128 }

    var identifier: UInt16
    var sequence: UInt16

    /// The header's bytes.
    private static let headerBytes = 8

    /// Reads what a raw socket gets: of IPv4 a whole packet, of IPv6 what is behind its header. Nil where it is no echo
    /// reply.
    init?(reply bytes: [UInt8], _ family: AddressFamily) {
        guard let first = bytes.first else { return nil }
        let message = bytes.dropFirst(family == .ipv4 ? Int(first & 15) * 4 : 0)
        self.init(message: message)
        guard message.first == Self.replyType(family) else { return nil }
    }

    /// Reads identifier and sequence; nil where there are fewer bytes than the header has.
    init?(message bytes: ArraySlice<UInt8>) {
        let fields = Array(bytes.prefix(Self.headerBytes))
        guard fields.count == Self.headerBytes else { return nil }
        identifier = UInt16(fields[4]) << 8 | UInt16(fields[5])
        sequence = UInt16(fields[6]) << 8 | UInt16(fields[7])
    }

    /// Writes a request. The checksum of IPv6's, which counts the addresses too, is the kernel's to write.
    ///
    /// - Parameter packetBytes: of the packet that it makes; 28 at least, of IPv6 48.
    static func request(
        _ family: AddressFamily, identifier: UInt16, sequence: UInt16, packetBytes: Int
    ) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: max(packetBytes - family.headerBytes, headerBytes))
        bytes[0] = requestType(family)
        for (place, field) in [(4, identifier), (6, sequence)] {
            bytes[place] = UInt8(truncatingIfNeeded: field >> 8)
            bytes[place + 1] = UInt8(truncatingIfNeeded: field)
        }
        // RFC 1071; the sum is of words in this machine's order, and so is the result.
        let sum = ~UInt16(truncatingIfNeeded: folded(twill_internet_sum(bytes, bytes.count)))
        withUnsafeBytes(of: sum) { (bytes[2], bytes[3]) = ($0[0], $0[1]) }
        return bytes
    }

    private static func folded(_ sum: UInt64) -> UInt64 {
        var sum = sum
        while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
        return sum
    }
}
