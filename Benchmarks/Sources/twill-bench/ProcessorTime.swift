import CPerfEvents
import Foundation

/// Processor time, context switches and wake-ups at a moment, of the machine and of a candidate's daemons.
struct ProcessorTime {
    private var machineSeconds = 0.0
    private var daemonSeconds = 0.0
    private var contextSwitches = 0.0
    private var wakeUps = 0.0

    static func now(_ running: RunningCandidate) -> ProcessorTime {
        var time = ProcessorTime()
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        for line in contents("/proc/stat").split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.first == "cpu" {
                // proc_stat(5): user nice system idle iowait irq softirq steal.
                let fields = words.dropFirst().compactMap { Double($0) }
                time.machineSeconds =
                    (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / ticks
            } else if words.first == "ctxt" {
                time.contextSwitches = Double(words[1]) ?? 0
            }
        }
        time.wakeUps = WakeUps.shared?.count ?? .nan
        for daemon in running.daemons { time.daemonSeconds += seconds(of: daemon.processIdentifier) }
        return time
    }

    /// Seconds on a processor of all threads of a process (schedstat's first field, nanoseconds).
    private static func seconds(of process: pid_t) -> Double {
        let folder = "/proc/\(process)/task"
        let threads = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return threads.reduce(0) { sum, thread in
            let nanoseconds = contents("\(folder)/\(thread)/schedstat").split(separator: " ").first
            return sum + (nanoseconds.flatMap { Double($0) } ?? 0) * 1e-9
        }
    }

    /// What has been used since `earlier`; `wakeUps` is NaN where the kernel's tracepoint cannot be had.
    func since(_ earlier: ProcessorTime) -> (
        machineSeconds: Double, daemonSeconds: Double, contextSwitches: Double, wakeUps: Double
    ) {
        (
            machineSeconds - earlier.machineSeconds, daemonSeconds - earlier.daemonSeconds,
            contextSwitches - earlier.contextSwitches, wakeUps - earlier.wakeUps
        )
    }
}

/// Wake-ups of threads on the whole machine: the tracepoint `sched:sched_wakeup`, counted on every processor.
private struct WakeUps: Sendable {
    /// nil where there are no tracepoints or no right to count them.
    static let shared = WakeUps()

    private let descriptors: [Int32]

    private init?() {
        let file = "\(Lab.tracefs)/events/sched/sched_wakeup/id"
        guard let identifier = UInt64(contents(file).trimmingCharacters(in: .whitespacesAndNewlines)) else {
            return nil
        }
        descriptors = (0..<ProcessInfo.processInfo.activeProcessorCount).map {
            count_tracepoint(identifier, Int32($0))
        }
        guard descriptors.allSatisfy({ $0 >= 0 }) else { return nil }
    }

    var count: Double {
        descriptors.reduce(0) { sum, descriptor in
            var value: UInt64 = 0
            read(descriptor, &value, 8)
            return sum + Double(value)
        }
    }
}

/// A file as text; empty where it cannot be read. Those of /proc say that they hold nothing and give a page a read, which
/// Foundation takes for their end.
func contents(_ path: String) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "" }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    while true {
        let count = withUnsafeTemporaryAllocation(byteCount: 65_536, alignment: 1) { buffer in
            let count = read(descriptor, buffer.baseAddress, buffer.count)
            bytes.append(contentsOf: buffer.prefix(max(count, 0)))
            return count
        }
        guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
    }
}
