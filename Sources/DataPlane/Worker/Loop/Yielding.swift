// How it works. While rounds are short somebody waits for an answer, and under bulk traffic this thread does not
// sleep by itself: the program that waits, or the peer's worker on a machine that carries both, stays behind it until
// its time slice ends. So each short round yields. Programs that answer take the CPU for some ten microseconds, bulk
// programs for some hundred, and a program that only computes for a whole time slice, which it would get for each
// super-packet. So a yield is followed by as long without one, and one that took very long by a rest (ADR 9).

/// When a worker of short rounds may yield.
struct Yielding {
    private var restsUntilNanoseconds = 0

    /// Whether it may now.
    @inline(__always)
    func isDue(atNanoseconds now: Int) -> Bool { now >= restsUntilNanoseconds }

    /// Notes how long others had the CPU.
    @inline(__always)
    mutating func note(beganNanoseconds began: Int, endedNanoseconds ended: Int) {
        let taken = ended &- began
        restsUntilNanoseconds =
            ended
            &+ (taken > WorkerLimits.longYieldNanoseconds ? WorkerLimits.yieldRestNanoseconds : taken)
    }
}
