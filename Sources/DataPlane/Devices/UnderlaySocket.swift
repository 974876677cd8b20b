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

    /// Makes an error.
    public init(action: String, errorNumber: Int32) {
        self.action = action
        self.errorNumber = errorNumber
    }

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
    /// Datagrams leave with DF set, as flannel's do. Buffers are forced where CAP_NET_ADMIN
    /// allows it, and else go as high as net.core.rmem_max and wmem_max let them.
    ///
    /// - Parameters:
    ///   - endpoint: the address and port to bind.
    ///   - first: a socket of this process that has the port already, to share it; else nobody may have it.
    ///   - senders: those that `openSender` has opened on the port.
    ///   - bufferBytes: send and receive buffer each.
    ///   - segmentation: whether to use UDP_SEGMENT where the kernel has it.
    ///   - coalescing: whether to use UDP_GRO where the kernel has it.
    /// - Throws: `UnderlaySocketError` with the call that failed and the kernel's error number.
    public static func open(
        _ endpoint: Endpoint, beside first: UnderlaySocket? = nil, passing senders: [Int32] = [],
        bufferBytes: Int, segmentation: Bool, coalescing: Bool
    ) throws(UnderlaySocketError) -> UnderlaySocket {
        if let first { _ = set(first.descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        let descriptor = try bound(
            to: endpoint, sharesPort: first != nil, passing: senders, sendBytes: bufferBytes,
            receiveBytes: bufferBytes)
        return UnderlaySocket(receivingOn: descriptor, segmentation: segmentation, coalescing: coalescing)
    }

    private init(receivingOn descriptor: Int32, segmentation: Bool, coalescing: Bool) {
        // Else the kernel drops IPv6 datagrams without a checksum, as those of a peer's kernel path and its hellos are: RFC 6935
        // leaves that to tunnels. IPv4 has no such option and asks for none.
        _ = UnderlaySocket.set(descriptor, Int32(IPPROTO_UDP), UDP_NO_CHECK6_RX, 1)
        let coalesces = coalescing && UnderlaySocket.set(descriptor, Int32(IPPROTO_UDP), UDP_GRO, 1)
        var granted: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &granted, &size)
        let limit = segmentation ? UnderlaySocket.segmentLimit : 0
        self.descriptor = descriptor
        offloads = UnderlayOffloads(
            segmentation: limit > 0, coalescing: coalesces, segmentLimit: max(limit, 1))
        receiveBufferBytes = Int(granted)
    }

    /// Takes over a socket that another process, or another part of this one, has bound, and gives it its buffers and
    /// offloads.
    ///
    /// - Parameters:
    ///   - descriptor: the socket, which becomes this one's to close.
    ///   - endpoint: what it must be bound to.
    ///   - bufferBytes: send and receive buffer each.
    ///   - segmentation: as in `open`.
    ///   - coalescing: as in `open`.
    /// - Throws: `UnderlaySocketError` where it is bound to something else; then it is still the caller's.
    public init(
        adopting descriptor: Int32, at endpoint: Endpoint, bufferBytes: Int, segmentation: Bool,
        coalescing: Bool
    ) throws(UnderlaySocketError) {
        guard UnderlaySocket.isBound(descriptor, to: endpoint) else {
            throw UnderlaySocketError(action: "take over the socket of UDP \(endpoint)", errorNumber: EBADF)
        }
        if !coalescing { _ = UnderlaySocket.set(descriptor, Int32(IPPROTO_UDP), UDP_GRO, 0) }
        UnderlaySocket.setBuffers(of: descriptor, sendBytes: bufferBytes, receiveBytes: bufferBytes)
        self.init(receivingOn: descriptor, segmentation: segmentation, coalescing: coalescing)
    }

    /// Whether a descriptor is a UDP socket that is bound to this address and, where it is not 0, port.
    public static func isBound(_ descriptor: Int32, to endpoint: Endpoint) -> Bool {
        var kind: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &kind, &size) == 0,
            kind == Int32(SOCK_DGRAM.rawValue), let bound = Endpoint(boundBy: descriptor)
        else { return false }
        return bound.address == endpoint.address && (endpoint.port == 0 || bound.port == endpoint.port)
    }

    /// Sets a socket's buffers, in bytes.
    public static func setBuffers(of descriptor: Int32, sendBytes: Int, receiveBytes: Int) {
        for (forced, plain, bytes) in [
            (SO_RCVBUFFORCE, SO_RCVBUF, receiveBytes), (SO_SNDBUFFORCE, SO_SNDBUF, sendBytes),
        ] {
            let bytes = Int32(clamping: bytes)
            if !set(descriptor, SOL_SOCKET, forced, bytes) { _ = set(descriptor, SOL_SOCKET, plain, bytes) }
        }
    }

    /// What hellos wait in that nobody resolves: the kernel keeps them up to 3 s for a peer or a gateway that does not answer
    /// ARP (`neigh_resolve_output`), and those to everybody else must not wait behind them. 550 a second (50 questions and
    /// 500 answers) for 3 s, of 768 bytes each as the kernel counts them, are 1.3 MB.
    private static let helloBufferBytes = 2 << 20

    /// Opens one more socket that only sends, from the port that `receiver` receives on: its datagrams have no checksum,
    /// as those of the kernel path (`SO_NO_CHECK`, udp(7); over IPv6 `UDP_NO_CHECK6_TX`, which RFC 6935 has for tunnels whose
    /// receivers agreed, and a hello is how they do).
    ///
    /// - Parameters:
    ///   - receiver: the first of the sockets that `open` made; all others of the port are open.
    ///   - senders: those that `openSender` has opened on the port.
    ///   - endpoint: the address and port that it has.
    /// - Returns: the socket's descriptor, the caller's to close; nil where the kernel refuses it.
    public static func openSenderWithoutChecksum(
        sharingPortOf receiver: UnderlaySocket, passing senders: [Int32], at endpoint: Endpoint
    ) -> Int32? {
        guard
            let descriptor = openSender(
                sharingPortOf: receiver, passing: senders, at: endpoint, bufferBytes: helloBufferBytes)
        else { return nil }
        let hasNoChecksum =
            switch endpoint.address.addressFamily {
            case .ipv4: set(descriptor, SOL_SOCKET, SO_NO_CHECK, 1)
            case .ipv6: set(descriptor, Int32(IPPROTO_UDP), UDP_NO_CHECK6_TX, 1)
            }
        guard hasNoChecksum else {
            Glibc.close(descriptor)
            return nil
        }
        return descriptor
    }

    /// Opens a socket that only sends, from the port that `receiver` receives on.
    ///
    /// When the kernel frees a datagram, it wakes whoever waits on the socket that sent it (sock_wfree,
    /// net/core/sock.c), for each segment of a super-packet anew; on the receiving socket the engine's multishot
    /// receive always waits. On this one nobody does. It is connected, and what is connected receives from its peer
    /// alone, so that no datagram of another node comes here. What it is connected to is drawn by lot, of the
    /// addresses of this machine alone (127.0.0.0/8), so that nobody elsewhere can name it in a forged ICMP message,
    /// whose error it would get (`__udp4_lib_err`, net/ipv4/udp.c). IPv6 has one such address, so that the port alone is
    /// drawn: who guesses that costs the socket one message.
    ///
    /// The port is bound by the first socket alone, and shared by SO_REUSEPORT, which lets sockets of the same user
    /// in that ask for it too (`udp_lib_lport_inuse`). With SO_REUSEADDR, which lets in everybody's, another user's
    /// program could have joined, and got all datagrams. As soon as this socket, the newest on the port, has it, it
    /// gives the option up: whoever comes later, root too, is refused.
    ///
    /// Nor is it one of the group that the kernel chooses a receiver from: it leaves that once it is connected. Since
    /// Linux 6.13 the kernel lets it go by itself (`udp_lib_hash4`); before, it does when the socket is bound to a device,
    /// or to none anew (`udp_lib_rehash`).
    ///
    /// - Parameters:
    ///   - receiver: the first of the sockets that `open` made; all others of the port are open.
    ///   - senders: those that this has opened before.
    ///   - endpoint: the address and port that it has.
    ///   - bufferBytes: the send buffer.
    /// - Returns: the socket's descriptor, the caller's to close; nil where the kernel refuses it.
    public static func openSender(
        sharingPortOf receiver: UnderlaySocket, passing senders: [Int32] = [], at endpoint: Endpoint,
        bufferBytes: Int
    ) -> Int32? {
        let wasShared = sharesPort(receiver.descriptor)
        guard set(receiver.descriptor, SOL_SOCKET, SO_REUSEPORT, 1) else { return nil }
        // The receivers need it further on only where there are several, for the kernel to choose among them.
        defer { if !wasShared { _ = set(receiver.descriptor, SOL_SOCKET, SO_REUSEPORT, 0) } }
        guard
            let descriptor = try? bound(
                to: endpoint, sharesPort: true, passing: senders, sendBytes: bufferBytes, receiveBytes: 0)
        else { return nil }
        guard connectToNobody(descriptor, endpoint.address.addressFamily),
            set(descriptor, SOL_SOCKET, SO_REUSEPORT, 0),
            set(descriptor, SOL_SOCKET, SO_BINDTOIFINDEX, 0)
        else {
            Glibc.close(descriptor)
            return nil
        }
        return descriptor
    }

    private static func connectToNobody(_ descriptor: Int32, _ family: AddressFamily) -> Bool {
        let loopback: IPAddress =
            switch family {
            case .ipv4: .v4(IPv4Address(bits: 127 << 24 | UInt32.random(in: 2...0xFF_FFFE)))
            case .ipv6: .v6(IPv6Address(high: 0, low: 1))
            }
        let nobody = Endpoint(address: loopback, port: UInt16.random(in: 1...UInt16.max))
        return nobody.withSocketName { connect(descriptor, $0, $1) } == 0
    }

    /// Takes a receiver out of those that the kernel chooses from, for good. What has come to it can be read still; it is to
    /// be closed when it was. One that was closed at once would still be found by a datagram that is being delivered on
    /// another CPU in that moment (`udp_lib_unhash` takes it out of its group before it takes it off the port), which would
    /// be lost with it.
    ///
    /// - Parameter family: of the address that it is bound to.
    public func retire(_ family: AddressFamily) { _ = UnderlaySocket.connectToNobody(descriptor, family) }

    private static func sharesPort(_ descriptor: Int32) -> Bool {
        var value: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &value, &size) == 0 && value != 0
    }

    /// How many datagrams the kernel dropped that were for the socket, most of all because its buffer was full; nil
    /// where the kernel does not tell. Wraps at 2^32. One system call; any thread may ask.
    public func droppedDatagrams() -> UInt32? {
        var dropped: UInt32 = 0
        return twill_socket_dropped(descriptor, &dropped) == 0 ? dropped : nil
    }

    /// Opens a socket that only sends, from another port than `endpoint`'s, so that receivers can tell the datagrams
    /// of one worker from another's (`steer`).
    ///
    /// The port is the first that is free of `endpoint.port + place`, and on in steps of `sendingPortStep`.
    ///
    /// - Parameters:
    ///   - endpoint: the address to bind, and the port to begin at.
    ///   - place: which of the sending sockets it is, 1 to 63.
    ///   - bufferBytes: the send buffer.
    /// - Returns: the socket's descriptor, the caller's to close.
    /// - Throws: `UnderlaySocketError` with the call that failed and the kernel's error number.
    public static func openSender(
        beside endpoint: Endpoint, place: Int, bufferBytes: Int
    ) throws(UnderlaySocketError) -> Int32 {
        var port = Int(endpoint.port) + place
        while true {
            if port > UInt16.max { port = port % sendingPortStep + sendingPortStep }
            do throws(UnderlaySocketError) {
                return try bound(
                    to: Endpoint(address: endpoint.address, port: UInt16(truncatingIfNeeded: port)),
                    sharesPort: false,
                    sendBytes: bufferBytes, receiveBytes: 0)
            } catch {
                port += sendingPortStep
                guard error.errorNumber == EADDRINUSE, port <= UInt16.max else { throw error }
            }
        }
    }

    /// How far apart two ports are that receivers steer to the same worker: a receiver takes the sender's port modulo
    /// its number of workers, and this is the least common multiple of 1 to 8, and 16.
    static let sendingPortStep = 1680

    /// Lets the kernel spread datagrams over the sockets that share `sockets[0]`'s port by where they come from,
    /// address and port: all that one of a peer's workers sends goes to one socket, and consecutive source ports, as
    /// its workers have them, are spread over all sockets.
    ///
    /// - Parameter sockets: those that take datagrams: the first ones of the port, in the order in which they were bound.
    /// - Returns: whether it could. If not, the kernel spreads them by a hash of the same.
    public static func steer(_ sockets: [UnderlaySocket], of family: AddressFamily) -> Bool {
        twill_steer_datagrams(
            sockets[0].descriptor, UInt32(truncatingIfNeeded: sockets.count), family == .ipv6 ? 1 : 0) == 0
    }

    private static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) -> Bool {
        var value = value
        return setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) == 0
    }

    /// - Parameter senders: connected sockets on the port. They share it with nobody, so that the kernel would refuse it
    ///   because of them; did they share it, the new socket would come into a group with them, and not with the receivers
    ///   (`udp_reuseport_add_sock`). It passes over them while they and the new socket have SO_REUSEADDR. The receivers have
    ///   not, so that nobody else's gets in meanwhile.
    private static func bound(
        to endpoint: Endpoint, sharesPort: Bool, passing senders: [Int32] = [], sendBytes: Int,
        receiveBytes: Int
    ) throws(UnderlaySocketError) -> Int32 {
        let family = endpoint.address.addressFamily
        let descriptor = socket(
            family == .ipv4 ? AF_INET : AF_INET6,
            Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else {
            throw UnderlaySocketError(action: "open a UDP socket", errorNumber: errno)
        }
        if sharesPort { _ = set(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        // DF, and no regard for what an ICMP error said of the path, which anybody may have sent (docs/adr/0034).
        switch family {
        case .ipv4:
            _ = set(descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        case .ipv6:
            _ = set(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1)
            _ = set(descriptor, Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
            // Else the sender itself would make fragments.
            _ = set(descriptor, Int32(IPPROTO_IPV6), IPV6_DONTFRAG, 1)
        }
        setBuffers(of: descriptor, sendBytes: sendBytes, receiveBytes: receiveBytes)
        let passing = senders.isEmpty ? [] : senders + [descriptor]
        for socket in passing { _ = set(socket, SOL_SOCKET, SO_REUSEADDR, 1) }
        let result = endpoint.withSocketName { bind(descriptor, $0, $1) }
        let code = errno
        for socket in passing { _ = set(socket, SOL_SOCKET, SO_REUSEADDR, 0) }
        guard result == 0 else {
            let error = UnderlaySocketError(action: "bind UDP \(endpoint)", errorNumber: code)
            Glibc.close(descriptor)
            throw error
        }
        return descriptor
    }

    /// What `probeSegmentLimit` found, which the first to ask waits for.
    public static let segmentLimit = probeSegmentLimit()

    /// How many segments one send takes on this kernel: 128 or 64, found by sending that many one-byte segments
    /// to a socket of our own on loopback; 0 where `UDP_SEGMENT` is missing.
    private static func probeSegmentLimit() -> Int {
        for limit in [128, 64] where twill_udp_segments_accepted(Int32(truncatingIfNeeded: limit)) == 1 {
            return limit
        }
        return 0
    }

    /// Closes the socket.
    public func close() { Glibc.close(descriptor) }
}
