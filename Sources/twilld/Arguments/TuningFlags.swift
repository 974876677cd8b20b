import ArgumentParser
import Devices
import Worker

/// How the data plane is tuned: defaults and ranges are in `Tuning`, what follows from them in `WorkerLimits`. All
/// that there is of a tuning flag on the command line's side is in this file.
struct TuningFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("engine"), GoFlag("workers"), GoFlag("cpus"),
        GoFlag("ring-entries"), GoFlag("sq-poll", .boolean), GoFlag("minimum-wait"), GoFlag("busy-poll"),
        GoFlag("batch"), GoFlag("super-packet-batch"),
        GoFlag("receive-buffers"), GoFlag("receive-buffer-size"), GoFlag("huge-pages", .boolean),
        GoFlag("socket-buffer"), GoFlag("queue-length"),
        GoFlag("tun-tso4", .boolean), GoFlag("tun-tso6", .boolean), GoFlag("tun-ecn", .boolean),
        GoFlag("tun-uso", .boolean), GoFlag("udp-gso", .boolean), GoFlag("udp-gro", .boolean),
        GoFlag("kernel-path"), GoFlag("kernel-path-bytes"),
    ]

    @Option(
        help: ArgumentHelp(
            """
            What makes the system calls: uring, mmsg (plain calls, several times as many), or auto: uring unless it \
            is forbidden here.
            """, valueName: "name"))
    var engine = Tuning().engine

    @Option(
        help: ArgumentHelp(
            """
            Threads that move packets, \(Tuning.Ranges.workers.text), or auto: more carry more flows at once and leave \
            fewer CPUs to the pods.
            """, valueName: "number"))
    var workers = Tuning().workers

    @Option(
        help: ArgumentHelp(
            """
            CPUs to pin the workers to, in turn, 0,2,4: steady caches and memory nearby, but no way out when a CPU is \
            busy. Without it the scheduler places them.
            """, valueName: "list"))
    var cpus: CPUList = CPUList(numbers: [])

    @Option(
        help: ArgumentHelp(
            """
            Operations that one system call can carry, a power of two, \(Tuning.Ranges.ringEntries.text): more let \
            more packets that nothing can be merged with through at once, for memory.
            """, valueName: "number"))
    var ringEntries = Tuning().ringEntries

    @Option(
        help: ArgumentHelp(
            "A kernel thread takes submissions without a system call: it needs a CPU of its own for each worker.",
            valueName: "bool"))
    var sqPoll = Tuning().usesSubmissionPolling

    @Option(
        help: ArgumentHelp(
            """
            Microseconds, \(Tuning.Ranges.minimumWaitMicroseconds.text), that a worker under load waits for more before \
            it wakes: fewer and fuller rounds for latency. The mmsg engine wakes at the first packet all the same.
            """, valueName: "microseconds"))
    var minimumWait = Tuning().minimumWaitMicroseconds

    @Option(
        help: ArgumentHelp(
            """
            Microseconds, \(Tuning.Ranges.busyPollMicroseconds.text), to poll before sleeping when traffic is sparse: \
            latency for CPU time.
            """, valueName: "microseconds"))
    var busyPoll = Tuning().busyPollMicroseconds

    @Option(
        help: ArgumentHelp(
            """
            Packets read from the device at once, \(Tuning.Ranges.batch.text): more share one send and one system \
            call, fewer wait less for each other and stay in smaller caches.
            """, valueName: "packets"))
    var batch = Tuning().batch

    @Option(
        help: ArgumentHelp(
            """
            Super-packets of a round, \(Tuning.Ranges.superPacketBatch.text): each is up to 64 KiB; more \
            save system calls and switches, fewer keep what they hold in smaller caches.
            """, valueName: "packets"))
    var superPacketBatch = Tuning().superPacketBatch

    @Option(
        help: ArgumentHelp(
            """
            Buffers for received datagrams of each worker, a power of two, \(Tuning.Ranges.receiveBuffers.text): \
            more take in longer bursts, fewer stay in the cache.
            """, valueName: "number"))
    var receiveBuffers = Tuning().receiveBuffers

    @Option(
        help: ArgumentHelp(
            """
            Bytes of each, \(Tuning.Ranges.receiveBufferBytes.text): small ones save memory and caches, but need \
            --udp-gro=false, as what the kernel coalesces has up to 65507 bytes.
            """, valueName: "bytes"))
    var receiveBufferSize = Tuning().receiveBufferBytes

    @Option(
        help: ArgumentHelp(
            "Ask for huge pages for packet buffers: fewer address look-ups for memory that comes in 2 MiB steps.",
            valueName: "bool"))
    var hugePages = Tuning().usesHugePages

    @Option(
        help: ArgumentHelp(
            """
            Bytes of the send and of the receive buffer of each socket, \(Tuning.Ranges.socketBufferBytes.text): longer \
            bursts are not lost, but may wait longer.
            """, valueName: "bytes"))
    var socketBuffer = Tuning().socketBufferBytes

    @Option(
        help: ArgumentHelp(
            """
            Packets that wait in the device's queue, \(Tuning.Ranges.queueLength.text): longer bursts are not lost, \
            but may wait longer, and a flood takes more memory.
            """, valueName: "packets"))
    var queueLength = Tuning().queueLength

    @Option(
        help: ArgumentHelp(
            "Take TCP super-packets over IPv4 from and give them to the device: off costs most of the throughput.",
            valueName: "bool"))
    var tunTso4 = true

    @Option(help: ArgumentHelp("The same for TCP over IPv6.", valueName: "bool"))
    var tunTso6 = true

    @Option(
        help: ArgumentHelp(
            "Take TCP super-packets that announce congestion (CWR) whole too; off, the kernel cuts those.",
            valueName: "bool"))
    var tunEcn = true

    @Option(
        help: ArgumentHelp(
            "Take UDP super-packets from and give them to the device (Linux 6.2): fewer, larger operations.",
            valueName: "bool"))
    var tunUso = true

    @Option(
        help: ArgumentHelp(
            "Send many datagrams in one operation (UDP_SEGMENT): off only for paths whose devices break it.",
            valueName: "bool"))
    var udpGso = Tuning().usesSegmentation

    @Option(
        help: ArgumentHelp(
            "Receive many datagrams in one operation (UDP_GRO): off costs throughput and lets buffers be small.",
            valueName: "bool"))
    var udpGro = Tuning().usesCoalescing

    @Option(
        help: ArgumentHelp(
            """
            Whether small packets of sparse flows go past the daemon, by programs in the kernel, to nodes that do so \
            too: auto, where the kernel lets them, or off.
            """, valueName: "choice"))
    var kernelPath = Tuning().kernelPath

    @Option(
        help: ArgumentHelp(
            """
            The largest packet that does, bytes, \(Tuning.Ranges.kernelPathBytes.text): more flows get its short way, \
            fewer the merging of the long one.
            """, valueName: "bytes"))
    var kernelPathBytes = Tuning().kernelPathBytes

    /// The same for the data plane.
    var tuning: Tuning {
        var tuning = Tuning()
        tuning.engine = engine
        tuning.workers = workers
        tuning.cpus = cpus.numbers
        tuning.ringEntries = ringEntries
        tuning.usesSubmissionPolling = sqPoll
        tuning.minimumWaitMicroseconds = minimumWait
        tuning.busyPollMicroseconds = busyPoll
        tuning.batch = batch
        tuning.superPacketBatch = superPacketBatch
        tuning.receiveBuffers = receiveBuffers
        tuning.receiveBufferBytes = receiveBufferSize
        tuning.usesHugePages = hugePages
        tuning.socketBufferBytes = socketBuffer
        tuning.queueLength = queueLength
        tuning.tunnelOffloads = tunnelOffloads
        tuning.usesSegmentation = udpGso
        tuning.usesCoalescing = udpGro
        tuning.kernelPath = kernelPath
        tuning.kernelPathBytes = kernelPathBytes
        return tuning
    }

    private var tunnelOffloads: TunnelOffloads {
        var offloads: TunnelOffloads = .checksum
        if tunTso4 { offloads.insert(.tcp4) }
        if tunTso6 { offloads.insert(.tcp6) }
        // ECN is an addition to TCP super-packets; alone the kernel refuses it (drivers/net/tun.c).
        if tunEcn, tunTso4 || tunTso6 { offloads.insert(.tcpECN) }
        if tunUso { offloads.insert(.udp) }
        return offloads
    }

    func validate() throws {
        do throws(TuningError) {
            _ = try WorkerLimits(tuning)
        } catch {
            throw ValidationError(error.flagText)
        }
    }
}

