import Addresses
package import Backends
package import Health
package import Leases

/// One machine of a simulation, with what it did.
package final class SimulatedNode {
    private unowned let simulation: Simulation
    package let number: Int
    package internal(set) var identity: NodeIdentity
    /// When the watch last told something.
    var lastTold: ContinuousClock.Instant
    private var machine: LeaseMachine
    /// What the node announces, also when it is started anew.
    private var announcement: NodeAnnouncement
    private let makeMachine: (NodeIdentity, _ previous: LeaseSubnet?, NodeAnnouncement) -> LeaseMachine
    var watchNumber: Int?
    var wakeNumber = 0
    /// What arrives while the node is suspended.
    private var backlog: [LeaseMachine.Input] = []
    package internal(set) var table = PeerTable() {
        didSet { if let subnet = table.ownLease?.subnet { lastSubnet = subnet } }
    }
    /// What `subnet.env` names.
    private var lastSubnet: LeaseSubnet?
    package internal(set) var reports: [LeaseReport] = []
    package internal(set) var endReason: String?
    /// A node that is stopped takes nothing in and does nothing.
    package var isStopped = false
    /// When a change was last kept from this node's watch: it knows what it missed with its next snapshot.
    package internal(set) var lastHidden: ContinuousClock.Instant?
    /// Counts the starts. What was on its way to a former life does not arrive.
    package private(set) var life = 1
    /// When the store last did a write of this node's that left it the key.
    package internal(set) var grants: [String: ContinuousClock.Instant] = [:]

    /// Whether the store does not hear this node, nor it the store.
    package var isCut = false {
        didSet {
            guard oldValue != isCut else { return }
            hasTrouble()
            if isCut { simulation.endWatch(of: self, LeaseStoreError(.unreachable, "simulated: cut off")) }
        }
    }

    /// Whether the machine sleeps: nothing is handled until it wakes, when everything is at once.
    package private(set) var isSuspended = false

    /// When the node last was stopped, suspended or cut off.
    package private(set) var lastTrouble: ContinuousClock.Instant
    /// Whether the node runs and reaches the store, as far as it is up.
    package var isWell: Bool { !isStopped && !isSuspended && !isCut }

    package var subnet: String? { table.ownLease?.subnet.key }

    init(
        simulation: Simulation, number: Int, identity: NodeIdentity, previous: LeaseSubnet?,
        announcement: NodeAnnouncement,
        makeMachine: @escaping (NodeIdentity, _ previous: LeaseSubnet?, NodeAnnouncement) -> LeaseMachine
    ) {
        self.simulation = simulation
        self.number = number
        self.identity = identity
        self.announcement = announcement
        self.makeMachine = makeMachine
        machine = makeMachine(identity, previous, announcement)
        lastSubnet = previous
        lastTold = simulation.now
        lastTrouble = simulation.now
    }

    package func feed(_ input: LeaseMachine.Input) {
        guard !isStopped else { return }
        guard !isSuspended else { return backlog.append(input) }
        feed([input])
    }

    private func feed(_ inputs: [LeaseMachine.Input]) {
        for action in machine.handle(inputs, now: simulation.now) { simulation.carryOut(action, for: self) }
        simulation.observer?(self)
    }

    /// What a watch told before another took its place does not arrive any more.
    func feedWatch(_ update: StoreUpdate, _ watch: Int) {
        if watchNumber == watch { feed(.update(update, watch: watch)) }
    }

    /// Tells the node something as its watch would.
    package func tell(_ update: StoreUpdate) { if let watchNumber { feedWatch(update, watchNumber) } }

    /// Lets the watch tell nothing any more, without an end.
    package func loseWatch() { watchNumber = nil }

    package func announce(
        _ address: String, ipv6Address: String? = nil, port: UInt16? = nil,
        preparation: BackendPreparation? = nil
    ) {
        announcement = NodeAnnouncement(
            publicAddress: IPv4Address(address)!, publicIPv6Address: ipv6Address.map { IPv6Address($0)! },
            port: port)
        announcement.preparation = preparation
        feed(.announce(announcement))
    }

    /// Starts the node anew.
    ///
    /// - Parameters:
    ///   - identity: another one, where the node's state was lost; nil for the one it has.
    ///   - keepsSubnet: whether it still knows the subnet that it had.
    package func restart(identity: NodeIdentity? = nil, keepsSubnet: Bool = true) {
        if let identity { self.identity = identity }
        if !keepsSubnet { lastSubnet = nil }
        life += 1
        machine = makeMachine(self.identity, lastSubnet, announcement)
        watchNumber = nil
        wakeNumber += 1
        backlog = []
        table = PeerTable()
        isStopped = false
        isSuspended = false
        hasTrouble()
        simulation.schedule(after: .zero, for: self) { [self] in feed(.timer) }
    }

    /// Lets the machine sleep.
    package func suspend() {
        isSuspended = true
        hasTrouble()
    }

    /// Wakes the machine.
    package func resume() {
        guard isSuspended else { return }
        isSuspended = false
        hasTrouble()
        let inputs = backlog
        backlog = []
        feed([.timer] + inputs)
    }

    private func hasTrouble() { lastTrouble = simulation.now }

    /// How many reports are of this event.
    package func count(_ event: EventName) -> Int { reports.count { $0.event == event } }
}
