import Counters

/// How long packets wait and are under way on one way through a worker, from a sample: the buffer that was filled
/// first in a round, once a millisecond at most.
///
/// All that it costs the other buffers is a comparison each time that one is filled, forwarded and free again.
struct WayTimer {
    private static let intervalNanoseconds = 1_000_000
    private static let nothing = -1

    /// The buffer that waits to be forwarded.
    private var waiting = WayTimer.nothing
    /// What it became when it was forwarded: the message that is sent, or the buffer that is written from.
    private var underWay = WayTimer.nothing
    private var beganNanoseconds = 0
    private var dueNanoseconds = 0

    /// Takes note of a buffer that was filled in a round that began then.
    @inline(__always)
    mutating func noteFilled(_ buffer: Int, atNanoseconds now: Int) {
        guard keepsRecords, now >= dueNanoseconds else { return }
        waiting = buffer
        underWay = WayTimer.nothing
        beganNanoseconds = now
        dueNanoseconds = now &+ WayTimer.intervalNanoseconds
    }

    /// Whether this is the buffer that is timed and waits.
    @inline(__always)
    func timesWait(of buffer: Int) -> Bool { keepsRecords && waiting == buffer }

    /// Whether this is what is timed and under way.
    @inline(__always)
    func timesWay(of number: Int) -> Bool { keepsRecords && underWay == number }

    /// Takes note that what waited is being forwarded, and records how long it waited.
    ///
    /// - Parameter number: what is under way from now on.
    @inline(never)
    mutating func noteForwarded(
        as number: Int, atNanoseconds now: Int, _ histogram: CounterHistogram, _ counters: CounterBlock
    ) {
        // What the clock does not tell apart counts too.
        counters.record(histogram, max(now &- beganNanoseconds, 1))
        waiting = WayTimer.nothing
        underWay = number
        beganNanoseconds = now
    }

    /// Takes note that what was under way has arrived, and records how long that took.
    @inline(never)
    mutating func noteArrived(
        atNanoseconds now: Int, _ histogram: CounterHistogram, _ counters: CounterBlock
    ) {
        counters.record(histogram, max(now &- beganNanoseconds, 1))
        underWay = WayTimer.nothing
    }

    /// Times nothing until another buffer is filled: what was timed came to nothing.
    mutating func giveUp() {
        waiting = WayTimer.nothing
        underWay = WayTimer.nothing
    }
}
