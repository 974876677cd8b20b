// How it works. In short rounds all that has come stands in the worker's queue, where a packet of a sparse flow has
// priority, as long as there are buffers. With many bulk flows there is more than that: 16 windows of 4 MB, say. What
// does not fit stands in the TUN device's queue, first in, first out, and there everybody waits. A queue that has
// been full for 100 ms without a break is a standing queue, which carries nothing sooner: TCP's windows are larger
// than they need be. So CoDel's control law (RFC 8289, 5.) chooses one super-packet of bulk to be marked or dropped,
// and further ones at shorter and shorter times until the queue has room. TCP reads either as congestion, and sends
// with a smaller window.

/// Active queue management: when a packet that leaves the queue is marked, or dropped where it cannot be.
struct StandingQueue {
    /// Since when the queue is full, nanoseconds of the worker's clock; 0: it is not.
    private var fullSinceNanoseconds = 0
    /// Whether it has been full for so long that packets are marked.
    private var isMarking = false
    /// When the next one is marked, or was last.
    private var nextNanoseconds = 0
    /// CoDel's `count` (RFC 8289, 5.3), which says how densely marks follow each other; and what it was when the last
    /// episode of them began.
    private var count = 0
    private var countAtStart = 0

    /// Whether a packet is marked now. To be asked once for each that is taken from the queue, so that a break is
    /// seen.
    ///
    /// - Parameters:
    ///   - isFull: whether the queue has no room for all that comes.
    ///   - now: nanoseconds of the worker's clock.
    @inline(__always)
    mutating func marks(whileFull isFull: Bool, atNanoseconds now: Int) -> Bool {
        guard isFull else {
            fullSinceNanoseconds = 0
            isMarking = false
            return false
        }
        if fullSinceNanoseconds == 0 { fullSinceNanoseconds = now }
        guard now &- fullSinceNanoseconds >= WorkerLimits.standingQueueNanoseconds else { return false }
        return marks(atNanoseconds: now)
    }

    private mutating func marks(atNanoseconds now: Int) -> Bool {
        if isMarking {
            guard now >= nextNanoseconds else { return false }
            count &+= 1
            nextNanoseconds &+= spacingNanoseconds
            return true
        }
        isMarking = true
        // The queue is back before long: as many as it took last time were not enough.
        let taken = count &- countAtStart
        let wasRecent = now &- nextNanoseconds < 16 &* WorkerLimits.standingQueueNanoseconds
        count = wasRecent ? max(taken, 1) : 1
        countAtStart = count
        nextNanoseconds = now &+ spacingNanoseconds
        return true
    }

    /// Until the next one: TCP's throughput falls with the root of its losses.
    private var spacingNanoseconds: Int {
        // checked: a count of one or more makes it no more than the time itself
        Int(Double(WorkerLimits.standingQueueNanoseconds) / Double(count).squareRoot())
    }
}
