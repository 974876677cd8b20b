import Glibc

// The two ends of `traffic check-send` and `traffic check-receive`, one way to run them for tests and
// tools/test-mixed.

/// What `traffic check-receive` found in all that came to it.
public struct CheckedReceipt: Decodable, Sendable {
    /// Datagrams.
    public let datagrams: Int
    /// Bytes of streams.
    public let streamBytes: Int
    /// Datagrams and runs of a stream that are not what was sent.
    public let corrupt: Int
    /// Datagrams that came after a later one of their flow, or twice.
    public let behind: Int
    /// Datagrams of each flow.
    public let received: [String: Int]

    private enum CodingKeys: String, CodingKey {
        case datagrams, corrupt, behind, received
        case streamBytes = "stream_bytes"
    }
}

/// What `traffic check-send` sent.
public struct CheckedSending: Decodable, Sendable {
    /// Datagrams.
    public let datagrams: Int
    /// Datagrams of each flow.
    public let sent: [String: Int]
}

extension LabHost {
    /// Starts to receive checked traffic at an address of this host, as a socket has it; SIGTERM ends it, and
    /// `report(of:)` gives what came.
    public func receiveChecked(
        at address: String, port: UInt16 = 7000, seed: Int, by program: String
    ) async throws -> LabProcess {
        let receiver = try await launch("\(program) check-receive --bind \(address):\(port) --seed \(seed)")
        try await listens(on: port, tcp: true)
        return receiver
    }

    /// Starts to send checked traffic.
    ///
    /// - Parameters:
    ///   - address: of a host that receives, as a socket has it.
    ///   - words: for `traffic check-send`.
    public func sendChecked(
        to address: String, port: UInt16 = 7000, seed: Int, by program: String, _ words: String
    ) async throws -> LabProcess {
        try await launch("\(program) check-send --to \(address):\(port) --seed \(seed) \(words)")
    }
}

/// Datagrams and streams of every shape between two hosts, both ways at once, every byte compared with what was sent.
public struct CheckedTraffic {
    /// One of the two.
    public struct End {
        let host: any LabHost
        /// As a socket has it: `100.96.28.2`, `[fd66:1::1]`.
        let address: String

        /// Describes an end.
        public init(host: any LabHost, address: String) {
            self.host = host
            self.address = address
        }
    }

    /// What came to each end.
    public private(set) var received: [CheckedReceipt] = []
    /// How many datagrams did not come to each end.
    public private(set) var lost: [Int] = []

    /// Sends both ways for three seconds. Fails where anything came corrupt or out of order, and where a stream did
    /// not arrive whole.
    ///
    /// - Parameter words: for `traffic check-send`.
    public init(between ends: [End], seed: Int, _ words: String) async throws {
        let program = try BenchmarkProgram.traffic.path()
        var receivers: [LabProcess] = []
        for end in ends {
            receivers.append(try await end.host.receiveChecked(at: end.address, seed: seed, by: program))
        }
        var senders: [LabProcess] = []
        for (index, end) in ends.enumerated() {
            senders.append(
                try await end.host.sendChecked(
                    to: ends[1 - index].address, seed: seed, by: program,
                    "--first-flow \(index + 1)00 --streams 2 --talkers 2 --seconds 3 \(words)"))
        }
        var sent: [CheckedSending] = []
        for sender in senders { sent.append(try await sender.result()) }
        // What is still on its way has arrived by then, or is lost.
        try await Task.sleep(for: .seconds(1))
        for receiver in receivers { receiver.signal(SIGTERM) }
        for (index, receiver) in receivers.enumerated() {
            received.append(try await receiver.result())
            lost.append(sent[1 - index].datagrams - received[index].datagrams)
        }
    }

    /// What the kernel has dropped so far of what goes from one node to another: the first one's devices, and the
    /// second one's sockets.
    public static func drops(from sender: LabNode, to receiver: LabNode) async throws -> Int {
        try await sender.transmitDrops() + receiver.receiveBufferErrors()
    }
}
