internal import Leases
import Logging
import Health

extension ClusterMachine {
    /// A node's dealings with the API server: what was asked and has not been answered, up to where the cluster is
    /// known, and what fails.
    struct Session {
        /// What is being read.
        enum Reading: Equatable {
            case none
            case pod
            case ownNode
            /// With what the pages so far had.
            case list(ListVersion, nodes: [NodeRecord])
        }

        var reading = Reading.none
        /// Whether this node's object is to be read by its name.
        var isOwnNodeWanted = true
        /// nil: no list is wanted.
        var wantedList: ListVersion? = .cached
        /// The version up to which the nodes are known; nil before the first list.
        var position: String?
        var isWatchOpen = false
        var watchNumber = 0
        var watchBegan: Instant
        /// Whether the server took the watch on.
        var isWatchConfirmed = false
        /// Whether a watch failed since one was taken on.
        var hasWatchFailed = false
        /// When a list or the watch last told something.
        var lastHeard: Instant
        var pauses = RequestPauses()
        var failures: [APIRequest: APIFailure] = [:]
        var failingSince: Instant?
        /// Whether any request has succeeded.
        var hasAnswered = false

        init(now: Instant) {
            watchBegan = now
            lastHeard = now
        }
    }

    // MARK: Asking

    /// Asks for what is due: one reading, one patch and one watch at a time.
    mutating func askNext() {
        guard nodeName != nil else {
            if session.reading == .none, may(.pod) {
                session.reading = .pod
                turn.actions.append(.readPod)
            }
            return
        }
        checkSilence()
        if session.reading == .none, session.isOwnNodeWanted, may(.ownNode) {
            session.isOwnNodeWanted = false
            session.reading = .ownNode
            own.versionWhenAsked = own.record?.resourceVersion
            turn.actions.append(.readOwnNode)
        }
        if session.reading == .none, let version = session.wantedList, may(.list) {
            session.wantedList = nil
            session.reading = .list(version, nodes: [])
            own.versionWhenAsked = own.record?.resourceVersion
            turn.actions.append(.list(version, continuing: nil))
        }
        openWatch()
        if let patch = nextPatch() {
            own.patch = patch
            turn.actions.append(.patch(patch))
        }
    }

    private mutating func may(_ request: APIRequest) -> Bool {
        guard let end = session.pauses.end(request, now: turn.now) else { return true }
        wake(at: end)
        return false
    }

    func mayPatch() -> Instant? { session.pauses.end(.patch, now: turn.now) }

    private var isListing: Bool {
        if case .list = session.reading { true } else { session.wantedList != nil }
    }

    private mutating func openWatch() {
        guard let position = session.position, !session.isWatchOpen, !isListing, may(.watch) else { return }
        session.isWatchOpen = true
        session.isWatchConfirmed = false
        session.watchNumber += 1
        session.watchBegan = turn.now
        turn.actions.append(
            .watch(
                after: position, number: session.watchNumber,
                timeoutSeconds: Int.random(in: Self.watchSeconds, using: &random)))
    }

    /// A watch that tells nothing, not even a bookmark, is dead, or waits for a version that the server will never
    /// have.
    private mutating func checkSilence() {
        guard let position = session.position, !isListing else { return }
        let limit = session.lastHeard + settings.silenceLimit
        guard limit <= turn.now else { return wake(at: limit) }
        endWatch()
        session.lastHeard = turn.now
        session.wantedList = .notOlder(than: position)
        report(.info, .watchIsSilent, ["api": settings.apiName])
    }

    private mutating func endWatch() {
        guard session.isWatchOpen else { return }
        session.isWatchOpen = false
        session.watchNumber += 1
        turn.actions.append(.endWatch)
    }

    // MARK: Answers

    mutating func takePod(_ result: Result<String, APIFailure>) {
        session.reading = .none
        switch result {
        case .success(let name):
            succeeded(.pod)
            nodeName = name
        case .failure(let failure): failed(.pod, failure)
        }
    }

    mutating func takeOwnNode(_ result: Result<NodeRecord, APIFailure>) {
        guard session.reading == .ownNode else { return }
        session.reading = .none
        switch result {
        case .success(let record):
            succeeded(.ownNode)
            if isLate(record) {
                session.isOwnNodeWanted = true
            } else {
                takeOwn(record, isNewest: true)
            }
        case .failure(let failure) where failure.kind == .notFound:
            succeeded(.ownNode)
            takeOwnAbsence()
        case .failure(let failure):
            session.isOwnNodeWanted = true
            failed(.ownNode, failure)
        }
    }

    mutating func takePage(_ result: Result<NodePage, APIFailure>) {
        guard case .list(let version, var nodes) = session.reading else { return }
        session.reading = .none
        switch result {
        case .success(let page):
            succeeded(.list)
            nodes += page.nodes
            if let token = page.continueToken, !token.isEmpty {
                session.reading = .list(version, nodes: nodes)
                turn.actions.append(.list(version, continuing: token))
                return
            }
            takeList(nodes, version: page.version, of: version)
        case .failure(let failure):
            switch failure.kind {
            case .versionTooLarge:
                // The cluster's store is one of before: what was known of it is void.
                report(.warning, .storeIsOlder, ["store": settings.apiName])
                session.wantedList = .consistent
                session.pauses.failed(.list, failure, now: turn.now, using: &random)
            case .gone:
                session.wantedList = .consistent
                session.pauses.failed(.list, failure, now: turn.now, using: &random)
            default:
                session.wantedList = version
                failed(.list, failure)
            }
        }
    }

