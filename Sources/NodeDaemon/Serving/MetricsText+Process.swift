import Glibc
import Host
import Telemetry

extension MetricsText {
    /// When this process began, in seconds since 1970; nil where `/proc` does not tell.
    private static let processStart: Double? = {
        // proc(5): the 22nd field of stat, ticks since the machine was started; the second may have spaces in it.
        guard let stat = try? TextFile.read("/proc/self/stat"),
            let machine = try? TextFile.read("/proc/stat"),
            let ticks = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].split(separator: " ").dropFirst(
                20
            )
            .first.flatMap({ Double($0) }),
            let boot = machine.split(separator: "\n").first(where: { $0.hasPrefix("btime ") })?
                .dropFirst(6), let seconds = Double(boot)
        else { return nil }
        return seconds + ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
    }()

    /// Writes what the kernel says of this process, under the names that Prometheus's own client libraries use. What
    /// can't be read is left out.
    @available(*, noasync, message: "it blocks: use onThread")
    mutating func addProcess() {
        var usage = rusage()
        if getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 {
            let microseconds = [usage.ru_utime, usage.ru_stime].reduce(0) {
                $0 + $1.tv_sec * 1_000_000 + $1.tv_usec
            }
            add(
                "process_cpu_seconds_total", .counter, help: "CPU time of all threads.",
                Double(microseconds) / 1e6)
        }
        // proc(5), statm: sizes in pages; the second is the resident set.
        if let text = try? TextFile.read("/proc/self/statm"),
            let pages = text.split(separator: " ").dropFirst().first.flatMap({ Int($0) })
        {
            add(
                "process_resident_memory_bytes", .gauge, help: "Resident memory.",
                Double(pages * sysconf(Int32(_SC_PAGESIZE))))
        }
        if let start = MetricsText.processStart {
            add(
                "process_start_time_seconds", .gauge, help: "When the process began, in seconds since 1970.",
                start)
        }
        let limit = DescriptorLimit.current
        // Where there is none left to count them with, all are open.
        add("process_open_fds", .gauge, help: "Open file descriptors.", Double(DescriptorLimit.open ?? limit))
        add("process_max_fds", .gauge, help: "Most file descriptors that may be open.", Double(limit))
        add(
            "twill_log_lines_lost_total", .counter,
            help: "Lines of the log that standard error did not take.",
            Double(LogWriter.standardError.lostLines))
    }
}
