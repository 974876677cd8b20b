// How it works. A store that was emptied, unmounted, restored from a backup or replaced by another one says the same
// as one whose nodes are gone. What works is not taken away on such a word: peers whose entries go all at once are
// held, and used on, until the store names them again, names another node in their place, or their leases would have
// ended. One entry that goes by itself is believed at once. docs/adr/0022.

import Addresses
import Health
import Logging

/// What the store is doubted for.
struct StoreDoubt {
    /// A peer's entry that is gone.
    struct Deletion {
        var key: String
        var record: LeaseRegister.Record
        var at: ContinuousClock.Instant
    }

    /// What tells the store from another under its name; nil before it was told.
    var storeIdentity: String?
    /// What the store says is wrong with itself.
    var conditions: [Component: Problem] = [:]
    /// Whether the store was found to be older than before, until a snapshot has been read.
    var hasStoreJumped = false
    /// Peers whose entries went just now.
    var deletedNow: [Deletion] = []
    /// Peers whose entries went in the last seconds.
    var deletedLately: [Deletion] = []
    /// Until when each further deletion is part of what is doubted.
    var doubtedUntil: ContinuousClock.Instant?
    /// Why peers are held that the store no longer names; empty where none are.
    var heldCause = ""
    /// When the next of them is to be let go.
    var nextHeldEnd: ContinuousClock.Instant?
    /// Since when the store answers again; nil where it always did.
    var answersSince: ContinuousClock.Instant?
    /// When the store was last known not to answer; nil where it always did.
    var lastSilence: ContinuousClock.Instant?
}

extension LeaseMachine {
    // A script that deletes key by key, some tens of milliseconds each, is one event; an operator's releases are not.
    private static let deletionWindow = Duration.seconds(10)
    // How far before its known end a lease may go without that being odd.
    private static let expectedEndMargin = Duration.seconds(300)
    // How long a peer that a snapshot lacks is waited for. A node that lives asks again after 7.5 seconds at most and
    // waits 5 for an answer, so it may ask a store that has just come back once in vain, read it and register again, and
    // each of the three be slow.
    private static let returnTime = Duration.seconds(40)
    // How many held peers a problem names.
    private static let namedPeers = 4

    /// Takes over a snapshot's entries, except for what it lacks and is not believed to be gone.
    mutating func takeEntries(of snapshot: StoreSnapshot, now: Instant) {
        if let known = doubt.storeIdentity, let other = snapshot.storeIdentity, known != other {
            doubt.hasStoreJumped = true
            report(
                .warning, .storeIsAnother,
                ["store": storeName, "before": known, "now": other])
        }
        doubt.storeIdentity = snapshot.storeIdentity ?? doubt.storeIdentity
        let present = Set(snapshot.entries.map(\.key))
        let known = published.index.keys.filter { register.held[$0] == nil }
        let missing = known.filter { !present.contains($0) }.sorted().compactMap { register[$0] }.filter {
            !hasEndedAsExpected($0, now: now)
        }
        let isConfigurationGone = snapshot.configuration == nil && configuration != nil
        // A store that was emptied and is half filled again may have most peers. This node's own lease, which nobody
        // else writes, shows what it lost, and counts as one of those that went.
        let ownGone = isOwnLeaseMissing(among: present, now: now) ? 1 : 0
        let toldLately = deletedBefore(present, isAnyMissing: !missing.isEmpty, now: now)
        let toldAndPublished = toldLately.count { !published.index.contains($0.key) }
        let cause = reasonToDoubt(
            missing.count &+ toldLately.count &+ ownGone, of: known.count &+ toldAndPublished &+ ownGone,
            isConfigurationGone: isConfigurationGone)
        register.replace(with: snapshot.entries, now: now)
        doubt.deletedNow = []
        if let cause {
            doubt.deletedLately = []
            hold(missing + toldLately.map(\.record), because: cause, now: now)
        } else {
            // A node that was away may find a store that was emptied meanwhile and is half filled again: the rest is
            // about to follow.
            for record in missing where register.known(record.entry.key) == nil {
                register.hold(record, until: now + Self.returnTime, isDoubted: false)
            }
        }
        if doubt.hasStoreJumped { own?.isRewriteWanted = true }
    }

    /// Takes notice of a deletion, before the entry is gone.
    mutating func noteDeletion(of key: String, now: Instant) {
        guard published.index.contains(key), let record = register[key], !hasEndedAsExpected(record, now: now)
        else {
            return
        }
        doubt.deletedNow.append(StoreDoubt.Deletion(key: key, record: record, at: now))
    }

    /// What the watch told of in the last seconds as deleted, and a snapshot, which lacks more, does not have either:
    /// that is one loss. What the watch of another store told is no part of what this one lacks; but a watch goes on where a store has been
    /// replaced while it did not answer, and tells what that one lacks.
    private mutating func deletedBefore(
        _ present: Set<String>, isAnyMissing: Bool, now: Instant
    ) -> [StoreDoubt.Deletion] {
        doubt.deletedLately.removeAll { $0.at + Self.deletionWindow <= now }
        let since = doubt.answersSince
        return doubt.deletedLately.filter { deletion in
            !present.contains(deletion.key)
                && (doubt.hasStoreJumped ? since.map { $0 <= deletion.at } ?? false : isAnyMissing)
        }
        .sorted { $0.key < $1.key }
    }

