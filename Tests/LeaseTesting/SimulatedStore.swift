package import Leases

/// How many changes the store remembers: whoever watches from further back is told that they are gone.
private let historyLimit = 4_000

// MARK: - What others do to the store

extension Simulation {
    package func put(_ key: String, _ value: String, holder: UInt32? = nil, timeToLive: Duration? = nil) {
        set(key, value, holder: holder.map { NodeIdentity(number: $0) }, timeToLive: timeToLive)
    }

    /// Deletes one entry, as a person does.
    package func remove(_ key: String) {
        guard entries[key] != nil else { return }
        delete(key)
        soleDeletions[key] = now
        takings[key] = now
    }

    package func setConfiguration(_ json: String?) {
        configuration = json
        happen([.configuration(json)])
    }

    /// Deletes keys as one change.
    package func removeAll(_ keys: [String], andConfiguration: Bool = false) {
        for key in keys {
            if entries.removeValue(forKey: key) != nil { takings[key] = now }
            expiries[key] = nil
        }
        var events = keys.sorted().map { StoreEvent.deleted(key: $0) }
        if andConfiguration {
            configuration = nil
            events.append(.configuration(nil))
        }
        lastStoreTrouble = now
        happen(events)
    }

    /// What the store holds.
    package struct Backup {
        var configuration: String?
        package var entries: [String: StoreEntry]
        var expiries: [String: Instant]
        var revision: Int64
    }

    package var backup: Backup {
        Backup(configuration: configuration, entries: entries, expiries: expiries, revision: revision)
    }

    /// Puts the store back to what it was.
    package func restore(_ backup: Backup) {
        isStoreDown = true
        takeAll()
        configuration = backup.configuration
        entries = backup.entries
        expiries = backup.expiries
        takeAll()
        // What was broken when the backup was made is so again.
        for entry in entries.values where !entry.value.hasPrefix("{") { soleDeletions[entry.key] = now }
        revision = backup.revision
        history = []
        compacted = backup.revision
        // A restored etcd is another cluster, by its number.
        storeIdentity += "+"
        isStoreDown = false
    }

    /// Loses everything but the configuration, history too; the clients notice as they would with etcd.
    package func wipe() {
        isStoreDown = true
        takeAll()
        entries = [:]
        expiries = [:]
        history = []
        compacted = 0
        revision = 1
        storeIdentity += "+"
        isStoreDown = false
    }

    package func compact() {
        compacted = revision
        history.removeAll { $0.revision <= compacted }
    }

    /// Sets the store's clock forward: leases end early.
    package func jumpClock(by duration: Duration) {
        lastStoreTrouble = now
        expiries = expiries.mapValues { $0 - duration }
    }

    /// Starts the member anew that the nodes watch by; what happens meanwhile, `WatchFault.losesEventsAtRestart` may hide.
    package func restartMember() {
        for node in nodes { endWatch(of: node, LeaseStoreError(.unreachable, "simulated: member restarted")) }
    }

    private func takeAll() {
        lastStoreTrouble = now
        for key in entries.keys { takings[key] = now }
    }
}

// MARK: - What a store does

extension Simulation {
    func storeWentUpOrDown(before wasDown: Bool) {
        lastStoreTrouble = now
        if isStoreDown {
            for node in nodes { endWatch(of: node, LeaseStoreError(.unreachable, "simulated: down")) }
        } else if wasDown {
            // As etcd has it: whoever starts a store, or becomes its leader, gives every lease its whole time.
            expiries = expiries.mapValues { max($0, now + .seconds(86_400)) }
        }
    }

    /// Ends the leases whose time has come, in an order that is always the same.
    func expire() {
        if isStoreDown { return }
        for key in expiries.filter({ $0.value <= now }).keys.sorted() {
            if let entry = entries[key] { expiryObserver?(entry) }
            tell(nil, "\(key) has ended")
            remove(key)
        }
    }

    private func delete(_ key: String) {
        entries[key] = nil
        expiries[key] = nil
        happen([.deleted(key: key)])
    }

    private func happen(_ events: [StoreEvent]) {
        revision += 1
        lastChange = now
        for event in events { history.append((revision, event)) }
        if history.count > historyLimit {
            compacted = history[history.count / 2].revision
            history.removeAll { $0.revision <= compacted }
        }
        for node in nodes {
            if let watch = node.watchNumber { tell(node, watch, of: events, revision: revision) }
        }
    }

    /// Tells a node's watch of changes, by the faults that there are.
    private func tell(_ node: SimulatedNode, _ watch: Int, of events: [StoreEvent], revision: Int64) {
        if occurs(faults.losesEvent) || node.isSuspended && occurs(.losesEventsOfSlowReader) {
            node.lastHidden = now
            return
        }
        if occurs(.progressAheadOfEvents) { return runAhead(of: revision, node, watch) }
        // One stream tells in order.
        let at = max(now + latency, node.lastTold)
        node.lastTold = at
        schedule(after: at - now, for: node) {
            node.feedWatch(.changes(events, upTo: .simulated(revision)), watch)
        }
        if occurs(faults.repeatsEvent) {
            schedule(after: at - now + .seconds(3), for: node) {
                node.feedWatch(.changes(events, upTo: .simulated(revision)), watch)
            }
        }
        if occurs(.goesBackInTime) {
            schedule(after: at - now + .seconds(1), for: node) { [self] in goBack(node, watch) }
        }
        if occurs(faults.endsWatch) {
            schedule(after: at - now + .seconds(1), for: node) { [self] in cut(node, watch) }
        }
    }

