/// When a way of sending or writing that the kernel refused is tried again: nothing that a packet may have caused is given up
/// for good.
struct OffloadRest {
    /// Until when it rests, nanoseconds of the worker's clock; `Int.max` while it does not.
    private var untilNanoseconds = Int.max
    private var pauseNanoseconds = WorkerLimits.offloadRestNanoseconds

    /// Begins a rest, twice as long as the one before.
    mutating func begin(atNanoseconds now: Int) {
        untilNanoseconds = now &+ pauseNanoseconds
        pauseNanoseconds = min(2 &* pauseNanoseconds, WorkerLimits.longestOffloadRestNanoseconds)
    }

    /// Whether a rest is over: true once for each rest.
    @inline(__always)
    mutating func isOver(atNanoseconds now: Int) -> Bool {
        guard now >= untilNanoseconds else { return false }
        untilNanoseconds = .max
        return true
    }
}
