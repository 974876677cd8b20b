/// The histograms of a worker, in powers of two.
@frozen
public enum CounterHistogram: Int, CaseIterable, Sendable {
    /// Packets read from the TUN device in one round.
    case readBatch
    /// Datagrams in one send.
    case sendBatch
    /// Datagrams in one receive.
    case receiveBatch
    /// Packets in one write to the TUN device.
    case writeBatch
    /// Nanoseconds of one round's work, the wait for work left out.
    case roundTime
    /// Nanoseconds from a packet's read from the TUN device until it was forwarded, sampled.
    case outboundWaitTime
    /// Nanoseconds from there until it was sent, sampled.
    case outboundSendTime
    /// Nanoseconds from a receive until its datagrams were checked and coalesced, sampled.
    case inboundWaitTime
    /// Nanoseconds from there until they were written to the TUN device, sampled.
    case inboundWriteTime

    // Not stored: a stored constant would be reached through an initializer that runs once, on the packet path.

    /// Buckets of the largest histogram.
    @inlinable @inline(__always)
    static var bucketLimit: Int { 16 }

    /// The buckets, and the sum of all observations.
    @inlinable @inline(__always)
    static var cellCount: Int { bucketLimit &+ 1 }

    /// Its first cell among those of all histograms.
    @inlinable @inline(__always)
    var firstCell: Int { rawValue &* CounterHistogram.cellCount }

    /// The first bucket takes values up to two to the power of this: one packet, or 1,024 ns.
    @inlinable @inline(__always)
    var firstExponent: Int {
        switch self {
        case .readBatch, .sendBatch, .receiveBatch, .writeBatch: 0
        case .roundTime, .outboundWaitTime, .outboundSendTime, .inboundWaitTime, .inboundWriteTime: 10
        }
    }

    /// Batches up to 128 (a send's limit) and larger ones; times up to 2^24 ns (17 ms) and longer ones.
    @inlinable @inline(__always)
    var bucketCount: Int {
        switch self {
        case .readBatch, .sendBatch, .receiveBatch, .writeBatch: 9
        case .roundTime, .outboundWaitTime, .outboundSendTime, .inboundWaitTime, .inboundWriteTime: 16
        }
    }

    @inlinable @inline(__always)
    func bucket(of value: Int) -> Int {
        let exponent = Int.bitWidth &- (value &- 1).leadingZeroBitCount
        return min(max(exponent &- firstExponent, 0), bucketCount &- 1)
    }

    /// The largest value in each bucket but the last, which has no limit.
    public var bounds: [UInt64] { (0..<bucketCount - 1).map { 1 << UInt64($0 + firstExponent) } }

    /// The name in text output.
    public var name: String {
        switch self {
        case .readBatch: "read_batch"
        case .sendBatch: "send_batch"
        case .receiveBatch: "receive_batch"
        case .writeBatch: "write_batch"
        case .roundTime: "round_time"
        case .outboundWaitTime: "outbound_wait_time"
        case .outboundSendTime: "outbound_send_time"
        case .inboundWaitTime: "inbound_wait_time"
        case .inboundWriteTime: "inbound_write_time"
        }
    }

    /// Whether observations are nanoseconds; else they are packets.
    public var isTime: Bool {
        switch self {
        case .readBatch, .sendBatch, .receiveBatch, .writeBatch: false
        case .roundTime, .outboundWaitTime, .outboundSendTime, .inboundWaitTime, .inboundWriteTime: true
        }
    }

    /// What an observation is.
    public var meaning: String {
        switch self {
        case .readBatch: "Packets read from the TUN device in one round."
        case .sendBatch: "Datagrams in one send."
        case .receiveBatch: "Datagrams in one receive."
        case .writeBatch: "Packets in one write to the TUN device."
        case .roundTime: "Time of one round's work, the wait for work left out."
        case .outboundWaitTime:
            "Time from a packet's read from the TUN device until it was forwarded; of some packets, as the three below."
        case .outboundSendTime: "Time from there until the kernel had taken it to send."
        case .inboundWaitTime: "Time from a receive until its datagrams were checked and put together."
        case .inboundWriteTime: "Time from there until the TUN device had them."
        }
    }
}

/// What a histogram holds.
public struct HistogramTotals: Sendable, Equatable {
    /// Observations in each bucket, not those below it; one more than the histogram's `bounds`.
    public internal(set) var counts: [UInt64]
    /// The sum of all observations.
    public internal(set) var sum: UInt64 = 0

    init(_ histogram: CounterHistogram) { counts = [UInt64](repeating: 0, count: histogram.bucketCount) }

    mutating func add(_ other: HistogramTotals) {
        for index in counts.indices { counts[index] &+= other.counts[index] }
        sum &+= other.sum
    }
}

/// What stands at some level rather than grows: of each worker's last round, summed over the workers.
@frozen
public enum CounterGauge: Int, CaseIterable, Sendable {
    /// Submission entries in use when the kernel was entered.
    case ringSubmissions
    /// Submission entries that there are.
    case ringSubmissionCapacity
    /// Completion entries in use when the kernel came back.
    case ringCompletions
    /// Receive buffers that the kernel may fill: none of their datagrams waits, or is being written.
    case receiveBuffersFree
    /// Receive buffers that there are.
    case receiveBuffers

    /// The name in text output.
    public var name: String {
        switch self {
        case .ringSubmissions: "ring_submissions"
        case .ringSubmissionCapacity: "ring_submission_capacity"
        case .ringCompletions: "ring_completions"
        case .receiveBuffersFree: "receive_buffers_free"
        case .receiveBuffers: "receive_buffers"
        }
    }

    /// What stands at the level.
    public var meaning: String {
        switch self {
        case .ringSubmissions: "Submission entries in use when the kernel was last entered, of all workers."
        case .ringSubmissionCapacity:
            "Submission entries that there are; more than this waits for the next round."
        case .ringCompletions: "Completion entries in use when the kernel last came back, of all workers."
        case .receiveBuffersFree:
            "Receive buffers that the kernel may fill; at 0 the socket's own buffer fills."
        case .receiveBuffers: "Receive buffers that there are."
        }
    }
}
