internal import Disturbances
internal import Leases
internal import Seeded

/// A card of the deck that a scenario draws from. What a soak has too is a `Disturbance`, with times from seconds to
/// hours here; the others befall a simulated store alone.
private enum ScenarioCard: CaseIterable {
    case storeIsDown, storeIsWiped, storeIsCompacted, storeIsBackedUp, storeIsRestored
    case storeLosesAllLeases, storeIsReplaced, storeClockJumps, memberRestarts
    case entryIsDeleted, entryIsBroken, portChanges
    case nodeRestarts, nodeLosesItsState, nodeIsDown, nodeIsSuspended, nodeIsCutOff

    /// How many times the card is in the deck.
    var count: Int {
        switch self {
        case .storeIsWiped, .storeLosesAllLeases, .storeIsRestored, .storeIsReplaced, .storeClockJumps: 1
        default: 2
        }
    }
}

/// A network of lease machines through hours of disturbances, all of it from one seed.
package struct LeaseScenario: Sendable {
    private static let deck = ScenarioCard.allCases.flatMap { Array(repeating: $0, count: $0.count) }

    /// Seven subnets, so that what one node loses another one takes.
    fileprivate static func network(port: Int) -> String {
        "{\"Network\":\"10.66.0.0/24\",\"SubnetLen\":27,\"Backend\":{\"Port\":\(port)}}"
    }

    /// What came of a scenario.
    package struct Outcome {
        package var simulation: Simulation
        package var steps: Int
        /// What was seen that must not be, one sentence each.
        package var violations: [String]
    }

    package var seed: UInt64
    /// One to six.
    package var nodeCount: Int
    package var hours: Int

    /// Describes a scenario.
    package init(seed: UInt64, nodeCount: Int, hours: Int) {
        self.seed = seed
        self.nodeCount = nodeCount
        self.hours = hours
    }

    /// Runs it: a minute in peace, the disturbances, and thirty hours in peace, after which all must be well: what a
    /// node holds for a node that is gone ends with that one's lease.
    ///
    /// - Parameter listener: told of each line of the story; nil for nobody.
    package func run(listener: ((String) -> Void)? = nil) -> Outcome {
        let simulation = Simulation(seed: seed, network: Self.network(port: 8285))
        simulation.story.listener = listener
        let safety = LeaseSafety(simulation)
        for number in 1...nodeCount { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(60))
        simulation.faults = .everything
        var course = Course(seed: seed, simulation: simulation)
        let end = simulation.start + .seconds(3_600 * hours)
        while simulation.now < end {
            course.play(Self.deck.randomElement(using: &course.dice) ?? .memberRestarts)
            simulation.run(for: course.pause)
        }
        course.endAll()
        simulation.run(for: .seconds(3_600 * 30))
        return Outcome(
            simulation: simulation, steps: safety.steps,
            violations: safety.violations + unrest(in: simulation))
    }

    /// What is not as it must be when all has been quiet for so long.
    private func unrest(in simulation: Simulation) -> [String] {
        var unrest: [String] = []
        let subnets = simulation.nodes.map(\.subnet)
        if Set(subnets.compactMap { $0 }).count != nodeCount {
            unrest.append("in the end the subnets are \(subnets)")
        }
        for node in simulation.nodes {
            if !node.table.isStoreConnected {
                unrest.append("in the end node \(node.number) is not connected")
            }
            let others = Set(simulation.nodes.filter { $0 !== node }.compactMap(\.subnet))
            let missing = others.subtracting(node.table.peers.map(\.subnet.key))
            if !missing.isEmpty {
                unrest.append("in the end node \(node.number) lacks \(missing.sorted())")
            }
            if simulation.entries[node.subnet ?? ""]?.holder != node.identity {
                unrest.append("in the end the store does not have the lease of node \(node.number)")
            }
        }
        return unrest
    }
}

/// A scenario on its way.
private struct Course {
    var dice: SeededRandom
    private let player: DisturbancePlayer
    private let simulation: Simulation
    private var backup: Simulation.Backup
    private var identities: UInt32 = 1_000

