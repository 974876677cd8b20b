internal import Disturbances
internal import Leases
internal import Seeded

/// The lease side of a soak: the cards of its seed, played on lease machines and a simulated store that does all that
/// it is asked. What is judged is what the soak judges of leases and peers, and every step by `LeaseSafety`.
package struct SoakReplay: Sendable {
    /// What came of a replay.
    package struct Outcome {
        package var simulation: Simulation
        /// How many disturbances there were.
        package var cards: Int
        package var steps: Int
        /// What was seen that must not be, one sentence each.
        package var violations: [String]
    }

    /// As in a soak, which has to allow for a busy machine.
    private static let healTime = Duration.seconds(60)
    /// All must be well for so long: right after a disturbance nobody has noticed it yet.
    private static let goodTime = Duration.seconds(1)
    /// What each disturbance takes at least: nothing in a lab happens in no time.
    private static let cardTime = Duration.milliseconds(50)

    package var seed: UInt64
    /// Three to nine.
    package var nodeCount: Int
    /// How many disturbances.
    package var cards: Int

    /// Describes a replay.
    package init(seed: UInt64, nodeCount: Int, cards: Int) {
        self.seed = seed
        self.nodeCount = nodeCount
        self.cards = cards
    }

    /// Plays it.
    ///
    /// - Parameter listener: told of each line of the story; nil for nobody.
    package func run(listener: ((String) -> Void)? = nil) -> Outcome {
        var network = DisturbedNetwork(nodes: nodeCount)
        let simulation = Simulation(seed: seed, network: network.configuration)
        simulation.story.listener = listener
        let safety = LeaseSafety(simulation)
        // The margin of a soak: leases are renewed each minute.
        for node in network.nodes {
            simulation.addNode(node.address, renewalMargin: .seconds(1_439 * 60))
        }
        simulation.run(for: .seconds(60))
        for node in network.nodes {
            network[node.number].subnet = simulation.nodes[node.number - 1].subnet ?? ""
        }

        let player = DisturbancePlayer(simulation, network: network, timing: .inTurn)
        var deck = DisturbanceDeck(seed: seed, nodes: nodeCount)
        var violations: [String] = []
        var event = "the beginning"
        func settle() {
            if let fault = heal(simulation, player) {
                violations.append("\(event): not healed within \(Self.healTime): \(fault)")
            }
        }
        player.settle = settle
        settle()
        while deck.count < cards, violations.isEmpty {
            var card = deck.next()
            event = "event \(card.number), \(card.disturbance)"
            player.play(card.disturbance, &card.dice)
            simulation.run(for: Self.cardTime)
            if card.isAwaited { settle() }
        }
        settle()
        return Outcome(
            simulation: simulation, cards: deck.count, steps: safety.steps,
            violations: violations + safety.violations)
    }

    /// Lets time pass until all is as it ought to be.
    ///
    /// - Returns: what is not when the time is over; nil where all is.
    private func heal(_ simulation: Simulation, _ player: DisturbancePlayer) -> String? {
        let deadline = simulation.now + Self.healTime
        var goodSince: Simulation.Instant?
        while true {
            let fault = fault(in: simulation, player.network)
            goodSince = fault == nil ? goodSince ?? simulation.now : nil
            if let goodSince, goodSince + Self.goodTime <= simulation.now { return nil }
            guard simulation.now < deadline || fault == nil else { return fault }
            simulation.run(for: .milliseconds(200))
        }
    }

    private func fault(in simulation: Simulation, _ network: DisturbedNetwork) -> String? {
        for expected in network.present {
            let node = simulation.nodes[expected.number - 1]
            guard node.table.isStoreConnected else { return "node \(expected.number) has no store" }
            guard node.subnet == expected.subnet else {
                return
                    "node \(expected.number) has \(node.subnet ?? "no subnet") instead of \(expected.subnet)"
            }
            let peers = node.table.peers.map { "\($0.subnet.key) \($0.endpoint)" }
            let wanted = network.peers(of: expected.number).map { "\($0.key) \($0.value)" }
            if let difference = DisturbedNetwork.difference(expected: wanted, actual: peers) {
                return "node \(expected.number)'s peers: \(difference)"
            }
            let problems = node.table.problems
            // Two of the network's subnets overlap in nothing, so no problem is the network's own.
            guard problems.isEmpty else { return "node \(expected.number): \(problems)" }
        }
        return storeFault(in: simulation, network)
    }

    private func storeFault(in simulation: Simulation, _ network: DisturbedNetwork) -> String? {
        let addresses = Dictionary(
            uniqueKeysWithValues: network.foreign.map { ($0.key, $0.value) }
                + network.present.map { ($0.subnet, $0.address) })
        let entries = simulation.entries.values.map { entry in
            // The value's other members are the machine's own.
            let address = addresses[entry.key].flatMap { entry.value.contains("\"\($0)\"") ? $0 : nil }
            return DisturbedNetwork.entry(
                entry.key, address, isLeased: entry.lifetime != .permanent && entry.holder != nil)
        }
        return DisturbedNetwork.difference(expected: network.entries, actual: entries).map { "store: \($0)" }
    }
}
