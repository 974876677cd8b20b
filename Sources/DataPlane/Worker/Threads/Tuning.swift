import CLinux
import Glibc
import Devices

/// Which engine makes the system calls.
public enum EngineChoice: String, Sendable, CaseIterable {
    /// io_uring, or plain calls where the kernel or the container forbids it.
    case automatic = "auto"
    /// io_uring, or no start.
    case uring
    /// epoll, recvmmsg, sendmmsg, readv, writev.
    case mmsg
}

/// Whether small packets of sparse flows go past the workers, by programs in the kernel.
public enum KernelPathChoice: String, Sendable, CaseIterable {
    /// Where the kernel lets them, and to peers that do so too.
    case automatic = "auto"
    /// Never.
    case off
}

/// How many workers there are.
public enum WorkerCount: Sendable, Equatable {
    /// One for each CPU that workers are pinned to; else one for every four CPUs that this process may use, 1 to 8:
    /// the rest is for the programs that the packets are for.
    case automatic
    /// As many.
    case fixed(Int)

    static let cpusPerWorker = 4
    static let automaticLimit = 8

    /// The number, on a machine that lets this process use `usableCPUs`.
    func number(pinnedTo cpus: [Int], usableCPUs: Int) -> Int {
        switch self {
        case .fixed(let count): count
        case .automatic where !cpus.isEmpty: min(cpus.count, Tuning.Ranges.workers.upperBound)
        case .automatic: min(max(1, usableCPUs / WorkerCount.cpusPerWorker), WorkerCount.automaticLimit)
        }
    }
}

/// A tuning that is out of range or does not go together. It names numbers by what they are here: what they are
/// called where people write them down, only the reader of that knows.
public enum TuningError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A number is outside of its range.
    case outOfRange(Tuning.Number, value: Int, range: ClosedRange<Int>)
    /// A number is to be a power of two.
    case noPowerOfTwo(Tuning.Number, value: Int)
    /// The ring has too few entries for `batch` reads of a round, which need `needed`.
    case tooFewRingEntries(Int, batch: Int, needed: Int)
    /// Receive buffers of so many bytes lose what the kernel coalesces, up to `coalesced` bytes.
    case losesCoalesced(receiveBufferBytes: Int, coalesced: Int)
    /// Receive buffers of so many bytes do not hold a packet of the tunnel's MTU.
    case lessThanMTU(receiveBufferBytes: Int, mtu: Int)

    /// What is wrong.
    public var description: String {
        switch self {
        case .outOfRange(let number, let value, let range):
            "\(number) is \(value); it is \(range.lowerBound) to \(range.upperBound)"
        case .noPowerOfTwo(let number, let value): "\(number) is \(value); it is a power of two"
        case .tooFewRingEntries(let entries, let batch, let needed):
            "\(entries) ring entries are too few for a batch of \(batch), which needs \(needed)"
        case .losesCoalesced(let bytes, let coalesced):
            "receive buffers of \(bytes) bytes lose what the kernel coalesces, up to \(coalesced) bytes"
        case .lessThanMTU(let bytes, let mtu):
            "receive buffers of \(bytes) bytes hold less than the tunnel's MTU of \(mtu) bytes"
        }
    }
}

/// What can be tuned. The defaults are right for a node that nobody tunes; docs/tuning.md says what each trades.
public struct Tuning: Sendable, Equatable {
    /// Which engine makes the system calls.
    public var engine = EngineChoice.automatic
    /// Worker threads, each with a queue of the TUN device, a socket and a ring.
    public var workers = WorkerCount.automatic
    /// The CPUs to pin workers to, in turn; empty: not pinned.
    public var cpus: [Int] = []
    /// Submission entries of each ring, a power of two.
    public var ringEntries = 1024
    /// Buffers for received datagrams of each worker, a power of two.
    public var receiveBuffers = 16
    /// Bytes of each: the largest datagram has 65,507.
    public var receiveBufferBytes = 65_536
    /// Reads of one round: 64 small packets make one full send on any kernel with UDP segmentation.
    public var batch = 64
    /// Super-packets that a round forwards each way, some 0.5 ms of work. 16 × 64 KiB exceed the processor's L2
    /// cache, and each byte is then fetched from L3 or memory; fewer switches between reading and sending, and
    /// between this node's programs, gain more than that costs.
    public var superPacketBatch = 16
    /// Microseconds that the ring waits for more completions under load; 0: never.
    public var minimumWaitMicroseconds = 0
    /// Whether a kernel thread takes submissions from each ring (SQPOLL).
    public var usesSubmissionPolling = false
    /// Send and receive buffer of each socket, bytes. The kernel takes it twice and counts its own overhead in: 16
    /// MiB hold some 250 super-packets, or 13 ms at 10 Gbit/s, in which four other programs may have the CPU for a
    /// time slice each. With 8 MiB and four streams on two busy cores a few were lost (`UdpRcvbufErrors`).
    public var socketBufferBytes = 16 << 20
    /// Packets that wait in the TUN device for a worker (`txqueuelen`): what comes in 10 ms at 400,000 small packets
    /// a second, in which three other programs may have the CPU for a time slice each. With 1,000 a fifth less is
    /// carried without loss; longer ones carry less under a flood (docs/tuning.md). Of super-packets they are 250 MiB
    /// (4,000 × 64 KiB), where programs have so much under way.
    public var queueLength = 4000
    /// What to let the kernel hand over unfinished.
    public var tunnelOffloads = TunnelOffloads.all
    /// Whether one send carries many datagrams (`UDP_SEGMENT`).
    public var usesSegmentation = true
    /// Whether one receive brings many (`UDP_GRO`).
    public var usesCoalescing = true
    /// Whether packet buffers lie in huge pages.
    public var usesHugePages = false
    /// Microseconds to poll before sleeping; 0: never.
    public var busyPollMicroseconds = 0
    /// Whether small packets of sparse flows go past the workers.
    public var kernelPath = KernelPathChoice.automatic
    /// The largest inner packet, bytes, that does: requests, answers, acknowledgements. What is larger gains from the
    /// workers' merging.
    public var kernelPathBytes = 256

