import Engines
import Offload

/// The limits of one worker, with their arithmetic. All its memory follows from them and is allocated at the start.
public struct WorkerLimits: Sendable, Equatable {
    // MARK: As tuned

    /// Reads of one round at most.
    public let readBurst: Int
    /// Super-packets, or received buffers, that one round forwards.
    public let superPacketBatch: Int
    /// Receive buffers, a power of two. They last for two rounds: the datagrams of one are received while writes to
    /// the TUN device still point into those of the one before.
    public let datagramBuffers: Int
    /// Bytes of datagrams that a receive buffer holds.
    public let datagramBufferBytes: Int
    /// Submission entries of the ring, a power of two; the completion ring has four times as many.
    public let ringEntries: Int

    // MARK: What follows

    /// Reads of one round, as many whose sends are under way or that wait, one pending read.
    public let tunnelBuffers: Int
    /// From so many waiting reads on the queue is full: what is read in a burst has room behind them. With the
    /// defaults 96 of 129, up to 6 MB: the window of one TCP flow (4 MB, `tcp_wmem`) does not fill it.
    let fullQueueReads: Int
    /// So many wait for paced peers at most, half of the buffers: with the defaults 64, 4 MB, the window of one TCP
    /// flow.
    let pacedReads: Int
    /// Messages: those of this round, of the round before and of replays, and those that are open
    /// (`messages(readBurst:)`).
    public let messages: Int
    /// Writes of one round: all datagrams of as many received buffers as the ring has room for, where nothing can be
    /// merged. More wait for the next round. With the defaults 4 × 128, of 1,024 - 336 - 8 - 65 - 2 = 613 free
    /// entries.
    public let writeSlots: Int
    /// Completions that the ring waits for where it waits for several: as many as fill half of the receive buffers,
    /// so that the kernel has the other half meanwhile.
    public let gatheredCompletions: Int

    // MARK: Fixed

    /// Messages that are open for more packets at the same time, one for each peer that traffic goes to.
    public static let openMessages = 16
    /// Messages that a super-packet of full-sized segments may need: what is left of an open one, a full one, a new
    /// one. One of more segments finds fewer free at worst, and loses what does not fit.
    static let messagesOfSuperPacket = 3
    /// Packets of one received buffer: what the largest UDP segmentation of a sender makes.
    public static let receivedSegments = SuperPacketLimits.sendSegments
    /// A round of more packets than this is load: then waiting for more in one batch pays, as interrupt moderation
    /// does. Up to it traffic is sparse, and polling pays.
    public static let sparseRoundPackets = 4
    /// A worker does not poll for so long after a round of load: a bulk flow's rounds follow each other within a
    /// tenth of that.
    static let pollingRestNanoseconds = 2_000_000
    /// Datagrams up to this size are small ones: segments of bulk traffic are larger on every usual MTU.
    public static let smallDatagramBytes = 512
    /// Super-packets, or received buffers, that a short round forwards each way: some 60 µs of work.
    static let shortRoundSuperPackets = 1
    /// The same where who is waited for goes past this worker, by the kernel path: some 240 µs.
    static let superPacketsBesideKernelPath = 4
    /// Segments of a usual super-packet at most: 64 KiB in segments of 1,024 bytes. What a round forwards is counted
    /// in these, so that a super-packet of ten times as many segments takes the place of ten.
    static let superPacketSegments = 64
    /// Segments that may wait in super-packets of more than `superPacketSegments`, of all sources together: those of
    /// two TCP super-packets of the smallest segments (`SuperPacketLimits.streamSegments`), some 2 ms of work.
    static let waitingSmallSegments = 2 * SuperPacketLimits.streamSegments
    /// Peers that take no bursts and have a pace of their own, a power of two.
    static let pacedPeers = 64
    /// For how long a datagram keeps back the next super-packet to such a peer: 143,000 datagrams a second, somewhat
    /// more than a one-packet forwarder takes in, and 310 µs for a super-packet, in which it takes most of it out of
    /// its socket (ADR 16, which has what other numbers do).
    static let pacedDatagramNanoseconds = 7_000
    /// Places that sources of waiting packets are spread over, to be served in turn.
    static let waitingSources = 64
    /// How long a way of sending or writing that the kernel refused is left alone before it is tried again, at first;
    /// twice as long after each further time, up to `longestOffloadRestNanoseconds`. Each try costs some hundred
    /// packets sent or written twice, and none lost.
    static let offloadRestNanoseconds = 10_000_000_000
    /// See `offloadRestNanoseconds`.
    static let longestOffloadRestNanoseconds = 60_000_000_000
    /// From so many bytes on a super-packet is bulk: requests and answers mostly have less.
    static let bulkBytes = 16_384
    /// A flow without bulk for so long is sparse; rounds are short for so long after a sparse flow's packet was
    /// prioritized.
    static let sparseAfterNanoseconds = 100_000_000
    /// A queue that is full for so long without a break is a standing one (CoDel's interval, RFC 8289, 4.3: the
    /// longest usual round trip).
    static let standingQueueNanoseconds = 100_000_000
    /// Receives that the kernel lets follow each other in one call (MULTISHOT_MAX_RETRY, io_uring/net.c, Linux 6.18). After
    /// so many, or after as many as there were buffers for, more may wait.
    static let receivesAtOnce = 32
    /// A yield that takes longer gave the CPU to a program that computes: those that answer, and iperf3, gave it back
    /// within 0.5 ms in 999 of 1,000 yields, two programs that never sleep after 0.5 to 4 ms.
    static let longYieldNanoseconds = 1_000_000
    /// No short round yields for so long after a long yield: what such programs take is a few percent.
    static let yieldRestNanoseconds = 100_000_000
    /// How long a worker that hands over waits in the kernel at a time for what it cancelled: that ends within the same
    /// call, and where it does not, it is cancelled anew.
    static let ceasingMicroseconds = 100
    /// What a worker was left and misses is lost once it missed it at so many looks, and for so long: whoever puts a packet
    /// into a queue does so within one turn of a CPU.
    static let lostLooks = 256
    /// See `lostLooks`.
    static let lostNanoseconds = 1_000_000_000
    /// ICMP errors on their way to the TUN device.
    public static let errorReplies = 8
    /// Ring entries kept for the multishot receive and for the read of the wake-up.
    public static let reservedOperations = 2
    /// Segments that must pass one by one, after the sends that carried them together failed, before segmentation is
    /// left alone for a while: a full send, so that one odd packet does not.
    public static let failedSegmentsBeforeFallback = SuperPacketLimits.sendSegments
    /// Merged writes that the TUN device must refuse, before no such are made for a while: so many are no one
    /// packet's fault.
    public static let refusedWritesBeforeFallback = 8
    /// ICMP errors a second, and at once (icmp_msgs_per_sec and icmp_msgs_burst of net/ipv4/icmp.c).
    public static let errorsPerSecond = 1000
    /// See `errorsPerSecond`.
    public static let errorBurst = 50

