// How it works. The machine is told what happened (an answer, an event of the watch, a file that changed, the time)
// and says what to do next; it never waits, asks or writes by itself. It reads its own Node by name, lists all nodes,
// and watches them from exactly the list's version on. A list is the whole truth; what the watch tells changes it;
// where the watch may have missed something, it lists again. Own annotations and the node's condition are patched
// whenever they are not what they should be. docs/adr/0081.

internal import Addresses
package import Backends
package import JSON
package import Leases
import Logging

/// Decides everything about a node's place in a Kubernetes cluster: a pure state machine.
package struct ClusterMachine {
    package typealias Instant = ContinuousClock.Instant

    /// What does not change while it runs.
    package struct Settings: Sendable {
        /// How the API server is named in sentences: `https://10.96.0.1:443`.
        package var apiName: String
        /// This node's name; nil: its pod says it.
        package var nodeName: String?
        package var keys: AnnotationKeys
        /// `net-conf.json`, for sentences.
        package var networkConfigurationPath: String
        /// Where the last known state is kept, for sentences.
        package var keptPath: String
        package var setsNodeNetworkUnavailable: Bool
        package var lossPolicy: LeaseOptions.LossPolicy
        /// How long list and watch may tell nothing before the nodes are listed anew. A bookmark comes each minute.
        package var silenceLimit = Duration.seconds(150)

        /// Makes settings.
        package init(
            apiName: String, nodeName: String?, keys: AnnotationKeys, networkConfigurationPath: String,
            keptPath: String, setsNodeNetworkUnavailable: Bool = true,
            lossPolicy: LeaseOptions.LossPolicy = .reacquire
        ) {
            self.apiName = apiName
            self.nodeName = nodeName
            self.keys = keys
            self.networkConfigurationPath = networkConfigurationPath
            self.keptPath = keptPath
            self.setsNodeNetworkUnavailable = setsNodeNetworkUnavailable
            self.lossPolicy = lossPolicy
        }
    }

    /// What happened.
    package enum Input: Sendable {
        /// The time asked for with `wake` has come, or it begins.
        case timer
        /// What was kept by an earlier run; nil for nothing.
        case kept(KeptState?)
        /// `net-conf.json` was read for the first time, or is another one.
        case networkFile(NetworkFile)
        /// Which node the daemon's pod is on.
        case pod(Result<String, APIFailure>)
        case ownNode(Result<NodeRecord, APIFailure>)
        case page(Result<NodePage, APIFailure>)
        /// The server took the watch on; `watch` is the number that it was started with.
        case watchOpened(watch: Int)
        case events([WatchEvent], watch: Int)
        /// nil: it ended as it should.
        case watchEnded(APIFailure?, watch: Int)
        case patched(Result<NodeRecord, APIFailure>)
        /// An answer told the server's time.
        case clocks(APIFailure.Clocks)
        case announce(NodeAnnouncement)
        case networkStands(Bool)
        /// What was last known could not be kept; nil: it could.
        case keptFailed(String?)
    }

    /// `net-conf.json`.
    package enum NetworkFile: Sendable, Hashable {
        case text(String)
        case missing
        /// Why it cannot be read.
        case unreadable(String)
    }

    /// What to do.
    package enum Action: Sendable, Equatable {
        case readPod
        case readOwnNode
        case list(ListVersion, continuing: String?)
        /// Ends the watch before it, if any.
        case watch(after: String, number: Int, timeoutSeconds: Int)
        case endWatch
        case patch(NodePatch)
        case wake(at: Instant)
        case publish(KnownNetwork)
        case assign(OwnLease?)
        case request(NodeAddressRequests)
        case keep(KeptState)
        case report(LeaseReport)
        case end(reason: String)
    }

    // flannel's 5 to 10 minutes: the server ends the watches of a cluster at different times.
    static let watchSeconds = 300...600
    // A watch that lived for less has shown nothing: the pause before the next one grows on.
    static let provenWatchLife = Duration.seconds(10)
    // The API server has so long to answer before what was last known is taken over.
    static let keptGrace = Duration.seconds(1)
    static let keepInterval = Duration.seconds(10)
    // Whether an absent node has come back is told by the watch; this is for when it is not.
    static let absentPause = Duration.seconds(30)
    /// Seconds that this machine's clock may be ahead of the API server's.
    static let clockTolerance = -60...60

    let settings: Settings
    let backends: BackendRegistry
    /// This node's name; nil before it is known.
    package internal(set) var nodeName: String?
    var announcement: NodeAnnouncement?
    var hasEnded = false
    var random: SplitMix64

    var network = NetworkState()
    var nodes: PeerNodes
    var own: OwnNode
    var holding: Holding?
    var session: Session
    var kept = Kept()
    var clocks: APIFailure.Clocks?
    var published = Published()
    package var log = MachineLog()
    var turn: Turn

    /// The network's configuration, and how the file stands to it.
    struct NetworkState {
        var file: NetworkFile?
        var text: String?
        var configuration: NetworkConfiguration?
        /// Why the file is not in effect; nil where it is.
        var problem: (cause: String, remedy: String)?
        /// The network that was refused last for holding an address of this node's own.
        var refused: [IPPrefix] = []
    }

    /// The subnet that this node has.
    struct Holding: Equatable {
        var subnet: LeaseSubnet
        /// Of the Node object that it is the podCIDR of.
        var uid: String
        var acquired: Instant
        var replaced: LeaseSubnet?
    }

    /// What an earlier run kept.
    struct Kept {
        var state: KeptState?
        var hasBeenRead = false
        /// Until when the API server is waited for.
        var graceEnd: Instant?
        /// Whether it is what peers and subnet are of, until the API server has listed the nodes.
        var isInUse = false
        /// What was kept last, so that nothing is written twice.
        var last: KeptState?
        var nextWrite: Instant?
        var isDirty = false
        var problem: String?
    }

    /// What others were told, so that nothing is told twice.
    struct Published {
        var network = KnownNetwork()
        var lease: OwnLease?
        var requests: NodeAddressRequests?
        var reasons: [String: String] = [:]
    }

    /// What the inputs that are being handled lead to.
    struct Turn {
        var now: Instant
        var actions: [Action] = []
        var wake: Instant?
        var nodesChanged = false
    }

    /// Makes a machine that has done nothing yet: feed it `.timer` to begin.
    package init(settings: Settings, backends: BackendRegistry = .all, seed: UInt64, now: Instant) {
        self.settings = settings
        self.backends = backends
        nodeName = settings.nodeName
        nodes = PeerNodes(backends: backends)
        own = OwnNode(now: now)
        session = Session(now: now)
        random = SplitMix64(seed: seed)
        turn = Turn(now: now)
        kept.graceEnd = now + Self.keptGrace
    }

    /// Takes in what happened and tells what to do; one network at most is published for all of it.
    package mutating func handle(_ inputs: [Input], now: Instant) -> [Action] {
        if hasEnded { return [] }
        turn = Turn(now: now)
        for input in inputs { take(input) }
        useKept()
        settleSubnet()
        if !hasEnded { askNext() }
        publish()
        keep()
        if let wake = turn.wake, !hasEnded { turn.actions.append(.wake(at: wake)) }
        return turn.actions
    }

    private mutating func take(_ input: Input) {
        switch input {
        case .timer: break
        case .kept(let state):
            kept.hasBeenRead = true
            kept.state = state
            kept.last = state
            if let state { nodes.remember(state.nodes) }
        case .networkFile(let file): take(file)
        case .pod(let result): takePod(result)
        case .ownNode(let result): takeOwnNode(result)
        case .page(let result): takePage(result)
        case .watchOpened(let number): if number == session.watchNumber { takeWatchOpened() }
        case .events(let events, let number): if number == session.watchNumber { take(events) }
        case .watchEnded(let failure, let number):
            if number == session.watchNumber { takeWatchEnd(failure) }
        case .patched(let result): takePatched(result)
        case .clocks(let clocks): self.clocks = clocks
        case .announce(let announcement): take(announcement)
        case .networkStands(let stands): own.networkStands = stands
        case .keptFailed(let problem): take(keptProblem: problem)
        }
    }

    mutating func wake(at instant: Instant) { turn.wake = min(turn.wake ?? instant, instant) }

    /// Whether an API server has said in this run what nodes there are.
    var isListed: Bool { session.position != nil }
}

