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
        case wake(at: Instant)
        case publish(PeerTable)
        case report(LeaseReport)
        case end(reason: String)
    }

    // flannel picks among the first 100 free subnets: enough that nodes started together rarely meet.
    private static let choices = 100
    // What a watch may have missed for whatever reason is found by a snapshot now and then, sooner after a watch
    // was lost; spread, so that the nodes of a network do not ask at once.
    private static let resyncSeconds = 600.0...900.0
    private static let verificationSeconds = 1.0...5.0
    // How far the clocks of two nodes may be apart before one releases the other's lease too early.
    private static let releaseGrace = Duration.seconds(60)
    private static let noneLeftPause = Duration.seconds(30)

    private let storeName: String
    private let options: LeaseOptions
    private var announcement: NodeAnnouncement
    private var random: SplitMix64

    private var register: LeaseRegister
    private var index = PeerIndex()
    private var pacing: RequestPacing
    private var failures: [RequestPacing.Request: LeaseStoreError] = [:]
    private var unreachableSince: Instant?

    private var isRequestUnderWay = false
    /// The keys that the watch told of while a write was under way: it knows better than the write's answer, which
    /// may come after the news of what others did to the key next.
    private var keysTold: Set<String> = []
    private var isSnapshotWanted = true
    private var isWatching = false
    private var isWatchAlive = false
    private var watchNumber = 0
    private var revision: Int64 = 0
    private var resyncAt: Instant?

    private var configurationText: String?
    private var configuration: NetworkConfiguration?
    private var configurationProblem: (cause: String, remedy: String)?

    private var own: Holding?
    private var wanted: LeaseSubnet?
    private var replaced: LeaseSubnet?
    /// Subnets that others were faster to take, until the watch or a snapshot tells so itself.
    private var lost: Set<LeaseSubnet> = []
    private var noneLeftUntil: Instant?

    private var said: [String: String] = [:]
    private var table = PeerTable()
    /// Why entries are no peers, as last said.
    private var reasons: [String: String] = [:]
    /// What changed in the register since the last table; nil where all of it may have.
    private var keysChanged: Set<String>? = []
    private var hasEnded = false
    private var actions: [Action] = []
    private var nextWake: Instant?

    /// The lease that this node has.
    private struct Holding {
        var lease: OwnLease
        var renewAt: Instant?
        var isRewriteWanted = false
        var key: String { lease.subnet.key }
    }

    /// Makes a machine that has done nothing yet: feed it `.timer` to begin.
    package init(
        storeName: String, announcement: NodeAnnouncement, options: LeaseOptions, seed: UInt64, now: Instant
    ) {
        self.storeName = storeName
        self.announcement = announcement
        self.options = options
        register = LeaseRegister(identity: options.identity)
        wanted = options.previousSubnet
        random = SplitMix64(seed: seed)
        pacing = RequestPacing(now: now)
    }

    /// Takes in what happened and tells what to do; one table at most is published for all of it.
    package mutating func handle(_ inputs: [Input], now: Instant) -> [Action] {
        guard !hasEnded else { return [] }
        for input in inputs { take(input, now: now) }
        settleOwnLease(now: now)
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
    private mutating func take(_ input: Input, now: Instant) {
        switch input {
        case .timer:
            break
        case .snapshot(.success(let snapshot)):
            isRequestUnderWay = false
            isSnapshotWanted = false
            succeeded(.snapshot, now: now)
            if snapshot.revision < revision { reportDataLoss(from: revision, to: snapshot.revision) }
            register.replace(with: snapshot.entries, now: now)
            keysChanged = nil
            keysTold = []
            lost = []
            noneLeftUntil = nil
            take(configuration: snapshot.configuration)
            revision = snapshot.revision
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
            if error.kind == .historyLost {
                report(.info, "store history is gone, reading everything anew", ["error": error.description])
                isSnapshotWanted = true
            } else {
                failed(.watch, error, now: now)
            }
        case .announce(let announcement):
            self.announcement = announcement
            own?.isRewriteWanted = true
        }
    }

    private mutating func take(_ update: StoreUpdate, now: Instant) {
        if failures[.watch] != nil {
            // It was away: what happened meanwhile is told, unless the store lost it too.
            resyncAt = now + .seconds(Double.random(in: Self.verificationSeconds, using: &random))
        }
        succeeded(.watch, now: now)
        isWatchAlive = true
        switch update {
        case .alive(let current):
            guard current < revision else { return }
            reportDataLoss(from: revision, to: current)
            isSnapshotWanted = true
        case .changes(let events, let current):
            revision = max(revision, current)
            for event in events {
                switch event {
                case .put(let entry):
                    put(entry, now: now)
                    if isRequestUnderWay { keysTold.insert(entry.key) }
                case .deleted(let key):
                    remove(key)
                    if isRequestUnderWay { keysTold.insert(key) }
                case .configuration(let text): take(configuration: text)
                }
            }
            if !events.isEmpty { noneLeftUntil = nil }
        }
    }

    private mutating func put(_ entry: StoreEntry, now: Instant) {
        register.put(entry, now: now)
        keysChanged?.insert(entry.key)
    }

    private mutating func remove(_ key: String) {
        register.remove(key)
        keysChanged?.insert(key)
    }

    private mutating func take(_ result: StoreWriteResult, of write: Write, now: Instant) {
        switch (write, result) {
        case (.create(let key, let value, let timeToLive), .done(let version)),
            (.renew(let key, let value, let timeToLive, _), .done(let version)):
            let entry = StoreEntry(
                key: key, value: value, version: version, holder: timeToLive == nil ? nil : options.identity,
                lifetime: timeToLive.map { .expiring(remaining: $0) } ?? .permanent)
            if !keysTold.contains(key) { put(entry, now: now) }
            guard let subnet = LeaseSubnet(key: key) else { return }
            hold(subnet, timeToLive: timeToLive, now: now)
            if case .create = write {
                report(
                    .notice, "lease acquired", ["subnet": "\(subnet)", "public_ip": "\(ownEndpoint.address)"])
            } else {
                report(.info, "lease renewed", ["subnet": "\(subnet)"])
            }
        case (.create(let key, _, _), .refused):
            if own?.key == key {
                isSnapshotWanted = true
            } else if let subnet = LeaseSubnet(key: key) {
                lost.insert(subnet)
                report(.info, "another node was faster, trying the next subnet", ["subnet": "\(subnet)"])
            }
        case (.delete(let key, _), .done):
            if !keysTold.contains(key) { remove(key) }
            report(.info, "lease released", ["key": key])
        case (.renew, .refused), (.delete, .refused):
            isSnapshotWanted = true
        }
    }

    private mutating func take(configuration text: String?) {
        guard text != configurationText || (text == nil && configurationProblem == nil) else { return }
        configurationText = text
        guard let text else {
            configurationProblem = (
                "\(storeName) has no network configuration", "write one: twilld network set"
            )
            report(.warning, "no network configuration, waiting for one", ["store": storeName])
            return
        }
        do throws(NetworkConfigurationError) {
            let parsed = try NetworkConfiguration(parsing: text)
            if let own, !parsed.admits(own.lease.subnet) {
                configurationProblem = (
                    "the network configuration changed to one that this node's subnet, \(own.lease.subnet), is not of",
                    "restart twilld to get another; until then the old one holds"
                )
                report(
                    .error,
                    "network configuration does not admit this node's subnet, restart to take it over",
                    ["subnet": "\(own.lease.subnet)", "network": "\(parsed.network)"])
                return
            }
            configuration = parsed
            configurationProblem = nil
            lost = []
            own?.isRewriteWanted = true
            report(
                .notice, "network configuration taken over",
                [
                    "network": "\(parsed.network)", "subnet_len": "\(parsed.subnetLength)",
                    "port": "\(parsed.backend.port)",
                ])
        } catch {
            configurationProblem = (
                "the network configuration is wrong: \(error)",
                "correct it: twilld network set"
                    + (configuration == nil ? "" : "; the one before it stays in effect")
            )
            report(
                .error, "network configuration is wrong", ["store": storeName, "error": error.description])
        }
    }
}

