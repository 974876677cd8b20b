// How it works. The kernel path's programs count what they leave to a worker, and number it over all workers of a way: a
// packet's ticket (ADR 101). Where a flow waits to go past the worker, the worker reads the last ticket, then the count. If it
// found its queue empty, and the count is what it has taken itself, then nothing with that ticket or an earlier one waits for it
// any more, and nothing is on its way to its queue, wherever in the kernel that would be. Once all that it has taken by then is
// sent, written or dropped (buffers filled later are of another generation), it says so. No clock is needed for it, and one
// system call where the worker would else sleep without knowing what became of what it sent.
//
// The two counts come apart where a packet that was counted never comes (a queue was full) or one comes that nobody counted
// (it was there before the programs were). One too many is forgotten at once. One that is missing may still come; what is
// missing at every look for a while is lost.

import Forwarding

/// What of one way's packets is through a worker.
struct Passage {
    private let shared: KernelPathPassage?
    /// How many of those that were left to the worker it has taken, or found to be lost.
    private var accounted: UInt64
    /// Whether something was taken since all that was taken was said to be through.
    private var isDue = false
    /// What the programs had given when this round's packets came, where somebody waits for it.
    private var seen: Given?
    /// What is through once nothing is left of the former generation of buffers.
    private var claimed: Given?
    private var missing = Missing()

    /// What programs had given at some moment.
    private struct Given {
        var ticket: UInt64
        var entered: UInt64
    }

    /// What did not come, as of the looks since it was first missed.
    private struct Missing {
        var looks = 0
        var least = Int64.max
        var sinceNanoseconds = 0
    }

    /// - Parameter shared: nil where nobody counts; then nothing is ever said.
    init(_ shared: KernelPathPassage?) {
        self.shared = shared
        accounted = shared?.accounted ?? 0
        isDue = shared != nil
    }

    /// Whether a flow waits for what this worker has not said.
    @inline(__always)
    var isWanted: Bool {
        guard isDue, let shared else { return false }
        return shared.wanted > shared.through
    }

    /// Counts from here on: what came before was counted by nobody. To be called while nothing waits for the worker.
    mutating func begin() {
        guard let shared else { return }
        accounted = shared.entered
        missing = Missing()
        isDue = true
    }

    /// Looks at what the programs have given, if somebody waits for it: after the kernel was entered, before what it brought is
    /// taken.
    @inline(__always)
    mutating func beginRound() {
        guard isWanted, claimed == nil, let shared else { return }
        // In this order: whoever has this ticket or an earlier one is counted.
        let ticket = shared.lastTicket
        seen = Given(ticket: ticket, entered: shared.entered)
    }

    /// Notes that packets were taken.
    @inline(__always)
    mutating func take(_ count: Int) {
        accounted &+= UInt64(truncatingIfNeeded: count)
        isDue = true
    }

    /// Compares what was given with what was taken, after all that the kernel brought is.
    ///
    /// - Parameters:
    ///   - generations: those of the buffers that packets of this way lie in.
    ///   - foundEmpty: whether the kernel had nothing more.
    ///   - now: nanoseconds of the engine's clock.
    @inline(__always)
    mutating func compare(
        _ generations: inout BufferGenerations, foundEmpty: Bool, atNanoseconds now: Int
    ) {
        guard let given = seen else { return }
        seen = nil
        guard foundEmpty else { return }
        if given.entered == accounted {
            claimed = given
            generations.beginNext()
            missing = Missing()
        } else {
            account(for: given.entered, atNanoseconds: now)
        }
    }

    /// Says what is through, where that is so.
    @inline(__always)
    mutating func endRound(_ generations: borrowing BufferGenerations) {
        guard let shared else { return }
        if let given = claimed, generations.isFormerGone {
            shared.publish(through: given.ticket, entered: given.entered)
            claimed = nil
            isDue = accounted != given.entered
        }
        if isDue { shared.keep(accounted: accounted) }
    }

    private mutating func account(for entered: UInt64, atNanoseconds now: Int) {
        let missed = Int64(bitPattern: entered &- accounted)
        guard missed > 0 else {
            accounted = entered
            missing = Missing()
            return
        }
        if missing.looks == 0 { missing.sinceNanoseconds = now }
        missing.looks &+= 1
        missing.least = min(missing.least, missed)
        guard missing.looks >= WorkerLimits.lostLooks,
            now &- missing.sinceNanoseconds >= WorkerLimits.lostNanoseconds
        else { return }
        accounted &+= UInt64(bitPattern: missing.least)
        missing = Missing()
    }
}

extension Worker where Engine: ~Copyable {
    /// Whether all that was taken in is sent, written or dropped.
    var isThrough: Bool {
        messages.areAllFree && waitingReads.count == 0 && pacedReads.count == 0
            && received.waitingCount == 0 && received.heldCount == 0 && writesPending == 0
            && coalescer.slotCount == 0
    }

    /// Counts what the kernel path's programs leave to this worker from here on. To be called while nothing waits for it.
    public mutating func beginPassages() {
        outboundPassage.begin()
        inboundPassage.begin()
    }

    /// Compares what the kernel path's programs have left to this worker with what it has taken.
    @inline(__always)
    mutating func comparePassages() {
        let (tunnelIsEmpty, now) = (foundTunnelEmpty, workBeganNanoseconds)
        let socketsAreEmpty = work.receives == 0 && received.engineCount > 0
        outboundPassage.compare(&messages.generations, foundEmpty: tunnelIsEmpty, atNanoseconds: now)
        inboundPassage.compare(&received.generations, foundEmpty: socketsAreEmpty, atNanoseconds: now)
    }
}
