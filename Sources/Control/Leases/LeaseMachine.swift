import Addresses
package import Backends
import Health
import Logging

/// Decides everything about a node's lease: a pure state machine, fed with what a store answered and with the
/// time, that says what to ask next. It never waits, asks or writes by itself.
///
/// One snapshot or write is under way at a time, so no answer can be about a state that another request made.
package struct LeaseMachine {
    package typealias Instant = ContinuousClock.Instant

    /// A guarded write.
    package enum Write: Sendable, Hashable {
        case create(key: String, value: String, timeToLive: Duration?)
        case renew(key: String, value: String, timeToLive: Duration?, version: StoreVersion)
        case delete(key: String, version: StoreVersion)
    }

    /// What happened.
    package enum Input: Sendable {
        /// The time asked for with `wake` has come, or it begins.
        case timer
        case snapshot(Result<StoreSnapshot, LeaseStoreError>)
        case written(Write, Result<StoreWriteResult, LeaseStoreError>)
        /// A watch told something; `watch` is the number that it was started with.
        case update(StoreUpdate, watch: Int)
        case watchEnded(LeaseStoreError, watch: Int)
        case announce(NodeAnnouncement)
    }

    /// What to do.
    package enum Action: Sendable, Hashable {
        case readSnapshot
        case write(Write)
        /// Ends the watch before it, if any.
        case watch(after: StorePosition, number: Int)
        /// From now on this node has another identity: to be kept for the next start.
        case changeIdentity(NodeIdentity)
        case wake(at: Instant)
        case publish(PeerTable)
        case report(LeaseReport)
        case end(reason: String)
    }

    // flannel picks among the first 100 free subnets: enough that nodes started together rarely meet.
    static let choices = 100
    // What a watch may have missed for whatever reason is found by a snapshot now and then, sooner after a watch
    // was lost; spread, so that the nodes of a network do not ask at once.
    static let resyncSeconds = 600.0...900.0
    static let verificationSeconds = 1.0...5.0
    // How far the clocks of two nodes may be apart before one releases the other's lease too early.
    static let releaseGrace = Duration.seconds(60)
    static let noneLeftPause = Duration.seconds(30)
    // A watch that lived for less has shown nothing: the pause before the next one grows on.
    static let provenWatchLife = Duration.seconds(10)
    // How long what healed itself is shown.
    static let noticeTime = Duration.seconds(60)
    static let ownAddressLimit = 16
    // For how long the network's former port is sent to: nodes hear of a change within seconds of one another, some take two more
    // until the new one is open, and all receive on the former one for a minute.
    static let formerPortTime = Duration.seconds(10)
    // More changes than this at a time, and the list of skipped entries is made anew rather than changed.
    static let singleChanges = 64

    let storeName: String
    let options: LeaseOptions
    let backends: BackendRegistry
    var identity: NodeIdentity
    var announcement: NodeAnnouncement
    /// The addresses that this node has announced since it was started, the newest last.
    var ownAddresses: [IPAddress] = []
    var random: SplitMix64

    /// The store's entries as this node last saw them.
    var register: LeaseRegister
    var session: StoreSession
    var standing = OwnSubnet.sought(OwnSubnet.Search())
    var memory: OwnSubnet.Memory
    /// Which network this is.
    var network = NetworkState()
    var doubt = StoreDoubt()
    /// What tells this node from others that claim to be it.
    var selfhood: Selfhood
    var published = Published()
    package var log = MachineLog()
    var turn: Turn

    /// The network's configuration, and how its text in the store stands to it.
    struct NetworkState {
        /// The text that the store has; nil where it has none.
        var text: String?
        /// The one in effect, which may be of before.
        var configuration: NetworkConfiguration?
        /// Why the text is not in effect; nil where it is.
        var problem: (cause: String, remedy: String)?
        /// The networks that were refused last, for an address that this node has or has not; none where they are good.
        var refused: [IPPrefix] = []
        /// The port that it had before, while that is still sent to.
        var formerPort: PeerIndex.FormerPort?
    }

    /// What others were told, so that nothing is told twice.
    struct Published {
        var table = PeerTable()
        var index = PeerIndex()
        /// What changed in the register since the last table; nil where all of it may have.
        var keysChanged: Set<String>? = []
        /// Why entries are no peers, as last reported.
        var reasons: [String: String] = [:]
    }

    /// What the inputs that are being handled lead to.
    struct Turn {
        /// The time of the inputs.
        var now: Instant
        var actions: [Action] = []
        /// When there is something to do though nothing happens.
        var wake: Instant?
    }

    /// Makes a machine that has done nothing yet: feed it `.timer` to begin.
    package init(
        storeName: String, announcement: NodeAnnouncement, options: LeaseOptions,
        backends: BackendRegistry = .all, seed: UInt64, now: Instant
    ) {
        self.backends = backends
        self.storeName = storeName
        self.announcement = announcement
        self.options = options
        identity = options.identity
        ownAddresses = AddressFamily.allCases.compactMap { announcement.address($0) }
        register = LeaseRegister(identity: options.identity, backends: backends)
        memory = OwnSubnet.Memory(previous: options.previousSubnet)
        selfhood = Selfhood(problem: options.identityProblem)
        turn = Turn(now: now)
        random = SplitMix64(seed: seed)
        session = StoreSession(now: now)
    }

    /// Takes in what happened and tells what to do; one table at most is published for all of it.
    package mutating func handle(_ inputs: [Input], now: Instant) -> [Action] {
        if hasEnded { return [] }
        assert(now >= turn.now, "time goes back")
        turn = Turn(now: now)
        for input in inputs { take(input, now: now) }
        endHolds(now: now)
        endFormerPort(now: now)
        settleOwnLease(now: now)
        settleIdentity(now: now)
        if !hasEnded { askNext(now: now) }
        publish()
        if let wake = turn.wake, !hasEnded { turn.actions.append(.wake(at: wake)) }
        assertInvariants()
        return turn.actions
    }
}

extension LeaseMachine {
    /// The lease that this node has. Without one, one is sought.
    var own: OwnSubnet.Holding? {
        get { if case .held(let holding) = standing { holding } else { nil } }
        set {
            switch (standing, newValue) {
            case (.ended, _), (.sought, nil): break
            case (_, let holding?): standing = .held(holding)
            case (.held, nil): standing = .sought(OwnSubnet.Search())
            }
        }
    }

    /// The search for a lease; nil where none is sought.
    var search: OwnSubnet.Search? {
        get { if case .sought(let search) = standing { search } else { nil } }
        set { if case .sought = standing, let newValue { standing = .sought(newValue) } }
    }

    var hasEnded: Bool {
        if case .ended = standing { true } else { false }
    }

    /// The network configuration in effect; nil before the first valid one.
    var configuration: NetworkConfiguration? { network.configuration }
}