    /// Whether a snapshot's keys lack this node's lease, which the store had and which would not have ended by now.
    private func isOwnLeaseMissing(among present: Set<String>, now: Instant) -> Bool {
        guard let own, register[own.key] != nil, !present.contains(own.key) else { return false }
        return own.lease.expiry.map { $0 > now + Self.expectedEndMargin } ?? true
    }

    private func hasEndedAsExpected(_ record: LeaseRegister.Record, now: Instant) -> Bool {
        record.expiry.map { $0 <= now + Self.expectedEndMargin } ?? false
    }

    /// Judges the deletions that the watch told of at once, together with those of the last seconds. What it tells next is
    /// not waited for, though it may have come by now: that most of the lost is back says nothing of the rest.
    mutating func settleDeletions(now: Instant) {
        doubt.deletedLately.removeAll { $0.at + Self.deletionWindow <= now }
        guard !doubt.deletedNow.isEmpty else { return }
        // The index still has what went just now.
        let believed = doubt.deletedLately.count { !published.index.contains($0.key) }
        doubt.deletedLately += doubt.deletedNow
        doubt.deletedNow = []
        let known = published.index.peers.count &- register.held.count &+ believed
        let isConfigurationGone = network.text == nil && configuration != nil
        let isGoingOn = doubt.doubtedUntil.map { $0 > now } ?? false
        guard
            let cause = reasonToDoubt(
                doubt.deletedLately.count, of: known, isConfigurationGone: isConfigurationGone)
                ?? (isGoingOn ? (doubt.heldCause.isEmpty ? "they went all at once" : doubt.heldCause) : nil)
        else { return }
        doubt.doubtedUntil = now + Self.deletionWindow
        let gone = doubt.deletedLately.sorted { $0.key < $1.key }.filter { register.known($0.key) == nil }
            .map(\.record)
        doubt.deletedLately = []
        hold(gone, because: cause, now: now)
    }

    /// Why that many peers' entries are not believed gone; nil where they are.
    private func reasonToDoubt(_ count: Int, of known: Int, isConfigurationGone: Bool) -> String? {
        guard count > 0 else { return nil }
        if doubt.hasStoreJumped { return "it was restored, emptied or replaced by another one" }
        if isConfigurationGone { return "its network configuration is gone too" }
        if count >= 2 && count > known / 2 { return "they went all at once" }
        // A store that has not been found whole again is not believed in detail either.
        return register.doubtedCount == 0 ? nil : doubt.heldCause
    }

    private mutating func hold(_ records: [LeaseRegister.Record], because cause: String, now: Instant) {
        guard !records.isEmpty else { return }
        for record in records where register.known(record.entry.key) == nil {
            // etcd does not tell how long a lease has left: at most all of it.
            register.hold(record, until: record.expiry ?? now + options.timeToLive, isDoubted: true)
            published.keysChanged?.insert(record.entry.key)
        }
        doubt.heldCause = cause
        report(
            .error, .storeLostLeases,
            [
                "store": storeName, "count": "\(records.count)", "detail": cause,
                "subnets": records.prefix(Self.namedPeers).compactMap { $0.subnet.map { "\($0)" } }.sorted()
                    .joined(separator: " "),
            ])
    }

    /// Lets go of what would have ended by now, where the store was read since and lacked it: a node may have come back while the
    /// store did not answer, or the watch may have kept it to itself. After a silence each has the time in which those return
    /// that the store named again. Who was held as lost waits for the next reading that is due anyway: on all nodes of a large
    /// network that end comes at once.
    mutating func endHolds(now: Instant) {
        doubt.nextHeldEnd = nil
        if session.isFailing(.snapshot) { doubt.lastSilence = now }
        if !doubt.heldCause.isEmpty, register.doubtedCount == 0 {
            doubt.heldCause = ""
            doubt.doubtedUntil = nil
            report(.notice, .noLeaseIsHeldAnyLonger, ["store": storeName])
        }
        if register.held.isEmpty { return }
        let earliest = doubt.lastSilence.map { $0 + Self.returnTime }
        func end(of held: LeaseRegister.Held) -> Instant { max(held.until, earliest ?? held.until) }
        for (key, held) in register.held.sorted(by: { $0.key < $1.key }) {
            if let read = session.lastRead, end(of: held) <= read {
                remove(key)
            } else if end(of: held) <= now, !held.isDoubted {
                session.wantComparison()
            }
        }
        doubt.nextHeldEnd = register.held.values.map { end(of: $0) }.min()
    }

    var heldProblem: Problem {
        let count = register.doubtedCount
        let keys = count <= Self.namedPeers ? register.held.filter(\.value.isDoubted).keys.sorted() : []
        let names = keys.compactMap { register.known($0) }.map { record in
            let endpoint = configuration.flatMap { record.endpoint($0.underlayFamily, defaultPort: 0) }
            let address = endpoint.map { " (\($0.address))" } ?? ""
            return (record.subnet.map { "\($0)" } ?? record.entry.key) + address
        }
        let which = names.isEmpty ? "" : ": " + names.joined(separator: ", ")
        return Problem(
            .degraded,
            "\(storeName) no longer has the leases of \(count) nodes\(which); \(doubt.heldCause), so they stay peers",
            remedy: "bring the store back as it was; if the nodes are gone for good, restart twilld here")
    }
}
