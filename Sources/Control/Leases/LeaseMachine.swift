import Addresses
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
        case watch(after: Int64, number: Int)
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
    static let ownAddressLimit = 8
    // More changes than this at a time, and the list of skipped entries is made anew rather than changed.
    static let singleChanges = 64

    let storeName: String
    let options: LeaseOptions
    var identity: NodeIdentity
    var announcement: NodeAnnouncement
    /// The addresses that this node has announced since it was started, the newest last.
    var ownAddresses: [IPv4Address] = []
    var random: SplitMix64

    var register: LeaseRegister
    var index = PeerIndex()
    var pacing: RequestPacing
    var reportPacing = ReportPacing()
    var failures: [RequestPacing.Request: LeaseStoreError] = [:]
    var unreachableSince: Instant?

    var isRequestUnderWay = false
    /// The keys that the watch told of while a write was under way: it knows better than the write's answer, which
    /// may come after the news of what others did to the key next.
    var keysTold: Set<String> = []
    var isSnapshotWanted = true
    var isWatching = false
    var isWatchAlive = false
    var watchAliveSince: Instant?
    var watchNumber = 0
    var revision: Int64 = 0
    var highestRevision: Int64 = 0
    var resyncAt: Instant?

    var configurationText: String?
    var configuration: NetworkConfiguration?
    var configurationProblem: (cause: String, remedy: String)?
    /// The network that was refused last for holding an address of this node's own; nil where none was.
    var refusedNetwork: IPv4Prefix?

    // What the store is doubted for.
    var storeIdentity: String?
    var storeConditions: [Component: Problem] = [:]
    /// Whether the store was found to be older than before, until a snapshot has been read.
    var hasStoreJumped = false
    /// Peers whose entries went just now, and in the last seconds.
    var deletedNow: [Deletion] = []
    var deletedLately: [Deletion] = []
    /// Until when each further deletion is part of what is doubted.
    var doubtedUntil: Instant?
    var heldCause = ""
    var nextHeldEnd: Instant?

    /// A peer's entry that is gone.
    struct Deletion {
        var key: String
        var record: LeaseRegister.Record
        var at: Instant
    }

    var own: Holding?
    var wanted: LeaseSubnet?
    var replaced: LeaseSubnet?
    /// Subnets that others were faster to take, until the watch or a snapshot tells so itself.
    var lost: Set<LeaseSubnet> = []
    var noneLeftUntil: Instant?

    var said: [String: String] = [:]
    var table = PeerTable()
    /// Why entries are no peers, as last said.
    var reasons: [String: String] = [:]
    /// What changed in the register since the last table; nil where all of it may have.
    var keysChanged: Set<String>? = []
    var hasEnded = false
    var actions: [Action] = []
    var nextWake: Instant?
    /// The time of the inputs that are being handled.
    var clock: Instant

    /// The entry that is about to be taken over, as it was.
    var adopting: Adoption?
    /// The subnet of the last run, until this node has had a lease: with this node's address it is evidence.
    var evidence: LeaseSubnet?
    /// Subnets that turned out to be those of a node that is alive.
    var yielded: Set<LeaseSubnet> = []
    var contests = Contests()
    /// Entries that this node deleted because they were left over.
    var leftoversDeleted: Set<String> = []
    /// Entries under this node's identity that are a second node's.
    var secondSelfKeys: Set<String> = []
    var identityProblem: (problem: Problem, until: Instant?)?

    /// The lease that this node has.
    struct Holding {
        var lease: OwnLease
        var renewAt: Instant?
        var isRewriteWanted = false
        /// Whose it seemed to be before this run took it over.
        var adoption: Adoption?
        var key: String { lease.subnet.key }
    }

    /// What an entry was before this node took it over.
    struct Adoption: Equatable {
        var key: String
        /// The address that it announced, where that was not this node's.
        var address: IPv4Address?
        /// The identity that it had, where that was not this node's.
        var holder: NodeIdentity?
    }

    /// How often this node put its own back into its entry after another had written there: 0, 5, 10, 20 … 600 seconds
    /// apart, so that two nodes never fight.
    struct Contests {
        static let firstPause = Duration.seconds(5)
        static let longestPause = Duration.seconds(600)
        var count = 0
        var pausedUntil: Instant?
    }

    /// Makes a machine that has done nothing yet: feed it `.timer` to begin.
    package init(
        storeName: String, announcement: NodeAnnouncement, options: LeaseOptions, seed: UInt64, now: Instant
    ) {
        self.storeName = storeName
        self.announcement = announcement
        self.options = options
        identity = options.identity
        ownAddresses = [announcement.publicAddress]
        register = LeaseRegister(identity: options.identity)
        wanted = options.previousSubnet
        evidence = options.previousSubnet
        identityProblem = options.identityProblem.map { ($0, nil) }
        clock = now
        random = SplitMix64(seed: seed)
        pacing = RequestPacing(now: now)
    }

    /// Takes in what happened and tells what to do; one table at most is published for all of it.
    package mutating func handle(_ inputs: [Input], now: Instant) -> [Action] {
        guard !hasEnded else { return [] }
        clock = now
        for input in inputs { take(input, now: now) }
        settleDeletions(now: now)
        endHolds(now: now)
        settleOwnLease(now: now)
        settleIdentity(now: now)
        if !hasEnded { askNext(now: now) }
        publish()
        if let nextWake, !hasEnded { actions.append(.wake(at: nextWake)) }
        defer {
            actions = []
            nextWake = nil
        }
        return actions
    }
}