    /// Checks how the worker is tuned, and works out what follows.
    ///
    /// - Throws: what is out of range, or does not go together.
    public init(_ tuning: Tuning) throws(TuningError) {
        try tuning.checkRanges()
        readBurst = tuning.batch
        superPacketBatch = tuning.superPacketBatch
        datagramBuffers = tuning.receiveBuffers
        datagramBufferBytes = tuning.receiveBufferBytes
        ringEntries = tuning.ringEntries
        tunnelBuffers = 2 * readBurst + 1
        fullQueueReads = tunnelBuffers * 3 / 4
        pacedReads = tunnelBuffers / 2
        messages = WorkerLimits.messages(readBurst: readBurst)
        gatheredCompletions = max(1, min(readBurst, datagramBuffers / 2))

        let writeRoom = ringEntries - WorkerLimits.otherOperations(readBurst: readBurst)
        let buffersAtOnce = min(
            writeRoom / WorkerLimits.receivedSegments, datagramBuffers,
            SuperPacketLimits.slots / WorkerLimits.receivedSegments)
        guard buffersAtOnce > 0 else {
            throw .tooFewRingEntries(
                ringEntries, batch: tuning.batch,
                needed: WorkerLimits.ringEntriesNeeded(readBurst: readBurst))
        }
        writeSlots = buffersAtOnce * WorkerLimits.receivedSegments

        guard !tuning.usesCoalescing || datagramBufferBytes >= SuperPacketLimits.sendBytes else {
            throw .losesCoalesced(
                receiveBufferBytes: datagramBufferBytes, coalesced: SuperPacketLimits.sendBytes)
        }
    }

    private static func messages(readBurst: Int) -> Int {
        // A super-packet may need two: its 65,535 bytes exceed one send when each segment has its headers.
        let ofRound = 2 * readBurst
        // The round before: its sends may be under way still.
        let ofRoundBefore = ofRound
        // Segments of refused sends, which are sent again one by one.
        let ofReplays = readBurst
        // One super-packet must find enough where each of its segments is a send of its own.
        return max(ofRound + ofRoundBefore + ofReplays, SuperPacketLimits.sendSegments) + openMessages
    }

    /// Ring entries that one round may need beside its writes.
    private static func otherOperations(readBurst: Int) -> Int {
        messages(readBurst: readBurst) + errorReplies + readBurst + 1 + reservedOperations
    }

    /// The power of two that holds those, and the writes of one received buffer.
    private static func ringEntriesNeeded(readBurst: Int) -> Int {
        let needed = otherOperations(readBurst: readBurst) + receivedSegments
        return 1 << (Int.bitWidth - (needed - 1).leadingZeroBitCount)
    }
}

extension PacketMemory {
    /// Allocates all buffers and messages of one worker.
    init?(_ limits: WorkerLimits, hugePages: Bool, isTouched: Bool = true) {
        self.init(
            tunnelBufferCount: limits.tunnelBuffers, datagramBufferCount: limits.datagramBuffers,
            datagramBytes: limits.datagramBufferBytes, messageCount: limits.messages, hugePages: hugePages,
            isTouched: isTouched)
    }
}
