import Addresses
import Health
import Logging

extension LeaseMachine {
    /// Takes in one thing that happened.
    mutating func take(_ input: Input, now: Instant) {
        switch input {
        case .timer:
            break
        case .snapshot(.success(let snapshot)):
            let isLate = session.isLate(snapshot.position)
            session.endRequest()
            succeeded(.snapshot, now: now)
            // What it lacks the watch has told: it is asked for again.
            if !isLate { take(snapshot, now: now) }
        case .snapshot(.failure(let error)):
            session.endRequest()
            failed(.snapshot, error, now: now)
        case .written(let write, .success(let result)):
            let request = session.endRequest() ?? StoreSession.Request.Write(asked: now)
            succeeded(.write, now: now)
            take(result, of: write, request)
        case .written(_, .failure(let error)):
            session.endRequest()
            failed(.write, error, now: now)
            // It may have been done all the same.
            session.isSnapshotWanted = true
        case .update(let update, let number):
            if number == session.watchNumber { take(update, now: now) }
        case .watchEnded(let error, let number):
            if number == session.watchNumber { takeWatchEnd(error, now: now) }
        case .announce(let announcement):
            take(announcement)
        }
    }

    private mutating func take(_ snapshot: StoreSnapshot, now: Instant) {
        if let latest = session.position?.latest, snapshot.position.isBefore(latest) {
            reportDataLoss(from: latest, to: snapshot.position)
        }
        reportMissedChanges(in: snapshot)
        let versions = snapshot.configuration == network.text ? [:] : register.versions
        takeEntries(of: snapshot, now: now)
        published.keysChanged = nil
        search?.taken = []
        search?.pausedUntil = nil
        take(configuration: snapshot.configuration, known: versions)
        doubt.hasStoreJumped = false
        session.take(
            snapshot.position,
            resyncAt: now + .seconds(Double.random(in: Self.resyncSeconds, using: &random)))
    }

    private mutating func takeWatchEnd(_ error: LeaseStoreError, now: Instant) {
        if let since = session.watch.aliveSince, since + Self.provenWatchLife <= now {
            session.pacing.succeeded(.watch)
        }
        session.watch = .none
        if error.kind == .historyLost {
            report(.info, .storeHistoryIsGone, ["error": error.description])
            session.isSnapshotWanted = true
        } else {
            failed(.watch, error, now: now)
        }
    }

    private mutating func take(_ announcement: NodeAnnouncement) {
        self.announcement = announcement
        let addresses = AddressFamily.allCases.compactMap { announcement.address($0) }
        ownAddresses.removeAll(where: addresses.contains)
        ownAddresses = (ownAddresses + addresses).suffix(Self.ownAddressLimit)
        own?.isRewriteWanted = true
        if let configuration {
            checkUnderlay(configuration)
        } else if !network.refused.isEmpty {
            takeConfigurationAnew()
        }
    }

    private mutating func take(_ update: StoreUpdate, now: Instant) {
        if case .conditions(let conditions) = update {
            doubt.conditions = conditions
            return
        }
        if session.isFailing(.watch) {
            // It was away: what happened meanwhile is told, unless the store lost it too.
            session.position?.resyncAt =
                now + .seconds(Double.random(in: Self.verificationSeconds, using: &random))
        }
        succeeded(.watch, now: now)
        session.noteSignOfLife(now: now)
        let known = session.position?.current
        switch update {
        case .conditions:
            break
        case .alive(let current):
            // A member that lags behind may say so too: whether the store is older than before, a snapshot tells.
            guard let known, current.isBefore(known) else { return }
            askAnew()
        case .changes(let events, let current):
            if let known, current.isBefore(known) {
                // What is told twice, or of before what is known, is no news: the store itself is asked.
                return askAnew()
            }
            session.position?.advance(to: current)
            for event in events { take(event, now: now) }
            settleDeletions(now: now)
            if !events.isEmpty { search?.pausedUntil = nil }
        }
    }

    /// Reads the store as soon as may be, because its watch is not to be believed.
    private mutating func askAnew() {
        session.isSnapshotWanted = true
        session.isComparison = false
    }

    private mutating func take(_ event: StoreEvent, now: Instant) {
        switch event {
        case .put(let entry):
            put(entry, now: now)
            noteOwnEntry(entry)
            session.note(told: entry.key)
        case .deleted(let key):
            session.note(told: key)
            // Of what is held, that is known, and not believed.
            if register.held[key] != nil { return }
            noteDeletion(of: key, now: now)
            remove(key)
        case .configuration(let text):
            take(configuration: text, known: text == network.text ? [:] : register.versions)
        }
    }

    mutating func put(_ entry: StoreEntry, now: Instant) {
        // Also where all of the register is to be judged anew, and no keys are kept.
        let changed = register.put(entry, now: now)
        published.keysChanged?.formUnion(changed)
        published.keysChanged?.insert(entry.key)
        if !doubt.deletedNow.isEmpty { doubt.deletedNow.removeAll { $0.key == entry.key } }
        if !doubt.deletedLately.isEmpty { doubt.deletedLately.removeAll { $0.key == entry.key } }
    }

    mutating func remove(_ key: String) {
        register.remove(key)
        published.keysChanged?.insert(key)
    }

