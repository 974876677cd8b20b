import Addresses
package import Leases

/// A network of lease machines on one simulated store, under a simulated clock: everything that happens follows
/// from the seed.
package final class Simulation {
    package typealias Instant = ContinuousClock.Instant

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

    private var agenda: [(at: Instant, action: () -> Void)] = []

    package init(seed: UInt64, network: String? = #"{"Network":"10.66.0.0/16"}"#) {
        random = SplitMix64(seed: seed)
        start = .now
        now = start
        configuration = network
    }

    /// Adds a node, which begins at once.
    @discardableResult
    package func addNode(
        _ address: String, identity: UInt32? = nil, port: UInt16? = nil, previous: String? = nil,
        lossPolicy: LeaseOptions.LossPolicy = .reacquire, renewalMargin: Duration = .seconds(3_600)
    ) -> SimulatedNode {
        var options = LeaseOptions(identity: NodeIdentity(number: identity ?? UInt32(nodes.count + 1)))
        options.previousSubnet = previous.flatMap { LeaseSubnet(key: $0) }
        options.lossPolicy = lossPolicy
        options.renewalMargin = renewalMargin
        let node = SimulatedNode(
            simulation: self, number: nodes.count, identity: options.identity,
            machine: LeaseMachine(
                storeName: "simulated",
                announcement: NodeAnnouncement(publicAddress: IPv4Address(address)!, port: port),
                options: options,
                seed: random.next(), now: now))
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

    /// Loses everything but the configuration, history too; the clients notice as they would with etcd.
    package func wipe() {
        isStoreDown = true
        entries = [:]
        expiries = [:]
        history = []
        compacted = 0
        revision = 1
        isStoreDown = false
    }

    package func compact() { compacted = revision }

    // MARK: What a store does

    private func happen(_ event: StoreEvent) {
        revision += 1
        history.append((revision, event))
        let revision = revision
        for node in nodes {
            guard let watch = node.watchNumber else { continue }
            schedule(after: latency) { node.feedWatch(.changes([event], revision: revision), watch) }
        }
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
        for (key, expiry) in expiries where expiry <= now { remove(key) }
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
                    isStoreDown
                    ? .failure(LeaseStoreError(.unreachable, "simulated: down"))
                    : .success(
                        StoreSnapshot(
                            configuration: configuration,
                            entries: entries.values.sorted { $0.key < $1.key }, revision: revision))
                schedule(after: latency) { node.feed(.snapshot(result)) }
            }
        case .write(let write):
            requests.append((node.number, now))
            schedule(after: latency) { [self] in
                var result = perform(write, holder: node.identity)
                if losesAnswers, Bool.random(using: &random) {
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
    package let identity: NodeIdentity
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
    }

    package func feed(_ input: LeaseMachine.Input) {
        guard !isStopped else { return }
        for action in machine.handle([input], now: simulation.now) { simulation.carryOut(action, for: self) }
    }

    /// What a watch told before another took its place does not arrive any more.
    func feedWatch(_ update: StoreUpdate, _ watch: Int) {
        if watchNumber == watch { feed(.update(update, watch: watch)) }
    }

    package func announce(_ address: String, port: UInt16? = nil) {
        feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(address)!, port: port)))
    }

    /// How many reports have this message.
    package func count(_ message: String) -> Int { reports.count { $0.message.hasPrefix(message) } }
}
