internal import Leases

/// Watches a simulation step by step: no two nodes believe that they have one subnet, no node loses its lease while
/// it lives, and no peer that works is removed, but for what a store itself took from a node, and then not for long.
package final class LeaseSafety {
    private typealias Instant = ContinuousClock.Instant

    /// How long two nodes that reach the store may both believe that they have a subnet which the store took from one
    /// of them: a watch that kept it to itself is found out by a snapshot, after a quarter of an hour at most.
    private static let longestOverlap = Duration.seconds(1_800)
    /// A lease is renewed an hour before its end: a node that had twice that without trouble has renewed it.
    private static let renewalTime = Duration.seconds(7_200)
    /// How long an entry that goes by itself is believed to be gone by a node that hears of it late.
    private static let beliefTime = Duration.seconds(86_400 * 2)
    /// How long a node may not have heard yet that another one took its subnet.
    private static let suspicionTime = Duration.seconds(60)

    /// After how long a node whose watch began anew has read the store, however it was told: a wait of five seconds at
    /// most, and some for requests that fail.
    private static let readingTime = Duration.seconds(10)

    private unowned let simulation: Simulation
    private var states: [Int: NodeState] = [:]
    private var overlaps: [String: Instant] = [:]
    private var suspicions: [Suspicion] = []
    /// What was seen that must not be, one sentence each.
    package private(set) var violations: [String] = []
    package private(set) var steps = 0

    /// A node as it was at its last step.
    private struct NodeState {
        var life: Int
        var subnet: LeaseSubnet?
        /// Since when it has the subnet.
        var since: Instant
        var peers: Set<LeaseSubnet>
        /// The subnet that it had before it was started anew, until it has one.
        var awaited: LeaseSubnet?
    }

    /// A peer that went while its node had its subnet: wrong where that one has it a minute later, too. Its node may
    /// have lost it to another one without having heard of that.
    private struct Suspicion {
        var at: Instant
        var node: Int
        var owner: Int
        var subnet: LeaseSubnet
    }

    package init(_ simulation: Simulation) {
        self.simulation = simulation
        simulation.observer = { [unowned self] in look(at: $0) }
        simulation.expiryObserver = { [unowned self] in lookAtExpiry(of: $0) }
    }

    private func violate(_ words: String) {
        let hours = (simulation.now - simulation.start) / .seconds(3_600)
        violations.append("after \(hours) h: \(words)")
    }

    private func look(at node: SimulatedNode) {
        steps += 1
        let table = node.table
        var state = states[node.number] ?? NodeState(life: 0, since: simulation.now, peers: [])
        if state.life != node.life {
            state = NodeState(
                life: node.life, since: simulation.now, peers: [], awaited: state.subnet ?? state.awaited)
        }
        takeOwn(table.ownLease?.subnet, of: node, into: &state)
        if let own = state.subnet, table.peers.contains(where: { $0.subnet.overlaps(own) }) {
            violate("node \(node.number) has its own subnet \(own) among its peers")
        }
        let peers = Set(table.peers.map(\.subnet))
        for subnet in state.peers.subtracting(peers).sorted() { suspect(subnet, wentFrom: node) }
        // The first of many deletions that come one by one are believed until the others follow. Where the watch keeps
        // those to itself, the node cannot know of them before it reads the store, which it does within seconds of the
        // watch's beginning.
        let isDeceived = node.lastHidden.map { $0 + Self.suspicionTime > simulation.now } ?? false
        let belief = isDeceived ? Self.readingTime : .seconds(1)
        suspicions.removeAll {
            $0.node == node.number && $0.at + belief > simulation.now && peers.contains($0.subnet)
        }
        state.peers = peers
        states[node.number] = state
        settleSuspicions()
        lookForOverlaps()
    }

    /// Whether the store took a subnet from a node since that one last wrote it.
    private func wasTaken(_ subnet: LeaseSubnet, from node: SimulatedNode) -> Bool {
        guard let granted = node.grants[subnet.key] else { return true }
        return simulation.takings[subnet.key].map { $0 >= granted } ?? false
    }

    private func takeOwn(_ subnet: LeaseSubnet?, of node: SimulatedNode, into state: inout NodeState) {
        guard subnet != state.subnet else { return }
        if let before = state.subnet, !wasTaken(before, from: node) {
            violate("node \(node.number) gave up its subnet \(before), which nobody took")
        }
        if let subnet {
            if node.grants[subnet.key] == nil {
                violate("node \(node.number) believes in the subnet \(subnet), which it never wrote")
            }
            if let awaited = state.awaited, awaited != subnet, !wasTaken(awaited, from: node) {
                violate("node \(node.number) started anew has \(subnet) instead of \(awaited)")
            }
            state.awaited = nil
        }
        state.subnet = subnet
        state.since = simulation.now
    }

    private func lookAtExpiry(of entry: StoreEntry) {
        guard let node = simulation.nodes.first(where: { $0.identity == entry.holder }),
            node.subnet == entry.key, node.isWell
        else { return }
        let quiet = simulation.now - Self.renewalTime
        if node.lastTrouble < quiet, simulation.lastStoreTrouble < simulation.now - .seconds(86_400) {
            violate("the lease \(entry.key) of node \(node.number) ended, which could have renewed it")
        }
    }

    // MARK: Peers

    private func suspect(_ subnet: LeaseSubnet, wentFrom node: SimulatedNode) {
        let now = simulation.now
        let owner = simulation.nodes.first {
            guard let state = states[$0.number], $0.number != node.number, !$0.isStopped else { return false }
            return state.subnet == subnet && state.since + .seconds(30) < now
        }
        // Who has not heard that its entry is gone, or cannot say that it lives, is given up where the others are
        // still there.
        guard let owner, owner.isWell, owner.lastTrouble + Self.suspicionTime < now,
            owner.lastHidden.map({ $0 + Self.longestOverlap < now }) ?? true,
            (simulation.soleDeletions[subnet.key] ?? .distantPast(of: now)) + Self.beliefTime < now
        else { return }
        suspicions.append(Suspicion(at: now, node: node.number, owner: owner.number, subnet: subnet))
    }

    private func settleSuspicions() {
        let now = simulation.now
        for suspicion in suspicions where suspicion.at + Self.suspicionTime <= now {
            if let state = states[suspicion.owner], state.subnet == suspicion.subnet,
                state.since < suspicion.at
            {
                violate("node \(suspicion.node) lost its peer \(suspicion.owner), \(suspicion.subnet)")
            }
        }
        suspicions.removeAll { $0.at + Self.suspicionTime <= now }
    }

    // MARK: Two owners

    private func lookForOverlaps() {
        var owners: [LeaseSubnet: SimulatedNode] = [:]
        var present: Set<String> = []
        for node in simulation.nodes where !node.isStopped {
            guard let subnet = states[node.number]?.subnet, states[node.number]?.life == node.life else {
                continue
            }
            guard let other = owners.updateValue(node, forKey: subnet) else { continue }
            present.insert(look(at: subnet, of: other, and: node))
        }
        if !overlaps.isEmpty { overlaps = overlaps.filter { present.contains($0.key) } }
    }

    /// Judges two nodes that believe in one subnet.
    ///
    /// - Returns: what names the overlap.
    private func look(at subnet: LeaseSubnet, of first: SimulatedNode, and second: SimulatedNode) -> String {
        let name = "\(subnet) of nodes \(first.number) and \(second.number)"
        let now = simulation.now
        if !wasTaken(subnet, from: first), !wasTaken(subnet, from: second) {
            violate("\(name): the store gave it to both")
        }
        let troubles = [first.lastTrouble, second.lastTrouble, simulation.lastStoreTrouble]
        let since = max(overlaps[name] ?? now, troubles.max() ?? now)
        let isQuiet = first.isWell && second.isWell && !simulation.isStoreDown
        overlaps[name] = isQuiet ? since : now
        if isQuiet, now - since > Self.longestOverlap {
            violate("\(name): both have believed in it for \(now - since)")
            overlaps[name] = now
        }
        return name
    }
}

extension ContinuousClock.Instant {
    /// Longer ago than anything in a simulation.
    fileprivate static func distantPast(of now: ContinuousClock.Instant) -> ContinuousClock.Instant {
        now - .seconds(86_400 * 365 * 100)
    }
}