    private mutating func take(
        _ result: StoreWriteResult, of write: Write, _ request: StoreSession.Request.Write
    ) {
        switch (write, result) {
        case (.create(let key, let value, let timeToLive), .done(let version)),
            (.renew(let key, let value, let timeToLive, _), .done(let version)):
            let entry = StoreEntry(
                key: key, value: value, version: version, holder: timeToLive == nil ? nil : identity,
                lifetime: timeToLive.map { .expiring(remaining: $0) } ?? .permanent)
            if !request.keysTold.contains(key) { put(entry, now: request.asked) }
            guard let subnet = LeaseSubnet(key: key) else { return }
            hold(subnet, timeToLive: timeToLive, written: value, since: request.asked)
            if case .create = write {
                report(
                    .notice, .leaseAcquired, ["subnet": "\(subnet)", "public_ip": "\(ownEndpoint.address)"])
            } else {
                report(.info, .leaseRenewed, ["subnet": "\(subnet)"])
            }
        case (.create(let key, _, _), .refused):
            if own?.key == key {
                session.isSnapshotWanted = true
            } else if let subnet = LeaseSubnet(key: key) {
                if subnet == memory.wanted, search?.isWantedLookedAt == false {
                    // Whoever has the subnet of the last run may be this node: a write of that run can arrive after its end.
                    search?.isWantedLookedAt = true
                    session.isSnapshotWanted = true
                    return
                }
                search?.taken.insert(subnet)
                report(.info, .anotherNodeWasFaster, ["subnet": "\(subnet)"])
            }
        case (.delete(let key, _), .done):
            if register.ownKeys.contains(key) { selfhood.leftoversDeleted.insert(key) }
            if !request.keysTold.contains(key) { remove(key) }
            report(.info, .leaseReleased, ["key": key])
        case (.renew, .refused), (.delete, .refused):
            session.isSnapshotWanted = true
        }
    }

    /// Takes the network's configuration over, where it is good.
    ///
    /// - Parameter known: the entries that were known before it, by key.
    private mutating func take(configuration text: String?, known versions: [String: StoreVersion] = [:]) {
        guard text != network.text || (text == nil && network.problem == nil) else { return }
        network.text = text
        guard let text else {
            network.problem = (
                "\(storeName) has no network configuration", "write one: twilld network set"
            )
            report(.warning, .noNetworkConfiguration, ["store": storeName])
            return
        }
        do throws(NetworkConfigurationError) {
            let parsed = try NetworkConfiguration(parsing: text, backends: backends)
            network.refused = []
            if let refusal = parsed.refusal(of: announcement) {
                refuse(refusal)
                network.refused = parsed.networks
                return
            }
            if let own, !parsed.admits(own.subnet) {
                network.problem = (
                    "the network configuration changed to one that this node's subnet, \(own.subnet), is not of",
                    "restart twilld to get another; until then the old one holds"
                )
                report(
                    .error,
                    .networkConfigurationDoesNotAdmitSubnet,
                    ["subnet": "\(own.subnet)", "network": parsed.networkText])
                return
            }
            noteFormerPort(before: parsed, versions)
            network.configuration = parsed
            network.problem = nil
            search?.taken = []
            own?.isRewriteWanted = true
            // A lease that names no port means the configuration's.
            let port = ownEndpoint.port
            own?.endpoint.port = port
            let lengths = [parsed.ipv4?.subnetLength, parsed.ipv6?.subnetLength].compactMap(\.self)
            var fields = [
                "network": parsed.networkText,
                "subnet_len": lengths.map(String.init).joined(separator: ","),
                "backend": "\(parsed.backend)",
            ]
            if let remarks = try? NetworkConfiguration.remarks(on: text), !remarks.isEmpty {
                fields["detail"] = remarks.joined(separator: "; ")
            }
            report(.notice, .networkConfigurationTakenOver, fields)
        } catch {
            refuse(error)
        }
    }

    /// Where the port is another one: others may not receive there yet, but still do on the one of before.
    private mutating func noteFormerPort(
        before next: NetworkConfiguration, _ versions: [String: StoreVersion]
    ) {
        guard let former = configuration?.backend, former.port != next.backend.port,
            type(of: former).hasDataPlane, type(of: next.backend).hasDataPlane
        else { return }
        network.formerPort = PeerIndex.FormerPort(
            port: former.port, end: turn.now + Self.formerPortTime, versions: versions)
    }

    mutating func endFormerPort(now: Instant) {
        if let former = network.formerPort, former.end <= now { network.formerPort = nil }
    }

    /// Keeps to the configuration of before, if there is one.
    mutating func refuse(_ error: NetworkConfigurationError) {
        network.problem = (
            "the network configuration is wrong: \(error)",
            "correct it: twilld network set"
                + (configuration == nil ? "" : "; the one before it stays in effect")
        )
        report(.error, .networkConfigurationIsWrong, ["store": storeName, "error": error.description])
    }

    /// Judges the configuration in effect, and the text that the store has, by where this node is now.
    mutating func checkUnderlay(_ configuration: NetworkConfiguration) {
        if let refusal = configuration.refusal(of: announcement) {
            if network.problem == nil { refuse(refusal) }
        } else if network.problem != nil {
            // It may have been this node's former address that was in the way.
            takeConfigurationAnew()
        }
    }

    private mutating func takeConfigurationAnew() {
        let text = network.text
        network.text = nil
        if text != nil { take(configuration: text) }
    }
}
