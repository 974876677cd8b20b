import Addresses
import Health
import Logging

extension LeaseMachine {
    /// Asks for what is due, one request at a time, and to be woken when more is.
    mutating func askNext(now: Instant) {
        if let resyncAt = session.position?.resyncAt, resyncAt <= now { session.wantComparison() }
        if !session.isRequestUnderWay, session.isSnapshotWanted {
            if mayAsk(.snapshot, now: now) {
                session.request = .snapshot(known: session.position?.latest)
                session.snapshotAsked = now
                turn.actions.append(.readSnapshot)
            }
            return
        }
        if !session.isSnapshotWanted, !session.isWatchOpen, let position = session.position?.current,
            mayAsk(.watch, now: now)
        {
            session.watch = .open(aliveSince: session.watch.aliveSince)
            session.watchNumber += 1
            turn.actions.append(
                .watch(after: position, number: session.watchNumber))
        }
        if !session.isRequestUnderWay, !session.isSnapshotWanted {
            if let write = nextWrite(now: now) {
                if mayAsk(.write, now: now) {
                    session.request = .write(StoreSession.Request.Write(asked: now))
                    turn.actions.append(.write(write))
                }
                return
            }
            // A write has failed, and none is needed: the store did it though its answer was lost, or the need is
            // gone.
            if session.isFailing(.write) { succeeded(.write, now: now) }
        }
        if session.isSnapshotWanted, !session.isRequestUnderWay { wake(at: now) }
        wakeWhenDue(now: now)
    }

    private mutating func wakeWhenDue(now: Instant) {
        let times = [
            session.position?.resyncAt, own?.renewAt, search?.pausedUntil, doubt.nextHeldEnd,
            selfhood.contests.pausedUntil, selfhood.problem.flatMap(\.until),
            network.formerPort?.end,
        ]
        for time in times {
            if let time, time > now { wake(at: time) }
        }
        let releases = register.endings.values.lazy.map { $0 + Self.releaseGrace }
        if let next = releases.filter({ $0 > now }).min() { wake(at: next) }
    }

    mutating func wake(at instant: Instant) { turn.wake = min(turn.wake ?? instant, instant) }

    mutating func mayAsk(_ request: RequestPacing.Request, now: Instant) -> Bool {
        guard let later = session.pacing.take(request, now: now) else { return true }
        wake(at: later)
        return false
    }

    mutating func succeeded(_ request: RequestPacing.Request, now: Instant) {
        // A watch is proven by its life, not by its first word: a store that answers and ends it would be asked for
        // ever at the pace of the first failure.
        if request != .watch { session.pacing.succeeded(request) }
        guard var outage = session.outage, outage.errors.removeValue(forKey: request) != nil else { return }
        guard outage.errors.isEmpty else {
            session.outage = outage
            return
        }
        session.outage = nil
        doubt.answersSince = now
        report(
            .notice, .storeAnswersAgain,
            ["store": storeName, "after_seconds": "\((now - outage.since).components.seconds)"])
    }

    mutating func failed(
        _ request: RequestPacing.Request, _ error: LeaseStoreError, now: Instant
    ) {
        session.pacing.failed(request, now: now, using: &random)
        var outage = session.outage ?? StoreSession.Outage(since: now)
        let isNew = !outage.errors.values.contains { $0.kind == error.kind }
        outage.errors[request] = error
        session.outage = outage
        guard isNew else { return }
        let event: EventName =
            switch error.kind {
            case .unreachable: .storeUnreachable
            case .denied: .storeRefuses
            case .failed, .historyLost: .storeFailedRequest
            }
        report(
            .warning, event,
            [
                "store": storeName, "error": error.description,
                "effect": own == nil ? "no lease before it answers" : "packets flow on",
            ])
    }

    mutating func reportDataLoss(from old: StorePosition, to new: StorePosition) {
        report(
            .warning, .storeIsOlder,
            ["store": storeName, "revision_before": "\(old.number)", "revision": "\(new.number)"])
        doubt.hasStoreJumped = true
    }
}
