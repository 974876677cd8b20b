import Foundation

/// Processor time and context switches at a moment, of the machine and of a candidate's daemons.
struct ProcessorTime {
    private var machineSeconds = 0.0
    private var daemonSeconds = 0.0
    private var contextSwitches = 0.0
    private var stolenSeconds = 0.0

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
                time.stolenSeconds = fields[7] / ticks
            } else if words.first == "ctxt" {
                time.contextSwitches = Double(words[1]) ?? 0
            }
        }
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

    /// What has been used since `earlier`.
    func since(_ earlier: ProcessorTime) -> (
        machineSeconds: Double, daemonSeconds: Double, contextSwitches: Double, stolenSeconds: Double
    ) {
        (
            machineSeconds - earlier.machineSeconds, daemonSeconds - earlier.daemonSeconds,
            contextSwitches - earlier.contextSwitches, stolenSeconds - earlier.stolenSeconds
        )
    }
}

/// A file of /proc or /sys as text; empty where it cannot be read.
func contents(_ path: String) -> String {
    (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
}
