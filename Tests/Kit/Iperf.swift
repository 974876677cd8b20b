import FoundationEssentials

/// What iperf3 found out, of its JSON what tests ask for.
public struct IperfReport: Decodable, Sendable {
    private let end: End

    /// What the receiver had of all streams; nil for UDP.
    public var receivedBytes: Double? { end.sumReceived?.bytes }
    /// Datagrams sent in all streams.
    public var packets: Int { end.sum?.packets ?? 0 }
    /// Of those, how many did not arrive.
    public var lostPackets: Int { end.sum?.lostPackets ?? 0 }
    /// Each stream of datagrams; none where the one that opens a stream was lost.
    public var streams: [Datagrams] { (end.streams ?? []).compactMap(\.udp) }

    /// A stream of datagrams.
    public struct Datagrams: Decodable, Sendable {
        /// Sent.
        public let packets: Int
        /// Of those, how many came after a later one.
        public let outOfOrder: Int

        private enum CodingKeys: String, CodingKey {
            case packets
            case outOfOrder = "out_of_order"
        }
    }

    private struct End: Decodable, Sendable {
        let streams: [Stream]?
        let sum: Sum?
        let sumReceived: Sum?

        private enum CodingKeys: String, CodingKey {
            case streams
            case sum
            case sumReceived = "sum_received"
        }
    }

    private struct Stream: Decodable, Sendable { let udp: Datagrams? }

    private struct Sum: Decodable, Sendable {
        let bytes: Double?
        let packets: Int?
        let lostPackets: Int?

        private enum CodingKeys: String, CodingKey {
            case bytes
            case packets
            case lostPackets = "lost_packets"
        }
    }
}

extension LabHost {
    /// Starts an iperf3 that others measure with, and waits until it listens.
    ///
    /// - Parameter words: such as `--bind`.
    @discardableResult
    public func serveIperf(_ words: String = "") async throws -> LabProcess {
        let server = try await launch("iperf3 --server \(words)")
        try await listens(on: 5201, tcp: true)
        return server
    }

    /// Starts to measure; `result(of: IperfReport.self)` waits for what came of it.
    public func iperf(to address: String, _ words: String) async throws -> LabProcess {
        try await launch("iperf3 --json --client \(address) \(words)")
    }

    /// Measures, and gives what came of it.
    public func measure(to address: String, _ words: String) async throws -> IperfReport {
        try await iperf(to: address, words).result()
    }
}