    init(seed: UInt64, simulation: Simulation) {
        dice = SeededRandom(seed: seed ^ 0x5EED_0F_DEC5)
        self.simulation = simulation
        player = DisturbancePlayer(
            simulation,
            network: DisturbedNetwork(
                nodes: simulation.nodes.count, configuration: { LeaseScenario.network(port: $0) }),
            timing: .overlapping)
        backup = simulation.backup
    }

    /// How long something goes on: from 10 ms to twenty minutes, the short times as often as the long ones, and once
    /// in `rarely` times longer than a lease lives.
    private mutating func time(rarely: Int) -> Duration {
        if Int.random(in: 0..<rarely, using: &dice) == 0 { return .seconds(3_600 * 30) }
        let scale = 10 << Int.random(in: 0...16, using: &dice)
        return .milliseconds(Int.random(in: scale...(2 * scale), using: &dice))
    }

    /// The time to the next card: from 10 ms to 6 hours, the short ones as often as the long ones; now and then two
    /// days, in which leases are renewed or end.
    var pause: Duration {
        mutating get {
            if Int.random(in: 0..<150, using: &dice) == 0 { return .seconds(3_600 * 48) }
            let scale = 10 << Int.random(in: 0...20, using: &dice)
            return .milliseconds(Int.random(in: scale...(2 * scale), using: &dice))
        }
    }

    mutating func play(_ card: ScenarioCard) {
        if let disturbance = disturbance(card) { return player.play(disturbance, &dice) }
        simulation.tell(nil, "\(card)")
        switch card {
        case .nodeLosesItsState:
            identities += 1
            simulation.nodes.randomElement(using: &dice)?.restart(identity: NodeIdentity(number: identities))
        case .storeIsWiped: simulation.wipe()
        case .storeIsCompacted: simulation.compact()
        case .storeIsBackedUp: backup = simulation.backup
        case .storeIsRestored: simulation.restore(backup)
        case .storeLosesAllLeases: simulation.removeAll(simulation.entries.keys.sorted())
        case .storeIsReplaced: simulation.storeIdentity += "'"
        case .storeClockJumps: simulation.jumpClock(by: .seconds(Int.random(in: 60...100_000, using: &dice)))
        case .memberRestarts: simulation.restartMember()
        case .entryIsDeleted:
            if let key = simulation.entries.keys.sorted().randomElement(using: &dice) {
                simulation.remove(key)
            }
        case .entryIsBroken:
            let key = "10.66.0.\(32 * Int.random(in: 1...7, using: &dice))-27"
            simulation.soleDeletions[key] = simulation.now
            simulation.put(key, "nonsense", timeToLive: .seconds(3_600))
        case .storeIsDown, .portChanges, .nodeRestarts, .nodeIsDown, .nodeIsSuspended, .nodeIsCutOff: break
        }
    }

    /// What a soak has too.
    private mutating func disturbance(_ card: ScenarioCard) -> Disturbance? {
        var node: Int { 1 + Int.random(in: simulation.nodes.indices, using: &dice) }
        switch card {
        case .storeIsDown: return .storeKilled(pause: time(rarely: 2_000))
        case .portChanges: return .configurationChanges(port: Int.random(in: 8_000...9_000, using: &dice))
        case .nodeRestarts: return .daemonRestarted(node: node)
        case .nodeIsDown: return .daemonKilled(node: node, pause: time(rarely: 10))
        case .nodeIsSuspended: return .daemonPaused(node: node, pause: time(rarely: 10))
        case .nodeIsCutOff: return .cablePulled(node: node, pause: time(rarely: 60))
        default: return nil
        }
    }

    /// Ends all that goes on.
    func endAll() {
        simulation.faults = Simulation.Faults()
        // Whoever starts a store gives every lease its whole time.
        simulation.isStoreDown = true
        simulation.isStoreDown = false
        for node in simulation.nodes {
            node.isCut = false
            node.resume()
            if node.isStopped { node.restart() }
        }
    }
}