// MARK: - This node's lease

extension LeaseMachine {
    private var ownEndpoint: Endpoint {
        Endpoint(
            address: announcement.publicAddress,
            port: announcement.port ?? configuration?.backend.port ?? NetworkConfiguration.Backend().port)
    }

    private var ownValue: LeaseValue {
        let isUsual = announcement.port == configuration?.backend.port
        return LeaseValue(
            publicAddress: announcement.publicAddress, publicIPv6Address: announcement.publicIPv6Address,
            port: isUsual ? nil : announcement.port)
    }

    /// Whether an entry is this node's own: by the identity beside it or, where it has none (flanneld or a
    /// person wrote it), by what it announces, as flannel has it.
    private func isOwn(_ record: LeaseRegister.Record) -> Bool {
        if let holder = record.entry.holder { return holder == options.identity }
        return configuration.map { record.endpoint(defaultPort: $0.backend.port) == ownEndpoint } ?? false
    }

    private mutating func hold(_ subnet: LeaseSubnet, timeToLive: Duration?, now: Instant) {
        let expiry = timeToLive.map { now + $0 }
        let acquired = own.flatMap { $0.lease.subnet == subnet ? $0.lease.acquired : nil }
        own = Holding(
            lease: OwnLease(
                subnet: subnet, endpoint: ownEndpoint, isReservation: timeToLive == nil,
                acquired: acquired ?? now, renewed: now, expiry: expiry,
                replaced: replaced == subnet ? nil : replaced))
        if let timeToLive {
            // A margin that leaves nothing of the lease's life would renew without end.
            let margin = options.renewalMargin < timeToLive ? options.renewalMargin : timeToLive / 2
            let wait = timeToLive - margin
            // Nodes started together do not renew together.
            own?.renewAt = now + wait - min(margin, wait) * Double.random(in: 0...0.1, using: &random)
        }
        wanted = subnet
        said["none left"] = nil
    }