// MARK: - What happened

extension LeaseMachine {
    mutating func take(_ input: Input, now: Instant) {
        switch input {
        case .timer:
            break
        case .snapshot(.success(let snapshot)):
            isRequestUnderWay = false
            isSnapshotWanted = false
            succeeded(.snapshot, now: now)
            if snapshot.revision < highestRevision {
                reportDataLoss(from: highestRevision, to: snapshot.revision)
            }
            takeEntries(of: snapshot, now: now)
            keysChanged = nil
            keysTold = []
            lost = []
            noneLeftUntil = nil
            take(configuration: snapshot.configuration)
            revision = snapshot.revision
            highestRevision = revision
            hasStoreJumped = false
            // What the watch told while the snapshot was read may be older or newer than it: begin anew.
            isWatching = false
            resyncAt = now + .seconds(Double.random(in: Self.resyncSeconds, using: &random))
        case .snapshot(.failure(let error)):
            isRequestUnderWay = false
            failed(.snapshot, error, now: now)
        case .written(let write, .success(let result)):
            isRequestUnderWay = false
            succeeded(.write, now: now)
            take(result, of: write, now: now)
        case .written(_, .failure(let error)):
            isRequestUnderWay = false
            failed(.write, error, now: now)
            // It may have been done all the same.
            isSnapshotWanted = true
        case .update(let update, let number):
            guard number == watchNumber else { return }
            take(update, now: now)
        case .watchEnded(let error, let number):
            guard number == watchNumber else { return }
            isWatching = false
            isWatchAlive = false
            if let since = watchAliveSince, since + Self.provenWatchLife <= now { pacing.succeeded(.watch) }
            watchAliveSince = nil
            if error.kind == .historyLost {
                report(.info, .storeHistoryIsGone, ["error": error.description])
                isSnapshotWanted = true
            } else {
                failed(.watch, error, now: now)
            }
        case .announce(let announcement):
            self.announcement = announcement
            ownAddresses.removeAll { $0 == announcement.publicAddress }
            ownAddresses = ownAddresses.suffix(Self.ownAddressLimit &- 1) + [announcement.publicAddress]
            own?.isRewriteWanted = true
            if let configuration {
                checkUnderlay(configuration)
            } else if refusedNetwork != nil {
                takeConfigurationAnew()
            }
        }
    }

    mutating func take(_ update: StoreUpdate, now: Instant) {
        if case .conditions(let conditions) = update {
            storeConditions = conditions
            return
        }
        if failures[.watch] != nil {
            // It was away: what happened meanwhile is told, unless the store lost it too.
            resyncAt = now + .seconds(Double.random(in: Self.verificationSeconds, using: &random))
        }
        succeeded(.watch, now: now)
        isWatchAlive = true
        if watchAliveSince == nil { watchAliveSince = now }
        switch update {
        case .conditions:
            break
        case .alive(let current):
            // A member that lags behind may say so too: whether the store is older than before, a snapshot tells.
            guard current < revision else { return }
            revision = current
            isSnapshotWanted = true
        case .changes(let events, let current):
            guard current >= revision else {
                // What is told twice, or of before what is known, is no news: the store itself is asked.
                isSnapshotWanted = true
                return
            }
            revision = current
            highestRevision = max(highestRevision, current)
            for event in events {
                switch event {
                case .put(let entry):
                    put(entry, now: now)
                    noteOwnEntry(entry)
                    if isRequestUnderWay { keysTold.insert(entry.key) }
                case .deleted(let key):
                    noteDeletion(of: key, now: now)
                    remove(key)
                    if isRequestUnderWay { keysTold.insert(key) }
                case .configuration(let text): take(configuration: text)
                }
            }
            if !events.isEmpty { noneLeftUntil = nil }
        }
    }

