import Addresses
package import Backends
package import Health
package import Leases

/// A network of lease machines on one simulated store, under a simulated clock: everything that happens follows
/// from the seed.
package final class Simulation {
    package typealias Instant = ContinuousClock.Instant

    /// How often a store and the way to it do what they should not, each from 0 to 1.
    package struct Faults {
        /// A request is not answered, and nothing is done.
        package var failsRequest = 0.0
        /// A write is done, and its answer lost.
        package var losesAnswer = 0.0
        /// A watch does not tell of a change.
        package var losesEvent = 0.0
        /// A watch tells of a change twice, the second time some seconds later.
        package var repeatsEvent = 0.0
        /// A watch says that it stands at a revision of before.
        package var goesBack = 0.0
        /// A watch is ended after a change.
        package var endsWatch = 0.0

        package init() {}
    }

    package let start: Instant
    package private(set) var now: Instant
    package var random: SplitMix64
    package private(set) var nodes: [SimulatedNode] = []

    // The store.
    package private(set) var configuration: String?
    package private(set) var entries: [String: StoreEntry] = [:]
    private var expiries: [String: Instant] = [:]
    package private(set) var revision: Int64 = 1
    private var history: [(revision: Int64, event: StoreEvent)] = []
    private var compacted: Int64 = 0
    package var isStoreDown = false {
        didSet { if isStoreDown { endWatches(LeaseStoreError(.unreachable, "simulated: down")) } }
    }
    /// Whether writes are done and their answers lost.
    package var losesAnswers = false
    /// How much later than usual the answers to writes come.
    package var answerDelay = Duration.zero
    /// When each request was made, for each node.
    package private(set) var requests: [(node: Int, at: Instant)] = []

    /// What goes wrong by itself.
    package var faults = Faults()
    /// Told of each step, with the node that took it.
    package var observer: ((SimulatedNode) -> Void)?
    /// What tells the store from another.
    package var storeIdentity = "one"

    private var agenda: [(at: Instant, action: () -> Void)] = []

    private let backends: BackendRegistry

    package init(
        seed: UInt64, network: String? = #"{"Network":"10.66.0.0/16"}"#, backends: BackendRegistry = .all
    ) {
        self.backends = backends
        random = SplitMix64(seed: seed)
        start = .now
        now = start
        configuration = network
    }

    /// Adds a node, which begins at once.
    @discardableResult
    package func addNode(
        _ address: String, identity: UInt32? = nil, port: UInt16? = nil, previous: String? = nil,
        lossPolicy: LeaseOptions.LossPolicy = .reacquire, renewalMargin: Duration = .seconds(3_600),
        underlayAddress: String? = nil, identityProblem: Problem? = nil
    ) -> SimulatedNode {
        var options = LeaseOptions(identity: NodeIdentity(number: identity ?? UInt32(nodes.count + 1)))
        options.previousSubnet = previous.flatMap { LeaseSubnet(key: $0) }
        options.lossPolicy = lossPolicy
        options.renewalMargin = renewalMargin
        options.identityProblem = identityProblem
        let node = SimulatedNode(
            simulation: self, number: nodes.count, identity: options.identity,
            machine: LeaseMachine(
                storeName: "simulated",
                announcement: NodeAnnouncement(
                    publicAddress: IPv4Address(address)!, port: port,
                    underlayAddress: underlayAddress.flatMap { IPv4Address($0) }),
                options: options, backends: backends, seed: random.next(), now: now))
        nodes.append(node)
        schedule(after: .zero) { node.feed(.timer) }
        return node
    }

    /// Lets time pass.
    package func run(for duration: Duration) {
        let end = now + duration
        while let next = agenda.last, next.at <= end {
            agenda.removeLast()
            now = max(now, next.at)
            expire()
            next.action()
        }
        now = end
        expire()
    }

    func schedule(after delay: Duration, _ action: @escaping () -> Void) {
        // Latest first, so that the next one is taken from the end; what is due at once keeps its order.
        let at = now + delay
        var (low, high) = (0, agenda.count)
        while low < high {
            let middle = (low + high) / 2
            if agenda[middle].at > at { low = middle + 1 } else { high = middle }
        }
        agenda.insert((at, action), at: low)
    }

    var latency: Duration { .milliseconds(Int.random(in: 1...20, using: &random)) }

    // MARK: What others do to the store

    package func put(_ key: String, _ value: String, holder: UInt32? = nil, timeToLive: Duration? = nil) {
        set(key, value, holder: holder.map { NodeIdentity(number: $0) }, timeToLive: timeToLive)
    }

    package func remove(_ key: String) {
        guard entries.removeValue(forKey: key) != nil else { return }
        expiries[key] = nil
        happen(.deleted(key: key))
    }

    package func setConfiguration(_ json: String?) {
        configuration = json
        happen(.configuration(json))
    }

    /// Deletes keys as one change.
    package func removeAll(_ keys: [String], andConfiguration: Bool = false) {
        for key in keys {
            entries[key] = nil
            expiries[key] = nil
        }
        var events = keys.sorted().map { StoreEvent.deleted(key: $0) }
        if andConfiguration {
            configuration = nil
            events.append(.configuration(nil))
        }
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
        configuration = backup.configuration
        entries = backup.entries
        // As etcd has it: whoever starts a store gives every lease its whole time.
        expiries = backup.expiries.mapValues { _ in now + .seconds(86_400) }
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
        entries = [:]
        expiries = [:]
        history = []
        compacted = 0
        revision = 1
        storeIdentity += "+"
        isStoreDown = false
    }

    package func compact() { compacted = revision }

    // MARK: What a store does

    private func happen(_ event: StoreEvent) { happen([event]) }

    private func happen(_ events: [StoreEvent]) {
        revision += 1
        for event in events { history.append((revision, event)) }
        let revision = revision
        for node in nodes {
            guard let watch = node.watchNumber else { continue }
            if occurs(faults.losesEvent) { continue }
            // One stream tells in order.
            let at = max(now + latency, node.lastTold)
            node.lastTold = at
            schedule(after: at - now) { node.feedWatch(.changes(events, revision: revision), watch) }
            if occurs(faults.repeatsEvent) {
                schedule(after: at - now + .seconds(3)) {
                    node.feedWatch(.changes(events, revision: revision), watch)
                }
            }
            if occurs(faults.goesBack) {
                schedule(after: at - now + .seconds(1)) {
                    node.feedWatch(.alive(revision: revision / 2), watch)
                }
            }
            if occurs(faults.endsWatch) {
                schedule(after: at - now + .seconds(1)) {
                    guard node.watchNumber == watch else { return }
                    node.watchNumber = nil
                    node.feed(.watchEnded(LeaseStoreError(.unreachable, "simulated: cut"), watch: watch))
                }
            }
        }
    }

    private func occurs(_ probability: Double) -> Bool {
        probability > 0 && Double.random(in: 0..<1, using: &random) < probability
    }

    @discardableResult
    private func set(
        _ key: String, _ value: String, holder: NodeIdentity?, timeToLive: Duration?
    ) -> StoreVersion {
        let version = StoreVersion(number: UInt64(revision + 1))
        let entry = StoreEntry(
            key: key, value: value, version: version, holder: timeToLive == nil ? nil : holder,
            lifetime: timeToLive == nil ? .permanent : .expiring(remaining: nil))
        entries[key] = entry
        expiries[key] = timeToLive.map { now + $0 }
        happen(.put(entry))
        return version
    }

    private func expire() {
        // In an order that is always the same.
        for key in expiries.filter({ $0.value <= now }).keys.sorted() { remove(key) }
    }

    private func endWatches(_ error: LeaseStoreError) {
        for node in nodes {
            guard let watch = node.watchNumber else { continue }
            node.watchNumber = nil
            schedule(after: latency) { node.feed(.watchEnded(error, watch: watch)) }
        }
    }

    func carryOut(_ action: LeaseMachine.Action, for node: SimulatedNode) {
        switch action {
        case .readSnapshot:
            requests.append((node.number, now))
            schedule(after: latency) { [self] in
                let result: Result<StoreSnapshot, LeaseStoreError> =
                    isStoreDown || occurs(faults.failsRequest)
                    ? .failure(LeaseStoreError(.unreachable, "simulated: down"))
                    : .success(
                        StoreSnapshot(
                            configuration: configuration,
                            entries: entries.values.sorted { $0.key < $1.key }, revision: revision,
                            storeIdentity: storeIdentity))
                schedule(after: latency) { node.feed(.snapshot(result)) }
            }
        case .changeIdentity(let identity):
            node.identity = identity
        case .write(let write):
            requests.append((node.number, now))
            let holder = node.identity
            schedule(after: latency) { [self] in
                if occurs(faults.failsRequest) {
                    let error = LeaseStoreError(.unreachable, "simulated: not heard")
                    return schedule(after: latency) { node.feed(.written(write, .failure(error))) }
                }
                var result = perform(write, holder: holder)
                if losesAnswers && Bool.random(using: &random) || occurs(faults.losesAnswer) {
                    result = .failure(LeaseStoreError(.unreachable, "simulated: answer lost"))
                }
                let answer = result
                schedule(after: latency + answerDelay) { node.feed(.written(write, answer)) }
            }
        case .watch(let after, let number):
            requests.append((node.number, now))
            node.watchNumber = nil
            schedule(after: latency) { [self] in beginWatch(of: node, after: after, number: number) }
        case .wake(let instant):
            node.wakeNumber += 1
            let number = node.wakeNumber
            schedule(after: max(.zero, instant - now)) { if node.wakeNumber == number { node.feed(.timer) } }
        case .publish(let table):
            node.table = table
        case .report(let report):
            node.reports.append(report)
        case .end(let reason):
            node.endReason = reason
        }
    }

    private func beginWatch(of node: SimulatedNode, after: Int64, number: Int) {
        if isStoreDown {
            let error = LeaseStoreError(.unreachable, "simulated: down")
            schedule(after: latency) { node.feed(.watchEnded(error, watch: number)) }
        } else if after < compacted {
            schedule(after: latency) {
                node.feed(.watchEnded(LeaseStoreError(.historyLost, "simulated: compacted"), watch: number))
            }
        } else {
            node.watchNumber = number
            let current = revision
            schedule(after: .zero) { node.feedWatch(.alive(revision: current), number) }
            for (revision, event) in history where revision > after {
                schedule(after: .zero) { node.feedWatch(.changes([event], revision: revision), number) }
            }
        }
    }

    private func perform(
        _ write: LeaseMachine.Write, holder: NodeIdentity
    ) -> Result<StoreWriteResult, LeaseStoreError> {
        if isStoreDown { return .failure(LeaseStoreError(.unreachable, "simulated: down")) }
        switch write {
        case .create(let key, let value, let timeToLive):
            guard entries[key] == nil else { return .success(.refused) }
            return .success(.done(version: set(key, value, holder: holder, timeToLive: timeToLive)))
        case .renew(let key, let value, let timeToLive, let version):
            guard let entry = entries[key], entry.version == version else { return .success(.refused) }
            if entry.value == value, entry.holder == (timeToLive == nil ? nil : holder) {
                expiries[key] = timeToLive.map { now + $0 }
                return .success(.done(version: version))
            }
            return .success(.done(version: set(key, value, holder: holder, timeToLive: timeToLive)))
        case .delete(let key, let version):
            guard entries[key]?.version == version else { return .success(.refused) }
            remove(key)
            return .success(.done(version: StoreVersion(number: UInt64(revision))))
        }
    }
}