    /// A watch stands at a revision of before, and tells again what came after that.
    private func goBack(_ node: SimulatedNode, _ watch: Int) {
        let past = history.suffix(Int.random(in: 1...8, using: &random))
        guard let first = past.first else { return }
        node.feedWatch(.alive(.simulated(first.revision - 1)), watch)
        for (revision, event) in past {
            schedule(after: .zero, for: node) {
                node.feedWatch(.changes([event], upTo: .simulated(revision)), watch)
            }
        }
    }

    /// A watch says that it has come to a revision, and ends before it tells what happened there.
    private func runAhead(of revision: Int64, _ node: SimulatedNode, _ watch: Int) {
        node.lastHidden = now
        schedule(after: latency, for: node) { [self] in
            node.feedWatch(.alive(.simulated(revision)), watch)
            cut(node, watch)
        }
    }

    private func cut(_ node: SimulatedNode, _ watch: Int) {
        guard node.watchNumber == watch else { return }
        node.watchNumber = nil
        node.feed(.watchEnded(LeaseStoreError(.unreachable, "simulated: cut"), watch: watch))
    }

    /// Lets watches do, without any change, what they do wrong by themselves: go back, or fall silent.
    package func misbehave() {
        for node in nodes {
            guard let watch = node.watchNumber else { continue }
            if occurs(.goesBackInTime) { goBack(node, watch) }
            if occurs(.progressAheadOfEvents) { runAhead(of: revision, node, watch) }
            if occurs(faults.losesEvent) { node.loseWatch() }
        }
    }

    private func occurs(_ fault: WatchFault) -> Bool { occurs(faults.ofWatches[fault] ?? 0) }

    @discardableResult
    func set(
        _ key: String, _ value: String, holder: NodeIdentity?, timeToLive: Duration?
    ) -> StoreVersion {
        let version = StoreVersion(number: UInt64(revision + 1), isPosition: true)
        let entry = StoreEntry(
            key: key, value: value, version: version, holder: timeToLive == nil ? nil : holder,
            lifetime: timeToLive == nil ? .permanent : .expiring(remaining: nil))
        if let before = entries[key], before.holder != entry.holder { takings[key] = now }
        entries[key] = entry
        expiries[key] = timeToLive.map { now + $0 }
        happen([.put(entry)])
        return version
    }

    func beginWatch(of node: SimulatedNode, after: Int64, number: Int) {
        func refuse(_ error: LeaseStoreError) {
            schedule(after: latency, for: node) { node.feed(.watchEnded(error, watch: number)) }
        }
        if isStoreDown || node.isCut {
            return refuse(LeaseStoreError(.unreachable, "simulated: down"))
        }
        if after < compacted, !occurs(.losesEventsAtCompaction) {
            return refuse(LeaseStoreError(.historyLost, "simulated: compacted"))
        }
        if after < compacted { node.lastHidden = now }
        node.watchNumber = number
        let current = revision
        schedule(after: .zero, for: node) { node.feedWatch(.alive(.simulated(current)), number) }
        var missed = history.filter { $0.revision > after }
        // It is to begin after the newest revision, so at one that is not yet.
        if after >= current, occurs(.replaysPast) { missed = history.suffix(8) }
        if !missed.isEmpty, occurs(.losesEventsAtRestart) {
            node.lastHidden = now
            missed.removeFirst(Int.random(in: 1...missed.count, using: &random))
        }
        for (revision, event) in missed {
            schedule(after: .zero, for: node) {
                node.feedWatch(.changes([event], upTo: .simulated(revision)), number)
            }
        }
    }

    /// Does a node's write where its guard holds.
    func perform(
        _ write: LeaseMachine.Write, of node: SimulatedNode, holder: NodeIdentity
    ) -> StoreWriteResult {
        switch write {
        case .create(let key, let value, let timeToLive):
            guard entries[key] == nil else { return .refused }
            node.grants[key] = now
            return .done(version: set(key, value, holder: holder, timeToLive: timeToLive))
        case .renew(let key, let value, let timeToLive, let version):
            guard let entry = entries[key], entry.version == version else { return .refused }
            defer { node.grants[key] = now }
            if entry.value == value, entry.holder == (timeToLive == nil ? nil : holder) {
                expiries[key] = timeToLive.map { now + $0 }
                return .done(version: version)
            }
            return .done(version: set(key, value, holder: holder, timeToLive: timeToLive))
        case .delete(let key, let version):
            guard let entry = entries[key], entry.version == version else { return .refused }
            if entry.holder != holder { takings[key] = now }
            delete(key)
            return .done(version: StoreVersion(number: UInt64(revision), isPosition: true))
        }
    }
}

extension StorePosition {
    /// A revision of the simulated store, which is ordered as etcd's is.
    package static func simulated(_ revision: Int64) -> StorePosition {
        StorePosition(revision, isOrdered: true)
    }
}