/// A part of the list of nodes.
package struct NodePage: Sendable, Equatable {
    package var nodes: [NodeRecord]
    /// The list's version.
    package var version: String
    /// What the next part is asked for with; nil for the last one.
    package var continueToken: String?

    /// Makes a page.
    package init(nodes: [NodeRecord], version: String, continueToken: String? = nil) {
        self.nodes = nodes
        self.version = version
        self.continueToken = continueToken
    }
}

/// Which state of the cluster is listed.
package enum ListVersion: Sendable, Hashable {
    /// Whatever the server has in its cache: the cheapest.
    case cached
    /// The cache's, not older than this.
    case notOlder(than: String)
    /// What etcd has now, in pages.
    case consistent
}

/// What a watch tells.
package enum WatchEvent: Sendable, Equatable {
    case put(NodeRecord)
    case deleted(NodeRecord)
    /// Nothing happened up to this version.
    case bookmark(version: String)
    /// The server ends the watch.
    case failed(APIFailure)

    /// Reads one object of a watch; nil for what is of no kind that counts.
    ///
    /// - Throws: where the bytes are no JSON.
    package init?(reading bytes: [UInt8], keys: AnnotationKeys) throws(JSONError) {
        var cursor = JSONCursor(bytes)
        var (type, found): (String?, APIObject?)
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            switch key {
            case "type": type = try cursor.text()
            case "object": found = try APIObject(&cursor, keys)
            default: break
            }
        }
        try cursor.end()
        guard let object = found else { return nil }
        switch type {
        case "ADDED", "MODIFIED":
            guard let record = NodeRecord(object) else { return nil }
            self = .put(record)
        case "DELETED":
            guard let record = NodeRecord(object) else { return nil }
            self = .deleted(record)
        case "BOOKMARK":
            guard let version = object.resourceVersion else { return nil }
            self = .bookmark(version: version)
        case "ERROR":
            self = .failed(APIFailure(code: object.code ?? 500, status: object))
        default: return nil
        }
    }
}

