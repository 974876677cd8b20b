import FoundationEssentials
import Glibc
import NetworkNamespaces

/// A node or a pod: a network namespace, in which commands and programs run.
public protocol LabHost: AnyObject {
    /// The namespace, for what `run` does not do.
    var namespace: NetworkNamespace.Lease { get }
    /// The address at which the others of its kind reach it.
    var address: String { get }
    /// A directory for what is written here.
    var directory: String { get }
}

extension LabHost {
    /// Runs a shell command here; gives what it printed, and throws where its status is not 0.
    @discardableResult
    public func run(_ command: String) async throws -> String {
        try await namespace.run { try execute(command) }
    }

    /// Whether a shell command ends here with status 0.
    public func succeeds(_ command: String) async -> Bool { (try? await run(command)) != nil }

    /// Starts a program here that runs on beside the test.
    ///
    /// - Parameter command: its words, which a shell reads.
    public func launch(_ command: String) async throws -> LabProcess {
        try await LabProcess(
            "exec \(command)", in: namespace,
            files: "\(directory)/program-\(UInt32.random(in: 0...UInt32.max))")
    }

    /// How many of `count` echo requests to `address` were answered, each within three seconds or more.
    ///
    /// ping(8) by itself waits no longer than 50 ms for the last answer once it had one. With a deadline it asks on until it has had
    /// so many answers, and what counts here is the first questions.
    ///
    /// - Parameters:
    ///   - bytes: the size of each packet, headers included; not fragmented.
    public func answers(from address: String, count: Int = 3, bytes: Int = 84) async -> Int {
        let output = try? await run(
            "ping -n -M do -i 0.05 -w \(3 + count / 20) -c \(count) -s \(bytes - (address.contains(":") ? 48 : 28)) \(address) || true"
        )
        let answered = (output ?? "").split(separator: "\n").compactMap { line -> Int? in
            guard line.contains(" bytes from "), let number = line.firstRange(of: "icmp_seq=") else {
                return nil
            }
            return Int(line[number.upperBound...].prefix { $0.isNumber })
        }
        return Set(answered).count { $0 <= count }
    }

    /// Waits until an echo request to `address` is answered.
    public func reaches(_ address: String) async throws {
        _ = try await until("an answer from \(address) to \(self.address)", seconds: 60) {
            await answers(from: address, count: 1) == 1 ? true : nil
        }
    }
}

/// An interface as the kernel tells of it.
public struct LabInterface: Decodable, Sendable {
    /// Its name.
    public let name: String
    /// Its number, which no other interface of the namespace ever has.
    public let index: Int
    /// Bytes.
    public let mtu: Int
    /// Its addresses, of both families.
    public let addresses: [Address]
    private let statistics: Statistics

    /// Packets that it was given to send and dropped.
    public var transmitDrops: Int { statistics.transmitted.dropped }
    /// Packets that it received and dropped.
    public var receiveDrops: Int { statistics.received.dropped }
    /// Packets that it sent.
    public var transmittedPackets: Int { statistics.transmitted.packets }
    /// Packets that it received.
    public var receivedPackets: Int { statistics.received.packets }
    /// Bytes that it received.
    public var receivedBytes: Int { statistics.received.bytes }

    /// An address of an interface.
    public struct Address: Decodable, Sendable {
        /// Without its length: `100.96.28.0`.
        public let local: String
        /// Bits.
        public let prefixLength: Int

        private enum CodingKeys: String, CodingKey {
            case local
            case prefixLength = "prefixlen"
        }
    }

    private struct Statistics: Decodable, Sendable {
        let received: Direction
        let transmitted: Direction
        private enum CodingKeys: String, CodingKey {
            case received = "rx"
            case transmitted = "tx"
        }
    }

    private struct Direction: Decodable, Sendable {
        let bytes: Int
        let packets: Int
        let dropped: Int
    }

    private enum CodingKeys: String, CodingKey {
        case mtu
        case name = "ifname"
        case index = "ifindex"
        case addresses = "addr_info"
        case statistics = "stats64"
    }
}

/// A route as the kernel tells of it.
public struct LabRoute: Decodable, Sendable {
    /// Where it leads: `100.96.0.0/16`, `default`.
    public let destination: String
    /// The interface; nil for a route that drops or refuses.
    public let interface: String?
    /// `blackhole`, `unreachable`, …; nil for one that leads somewhere.
    public let type: String?

    private enum CodingKeys: String, CodingKey {
        case type
        case destination = "dst"
        case interface = "dev"
    }
}

extension LabHost {
    /// The interfaces that are here.
    public func interfaces() async throws -> [LabInterface] { try await list("ip -j -s address show") }

    /// The interface of a name; nil where there is none.
    public func interface(_ name: String) async throws -> LabInterface? {
        try await interfaces().first { $0.name == name }
    }

    /// The IPv4 routes of the main table.
    public func routes() async throws -> [LabRoute] { try await list("ip -j route show table main") }

    /// What `ip` lists. Where something goes while it lists, it prints half of it; then it is asked again.
    private func list<Value: Decodable>(_ command: String) async throws -> [Value] {
        for _ in 0..<5 {
            let text = try await run(command)
            if text.isEmpty { return [] }
            if let list = try? JSONDecoder().decode([Value].self, from: Data(text.utf8)) { return list }
        }
        return try JSONDecoder().decode([Value].self, from: Data(try await run(command).utf8))
    }

    /// How many datagrams UDP sockets here had no room for.
    public func receiveBufferErrors() async throws -> Int {
        try await kernelCounters()["UdpRcvbufErrors"] ?? 0
    }

    /// What this host's interfaces dropped of what they were to send.
    public func transmitDrops() async throws -> Int {
        try await interfaces().reduce(0) { $0 + $1.transmitDrops }
    }

    /// Waits until somebody has a port here: a TCP socket that listens, or one of UDP.
    public func listens(on port: UInt16, tcp: Bool) async throws {
        _ = try await until("a socket on port \(port)", seconds: 60) {
            try await namespace.hasSocket(on: port, tcp: tcp) ? true : nil
        }
    }
}

extension NetworkNamespace.Lease {
    /// Whether somebody has a port in this namespace: a TCP socket that listens, or one of UDP.
    func hasSocket(on port: UInt16, tcp: Bool) async throws -> Bool {
        // The second column ends with the port, the fourth is the state: 0A listens (net/tcp_states.h).
        let suffix = ":" + String(UInt32(port) + 0x10000, radix: 16, uppercase: true).dropFirst()
        let text = try await run {
            ["", "6"].map { family in
                let path = "/proc/thread-self/net/\(tcp ? "tcp" : "udp")\(family)"
                return (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
            }.joined()
        }
        return text.split(separator: "\n").contains { line in
            let fields = line.split(separator: " ")
            return fields.count > 3 && fields[1].hasSuffix(suffix) && (!tcp || fields[3] == "0A")
        }
    }
}
