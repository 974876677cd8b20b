import Addresses
package import Backends
package import Health
package import Leases

// How it works. N lease machines and one store stand under a simulated clock. All that happens is an entry of one
// agenda, in the order of its time, and of what is due at once in the order in which it was asked for. Every delay
// and fault is drawn from one seeded generator, and nothing iterates over a dictionary or a set without sorting it
// first, so that a seed gives the same story to the byte, in every process: `story.digest`. The store is in
// SimulatedStore.swift, what can go wrong by itself in SimulationFaults.swift.

/// A network of lease machines on one simulated store, under a simulated clock: everything that happens follows from
/// the seed.
package final class Simulation {
    package typealias Instant = ContinuousClock.Instant

    package let start: Instant
    package private(set) var now: Instant
    package var random: SplitMix64
    package private(set) var nodes: [SimulatedNode] = []
    /// What goes wrong by itself.
    package var faults = Faults()
    /// Told of each step, with the node that took it.
    package var observer: ((SimulatedNode) -> Void)?
    package var story = SimulationStory()
    /// When each request was made, for each node.
    package private(set) var requests: [(node: Int, at: Instant)] = []
    private let backends: BackendRegistry
    private var agenda: [(at: Instant, action: () -> Void)] = []

    // The store (SimulatedStore.swift).
    package internal(set) var configuration: String?
    package internal(set) var entries: [String: StoreEntry] = [:]
    var expiries: [String: Instant] = [:]
    package internal(set) var revision: Int64 = 1
    var history: [(revision: Int64, event: StoreEvent)] = []
    var compacted: Int64 = 0
    package var isStoreDown = false { didSet { storeWentUpOrDown(before: oldValue) } }
    /// Whether writes are done and their answers lost.
    package var losesAnswers = false
    /// How much later than usual the answers to writes come.
    package var answerDelay = Duration.zero
    /// What tells the store from another.
    package var storeIdentity = "one"
    /// When a key was last taken from its holder by anything but that node's own writes.
    package internal(set) var takings: [String: Instant] = [:]
    /// When an entry last went by itself, of its own time or by a person: nodes believe that.
    package internal(set) var soleDeletions: [String: Instant] = [:]
    /// When the store was last down, lost something, or had its clock set.
    package internal(set) var lastStoreTrouble: Instant
    /// When an entry or the configuration last changed.
    package internal(set) var lastChange: Instant
    /// Told of a lease that ended unrenewed.
    package var expiryObserver: ((StoreEntry) -> Void)?

    package init(
        seed: UInt64, network: String? = #"{"Network":"10.66.0.0/16"}"#, backends: BackendRegistry = .all
    ) {
        self.backends = backends
        random = SplitMix64(seed: seed)
        start = .now
        now = start
        lastStoreTrouble = start
        lastChange = start
        configuration = network
    }

    /// A network whose nodes have had twenty seconds to find their leases and each other.
    ///
    /// - Parameters:
    ///   - count: of nodes, 1 or more; their addresses are 198.18.9.1 and on.
    ///   - seed: of the simulation.
    package static func network(of count: Int, seed: UInt64) -> Simulation {
        let simulation = Simulation(seed: seed)
        for number in 1...count { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(20))
        return simulation
    }

    /// Adds a node, which begins at once; one that has only an IPv6 address where `address` is one.
    @discardableResult
    package func addNode(
        _ address: String, identity: UInt32? = nil, port: UInt16? = nil, previous: String? = nil,
        lossPolicy: LeaseOptions.LossPolicy = .reacquire, renewalMargin: Duration = .seconds(3_600),
        underlayAddress: String? = nil, ipv6Address: String? = nil, identityProblem: Problem? = nil,
        hostName: String? = nil
    ) -> SimulatedNode {
        let identity = NodeIdentity(number: identity ?? UInt32(nodes.count + 1))
        let announcement = NodeAnnouncement(
            publicAddress: IPAddress(address)!.v4,
            publicIPv6Address: IPAddress(address)!.v6 ?? ipv6Address.flatMap { IPv6Address($0) }, port: port,
            underlayAddress: underlayAddress.flatMap { IPv4Address($0) }, hostName: hostName)
        let node = SimulatedNode(
            simulation: self, number: nodes.count, identity: identity,
            previous: previous.flatMap { LeaseSubnet(key: $0) }, announcement: announcement
        ) { [unowned self] identity, previous, announcement in
            var options = LeaseOptions(identity: identity)
            options.previousSubnet = previous
            options.lossPolicy = lossPolicy
            options.renewalMargin = renewalMargin
            options.identityProblem = identityProblem
            return LeaseMachine(
                storeName: "simulated", announcement: announcement, options: options, backends: backends,
                seed: random.next(), now: now)
        }
        nodes.append(node)
        schedule(after: .zero, for: node) { node.feed(.timer) }
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

    /// Schedules what happens to a node, unless it was started anew by then.
    func schedule(after delay: Duration, for node: SimulatedNode, _ action: @escaping () -> Void) {
        let life = node.life
        schedule(after: delay) { if node.life == life { action() } }
    }

    var latency: Duration { .milliseconds(Int.random(in: 1...20, using: &random)) }

    /// How long an answer takes.
    private var answerTime: Duration {
        occurs(faults.delaysAnswer) ? .milliseconds(Int.random(in: 100...60_000, using: &random)) : latency
    }

    func occurs(_ probability: Double) -> Bool {
        probability > 0 && Double.random(in: 0..<1, using: &random) < probability
    }

    /// Adds a line to the story: when, who, what.
    func tell(_ node: SimulatedNode?, _ words: @autoclosure () -> String) {
        let time = (now - start).components
        let who = node.map { "node \($0.number)" } ?? "store"
        story.add("\(time.seconds).\(time.attoseconds / 1_000_000_000) \(who): \(words())")
    }
}

// MARK: - What machines ask for

extension Simulation {
    func carryOut(_ action: LeaseMachine.Action, for node: SimulatedNode) {
        switch action {
        case .readSnapshot:
            requests.append((node.number, now))
            tell(node, "reads all")
            schedule(after: latency, for: node) { [self] in answerSnapshot(to: node) }
        case .changeIdentity(let identity):
            tell(node, "is \(identity) from now on")
            node.identity = identity
        case .write(let write):
            requests.append((node.number, now))
            tell(node, write.words)
            let holder = node.identity
            let life = node.life
            // A request that is on its way is done even if its node is gone meanwhile.
            schedule(after: latency) { [self] in answer(write, of: node, in: life, holder: holder) }
        case .watch(let after, let number):
            requests.append((node.number, now))
            tell(node, "watches from \(after.number)")
            node.watchNumber = nil
            schedule(after: latency, for: node) { [self] in
                beginWatch(of: node, after: after.number, number: number)
            }
        case .wake(let instant):
            node.wakeNumber += 1
            let number = node.wakeNumber
            schedule(after: max(.zero, instant - now), for: node) {
                if node.wakeNumber == number { node.feed(.timer) }
            }
        case .publish(let table):
            node.table = table
            tell(
                node,
                "has \(table.ownLease?.subnet.key ?? "no lease"), peers "
                    + table.peers.map { "\($0.subnet.key)@\($0.endpoint)" }.joined(separator: " "))
        case .report(let report):
            node.reports.append(report)
            let fields = report.fields.sorted { $0.key < $1.key }.map { "\($0)=\($1)" }
            tell(node, (["\(report.event)"] + fields).joined(separator: " "))
        case .end(let reason):
            node.endReason = reason
            tell(node, "ends: \(reason)")
        }
    }

    private func isUnreachable(for node: SimulatedNode) -> Bool { isStoreDown || node.isCut }

    private func answerSnapshot(to node: SimulatedNode) {
        let result: Result<StoreSnapshot, LeaseStoreError> =
            isUnreachable(for: node) || occurs(faults.failsRequest)
            ? .failure(LeaseStoreError(.unreachable, "simulated: down"))
            : .success(
                StoreSnapshot(
                    configuration: configuration, entries: entries.values.sorted { $0.key < $1.key },
                    position: .simulated(revision), storeIdentity: storeIdentity))
        schedule(after: answerTime, for: node) { node.feed(.snapshot(result)) }
    }

    private func answer(
        _ write: LeaseMachine.Write, of node: SimulatedNode, in life: Int, holder: NodeIdentity
    ) {
        var result: Result<StoreWriteResult, LeaseStoreError>
        var delay = latency
        if isUnreachable(for: node) || occurs(faults.failsRequest) {
            result = .failure(LeaseStoreError(.unreachable, "simulated: not heard"))
        } else {
            result = .success(perform(write, of: node, holder: holder))
            if losesAnswers && Bool.random(using: &random) || occurs(faults.losesAnswer) {
                result = .failure(LeaseStoreError(.unreachable, "simulated: answer lost"))
            }
            delay = answerTime + answerDelay
        }
        let answer = result
        schedule(after: delay) { if node.life == life { node.feed(.written(write, answer)) } }
    }

    /// Ends a node's watch, if it has one.
    func endWatch(of node: SimulatedNode, _ error: LeaseStoreError) {
        guard let watch = node.watchNumber else { return }
        node.watchNumber = nil
        schedule(after: latency, for: node) { node.feed(.watchEnded(error, watch: watch)) }
    }
}

extension LeaseMachine.Write {
    fileprivate var words: String {
        switch self {
        case .create(let key, let value, _): "creates \(key) \(value)"
        case .renew(let key, let value, _, let version): "renews \(key) \(value) at \(version.number)"
        case .delete(let key, let version): "deletes \(key) at \(version.number)"
        }
    }
}
