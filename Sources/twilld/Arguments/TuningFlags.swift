import ArgumentParser
import Worker

/// How the data plane is tuned: every limit with its arithmetic is in `Tuning`.
struct TuningFlags: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What makes the system calls: uring, mmsg (plain calls), or auto: uring unless it is forbidden here.",
            valueName: "name"))
    var engine = Tuning().engine

    @Option(
        help: ArgumentHelp(
            "Threads that move packets, each with a queue of the device, a socket and a ring; 1 to 64.",
            valueName: "number"))
    var workers = Tuning().workerCount

    @Option(
        help: ArgumentHelp(
            "CPUs to pin the workers to, in turn: 0,2,4. Without it the scheduler places them.",
            valueName: "list"))
    var cpus: CPUList = CPUList(numbers: [])

    @Option(
        help: ArgumentHelp(
            "Send and receive buffer of each socket, 64 KiB to 1 GiB: what a burst may hold.",
            valueName: "bytes"))
    var socketBuffer = Tuning().socketBufferBytes

    @Option(help: ArgumentHelp("Packets that wait in the device's queue; 1 to 65536.", valueName: "packets"))
    var queueLength = 1000

    @Option(help: ArgumentHelp("Take TCP super-packets from and give them to the device.", valueName: "bool"))
    var tunTso = true

    @Option(help: ArgumentHelp("The same for UDP (Linux 6.2).", valueName: "bool"))
    var tunUso = true

    @Option(help: ArgumentHelp("Send many datagrams in one operation (UDP_SEGMENT).", valueName: "bool"))
    var udpGso = Tuning().usesSegmentation

    @Option(help: ArgumentHelp("Receive many datagrams in one operation (UDP_GRO).", valueName: "bool"))
    var udpGro = Tuning().usesCoalescing

    @Option(help: ArgumentHelp("Ask for huge pages for packet buffers.", valueName: "bool"))
    var hugePages = Tuning().usesHugePages

    @Option(
        help: ArgumentHelp(
            "Microseconds to poll before sleeping, 0 to 1000: latency for CPU time.",
            valueName: "microseconds"))
    var busyPoll = Tuning().busyPollMicroseconds

    /// The same for the data plane.
    var tuning: Tuning {
        var tuning = Tuning()
        tuning.engine = engine
        tuning.workerCount = workers
        tuning.cpus = cpus.numbers
        tuning.socketBufferBytes = socketBuffer
        if !tunTso { tuning.tunnelOffloads.subtract([.tcp4, .tcp6, .tcpECN]) }
        if !tunUso { tuning.tunnelOffloads.subtract(.udp) }
        tuning.usesSegmentation = udpGso
        tuning.usesCoalescing = udpGro
        tuning.usesHugePages = hugePages
        tuning.busyPollMicroseconds = busyPoll
        return tuning
    }

    func validate() throws {
        let limits: [(String, Int, ClosedRange<Int>)] = [
            ("workers", workers, 1...64), ("socket-buffer", socketBuffer, 65_536...1 << 30),
            ("queue-length", queueLength, 1...65_536), ("busy-poll", busyPoll, 0...1000),
        ]
        for (name, value, range) in limits where !range.contains(value) {
            throw ValidationError("--\(name) is \(value); it is \(range.lowerBound) to \(range.upperBound)")
        }
    }
}

extension EngineChoice: ExpressibleByArgument {}

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
