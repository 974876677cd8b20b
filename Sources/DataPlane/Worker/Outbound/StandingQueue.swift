// How it works. In short rounds all that has come stands in the worker's line, where a packet of a sparse flow can pass
// it, as long as there are buffers. With many bulk flows there is more than that: 16 windows of 4 MB, say. What does not
// fit stands in the TUN device's queue, first in, first out, and there everybody waits. A line that has been full for
// 100 ms without a break is a standing queue, which carries nothing sooner: TCP's windows are larger than they need be.
// So CoDel's control law (RFC 8289, 5.) lets go of one super-packet of bulk, and of further ones at shorter and shorter
// times until the line has room: their senders take that for what it is and send with smaller windows.

/// When a line of waiting packets lets go of one.
struct StandingQueue {
    /// Since when the line is full, nanoseconds of the worker's clock; 0: it is not.
    private var fullSinceNanoseconds = 0
    /// Whether it has been full for so long that packets go.
    private var isReleasing = false
    /// When the next one goes, or went last.
    private var nextNanoseconds = 0
    /// How many went, that is, how dense they follow each other; and what that was when the last time of them began.
    private var count = 0
    private var countAtStart = 0

    /// Whether one goes now. To be asked once for each packet that is taken from the line, so that a break is seen.
    ///
    /// - Parameters:
    ///   - isFull: whether the line has no room for all that comes.
    ///   - now: nanoseconds of the worker's clock.
    @inline(__always)
    mutating func releases(whileFull isFull: Bool, atNanoseconds now: Int) -> Bool {
        guard isFull else {
            fullSinceNanoseconds = 0
            isReleasing = false
            return false
        }
        if fullSinceNanoseconds == 0 { fullSinceNanoseconds = now }
        guard now &- fullSinceNanoseconds >= WorkerLimits.standingQueueNanoseconds else { return false }
        return releases(atNanoseconds: now)
    }

    private mutating func releases(atNanoseconds now: Int) -> Bool {
        if isReleasing {
            guard now >= nextNanoseconds else { return false }
            count &+= 1
            nextNanoseconds &+= spacingNanoseconds
            return true
        }
        isReleasing = true
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