    /// Notices that another node has taken the lease.
    private mutating func settleOwnLease(now: Instant) {
        guard let own, let record = register[own.key], !isOwn(record) else { return }
        // An entry without an identity that announces the address of a moment ago is this node's reservation.
        if record.entry.holder == nil,
            record.endpoint(defaultPort: own.lease.endpoint.port) == own.lease.endpoint
        {
            return
        }
        guard let taker = record.endpoint(defaultPort: own.lease.endpoint.port) else {
            // It names nobody: damage, not a taker.
            self.own?.isRewriteWanted = true
            return
        }
        let subnet = own.lease.subnet
        self.own = nil
        replaced = subnet
        report(
            .error, "subnet lost to another node: pods here keep addresses that are now routed there",
            [
                "subnet": "\(subnet)", "taken_by": "\(taker)",
                "holder": record.entry.holder.map { "\($0)" } ?? "unknown",
                "action": options.lossPolicy == .exit ? "exit" : "new lease; restart the pods of this node",
            ])
        if options.lossPolicy == .exit {
            hasEnded = true
            actions.append(.end(reason: "the subnet \(subnet) of this node was taken by \(taker)"))
        }
    }

    /// The next write that this node's lease or an expired one needs.
    private mutating func nextWrite(now: Instant) -> Write? {
        guard let configuration else { return nil }
        if let own { return upkeep(of: own, now: now) ?? release(now: now) }
        return acquisition(in: configuration, now: now) ?? release(now: now)
    }

