// What holds between two turns of the machine, whatever a store told. Debug builds look after each turn, so that a test,
// a simulated hour or a fuzzer stops where the state went wrong and not where it shows.

extension LeaseMachine {
    /// Looks at the state after a turn. In release builds it does nothing.
    func assertInvariants() {
        assert(
            {
                assertSession()
                assertOwnSubnet()
                assertActions()
                return true
            }())
    }

    private func assertSession() {
        assert(session.position != nil || session.isSnapshotWanted, "nothing is known of the store, or asked")
        assert(session.position != nil || session.watchNumber == 0, "a watch goes on from no snapshot")
        if let position = session.position {
            assert(!position.latest.isBefore(position.current), "the store is known beyond its latest moment")
        }
        assert(session.outage?.errors.isEmpty != true, "the store fails, and no request does")
        if session.isWatchOpen { assert(session.watchNumber > 0, "a watch that nobody began is open") }
    }

    private func assertOwnSubnet() {
        switch standing {
        case .held(let holding):
            assert(configuration != nil, "a subnet of no known network is held")
            assert(holding.acquired <= holding.renewed, "a lease was renewed before it was acquired")
            if case .lease(let expiry, let renewAt) = holding.term {
                assert(renewAt <= expiry, "a lease is renewed when it has ended")
            }
        case .sought:
            assert(published.table.ownLease == nil, "others are told of a lease that this node does not have")
        case .ended:
            break
        }
        assert(register.identity == identity, "the register counts entries of another identity as own")
    }

    private func assertActions() {
        var requests = 0
        var watches = 0
        var tables = 0
        var ends = 0
        for action in turn.actions {
            switch action {
            case .readSnapshot, .write: requests += 1
            case .watch: watches += 1
            case .publish: tables += 1
            case .end: ends += 1
            case .wake(let instant): assert(instant >= turn.now, "a wake-up lies in the past")
            case .changeIdentity, .report: break
            }
        }
        assert(requests <= 1, "two requests are made at once, one of which answers a state that is gone")
        assert(requests == 0 || session.isRequestUnderWay, "a request is made and not remembered")
        assert(watches <= 1 && tables <= 1, "a turn begins two watches, or publishes two tables")
        assert((ends == 1) == hasEnded, "the machine ends without a word, or says so twice")
    }
}
