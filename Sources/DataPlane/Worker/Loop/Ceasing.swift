// How it works. A worker that hands over goes on with its rounds, and takes nothing in any more: the reads and receives
// are cancelled, and what it holds is forwarded, sent and written until nothing of it is left. What comes meanwhile
// waits in the TUN queue and in the socket, for whoever is next. So no packet is lost, and none passes another: the
// next one begins where this one has ended.

import Engines
import Glibc

extension Worker where Engine: ~Copyable {
    /// Takes nothing in from here on; rounds go on until `holdsNothing`. May be called again: what was not cancelled
    /// the first time is cancelled then.
    public mutating func cease() {
        if !isCeasing { burst.beginRound() }
        isCeasing = true
        isEmptying = false
        engine.cease()
    }

    /// Waits for nothing from here on until `cease`: rounds take in what is there already.
    public mutating func beginEmptying() { isEmptying = true }

    /// Takes in again, as before `cease`.
    public mutating func resume() {
        isCeasing = false
        isEmptying = false
        workBeganNanoseconds = 0
        engine.resume()
    }

    /// Whether nothing comes in any more, and all that had come is sent, written or dropped.
    public var holdsNothing: Bool {
        engine.hasCeased && messages.isUnused && received.waitingCount == 0 && received.heldCount == 0
            && writesPending == 0 && coalescer.slotCount == 0 && replies.isUnused
            && waitingReads.count == 0 && pacedReads.count == 0
    }

    /// Whether the last round found the TUN queue empty.
    public var foundTunnelEmpty: Bool {
        burst.asked > 0 ? work.reads < burst.asked : burst.hasPendingRead
    }

    /// Enters for what ends by itself: what was queued, and what was cancelled.
    mutating func enterCeasing(somethingWaits: Bool) -> Int32 {
        if somethingWaits || (queuedInline == 0 && engine.hasCeased && pacedReads.count == 0) {
            return engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
        }
        workBeganNanoseconds = 0
        var pause = WorkerLimits.ceasingMicroseconds
        if pacedReads.count > 0 {
            pause = min(pause, pacedReads.microsecondsUntilDue(atNanoseconds: engine.nowNanoseconds))
        }
        return engine.enter(waitingFor: max(queuedInline, 1), timeoutMicroseconds: pause)
    }
}