    mutating func put(_ entry: StoreEntry, now: Instant) {
        keysChanged?.formUnion(register.put(entry, now: now))
        keysChanged?.insert(entry.key)
        if !deletedNow.isEmpty { deletedNow.removeAll { $0.key == entry.key } }
        if !deletedLately.isEmpty { deletedLately.removeAll { $0.key == entry.key } }
    }

    mutating func remove(_ key: String) {
        register.remove(key)
        keysChanged?.insert(key)
    }

    mutating func take(_ result: StoreWriteResult, of write: Write, now: Instant) {
        switch (write, result) {
        case (.create(let key, let value, let timeToLive), .done(let version)),
            (.renew(let key, let value, let timeToLive, _), .done(let version)):
            let entry = StoreEntry(
                key: key, value: value, version: version, holder: timeToLive == nil ? nil : identity,
                lifetime: timeToLive.map { .expiring(remaining: $0) } ?? .permanent)
            if !keysTold.contains(key) { put(entry, now: now) }
            guard let subnet = LeaseSubnet(key: key) else { return }
            hold(subnet, timeToLive: timeToLive, written: value, now: now)
            if case .create = write {
                report(
                    .notice, .leaseAcquired, ["subnet": "\(subnet)", "public_ip": "\(ownEndpoint.address)"])
            } else {
                report(.info, .leaseRenewed, ["subnet": "\(subnet)"])
            }
        case (.create(let key, _, _), .refused):
            if own?.key == key {
                isSnapshotWanted = true
            } else if let subnet = LeaseSubnet(key: key) {
                lost.insert(subnet)
                report(.info, .anotherNodeWasFaster, ["subnet": "\(subnet)"])
            }
        case (.delete(let key, _), .done):
            if register.ownKeys.contains(key) { leftoversDeleted.insert(key) }
            if !keysTold.contains(key) { remove(key) }
            report(.info, .leaseReleased, ["key": key])
        case (.renew, .refused), (.delete, .refused):
            isSnapshotWanted = true
        }
    }

    mutating func take(configuration text: String?) {
        guard text != configurationText || (text == nil && configurationProblem == nil) else { return }
        configurationText = text
        guard let text else {
            configurationProblem = (
                "\(storeName) has no network configuration", "write one: twilld network set"
            )
            report(.warning, .noNetworkConfiguration, ["store": storeName])
            return
        }
        do throws(NetworkConfigurationError) {
            let parsed = try NetworkConfiguration(parsing: text)
            refusedNetwork = nil
            if let refusal = parsed.refusal(underlay: announcement.addresses) {
                refuse(refusal)
                refusedNetwork = parsed.network
                return
            }
            if let own, !parsed.admits(own.lease.subnet) {
                configurationProblem = (
                    "the network configuration changed to one that this node's subnet, \(own.lease.subnet), is not of",
                    "restart twilld to get another; until then the old one holds"
                )
                report(
                    .error,
                    .networkConfigurationDoesNotAdmitSubnet,
                    ["subnet": "\(own.lease.subnet)", "network": "\(parsed.network)"])
                return
            }
            configuration = parsed
            configurationProblem = nil
            lost = []
            own?.isRewriteWanted = true
            report(
                .notice, .networkConfigurationTakenOver,
                [
                    "network": "\(parsed.network)", "subnet_len": "\(parsed.subnetLength)",
                    "port": "\(parsed.backend.port)",
                ])
        } catch {
            refuse(error)
        }
    }

    /// Keeps to the configuration of before, if there is one.
    mutating func refuse(_ error: NetworkConfigurationError) {
        configurationProblem = (
            "the network configuration is wrong: \(error)",
            "correct it: twilld network set"
                + (configuration == nil ? "" : "; the one before it stays in effect")
        )
        report(.error, .networkConfigurationIsWrong, ["store": storeName, "error": error.description])
    }