    private mutating func takeList(_ nodes: [NodeRecord], version: String, of asked: ListVersion) {
        session.position = version
        session.lastHeard = turn.now
        kept.isInUse = false
        let others = nodes.filter { $0.name != nodeName }
        if self.nodes.replaceAll(with: others) { turn.nodesChanged = true }
        if let record = nodes.first(where: { $0.name == nodeName }) {
            takeOwn(record, isNewest: asked == .consistent && !isLate(record))
        } else if !own.isAbsent {
            // The cache may be of before: the node itself is asked for.
            session.isOwnNodeWanted = true
        }
    }

    mutating func takeWatchOpened() {
        succeeded(.watch)
        session.isWatchConfirmed = true
        // The server may be another one, and its store of before: this node's own object is what must be right.
        if session.hasWatchFailed { session.isOwnNodeWanted = true }
        session.hasWatchFailed = false
    }

    mutating func take(_ events: [WatchEvent]) {
        for event in events {
            session.lastHeard = turn.now
            switch event {
            case .bookmark(let version):
                session.position = version
            case .put(let record):
                if !record.resourceVersion.isEmpty { session.position = record.resourceVersion }
                if record.name == nodeName {
                    takeOwn(record, isNewest: false)
                } else if nodes.put(record) {
                    turn.nodesChanged = true
                }
            case .deleted(let record):
                if !record.resourceVersion.isEmpty { session.position = record.resourceVersion }
                if record.name == nodeName {
                    // It may have been made anew since; what there is now is asked for.
                    if own.record?.uid == record.uid { session.isOwnNodeWanted = true }
                } else if nodes.remove(record.name) {
                    turn.nodesChanged = true
                }
            case .failed(let failure):
                endWatch()
                takeWatchEnd(failure)
                return
            }
        }
    }

    mutating func takeWatchEnd(_ failure: APIFailure?) {
        session.isWatchOpen = false
        session.hasWatchFailed = session.hasWatchFailed || failure != nil
        // A server that cannot be reached is not one that is silent: the watch goes on where it was.
        if failure != nil, !session.isWatchConfirmed { session.lastHeard = turn.now }
        let isProven = session.watchBegan + Self.provenWatchLife <= turn.now
        if isProven { session.pauses.succeeded(.watch) }
        switch failure?.kind {
        case nil:
            // The server ends each watch in its time. One that it ends at once is not asked for again at once.
            guard !isProven else { return }
            let short = APIFailure(.failed, "the watch ended at once")
            session.pauses.failed(.watch, short, now: turn.now, using: &random)
        case .gone?:
            report(.info, .storeHistoryIsGone, ["store": settings.apiName])
            session.wantedList = .consistent
        case .malformed?:
            // What is broken in the stream would be so again.
            if let failure { failed(.watch, failure) }
            session.wantedList = session.position.map { .notOlder(than: $0) } ?? .cached
        case _?:
            if let failure { failed(.watch, failure) }
        }
    }

    mutating func takePatched(_ result: Result<NodeRecord, APIFailure>) {
        let patch = own.patch
        own.patch = nil
        switch result {
        case .success(let record):
            succeeded(.patch)
            if patch?.annotations != nil { own.noteWritten(uid: record.uid) }
            if let known = own.record, own.isConfirmed, record.isOlder(than: known) {
                // The watch was faster, and told of a change that came after it; or the server's store is one of before.
                session.isOwnNodeWanted = true
            } else {
                takeOwn(record, isNewest: true)
            }
            if let patch { reportPatched(patch) }
        case .failure(let failure):
            switch failure.kind {
            case .conflict, .invalid, .notFound:
                // Another object of this name, or none: what there is now is asked for.
                session.isOwnNodeWanted = true
                session.pauses.failed(.patch, failure, now: turn.now, using: &random)
            default:
                failed(.patch, failure)
            }
        }
    }

    // MARK: What fails

    mutating func succeeded(_ request: APIRequest) {
        session.hasAnswered = true
        // A watch is proven by its life.
        if request != .watch { session.pauses.succeeded(request) }
        guard session.failures.removeValue(forKey: request) != nil, session.failures.isEmpty else { return }
        let seconds = session.failingSince.map { (turn.now - $0).components.seconds } ?? 0
        session.failingSince = nil
        report(.notice, .storeAnswersAgain, ["store": settings.apiName, "after_seconds": "\(seconds)"])
    }

    mutating func failed(_ request: APIRequest, _ failure: APIFailure) {
        if let clocks = failure.clocks { self.clocks = clocks }
        let before = session.pauses.failed(request, failure, now: turn.now, using: &random)
        if failure.kind == .unauthorized, before == 0 { return }
        let isNew = !session.failures.values.contains { $0.kind == failure.kind }
        session.failures[request] = failure
        session.failingSince = session.failingSince ?? turn.now
        guard isNew else { return }
        let event: EventName =
            switch failure.kind {
            case .unreachable: .storeUnreachable
            case .certificate, .credentials, .unauthorized, .forbidden: .storeRefuses
            default: .storeFailedRequest
            }
        report(
            .warning, event,
            [
                "store": settings.apiName, "error": failure.message, "request": "\(request)",
                "effect": holding == nil ? "no subnet before it answers" : "packets flow on",
            ])
    }
}
