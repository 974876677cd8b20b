import FoundationEssentials
import Glibc
import Kit
import Testing

/// A program of the package in `Benchmarks`, which `swift build --package-path Benchmarks` makes.
enum BenchmarkProgram: String {
    /// Datagrams and streams whose every byte is checked.
    case traffic
    /// A forwarder of one packet a system call, as flannel's is.
    case baseline
    /// twill's data plane without its control side.
    case dataPlane = "scale-forwarder"

    /// Where it is.
    var path: String {
        get throws {
            let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
            let path = "/\(root)/Benchmarks/.build/debug/\(rawValue)"
            try #require(
                access(path, X_OK) == 0, "there is no \(path): swift build --package-path Benchmarks")
            return path
        }
    }
}

/// Datagrams and streams of every shape between two hosts, both ways at once, every byte compared with what was sent.
struct CheckedTraffic {
    /// One of the two.
    struct End {
        let host: any LabHost
        /// As a socket has it: `100.96.28.2`, `[fd66:1::1]`.
        let address: String
    }

    /// What `traffic check-send` prints.
    private struct Sent: Decodable { let datagrams: Int }

    /// What came to an end.
    struct Received: Decodable {
        let datagrams: Int
        let streamBytes: Int

        private enum CodingKeys: String, CodingKey {
            case datagrams
            case streamBytes = "stream_bytes"
        }
    }

    /// What came to each end, and how many datagrams did not.
    private(set) var received: [Received] = []
    private(set) var lost: [Int] = []

    /// Sends both ways for three seconds. Fails where anything came corrupt or out of order, and where a stream did
    /// not arrive whole.
    ///
    /// - Parameter words: for `traffic check-send`.
    init(between ends: [End], seed: Int, _ words: String) async throws {
        let program = try BenchmarkProgram.traffic.path
        var receivers: [LabProcess] = []
        for end in ends {
            receivers.append(
                try await end.host.launch(
                    "\(program) check-receive --bind \(end.address):7000 --seed \(seed)"))
            try await end.host.listens(on: 7000, tcp: true)
        }
        var senders: [LabProcess] = []
        for (index, end) in ends.enumerated() {
            senders.append(
                try await end.host.launch(
                    "\(program) check-send --to \(ends[1 - index].address):7000 --seed \(seed)"
                        + " --first-flow \(index + 1)00 --streams 2 --talkers 2 --seconds 3 \(words)"))
        }
        var sent: [Sent] = []
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
    static func drops(from sender: LabNode, to receiver: LabNode) async throws -> Int {
        try await sender.transmitDrops() + receiver.receiveBufferErrors()
    }
}