extension Tuning.Number {
    /// What the number is called on the command line.
    fileprivate var flag: String {
        switch self {
        case .workers: "--workers"
        case .ringEntries: "--ring-entries"
        case .receiveBuffers: "--receive-buffers"
        case .receiveBufferBytes: "--receive-buffer-size"
        case .batch: "--batch"
        case .superPacketBatch: "--super-packet-batch"
        case .minimumWaitMicroseconds: "--minimum-wait"
        case .socketBufferBytes: "--socket-buffer"
        case .queueLength: "--queue-length"
        case .busyPollMicroseconds: "--busy-poll"
        case .kernelPathBytes: "--kernel-path-bytes"
        }
    }
}

extension TuningError {
    /// What is wrong, and which flag to change.
    fileprivate var flagText: String {
        switch self {
        case .outOfRange(.workers, let value, let range):
            "--workers is \(value); it is auto, or \(range.text)"
        case .outOfRange(let number, let value, let range): "\(number.flag) is \(value); it is \(range.text)"
        case .noPowerOfTwo(let number, let value): "\(number.flag) is \(value); it is a power of two"
        case .tooFewRingEntries(let entries, let batch, let needed):
            "--ring-entries \(entries) is too few for --batch \(batch), which needs \(needed): raise the one or "
                + "lower the other"
        case .losesCoalesced(let bytes, let coalesced):
            "--receive-buffer-size \(bytes) would lose what the kernel coalesces, up to \(coalesced) bytes: "
                + "raise it, or give --udp-gro=false"
        // No command line says what MTU the tunnel will have.
        case .lessThanMTU: description
        }
    }
}