    private mutating func upkeep(of own: Holding, now: Instant) -> Write? {
        let timeToLive = own.lease.isReservation ? nil : options.timeToLive
        guard let record = register[own.key] else {
            say(
                "own key", own.key,
                LeaseReport(
                    .warning, "this node's lease is gone from the store, registering it again",
                    ["subnet": "\(own.lease.subnet)"]))
            return .create(key: own.key, value: ownValue.json, timeToLive: options.timeToLive)
        }
        said["own key"] = nil
        let hasOtherValue = own.isRewriteWanted && (try? record.value.get()) != ownValue
        let isDue = own.renewAt.map { $0 <= now } ?? false
        guard hasOtherValue || isDue else {
            self.own?.isRewriteWanted = false
            return nil
        }
        return .renew(
            key: own.key, value: hasOtherValue ? ownValue.json : record.entry.value, timeToLive: timeToLive,
            version: record.entry.version)
    }

    /// flannel's four rules for the subnet that a node gets.
    private mutating func acquisition(in configuration: NetworkConfiguration, now: Instant) -> Write? {
        let records = register.records.values
        let candidates = records.filter(isOwn).sorted {
            let (left, right) = ($0.subnet == wanted, $1.subnet == wanted)
            return left != right ? left : $0.entry.key < $1.entry.key
        }
        for record in records
        where !isOwn(record) && record.endpoint(defaultPort: configuration.backend.port) == ownEndpoint {
            say(
                "same address", record.entry.key,
                LeaseReport(
                    .error, "another node announces this node's address, its lease is left alone",
                    [
                        "public_ip": "\(ownEndpoint.address)", "port": "\(ownEndpoint.port)",
                        "key": record.entry.key, "holder": record.entry.holder.map { "\($0)" } ?? "unknown",
                        "action": "give each node its own --public-ip or its own port",
                    ]))
        }
        // 1. The lease that it has.
        if let record = candidates.first(where: { $0.subnet.map(configuration.admits) ?? false }),
            let subnet = record.subnet
        {
            let timeToLive = record.isReservation ? nil : options.timeToLive
            if record.isReservation, (try? record.value.get()) == ownValue {
                hold(subnet, timeToLive: nil, now: now)
                report(.notice, "lease found, it is a reservation", ["subnet": "\(subnet)"])
                return nil
            }
            return .renew(
                key: record.entry.key, value: ownValue.json, timeToLive: timeToLive,
                version: record.entry.version)
        }
        // 2. One that it has and that the network no longer has.
        for record in candidates {
            if !record.isReservation {
                return .delete(key: record.entry.key, version: record.entry.version)
            }
            say(
                "reservation " + record.entry.key, record.entry.value,
                LeaseReport(
                    .warning,
                    "the reservation for this node does not fit the network configuration, not used",
                    ["key": record.entry.key, "network": "\(configuration.network)"]))
        }
        // 3. The one of the last run.
        if let wanted, configuration.admits(wanted), !lost.contains(wanted), register.isFree(wanted) {
            return .create(key: wanted.key, value: ownValue.json, timeToLive: options.timeToLive)
        }
        // 4. Any.
        if let noneLeftUntil, noneLeftUntil > now { return nil }
        let free = register.freeSubnets(in: configuration, limit: Self.choices, without: lost)
        guard let subnet = free.randomElement(using: &random) else {
            noneLeftUntil = now + Self.noneLeftPause
            isSnapshotWanted = !lost.isEmpty
            say(
                "none left", "\(configuration.network)",
                LeaseReport(
                    .error, "no subnet is free, waiting for one",
                    [
                        "network": "\(configuration.network)", "first": "\(configuration.subnetMinimum)",
                        "last": "\(configuration.subnetMaximum)",
                        "subnet_len": "\(configuration.subnetLength)",
                    ]))
            return nil
        }
        return .create(key: subnet.key, value: ownValue.json, timeToLive: options.timeToLive)
    }

    /// Releases a lease that has ended, where the store does not do so by itself, or one that this node left
    /// behind.
    private func release(now: Instant) -> Write? {
        let leftover = register.ownKeys.first { $0 != own?.key }
        let ended = register.endings.first { $0.key != own?.key && $0.value + Self.releaseGrace <= now }?.key
        guard let key = leftover ?? ended, let record = register[key] else { return nil }
        return .delete(key: key, version: record.entry.version)
    }
}

// MARK: - What to ask the store next

