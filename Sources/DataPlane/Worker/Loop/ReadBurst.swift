// How it works. Sparse traffic: one read stays pending in the kernel until a packet comes. When pending reads bring
// packets two rounds in a row, reads follow in bursts that do not wait, twice as many each time that all of a burst
// brought packets, up to a limit. A burst that came short makes the next one as long as what it brought, and one of
// none ends the dense time.

/// How many packets a round asks the TUN device for.
struct ReadBurst {
    /// Reads of the next round; 1: one that stays pending until a packet comes.
    private(set) var size = 1
    /// The tunnel buffer of the pending read, or -1.
    private(set) var pendingBuffer = -1
    /// Reads that do not wait, asked for in this round.
    private(set) var asked = 0
    /// Rounds in a row in which the pending read brought a packet.
    private var pendingStreak = 0

    /// Whether a read is pending.
    @inline(__always)
    var hasPendingRead: Bool { pendingBuffer >= 0 }

    /// Begins a round, in which nothing has been asked for.
    @inline(__always)
    mutating func beginRound() { asked = 0 }

    /// Notes that a read which does not wait was asked for.
    @inline(__always)
    mutating func noteAsked() { asked &+= 1 }

    /// Notes the pending read's buffer.
    @inline(__always)
    mutating func notePending(_ buffer: Int) {
        assert(pendingBuffer < 0, "two reads are pending")
        pendingBuffer = buffer
    }

    /// Notes that a read ended.
    @inline(__always)
    mutating func noteEnd(of buffer: Int) { if buffer == pendingBuffer { pendingBuffer = -1 } }

    /// Whether all reads of the burst brought packets: then another one follows at once.
    @inline(__always)
    func cameFull(reads: Int) -> Bool { asked > 0 && reads >= asked }

    /// Decides on the next round's reads.
    ///
    /// - Parameters:
    ///   - reads: how many brought packets in this round.
    ///   - limit: the most that a burst may have.
    @inline(__always)
    mutating func adapt(toReads reads: Int, limit: Int) {
        if size == 1 {
            // One packet alone, a request say, is answered before the next comes: another pending read costs one
            // system call for each, a burst that finds nothing would cost two.
            pendingStreak = reads > 0 ? pendingStreak &+ 1 : 0
            if pendingStreak > 1 { size = min(2, limit) }
        } else if cameFull(reads: reads) {
            size = min(size &* 2, limit)
        } else {
            size = max(1, reads)
            pendingStreak = 0
        }
        assert((1...limit).contains(size), "a burst of \(size)")
    }

    /// Makes the next burst no longer than `limit`.
    @inline(__always)
    mutating func bound(to limit: Int) { size = min(size, limit) }
}
