import Glibc
import Host

/// How long this machine's programs, and this process's packet threads among them, wanted a processor and had none:
/// sums since some moment, of which two are compared.
struct ProcessorTimes: Sendable, Equatable {
    /// At least one program waited for a processor (`some` of `/proc/pressure/cpu`), microseconds; nil where the kernel
    /// does not tell.
    var pressureMicroseconds: UInt64?
    /// Processor time that the hypervisor gave to others (`steal` of `/proc/stat`), and all there was, in the kernel's
    /// ticks; nil where it does not tell.
    var steal: (ticks: UInt64, ofTicks: UInt64)?
    /// The packet threads were ready to run and did not (`schedstat`), nanoseconds, of the thread that waited the most;
    /// nil where the kernel does not tell.
    var threadWaitNanoseconds: UInt64?

    /// What the kernel says now. Some small files of `/proc`; `/proc/stat` takes a millisecond where there are hundreds
    /// of processors.
    @available(*, noasync, message: "it blocks: use onThread")
    static func now() -> ProcessorTimes {
        ProcessorTimes(
            pressure: try? TextFile.read("/proc/pressure/cpu"), statistics: try? TextFile.read("/proc/stat"),
            threads: packetThreadStatistics())
    }

    /// Reads the kernel's texts.
    ///
    /// - Parameter threads: one line a packet thread: time on a processor, time waiting for one, turns.
    init(pressure: String?, statistics: String?, threads: [String]) {
        let some = pressure?.split(separator: "\n").first { $0.hasPrefix("some ") }
        pressureMicroseconds = some?.split(separator: " ").first { $0.hasPrefix("total=") }
            .flatMap { UInt64($0.dropFirst("total=".count)) }
        let processors = statistics?.split(separator: "\n").first { $0.hasPrefix("cpu ") }
        let ticks = processors?.split(separator: " ").dropFirst().compactMap { UInt64($0) } ?? []
        // user nice system idle iowait irq softirq steal; what follows is part of these.
        if ticks.count >= 8 { steal = (ticks[7], ticks.prefix(8).reduce(0, &+)) }
        threadWaitNanoseconds = threads.compactMap { line in
            line.split { $0 == " " || $0 == "\n" }.dropFirst().first.flatMap { UInt64($0) }
        }.max()
    }

    static func == (left: ProcessorTimes, right: ProcessorTimes) -> Bool {
        left.pressureMicroseconds == right.pressureMicroseconds
            && left.threadWaitNanoseconds == right.threadWaitNanoseconds
            && left.steal?.ticks == right.steal?.ticks && left.steal?.ofTicks == right.steal?.ofTicks
    }

    /// The statistics of this process's threads that are named after workers.
    private static func packetThreadStatistics() -> [String] {
        guard let directory = opendir("/proc/self/task") else { return [] }
        defer { closedir(directory) }
        var texts: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard !name.hasPrefix("."),
                let command = try? TextFile.read("/proc/self/task/\(name)/comm"),
                command.hasPrefix("worker "),
                let text = try? TextFile.read("/proc/self/task/\(name)/schedstat")
            else { continue }
            texts.append(text)
        }
        return texts
    }
}
