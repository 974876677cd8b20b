public import Seeded

/// The disturbances of a soak, in the order in which a seed has them. Every kind comes once before one comes again.
///
/// A deck knows nothing of what came of its cards: whoever plays it, a lab of real daemons or a lease simulation, has
/// the same cards for a seed. What depends on the network's state, such as which of the leases are removed, is drawn
/// from the card's own dice.
public struct DisturbanceDeck: Sendable {
    /// A disturbance and how it is played.
    public struct Card: Sendable {
        /// Counted from 1.
        public let number: Int
        /// Of the disturbance.
        public let kind: Disturbance.Kind
        /// What happens.
        public let disturbance: Disturbance
        /// Whether everything is to be well again before the next one; one in four is not waited for.
        public let isAwaited: Bool
        /// For what depends on the network's state. No other card draws from it.
        public var dice: SeededRandom
    }

    private let nodes: Int
    private var random: SeededRandom
    private var kinds: [Disturbance.Kind] = []
    /// How many cards were drawn.
    public private(set) var count = 0
    private var port = DisturbedNetwork.firstPort

    /// Shuffles the deck of a seed.
    ///
    /// - Parameter nodes: how many there are; 2 or more.
    public init(seed: UInt64, nodes: Int) {
        precondition(nodes >= 2)
        self.nodes = nodes
        random = SeededRandom(seed: seed)
    }

    /// The next card. There is always one.
    public mutating func next() -> Card {
        if kinds.isEmpty { kinds = Disturbance.Kind.allCases.shuffled(using: &random) }
        let kind = kinds.removeLast()
        count += 1
        let disturbance = draw(kind)
        let isAwaited = !random.oneIn(4)
        return Card(
            number: count, kind: kind, disturbance: disturbance, isAwaited: isAwaited,
            dice: SeededRandom(seed: random.next()))
    }

    private mutating func node() -> Int { 1 + random.below(nodes) }

    /// The first node's daemon is never ended, so that its memory tells of the whole run.
    private mutating func mortalNode() -> Int { 2 + random.below(nodes - 1) }

    /// One whose daemon no service manager keeps, which would start it again beside the one that took over: the last node's has
    /// one.
    private mutating func unkeptNode() -> Int { 2 + random.below(max(nodes - 2, 1)) }

    /// From 0.1 to 4 s; one in eight from 16 to 20 s, longer than a watch may be quiet.
    private mutating func pause() -> Duration {
        random.oneIn(8)
            ? .milliseconds(16_000 + random.below(4_000)) : .milliseconds(100 + random.below(3_900))
    }

    private mutating func draw(_ kind: Disturbance.Kind) -> Disturbance {
        switch kind {
        case .foreignLeasesWritten: .foreignLeasesWritten(count: 1 + random.below(20))
        case .foreignLeasesRemoved: .foreignLeasesRemoved
        case .foreignLeasesMoved: .foreignLeasesMoved
        case .foreignLeasesExpire: .foreignLeasesExpire(count: 5)
        case .malformedLease: .malformedLease
        case .ownKeyDeleted: .ownKeyDeleted(node: node())
        case .ownLeaseExpires: .ownLeaseExpires(node: node(), pause: pause())
        case .subnetTakenByAnother: .subnetTakenByAnother(node: node())
        case .nodeLeavesAndJoins: .nodeLeavesAndJoins(node: mortalNode())
        case .nodeReplaced: .nodeReplaced(node: mortalNode())
        case .configurationChanges: .configurationChanges(port: otherPort())
        case .storeKilled: .storeKilled(pause: pause())
        case .storeRestarted: .storeRestarted
        case .storePaused: .storePaused(pause: pause())
        case .storeEmptied:
            .storeEmptied(pause: pause(), configurationAfter: .seconds(random.below(3)))
        case .storeRestored: .storeRestored(count: 10, after: .seconds(random.below(2)))
        case .historyCompacted: .historyCompacted(node: node(), count: 5)
        case .underlayFlaps: .underlayFlaps(node: node(), pause: pause())
        case .cablePulled: .cablePulled(node: node(), pause: pause())
        case .tunnelFlaps: .tunnelFlaps(node: node(), count: 1 + random.below(3))
        case .tunnelDeleted: .tunnelDeleted(node: node())
        case .kernelStateDeleted: .kernelStateDeleted(node: node())
        case .addressChanges: .addressChanges(node: node(), newIsAddedFirst: random.oneIn(2))
        case .daemonKilled: .daemonKilled(node: mortalNode(), pause: pause())
        case .daemonRestarted: .daemonRestarted(node: mortalNode())
        case .daemonCrashes: .daemonCrashes(node: nodes)
        case .daemonTakenOver: .daemonTakenOver(node: unkeptNode())
        case .successorKilled:
            .successorKilled(node: unkeptNode(), after: .milliseconds(1 + random.below(150)))
        case .daemonSettingsChange: .daemonSettingsChange(node: node(), workers: 1 + random.below(3))
        case .daemonPaused: .daemonPaused(node: node(), pause: pause())
        case .daemonsKilledTogether: .daemonsKilledTogether
        case .outage: outage()
        }
    }

    private mutating func otherPort() -> Int {
        port = port == DisturbedNetwork.firstPort ? port + 1 + random.below(9) : DisturbedNetwork.firstPort
        return port
    }

    /// What needs no store happens while there is none.
    private mutating func outage() -> Disturbance {
        let losesData = random.oneIn(2)
        let meanwhile = (0..<1 + random.below(3)).map { _ in
            draw(
                random.one(of: [
                    .underlayFlaps, .tunnelFlaps, .tunnelDeleted, .kernelStateDeleted, .addressChanges,
                    .daemonKilled, .daemonPaused, .daemonsKilledTogether,
                ]))
        }
        return .outage(losesData: losesData, meanwhile: meanwhile)
    }
}
