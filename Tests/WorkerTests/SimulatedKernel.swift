import Addresses
import Engines
import Glibc

/// The kernel that the worker runs against in tests: a TUN device, a UDP socket and a clock made of values, with
/// faults drawn from a seed. It is shared between the engine inside a worker (SimulatedEngine.swift) and the test
/// outside.
final class SimulatedKernel {
    struct Datagrams {
        var source: Endpoint
        var segmentBytes: Int
        var payload: [UInt8]
    }

    struct Sent {
        var endpoint: Endpoint
        var payload: [UInt8]
        /// How many segments the send had that it was one of.
        var segmentCount: Int
    }

    var generator: SeededGenerator

    // MARK: Time

    /// The clock, nanoseconds. It moves by what is done, never by itself: so a test says how long everything takes.
    var nowNanoseconds = 1_000_000_000
    /// What passes until the worker has looked at the clock.
    var nanosecondsPerLook = 1000
    /// What passes in an enter beside its wait.
    var nanosecondsPerEnter = 10_000
    /// What passes in a wait without a limit that nothing ends; something else wakes the worker then.
    var nanosecondsPerIdleWait = 10_000
    /// What other programs take of the processor when the worker yields it.
    var nanosecondsPerYield = 20_000
    /// How often the worker yielded the processor.
    var yields = 0

    // MARK: What is there, and what came of it

    /// Frames that the TUN device holds for the worker: virtio header and packet.
    var tunnelQueue: [[UInt8]] = []
    var socketQueue: [Datagrams] = []
    var sent: [Sent] = []
    var written: [[UInt8]] = []
    var lostInSend = 0
    var lostInWrite = 0
    var sendFailures = 0
    var receiveFailures = 0
    /// When each read ended that did not bring a frame because the device failed.
    var failedReads: [Int] = []
    var sleeps = 0
    /// Waits that nothing would have ended although packets were there: a worker gone deaf.
    var stalls = 0
    var enters = 0
    /// What each enter that was to wait waited for, and for how long at most.
    var waits: [(wanted: Int, timeoutMicroseconds: Int)] = []

    // MARK: Faults

    /// Errors that wait on the socket: each is told to the next send, which does nothing else (`sk_err`).
    var pendingErrors: [Int32] = []
    /// Messages whose last send failed: they are lost if they fail again.
    var failedMessages: Set<Int> = []
    /// What the next reads end with, each once.
    var readErrors: [Int32] = []
    /// What the TUN device answers reads with while it is set.
    var readError: Int32 = 0
    /// Percent of operations that end later than in the enter that carried them.
    var lateness = 0
    /// Percent of reads that end with an error, or too early, and leave the frame where it is.
    var readFailurePercent = 0
    var readFailures: [Int] = [-Int(EINTR), -Int(EAGAIN), -Int(ECANCELED), 0]
    /// Percent of receives that end with an error, or with less than the kernel's own header, and bring nothing.
    var receiveFailurePercent = 0
    var receiveResults: [Int] = [-Int(ECONNREFUSED), -Int(EINTR), 0, PacketMemory.datagramPayloadOffset - 1]
    /// Percent of sends, and the errors that they end with.
    var sendFailurePercent = 0
    var sendErrors: [Int32] = [EAGAIN, ENOBUFS, EHOSTUNREACH, EPERM]
    /// Whether a send of several segments fails, with EIO as on a path without checksum offload.
    var refusesSegmentation = false
    var segmentationError: Int32 = EIO
    /// A segment larger than this fails with EMSGSIZE (alone) or EINVAL (segmented).
    var pathLimit = 65_507
    var writeFailurePercent = 0
    var writeErrors: [Int32] = [EIO, EAGAIN, EINVAL]
    /// Whether a merged write fails with EINVAL whose last packet is shorter, as in Linux 6.6.44.
    var refusesShortTails = false
    /// Whether every merged write does.
    var refusesMergedWrites = false
    /// Percent of enters that take only some of what was queued, as the kernel does when it is short of memory.
    var reluctance = 0
    /// What enters end with while it is set: the engine cannot go on.
    var enterError: Int32 = 0
    /// Whether the control side asked for a round.
    var isWoken = false

    init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    /// Draws whether something fails that does so in `percent` of a hundred cases. Where nothing ever fails nothing
    /// is drawn, so that a new fault does not change what the other seeds do.
    func fails(_ percent: Int) -> Bool { percent > 0 && generator.chance(percent) }
}
