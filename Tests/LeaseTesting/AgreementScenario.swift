internal import Leases
internal import Disturbances
internal import Seeded

/// A network whose store tells the truth to who reads it and lies to who watches: within `AgreementScenario.time` of
/// the last change every node has the peers that the store has, whatever the watches did.
///
/// Rounds of changes (leases of others written, moved, removed; nodes that start anew, sleep, are cut off; compactions
/// and restarts of members) are each followed by silence, in which nothing changes but watches go on doing what they do
/// wrong. Then every node is compared with the store.
package struct AgreementScenario: Sendable {
    /// How long after the last change all agree. The store is read every 900 seconds at the latest; its answer, and
    /// that of a write before it, may each take a minute; what a snapshot lacks is waited for 40 seconds; and the rest
    /// is for requests that fail.
    package static let time = Duration.seconds(1_200)
    /// Deletions that come closer together than that may be doubted, and their peers rightly be held.
    private static let deletionPause = Duration.seconds(11)
    private static let misbehaviour = Duration.seconds(45)
    /// The third numbers of others' subnets: beyond the first hundred, which nodes choose from.
    private static let foreign = 200..<220

    /// What came of a scenario.
    package struct Outcome {
        package var simulation: Simulation
        /// How many times all nodes were compared with the store.
        package var rounds: Int
        /// What was seen that must not be, one sentence each.
        package var violations: [String]
    }

    package var seed: UInt64
    /// One to six.
    package var nodeCount: Int
    package var hours: Int
    /// The only fault of the watches; nil for all of them, and all others of the store.
    package var fault: WatchFault?

    /// Describes a scenario.
    package init(seed: UInt64, nodeCount: Int, hours: Int, fault: WatchFault? = nil) {
        self.seed = seed
        self.nodeCount = nodeCount
        self.hours = hours
        self.fault = fault
    }

    /// Runs it.
    ///
    /// - Parameter listener: told of each line of the story; nil for nobody.
    package func run(listener: ((String) -> Void)? = nil) -> Outcome {
        let simulation = Simulation(seed: seed)
        simulation.story.listener = listener
        for number in 1...nodeCount { simulation.addNode("198.18.9.\(number)") }
        // So many that what goes within a round is never most of them, which nodes would rightly doubt.
        for number in Self.foreign {
            simulation.put("10.66.\(number).0-24", DisturbedNetwork.value("198.18.8.1"))
        }
        simulation.run(for: .seconds(60))
        simulation.faults = fault.map { .only($0) } ?? .everything
        // A store that is read tells the truth, but a watch may fall silent.
        if fault == nil { simulation.faults.losesEvent = 0.1 }
        var dice = SeededRandom(seed: seed ^ 0xA9EE)
        var outcome = Outcome(simulation: simulation, rounds: 0, violations: [])
        let end = simulation.start + .seconds(3_600 * hours)
        while simulation.now < end {
            for _ in 0..<Int.random(in: 3...12, using: &dice) {
                change(simulation, &dice)
                simulation.run(
                    for: Self.deletionPause + .milliseconds(Int.random(in: 0...60_000, using: &dice)))
            }
            beSilent(simulation)
            outcome.rounds += 1
            outcome.violations += disagreements(in: simulation)
        }
        return outcome
    }

    /// One change of the store, or of who follows it.
    private func change(_ simulation: Simulation, _ dice: inout SeededRandom) {
        let key = "10.66.\(Int.random(in: Self.foreign, using: &dice)).0-24"
        let node = simulation.nodes.randomElement(using: &dice)
        switch Int.random(in: 0..<10, using: &dice) {
        case 0...3:
            simulation.put(key, DisturbedNetwork.value("198.18.8.\(Int.random(in: 1...250, using: &dice))"))
        case 4, 5: simulation.remove(key)
        case 6: simulation.compact()
        case 7: simulation.restartMember()
        case 8: node?.restart()
        default:
            // Asleep while something changes.
            node?.suspend()
            simulation.put(key, DisturbedNetwork.value("198.18.8.\(Int.random(in: 1...250, using: &dice))"))
            simulation.run(for: .seconds(Int.random(in: 1...30, using: &dice)))
            node?.resume()
        }
    }

    /// Lets the time pass after which all must agree. Watches go on doing what they do wrong by themselves.
    ///
    /// The time begins anew with a node that was started or woke, whether or not the store changed since: it reads the
    /// store then, and has its lease again only when the answer to its write has come, which may take a minute.
    private func beSilent(_ simulation: Simulation) {
        // Nodes change the store meanwhile, too.
        var end: ContinuousClock.Instant {
            simulation.nodes.map(\.lastTrouble).reduce(simulation.lastChange, max) + Self.time
        }
        while simulation.now < end {
            simulation.run(for: min(Self.misbehaviour, end - simulation.now))
            if simulation.now < end { simulation.misbehave() }
        }
    }

    private func disagreements(in simulation: Simulation) -> [String] {
        simulation.nodes.compactMap { node in
            let wanted = simulation.entries.values.filter { $0.key != node.subnet }.map {
                "\($0.key) \($0.value)"
            }
            let actual = node.table.peers.map { peer in
                let entry = simulation.entries[peer.subnet.key]
                let isThat = entry?.value.contains("\"\(peer.endpoint.address)\"") ?? false
                return "\(peer.subnet.key) \(isThat ? entry?.value ?? "" : "\(peer.endpoint)")"
            }
            guard let difference = DisturbedNetwork.difference(expected: wanted, actual: actual) else {
                return nil
            }
            let hours = (simulation.now - simulation.start) / .seconds(3_600)
            return "after \(hours) h: node \(node.number), \(Self.time) after the last change: \(difference)"
        }
    }
}