    /// The defaults.
    public init() {}

    /// What of it is a number with a range: an error tells by this which one it is about.
    public enum Number: Sendable, Equatable, CaseIterable {
        /// Worker threads, where their number is given.
        case workers
        /// See the variables of these names.
        case ringEntries, receiveBuffers, receiveBufferBytes, batch, superPacketBatch
        /// See the variables of these names.
        case minimumWaitMicroseconds, socketBufferBytes, queueLength, busyPollMicroseconds, kernelPathBytes
    }

    /// From where to where each number can be tuned.
    public enum Ranges {
        /// Worker threads.
        public static let workers = 1...64
        /// Submission entries: the largest completion ring of the kernel (65,536, io_uring/io_uring.h) is four times
        /// the upper bound.
        public static let ringEntries = 512...16_384
        /// Receive buffers of a worker.
        public static let receiveBuffers = 1...4096
        /// Bytes of a receive buffer: from what every IPv6 path carries (RFC 8200) to any datagram.
        public static let receiveBufferBytes = 1280...65_536
        /// Reads of a round.
        public static let batch = 1...64
        /// Super-packets of a round.
        public static let superPacketBatch = 1...64
        /// Microseconds to wait for more.
        public static let minimumWaitMicroseconds = 0...1000
        /// Bytes of a socket's buffers.
        public static let socketBufferBytes = 65_536...1 << 30
        /// Packets in the TUN device's queue.
        public static let queueLength = 1...65_536
        /// Microseconds of polling.
        public static let busyPollMicroseconds = 0...1000
        /// Bytes of a packet on the kernel path: from a TCP header's with options to what every path carries.
        public static let kernelPathBytes = 80...1024
    }

    func checkRanges() throws(TuningError) {
        var numbers: [(number: Number, value: Int, range: ClosedRange<Int>)] = [
            (.ringEntries, ringEntries, Ranges.ringEntries),
            (.receiveBuffers, receiveBuffers, Ranges.receiveBuffers),
            (.receiveBufferBytes, receiveBufferBytes, Ranges.receiveBufferBytes),
            (.batch, batch, Ranges.batch), (.superPacketBatch, superPacketBatch, Ranges.superPacketBatch),
            (.minimumWaitMicroseconds, minimumWaitMicroseconds, Ranges.minimumWaitMicroseconds),
            (.socketBufferBytes, socketBufferBytes, Ranges.socketBufferBytes),
            (.queueLength, queueLength, Ranges.queueLength),
            (.busyPollMicroseconds, busyPollMicroseconds, Ranges.busyPollMicroseconds),
            (.kernelPathBytes, kernelPathBytes, Ranges.kernelPathBytes),
        ]
        if case .fixed(let count) = workers { numbers.append((.workers, count, Ranges.workers)) }
        for (number, value, range) in numbers where !range.contains(value) {
            throw .outOfRange(number, value: value, range: range)
        }
        for (number, value) in [(Number.ringEntries, ringEntries), (.receiveBuffers, receiveBuffers)]
        where value & (value - 1) != 0 {
            throw .noPowerOfTwo(number, value: value)
        }
    }

    /// The number of workers on this machine.
    var workerCount: Int { workers.number(pinnedTo: cpus, usableCPUs: Int(twill_usable_cpus())) }

    func cpu(ofWorker index: Int) -> Int? { cpus.isEmpty ? nil : cpus[index % cpus.count] }
}
