import Addresses

/// One of the kernel's tables of sockets in the calling thread's network namespace (proc(5)).
public enum SocketTable: String, Sendable {
    case udp
    case udp6
    case tcp
    case tcp6

    /// Which sockets are looked at.
    public enum Transport: Sendable {
        case udp
        case tcp
    }

    /// The tables of both families.
    static func tables(of transport: Transport) -> [SocketTable] {
        switch transport {
        case .udp: [.udp, .udp6]
        case .tcp: [.tcp, .tcp6]
        }
    }

    /// Calls `body` with each socket. A machine may have a hundred thousand of them.
    public func forEachRow(_ body: (SocketTableRow) -> Void) {
        ProcFile.forEachLine(of: "/proc/thread-self/net/\(rawValue)") { line in
            if let row = SocketTableRow(line) { body(row) }
        }
    }
}

/// A line of such a table (`udp4_format_sock`, net/ipv4/udp.c, and its like).
public struct SocketTableRow: Sendable, Hashable {
    /// The state of a TCP socket that takes connections (`TCP_LISTEN`, net/tcp_states.h).
    private static let listening: UInt8 = 10

    /// The local address as the kernel prints it: a number of 32 bits for IPv4, four of them for IPv6, each as its
    /// bytes make it on this machine.
    private let words: [UInt32]
    /// Whether it is connected to a loopback address, so that nothing of another machine comes to it.
    public let isConnectedToLoopback: Bool
    /// The local port.
    public let port: UInt16
    /// The state; 7 for a UDP socket that is bound only.
    public let state: UInt8
    /// The user that made it.
    public let user: UInt32
    /// The number of its inode.
    public let inode: UInt64

    /// Reads a line; nil for the heading and for what has another form.
    public init?(_ line: String) {
        // sl, local address, remote address, state, queues, timer, retransmits, user, timeout, inode, …
        var fields = line.split(whereSeparator: \.isWhitespace).dropFirst()
        guard let local = fields.popFirst()?.split(separator: ":"), local.count == 2,
            let address = local.first, let port = local.last.flatMap({ UInt16($0, radix: 16) }),
            let state = fields.dropFirst().first.flatMap({ UInt8($0, radix: 16) }),
            let user = fields.dropFirst(5).first.flatMap({ UInt32($0) }),
            let inode = fields.dropFirst(7).first.flatMap({ UInt64($0) }),
            let words = SocketTableRow.words(address)
        else { return nil }
        let remote = fields.first?.split(separator: ":").first.flatMap { SocketTableRow.words($0) }
        isConnectedToLoopback =
            switch remote.map({ SocketTableRow.address($0) }) {
            case .v4(let address): address.isLoopback
            case .v6(let address): address.isLoopback
            case nil: false
            }
        self.words = words
        self.port = port
        self.state = state
        self.user = user
        self.inode = inode
    }

    private static func words(_ text: Substring) -> [UInt32]? {
        guard text.utf8.count == 8 || text.utf8.count == 32 else { return nil }
        var words: [UInt32] = []
        var rest = text
        while !rest.isEmpty {
            guard let word = UInt32(rest.prefix(8), radix: 16) else { return nil }
            words.append(word)
            rest = rest.dropFirst(8)
        }
        return words
    }

    /// Where it is bound.
    public var endpoint: Endpoint { Endpoint(address: SocketTableRow.address(words), port: port) }

    private static func address(_ words: [UInt32]) -> IPAddress {
        guard words.count == 4 else { return .v4(IPv4Address(networkBytes: words.first ?? 0)) }
        func half(_ words: ArraySlice<UInt32>) -> UInt64 {
            words.reduce(0) { $0 << 32 | UInt64(UInt32(bigEndian: $1)) }
        }
        return .v6(IPv6Address(high: half(words.prefix(2)), low: half(words.suffix(2))))
    }

    /// Whether it keeps `wanted` from being bound. A socket of IPv6 that is bound to no address takes IPv4 too; a wanted
    /// one of IPv6 is of that alone.
    func keeps(_ wanted: Endpoint, of transport: SocketTable.Transport) -> Bool {
        guard port == wanted.port, transport == .udp || state == SocketTableRow.listening else {
            return false
        }
        let isEverywhere = words.allSatisfy { $0 == 0 }
        switch wanted.address {
        case .v4(let address):
            return isEverywhere || address == .any || endpoint == wanted
        case .v6(let address):
            return words.count == 4 && (isEverywhere || address == .any || endpoint == wanted)
        }
    }
}