    /// Judges the configuration in effect, and the text that the store has, by where this node is now.
    mutating func checkUnderlay(_ configuration: NetworkConfiguration) {
        if let refusal = configuration.refusal(underlay: announcement.addresses) {
            if configurationProblem == nil { refuse(refusal) }
        } else if configurationProblem != nil {
            // It may have been this node's former address that was in the way.
            takeConfigurationAnew()
        }
    }

    private mutating func takeConfigurationAnew() {
        let text = configurationText
        configurationText = nil
        if text != nil { take(configuration: text) }
    }
}

// MARK: - What to ask the store next

extension LeaseMachine {
    mutating func askNext(now: Instant) {
        if let resyncAt, resyncAt <= now { isSnapshotWanted = true }
        if !isRequestUnderWay, isSnapshotWanted {
            if mayAsk(.snapshot, now: now) {
                isRequestUnderWay = true
                actions.append(.readSnapshot)
            }
            return
        }
        if !isSnapshotWanted, !isWatching, mayAsk(.watch, now: now) {
            isWatching = true
            watchNumber += 1
            actions.append(.watch(after: revision, number: watchNumber))
        }
        if !isRequestUnderWay, !isSnapshotWanted {
            if let write = nextWrite(now: now) {
                if mayAsk(.write, now: now) {
                    isRequestUnderWay = true
                    keysTold = []
                    actions.append(.write(write))
                }
                return
            }
            // What failed was done all the same, or is no longer to be done.
            if failures[.write] != nil { succeeded(.write, now: now) }
        }
        if isSnapshotWanted, !isRequestUnderWay { wake(at: now) }
        let identityEnd = identityProblem.flatMap(\.until)
        for time in [resyncAt, own?.renewAt, noneLeftUntil, nextHeldEnd, contests.pausedUntil, identityEnd] {
            if let time, time > now { wake(at: time) }
        }
        let releases = register.endings.values.lazy.map { $0 + Self.releaseGrace }
        if let next = releases.filter({ $0 > now }).min() { wake(at: next) }
    }

    mutating func wake(at instant: Instant) { nextWake = min(nextWake ?? instant, instant) }

    mutating func mayAsk(_ request: RequestPacing.Request, now: Instant) -> Bool {
        guard let later = pacing.take(request, now: now) else { return true }
        wake(at: later)
        return false
    }

    mutating func succeeded(_ request: RequestPacing.Request, now: Instant) {
        // A watch is proven by its life, not by its first word: a store that answers and ends it would be asked for ever
        // at the pace of the first failure.
        if request != .watch { pacing.succeeded(request) }
        guard failures.removeValue(forKey: request) != nil, failures.isEmpty, let since = unreachableSince
        else {
            return
        }
        unreachableSince = nil
        report(
            .notice, .storeAnswersAgain,
            ["store": storeName, "after_seconds": "\((now - since).components.seconds)"])
    }

    mutating func failed(
        _ request: RequestPacing.Request, _ error: LeaseStoreError, now: Instant
    ) {
        pacing.failed(request, now: now, using: &random)
        let isNew = !failures.values.contains { $0.kind == error.kind }
        failures[request] = error
        if unreachableSince == nil { unreachableSince = now }
        guard isNew else { return }
        let event: EventName =
            switch error.kind {
            case .unreachable: .storeUnreachable
            case .denied: .storeRefuses
            case .failed, .historyLost: .storeFailedRequest
            }
        report(
            .warning, event,
            [
                "store": storeName, "error": error.description,
                "effect": own == nil ? "no lease before it answers" : "packets flow on",
            ])
    }

    mutating func reportDataLoss(from old: Int64, to new: Int64) {
        report(
            .warning, .storeIsOlder,
            ["store": storeName, "revision_before": "\(old)", "revision": "\(new)"])
        hasStoreJumped = true
    }
}

// MARK: - What others see