extension LeaseMachine {
    private mutating func askNext(now: Instant) {
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
        for time in [resyncAt, own?.renewAt, noneLeftUntil] {
            if let time, time > now { wake(at: time) }
        }
        let releases = register.endings.values.lazy.map { $0 + Self.releaseGrace }
        if let next = releases.filter({ $0 > now }).min() { wake(at: next) }
    }

    private mutating func wake(at instant: Instant) { nextWake = min(nextWake ?? instant, instant) }

    private mutating func mayAsk(_ request: RequestPacing.Request, now: Instant) -> Bool {
        guard let later = pacing.take(request, now: now) else { return true }
        wake(at: later)
        return false
    }

    private mutating func succeeded(_ request: RequestPacing.Request, now: Instant) {
        pacing.succeeded(request)
        guard failures.removeValue(forKey: request) != nil, failures.isEmpty, let since = unreachableSince
        else {
            return
        }
        unreachableSince = nil
        report(
            .notice, "store answers again",
            ["store": storeName, "after_seconds": "\((now - since).components.seconds)"])
    }

    private mutating func failed(
        _ request: RequestPacing.Request, _ error: LeaseStoreError, now: Instant
    ) {
        pacing.failed(request, now: now, using: &random)
        let isNew = !failures.values.contains { $0.kind == error.kind }
        failures[request] = error
        if unreachableSince == nil { unreachableSince = now }
        guard isNew else { return }
        let message =
            switch error.kind {
            case .unreachable: "store unreachable, trying again"
            case .denied: "store refuses, trying again"
            case .failed, .historyLost: "store failed a request, trying again"
            }
        report(
            .warning, message,
            [
                "store": storeName, "error": error.description,
                "effect": own == nil ? "no lease before it answers" : "packets flow on",
            ])
    }

    private mutating func reportDataLoss(from old: Int64, to new: Int64) {
        report(
            .warning, "store is older than before (restored or emptied), reading everything anew",
            ["store": storeName, "revision_before": "\(old)", "revision": "\(new)"])
        revision = new
    }
}

// MARK: - What others see

extension LeaseMachine {
    private mutating func publish() {
        var next = table
        next.configuration = configuration
        next.ownLease = own?.lease
        next.isStoreConnected = failures.isEmpty && isWatchAlive
        next.conditions = conditions
        if let configuration {
            let context = PeerIndex.Context(
                configuration: configuration, identity: options.identity, ownKey: own?.key,
                ownSubnet: own?.lease.subnet, ownEndpoint: ownEndpoint)
            if let keysChanged {
                for key in keysChanged { index.update(key, in: register, context: context) }
                if keysChanged.isEmpty { index.follow(context, in: register) }
            } else {
                index.rebuild(register, in: context)
            }
            keysChanged = []
            next.peers = index.peers
            if index.reasons != reasons { takeReasons(into: &next) }
        }
        guard next != table else { return }
        table = next
        actions.append(.publish(next))
    }

    private var conditions: [Component: Problem] {
        var conditions: [Component: Problem] = [:]
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
        return conditions
    }

    private mutating func takeReasons(into next: inout PeerTable) {
        for (key, reason) in index.reasons.sorted(by: { $0.key < $1.key }) where reasons[key] != reason {
            report(.warning, "lease skipped", ["key": key, "reason": reason])
        }
        for key in reasons.keys.sorted() where index.reasons[key] == nil {
            report(.info, "lease no longer skipped", ["key": key])
        }
        reasons = index.reasons
        next.skipped = reasons.map { SkippedLease(key: $0.key, reason: $0.value) }.sorted { $0.key < $1.key }
    }

    private mutating func report(_ level: Logger.Level, _ message: String, _ fields: [String: String]) {
        actions.append(.report(LeaseReport(level, message, fields)))
    }

    /// Reports once for each `value` that `topic` takes.
    private mutating func say(_ topic: String, _ value: String, _ report: LeaseReport) {
        guard said.updateValue(value, forKey: topic) != value else { return }
        actions.append(.report(report))
    }
}
