import Glibc

/// The machine's monotonic clock and its scheduler: what the engines over a real kernel give to their workers.
public enum MachineClock {
    /// Nanoseconds of the monotonic clock. It is read from a page that the kernel shares, without a system call.
    @inlinable @inline(__always)
    public static var nanoseconds: Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec &* 1_000_000_000 &+ time.tv_nsec
    }

    /// Lets other threads that are ready to run on this processor do so first. One system call.
    @inlinable @inline(__always)
    public static func yieldProcessor() { sched_yield() }
}