/// A change of this node's object.
package struct NodePatch: Sendable, Hashable {
    /// The object that it is meant for: another one of the same name is not changed.
    package var uid: String
    /// nil: they are as they should be.
    package var annotations: NodeAnnotations?
    /// Whether the condition `NetworkUnavailable` is to be false.
    package var clearsNetworkUnavailable: Bool

    /// The body of a strategic merge patch.
    ///
    /// - Parameters:
    ///   - keys: what the annotations are called.
    ///   - time: seconds of the Unix epoch.
    package func json(keys: AnnotationKeys, time: Int) -> String {
        var metadata = ["\"uid\":\(uid.quoted)"]
        if let annotations {
            let members = keys.named(annotations).map { "\($0.name.quoted):\($0.value.quoted)" }
            metadata.append("\"annotations\":{\(members.joined(separator: ","))}")
        }
        var members = ["\"metadata\":{\(metadata.joined(separator: ","))}"]
        if clearsNetworkUnavailable {
            let time = WallTime.text(time).quoted
            members.append(
                "\"status\":{\"conditions\":[{\"type\":\"NetworkUnavailable\",\"status\":\"False\","
                    + "\"reason\":\"TwillIsUp\",\"message\":\"twill carries this node's packets\","
                    + "\"lastHeartbeatTime\":\(time),\"lastTransitionTime\":\(time)}]}")
        }
        return "{\(members.joined(separator: ","))}"
    }
}