extension LeaseMachine {
    mutating func publish() {
        var next = table
        next.configuration = configuration
        next.refusedNetwork = configuration == nil ? refusedNetwork : nil
        next.ownLease = own?.lease
        next.isStoreConnected = failures.isEmpty && isWatchAlive
        next.conditions = conditions
        if let configuration {
            let context = PeerIndex.Context(
                configuration: configuration, identity: identity, ownKey: own?.key,
                ownSubnet: own?.lease.subnet, ownEndpoint: ownEndpoint, ownAddresses: announcement.addresses)
            if let keysChanged {
                for key in keysChanged { index.update(key, in: register, context: context) }
                if keysChanged.isEmpty { index.follow(context, in: register) }
            } else {
                index.rebuild(register, in: context)
            }
            keysChanged = []
            next.peers = index.peers
            let changed = index.takeChangedReasons()
            if !changed.isEmpty { takeReasons(changed, into: &next) }
        }
        guard next != table else { return }
        table = next
        actions.append(.publish(next))
    }

    var conditions: [Component: Problem] {
        var conditions = storeConditions
        if let configurationProblem {
            conditions[Component(.configuration)] = Problem(
                configuration == nil ? .cutOff : .degraded, configurationProblem.cause,
                remedy: configurationProblem.remedy)
        }
        if !failures.isEmpty {
            let errors = Set(failures.values.map(\.description)).sorted().joined(separator: "; ")
            conditions[Component(.store)] = Problem(
                own == nil ? .cutOff : .degraded, "lease store: \(errors)",
                remedy: own == nil
                    ? "this node has no lease before it answers"
                    : "packets flow on; changes are not seen meanwhile")
        }
        if own == nil, let network = said["none left"] {
            conditions[Component(.lease)] = Problem(
                .cutOff, "no subnet is free in \(network)",
                remedy: "release leases that nobody uses (twilld lease list), or widen Network")
        }
        if let identityProblem { conditions[Component(.identity)] = identityProblem.problem }
        if register.doubtedCount > 0 { conditions[Component(.store, "lost leases")] = heldProblem }
        if let other = sameAddress {
            conditions[Component(.lease, "address")] = Problem(
                .degraded,
                "the lease \(other) announces this node's address, \(ownEndpoint), and is another node's",
                remedy:
                    "give each node its own --public-ip or its own --port; if that node is gone, twilld lease release it"
            )
        }
        return conditions
    }

    /// Says what changed of why entries are no peers, and puts it into the table, which is ordered by key.
    mutating func takeReasons(_ changed: Set<String>, into next: inout PeerTable) {
        for key in changed.sorted() {
            let reason = index.reasons[key]
            guard reasons[key] != reason else { continue }
            if let reason {
                report(.warning, .leaseSkipped, ["key": key, "reason": reason])
            } else {
                report(.info, .leaseNoLongerSkipped, ["key": key])
            }
            reasons[key] = reason
            if changed.count <= Self.singleChanges { replaceSkipped(key, reason, in: &next.skipped) }
        }
        guard changed.count > Self.singleChanges else { return }
        next.skipped = reasons.map { SkippedLease(key: $0.key.printable, reason: $0.value) }.sorted {
            $0.key < $1.key
        }
    }

    func replaceSkipped(_ key: String, _ reason: String?, in skipped: inout [SkippedLease]) {
        let key = key.printable
        var (low, high) = (0, skipped.count)
        while low < high {
            let middle = (low &+ high) / 2
            // checked: 0 <= low <= middle < high <= count
            if skipped[middle].key < key { low = middle &+ 1 } else { high = middle }
        }
        let isThere = low < skipped.count && skipped[low].key == key  // checked: low is below the count
        switch (isThere, reason) {
        case (true, let reason?): skipped[low].reason = reason
        case (true, nil): skipped.remove(at: low)
        case (false, let reason?): skipped.insert(SkippedLease(key: key, reason: reason), at: low)
        case (false, nil): break
        }
    }

    mutating func report(_ level: Logger.Level, _ event: EventName, _ fields: [String: String]) {
        report(LeaseReport(level, event, fields))
    }

    mutating func report(_ report: LeaseReport) {
        guard let suppressed = reportPacing.take(report.event, now: clock) else { return }
        var report = report
        if suppressed > 0 { report.fields["left_out"] = "\(suppressed)" }
        actions.append(.report(report))
    }

    /// Reports once for each `value` that `topic` takes.
    mutating func say(_ topic: String, _ value: String, _ report: LeaseReport) {
        guard said.updateValue(value, forKey: topic) != value else { return }
        self.report(report)
    }
}
