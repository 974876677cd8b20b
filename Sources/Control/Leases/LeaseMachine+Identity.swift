// How it works. A node is known by an identity that it keeps (docs/adr/0020), and a copied state directory gives one
// identity to two nodes (docs/adr/0023). Each sees the other only in the store: an entry with this node's identity
// that announces an address which this node does not have. Who took an entry over from that address in this run is
// the copy and takes another identity and another subnet; the other one keeps both. Where each has an entry of its
// own, the one with the higher address takes another identity and keeps its subnet. Nobody writes into a contested
// entry more often than `Selfhood.Contests` allows.

import Addresses
import Health
import Logging

/// What tells a node from others that claim to be it.
struct Selfhood {
    var contests = Contests()
    /// Entries that this node deleted because they were left over.
    var leftoversDeleted: Set<String> = []
    /// Entries under this node's identity that are a second node's.
    var secondSelfKeys: Set<String> = []
    /// What is wrong with the identity, and until when that is shown; nil for until there is a lease.
    var problem: (problem: Problem, until: ContinuousClock.Instant?)?

    init(problem: Problem?) { self.problem = problem.map { ($0, nil) } }

    /// How often this node put its own back into its entry after another had written there: 0, 5, 10, 20 … 600
    /// seconds apart, so that two nodes never fight.
    struct Contests {
        static let firstPause = Duration.seconds(5)
        static let longestPause = Duration.seconds(600)
        var count = 0
        var pausedUntil: ContinuousClock.Instant?
    }
}

extension LeaseMachine {
    /// Decides what to do where this node's entry, under its own identity, announces an address that is not this
    /// node's.
    mutating func settleSecondSelf(_ own: OwnSubnet.Holding, at other: Endpoint, now: Instant) {
        // It is about to be written anyway: the store was restored to before this node's address changed, say.
        if own.isRewriteWanted { return }
        if let before = own.adoption?.address, other.address == before {
            return yieldIdentity(own, to: other, now: now)
        }
        tellOfCopy(at: other, now: now)
        if mayContest(now: now) { self.own?.isRewriteWanted = true }
    }

    /// Whether this node may write into an entry that another one writes into too.
    mutating func mayContest(now: Instant) -> Bool {
        guard own?.isRewriteWanted != true else { return false }
        if let paused = selfhood.contests.pausedUntil, paused > now { return false }
        let pause = min(
            Selfhood.Contests.longestPause,
            Selfhood.Contests.firstPause * (1 << min(selfhood.contests.count, 10)))
        selfhood.contests.count += 1
        selfhood.contests.pausedUntil = now + pause
        return true
    }

    private mutating func tellOfCopy(at other: Endpoint, now: Instant) {
        let cause =
            "another node, \(other.address), has this node's identity, \(identity)"
            + " (this node is \(ownEndpoint.address)): the state directory of one is a copy of the other's"
        let problem = Problem(
            .degraded, cause,
            remedy:
                "on the copy, stop twilld, remove the file identity in its --state-dir, and start it again")
        selfhood.problem = (problem, now + Self.noticeTime)
        say(
            "copy", "\(other.address)",
            LeaseReport(
                .error, .identityOfAnother,
                [
                    "identity": "\(identity)", "public_ip": "\(ownEndpoint.address)",
                    "other_public_ip": "\(other.address)", "action": problem.remedy,
                ]))
    }

    /// Gives the identity and the subnet back to the node that was there first.
    private mutating func yieldIdentity(_ own: OwnSubnet.Holding, to other: Endpoint, now: Instant) {
        let subnet = own.subnet
        takeNewIdentity(known: other, kept: "another subnet", now: now)
        self.own = nil
        memory.replaced = subnet
        memory.wanted = nil
        memory.yielded.insert(subnet)
        end("this node's identity and its subnet \(subnet) are those of \(other.address)")
    }

    private mutating func takeNewIdentity(known other: Endpoint, kept: String, now: Instant) {
        let before = identity
        identity = NodeIdentity(number: UInt32.random(in: 1...UInt32.max, using: &random))
        register.identity = identity
        turn.actions.append(.changeIdentity(identity))
        published.keysChanged = nil
        let problem = Problem(
            .degraded,
            "this node's state directory is a copy of that of \(other.address): it took another identity and keeps \(kept)",
            remedy:
                "do not copy --state-dir from node to node; where the subnet changed, restart Docker and the pods here"
        )
        selfhood.problem = (problem, now + Self.noticeTime)
        report(
            .error, .takingAnotherIdentity,
            [
                "identity": "\(identity)", "identity_before": "\(before)",
                "other_public_ip": "\(other.address)",
                "public_ip": "\(ownEndpoint.address)", "keeps": kept,
            ])
    }

    /// Gives a subnet back that this node took for its own by evidence, to the node that turned out to live.
    mutating func yieldSubnet(_ own: OwnSubnet.Holding, to holder: NodeIdentity) {
        let subnet = own.subnet
        self.own = nil
        memory.replaced = subnet
        memory.wanted = nil
        memory.yielded.insert(subnet)
        report(
            .error,
            .subnetHeldByAnother,
            [
                "subnet": "\(subnet)", "holder": "\(holder)", "public_ip": "\(ownEndpoint.address)",
                "action": "give each node its own --public-ip or its own port",
            ])
        end("the subnet \(subnet) of this node is held by another node with its address")
    }

    /// Whether an entry with this node's identity, which is not its lease, is a second node's: it announces an
    /// address that this node does not have and came while this node had its lease, or it came back after it was
    /// deleted.
    func isSecondSelfs(_ key: String) -> Bool {
        guard key != own?.key else { return false }
        return selfhood.secondSelfKeys.contains(key)
    }

    /// Notices a second node by an entry of its own under this node's identity, and ends what is no longer so.
    mutating func settleIdentity(now: Instant) {
        selfhood.secondSelfKeys.formIntersection(register.ownKeys)
        if let own, let key = selfhood.secondSelfKeys.sorted().first(where: { $0 != own.key }),
            let other = register[key]?.endpoint(
                own.endpoint.address.addressFamily, defaultPort: own.endpoint.port)
        {
            if ownEndpoint.address > other.address {
                // The entry stays this node's: it is written anew under the new identity.
                takeNewIdentity(known: other, kept: "its subnet", now: now)
                self.own?.isRewriteWanted = true
            } else {
                tellOfCopy(at: other, now: now)
            }
        }
        if let until = selfhood.problem?.until, until <= now { selfhood.problem = nil }
        if let until = selfhood.contests.pausedUntil, until <= now {
            selfhood.contests.pausedUntil = nil
            if own?.isRewriteWanted != true { selfhood.contests.count = max(0, selfhood.contests.count &- 1) }
        }
    }

    /// Takes notice of an entry with this node's identity that the watch told of.
    mutating func noteOwnEntry(_ entry: StoreEntry) {
        guard entry.holder == identity, let own, entry.key != own.key,
            let other = register[entry.key]?.endpoint(own.endpoint.address.addressFamily, defaultPort: 0)
        else { return }
        if !ownAddresses.contains(other.address) || selfhood.leftoversDeleted.contains(entry.key) {
            selfhood.secondSelfKeys.insert(entry.key)
        }
    }
}