extension ClosedRange<Int> {
    /// As a sentence has it.
    fileprivate var text: String { "\(lowerBound) to \(upperBound)" }
}

extension WorkerCount: ExpressibleByArgument {
    /// A number, or `auto`.
    public init?(argument: String) {
        if argument == "auto" {
            self = .automatic
        } else if let count = Int(argument) {
            self = .fixed(count)
        } else {
            return nil
        }
    }

    /// As it is written.
    public var defaultValueDescription: String {
        switch self {
        case .automatic: "auto"
        case .fixed(let count): "\(count)"
        }
    }
}

extension EngineChoice: ExpressibleByArgument {}
extension KernelPathChoice: ExpressibleByArgument {}

/// Numbers of CPUs, written `0,2,4` or `0-3,8`.
struct CPUList: ExpressibleByArgument, Equatable {
    /// In the order in which they were written.
    let numbers: [Int]

    /// CPU_SETSIZE of sched.h: what one affinity mask holds.
    private static let limit = 1024

    init(numbers: [Int]) { self.numbers = numbers }

    init?(argument: String) {
        var numbers: [Int] = []
        for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false).map {
                Int($0)
            }
            guard let first = ends[0], let last = ends.count == 2 ? ends[1] : first,
                first >= 0, first <= last, last < CPUList.limit
            else { return nil }
            numbers += first...last
        }
        self.numbers = numbers
    }

    var defaultValueDescription: String {
        numbers.isEmpty ? "any" : numbers.map(String.init).joined(separator: ",")
    }
}
