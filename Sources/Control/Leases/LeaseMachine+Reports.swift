import Addresses
import Health
import Logging

extension LeaseMachine {
    mutating func publish() {
        var next = published.table
        next.configuration = configuration
        next.refusedNetworks = configuration == nil ? network.refused : []
        next.ownLease = own?.lease
        next.isStoreConnected = session.isConnected
        next.conditions = conditions
        if let configuration {
            let context = PeerIndex.Context(
                configuration: configuration, identity: identity, ownKey: own?.key,
                ownSubnet: own?.subnet, ownEndpoint: ownEndpoint, ownAddresses: announcement.addresses,
                formerPort: network.formerPort)
            if let keysChanged = published.keysChanged {
                // In an order that is always the same: of entries that overlap the first stays.
                for key in keysChanged.sorted() {
                    published.index.update(key, in: register, context: context)
                }
                if keysChanged.isEmpty { published.index.follow(context, in: register) }
            } else {
                published.index.rebuild(register, in: context)
            }
            published.keysChanged = []
            next.peers = published.index.peers
            let changed = published.index.takeChangedReasons()
            if !changed.isEmpty { takeReasons(changed, into: &next) }
        }
        guard next != published.table else { return }
        published.table = next
        turn.actions.append(.publish(next))
    }

    // How many keys a report of missed changes names.
    private static let namedKeys = 4

    /// Says which changes the watch did not tell of, where that is certain: those that it had passed when the store
    /// was read. What it may tell a moment later is taken over without a word.
    mutating func reportMissedChanges(in snapshot: StoreSnapshot) {
        guard session.isComparison, let told = session.position?.current, !doubt.hasStoreJumped,
            doubt.storeIdentity == snapshot.storeIdentity, !snapshot.position.isBefore(told)
        else { return }
        var missed = snapshot.entries.filter { entry in
            entry.version.isToldBy(told) && register.held[entry.key] == nil
                && register[entry.key]?.entry.version != entry.version
        }.map(\.key)
        if snapshot.position == told {
            let present = Set(snapshot.entries.map(\.key))
            missed += register.records.keys.filter {
                !present.contains($0) && register[$0]?.entry.version.isToldBy(told) == true
            }
        }
        guard !missed.isEmpty else { return }
        report(
            .warning, .watchMissedChanges,
            [
                "store": storeName, "count": "\(missed.count)",
                "keys": missed.sorted().prefix(Self.namedKeys).map(\.printable).joined(separator: " "),
            ])
    }

    var conditions: [Component: Problem] {
        var conditions = doubt.conditions
        if let problem = network.problem {
            conditions[Component(.configuration)] = Problem(
                configuration == nil ? .cutOff : .degraded, problem.cause,
                remedy: problem.remedy)
        }
        if let outage = session.outage {
            let errors = Set(outage.errors.values.map(\.description)).sorted().joined(separator: "; ")
            conditions[Component(.store)] = Problem(
                own == nil ? .cutOff : .degraded, "lease store: \(errors)",
                remedy: own == nil
                    ? "this node has no lease before it answers"
                    : "packets flow on; changes are not seen meanwhile")
        }
        if own == nil, let network = log["none left"] {
            conditions[Component(.lease)] = Problem(
                .cutOff, "no subnet is free in \(network)",
                remedy: "release leases that nobody uses (twilld lease list), or widen Network")
        }
        if let problem = selfhood.problem { conditions[Component(.identity)] = problem.problem }
        if register.doubtedCount > 0 { conditions[Component(.store, "lost leases")] = heldProblem }
        if let other = sameAddress {
            conditions[Component(.lease, "address")] = Problem(
                .degraded,
                "the lease \(other) announces this node's address, \(ownEndpoint), and is another node's",
                remedy:
                    "give each node its own --public-ip or its own --port; if that node is gone, twilld lease release it"
            )
        }
        return conditions
    }

    /// Says what changed of why entries are no peers, and puts it into the table, which is ordered by key.
    mutating func takeReasons(_ changed: Set<String>, into next: inout PeerTable) {
        for key in changed.sorted() {
            let reason = published.index.reasons[key]
            guard published.reasons[key] != reason else { continue }
            if let reason {
                report(.warning, .leaseSkipped, ["key": key, "reason": reason])
            } else {
                report(.info, .leaseNoLongerSkipped, ["key": key])
            }
            published.reasons[key] = reason
            if changed.count <= Self.singleChanges { replaceSkipped(key, reason, in: &next.skipped) }
        }
        guard changed.count > Self.singleChanges else { return }
        next.skipped = published.reasons.map { SkippedLease(key: $0.key.printable, reason: $0.value) }.sorted
        {
            $0.key < $1.key
        }
    }

    func replaceSkipped(_ key: String, _ reason: String?, in skipped: inout [SkippedLease]) {
        let key = key.printable
        var (low, high) = (0, skipped.count)
        while low < high {
            let middle = (low &+ high) / 2
            // checked: 0 <= low <= middle < high <= count
            if skipped[middle].key < key { low = middle &+ 1 } else { high = middle }
        }
        let isThere = low < skipped.count && skipped[low].key == key  // checked: low is below the count
        switch (isThere, reason) {
        case (true, let reason?): skipped[low].reason = reason
        case (true, nil): skipped.remove(at: low)
        case (false, let reason?): skipped.insert(SkippedLease(key: key, reason: reason), at: low)
        case (false, nil): break
        }
    }
}

extension LeaseMachine: LoggingMachine {
    package var turnTime: Instant { turn.now }

    package mutating func add(_ report: LeaseReport) { turn.actions.append(.report(report)) }
}
