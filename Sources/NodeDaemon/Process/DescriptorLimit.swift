import Glibc
import Health

/// How many files and sockets the process may have open (RLIMIT_NOFILE).
enum DescriptorLimit {
    /// What the daemon needs at most: 80 connections (`ObservationServer.Limits`); for each of up to 16 workers a
    /// queue of the device, two sockets, an eventfd and a ring, 80; the runtime, netlink, signals and listeners some
    /// 30; a child process 6; the store, whose connections and files come and go, 32. That makes 228.
    static let needed = 256
    /// Above this share of the limit it is a problem.
    private static let sharePercent = 90

    /// Raises the limit to the highest that is allowed.
    ///
    /// - Throws: where that is not enough to run.
    static func raise() throws(ExitFailure) {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard getrlimit(resource, &limit) == 0 else { return }
        if limit.rlim_cur < limit.rlim_max {
            var raised = limit
            raised.rlim_cur = limit.rlim_max
            if setrlimit(resource, &raised) == 0 { limit = raised }
        }
        guard limit.rlim_cur >= rlim_t(clamping: needed) else {
            throw ExitFailure(
                .configuration,
                "the limit of open files is \(limit.rlim_cur), and twilld needs \(needed): raise it "
                    + "(LimitNOFILE= in the "
                    + "unit file, ulimit -n)")
        }
    }

    /// Holds what the runtime's clocks need until the task is cancelled. libdispatch closes a clock's timerfd when
    /// the last timer on it is gone and opens one for the next, and traps where it gets none: a timer that never
    /// comes due keeps it.
    static func keepTimers() async {
        await withDiscardingTaskGroup { group in
            group.addTask { try? await Task.sleep(for: .seconds(1 << 30), clock: .continuous) }
            group.addTask { try? await Task.sleep(for: .seconds(1 << 30), clock: .suspending) }
        }
    }

    /// The limit in force.
    static var current: Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .max }
        return Int(clamping: limit.rlim_cur)
    }

    /// How many descriptors are open; nil where there was none left to find out with.
    @available(*, noasync, message: "it blocks: use onThread")
    static var open: Int? {
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        // Beside the descriptors, the directory itself, the one above it and the listing's own descriptor.
        return count - 3
    }

    /// What is wrong with `open` descriptors (nil: too many to count) of `limit`.
    static func problem(open: Int?, limit: Int) -> Problem? {
        if let open, open < limit / 100 * sharePercent + limit % 100 * sharePercent / 100 { return nil }
        return Problem(
            .degraded,
            "\(open.map(String.init) ?? "all") of \(limit) files and sockets that twilld may have are open",
            remedy: "restart twilld, and report it with the list: ls -l /proc/\(getpid())/fd")
    }
}