/// One machine of a simulation, with what it did.
package final class SimulatedNode {
    private unowned let simulation: Simulation
    package let number: Int
    package internal(set) var identity: NodeIdentity
    /// When the watch last told something.
    var lastTold: ContinuousClock.Instant
    private var machine: LeaseMachine
    var watchNumber: Int?
    var wakeNumber = 0
    package internal(set) var table = PeerTable()
    package internal(set) var reports: [LeaseReport] = []
    package internal(set) var endReason: String?
    /// A node that is stopped takes nothing in and does nothing.
    package var isStopped = false

    package var subnet: String? { table.ownLease?.subnet.key }

    init(simulation: Simulation, number: Int, identity: NodeIdentity, machine: LeaseMachine) {
        self.simulation = simulation
        self.number = number
        self.identity = identity
        self.machine = machine
        lastTold = simulation.now
    }

    package func feed(_ input: LeaseMachine.Input) {
        guard !isStopped else { return }
        for action in machine.handle([input], now: simulation.now) { simulation.carryOut(action, for: self) }
        simulation.observer?(self)
    }

    /// What a watch told before another took its place does not arrive any more.
    func feedWatch(_ update: StoreUpdate, _ watch: Int) {
        if watchNumber == watch { feed(.update(update, watch: watch)) }
    }

    /// Tells the node something as its watch would.
    package func tell(_ update: StoreUpdate) { if let watchNumber { feedWatch(update, watchNumber) } }

    package func announce(_ address: String, port: UInt16? = nil) {
        feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(address)!, port: port)))
    }

    /// How many reports are of this event.
    package func count(_ event: EventName) -> Int { reports.count { $0.event == event } }
}
