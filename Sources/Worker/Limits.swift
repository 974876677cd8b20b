import Engines
import SuperPackets

/// The worker's limits, with their arithmetic. All memory follows from them and is allocated at the start.
public enum WorkerLimits {
    /// Reads of one round: 64 small packets make one full send on any kernel with UDP segmentation.
    public static let readBurst = 64
    /// Reads of one round while super-packets come: their payload (4 × 64 KiB) and the round before stay in the
    /// second-level cache (512 KiB to 2 MiB on today's servers).
    public static let superPacketReadBurst = 4
    /// Reads of one round, those of the round before (their sends are under way), one parked read.
    public static let tunnelBuffers = 2 * readBurst + 1
    /// Messages that are open for more packets at the same time, one for each peer that traffic goes to.
    public static let openMessages = 16
    /// Each read may need a message of its own, a super-packet two (65,535 bytes with all headers added exceed one
    /// send); those of the round before; the open ones; as many again for replays.
    public static let messages = 2 * 2 * readBurst + openMessages + readBurst
    /// Receive buffers given to the kernel: the most that one round takes in, and the round before.
    public static let datagramBuffers = 16
    /// Packets of one received buffer: what the largest UDP segmentation of a sender makes.
    public static let receivedSegments = SuperPacketLimits.sendSegments
    /// Writes of one round: all datagrams of four buffers where nothing can be merged; more wait for the next round.
    public static let writeSlots = 4 * receivedSegments
    /// A round of more packets than this is no sparse traffic, after which polling pays.
    public static let sparseRoundPackets = 4
    /// ICMP errors on their way to the TUN device.
    public static let errorReplies = 8
    /// Ring entries: sends + writes + reads + the standing ones, 336 + 512 + 8 + 65 + 2 = 923, to the next power of two.
    public static let ringEntries = 1024
    /// Segments that must pass one by one, after the send that carried them together failed, before segmentation is
    /// switched off: two full sends, so that one odd packet does not.
    public static let failedSegmentsBeforeFallback = 2 * readBurst
    /// ICMP errors a second, and at once (icmp_msgs_per_sec and icmp_msgs_burst of net/ipv4/icmp.c).
    public static let errorsPerSecond = 1000
    /// See `errorsPerSecond`.
    public static let errorBurst = 50
}
