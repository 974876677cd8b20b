internal import Addresses
import Health
import Host
import Netlink
internal import Reconciler
import Synchronization

/// An extension's commands have been run for this node's subnet and for each other node. They run one after another on a
/// thread of their own, so that one that hangs holds up nothing but the others; what fails is named, and tried again every
/// minute, and at no other node's cost.
struct ExtensionPeers: OwnedItem {
    let commands: ExtensionCommands
    let place: BackendPlace
    let peers: [BackendPeer]
    private let queue: ExtensionQueue

    init(commands: ExtensionCommands, place: BackendPlace, peers: [BackendPeer]) {
        self.commands = commands
        self.place = place
        // A node without IPv6 has nothing to do with that of others.
        self.peers = peers.map { peer in
            var peer = peer
            if place.ipv6 == nil { peer.ipv6 = nil }
            return peer
        }
        queue = ExtensionQueue.named(place.alias)
    }

    var name: String { "commands of the extension" }
    var component: Component { Component(.tunnel, "commands of the extension") }
    var isEssential: Bool { false }

    private var wanted: ExtensionQueue.Wanted { .init(commands: commands, place: place, peers: peers) }

    func deviation(in _: NetworkState) throws -> String? {
        if let work = queue.isBehind(wanted, now: .now) { return work }
        if let problem = queue.problem { throw ItemProblem(problem) }
        return nil
    }

    func update(in _: NetworkState, using _: RouteSocket) throws {
        try queue.follow(wanted, now: .now)
        if let problem = queue.problem { throw ItemProblem(problem) }
    }

    /// The network is another backend's: each node goes.
    func delete(using _: RouteSocket) throws {
        try queue.follow(.init(commands: commands, place: nil, peers: []), now: .now)
    }
}

/// Which commands have been run, and those still to be.
final class ExtensionQueue: Sendable {
    /// How long after a failure a command is run again.
    private static let retryPause = Duration.seconds(60)
    /// How many failures a sentence names.
    private static let namedFailures = 3

    /// What is to have been run.
    struct Wanted: Sendable, Hashable {
        var commands: ExtensionCommands
        /// Where this node is; nil where the extension carries nothing any more.
        var place: BackendPlace?
        var peers: [BackendPeer]
    }

    /// Whom a command is run for.
    private enum Subject: Hashable {
        /// This node, by its subnets and the addresses that others are told.
        case own(IPPrefix, IPAddress, ipv6: BackendSide?)
        case peer(BackendPeer)
        /// Another node that went. A failure of that is told for a while, and not tried again: what was to be taken away
        /// may be gone.
        case former(BackendPeer)
    }

    private struct Job {
        var command: ExtensionCommand
        var environment: [String: String]
        var input = ""
        var subject: Subject
    }

    private struct Failure {
        var words: String
        /// When it is tried again, or forgotten.
        var retryAt: ContinuousClock.Instant
    }

    private struct State {
        var wanted: Wanted?
        var failures: [Subject: Failure] = [:]
        var jobs: [Job] = []
        var isRunning = false
    }

    private let state = Mutex(State())

    /// The queues of this process, each for as long as it runs: what was run must outlive each description of what is
    /// wanted.
    private static let queues = Mutex<[String: ExtensionQueue]>([:])

    /// The queue of that name, the same each time.
    static func named(_ name: String) -> ExtensionQueue {
        queues.withLock { queues in
            if let queue = queues[name] { return queue }
            let queue = ExtensionQueue()
            queues[name] = queue
            return queue
        }
    }

    /// What is still to be put in line, in words; nil for nothing.
    func isBehind(_ wanted: Wanted, now: ContinuousClock.Instant) -> String? {
        state.withLock { state in
            if state.wanted != wanted { return "commands to be run for \(wanted.peers.count) nodes" }
            return state.failures.contains { $0.value.retryAt <= now } ? "commands to be tried again" : nil
        }
    }

    /// What failed and has not been done since; nil where nothing did.
    var problem: Problem? {
        let words = state.withLock { $0.failures.values.map(\.words) }.sorted()
        guard !words.isEmpty else { return nil }
        let rest = words.count > Self.namedFailures ? "; and \(words.count &- Self.namedFailures) more" : ""
        return Problem(
            .degraded, words.prefix(Self.namedFailures).joined(separator: "; ") + rest,
            remedy: "\(ExtensionCommand.remedy); it is tried again every \(Self.retryPause)")
    }

    /// Puts in line what is to be run.
    ///
    /// - Throws: where the kernel gives no thread for it.
    func follow(_ wanted: Wanted, now: ContinuousClock.Instant) throws {
        let startsThread = state.withLock { state in
            // Another command is not to wait for what the one before did.
            let isAnother = state.wanted?.commands != wanted.commands
            let due = state.failures.filter { isAnother || $0.value.retryAt <= now }
            state.jobs += Self.jobs(from: state.wanted, to: wanted, again: Set(due.keys))
            let subjects = Set(Self.subjects(of: wanted))
            for (subject, failure) in state.failures {
                if case .former(let peer) = subject {
                    if due[subject] != nil || subjects.contains(.peer(peer)) { state.failures[subject] = nil }
                } else if !subjects.contains(subject) {
                    state.failures[subject] = nil
                } else if due[subject] != nil {
                    // It is told until it has been done.
                    state.failures[subject] = Failure(words: failure.words, retryAt: now + Self.retryPause)
                }
            }
            state.wanted = wanted
            guard !state.jobs.isEmpty, !state.isRunning else { return false }
            state.isRunning = true
            return true
        }
        guard startsThread else { return }
        do {
            // A thread that is started here is in the network namespace of this one.
            try SystemThread.start("extension") { self.run() }
        } catch {
            state.withLock { $0.isRunning = false }
            throw error
        }
    }

    private static func subjects(of wanted: Wanted) -> [Subject] {
        (wanted.place.map { [.own($0.subnet, $0.publicAddress, ipv6: $0.ipv6)] } ?? [])
            + wanted.peers.map { .peer($0) }
    }

    /// What is to be run: what is for nodes that are gone or announce something else, then what is for the new.
    ///
    /// - Parameter again: those that failed and are to be tried again.
    private static func jobs(from former: Wanted?, to wanted: Wanted, again: Set<Subject>) -> [Job] {
        let before = former.map { subjects(of: $0) } ?? []
        let after = subjects(of: wanted)
        let (had, wants) = (Set(before), Set(after))
        let leaving = before.compactMap { subject -> Subject? in
            guard case .peer(let peer) = subject, !wants.contains(subject) else { return nil }
            return .former(peer)
        }
        let coming = after.filter { !had.contains($0) || again.contains($0) }
        guard let place = wanted.place ?? former?.place else { return [] }
        return (leaving + coming).compactMap { job(for: $0, in: place, by: wanted.commands) }
    }

    private static func job(
        for subject: Subject, in place: BackendPlace, by commands: ExtensionCommands
    ) -> Job? {
        let command =
            switch subject {
            case .own: commands.postStartup
            case .peer: commands.add
            case .former: commands.remove
            }
        guard let command else { return nil }
        var variables: [String: String]
        var input = ""
        switch subject {
        case .own: variables = Self.variables(of: place)
        case .peer(let peer), .former(let peer):
            variables = Self.variables(peer.subnet, peer.address, ipv6: peer.ipv6)
            input = (peer.announced?.value as? ExtensionData)?.output ?? ""
        }
        variables.merge(place.machine.environment) { own, _ in own }
        return Job(command: command, environment: variables, input: input, subject: subject)
    }

    /// flannel's variables for this node.
    private static func variables(of place: BackendPlace) -> [String: String] {
        var variables = variables(place.subnet, place.publicAddress, ipv6: place.ipv6)
        variables["NETWORK"] = "\(place.network)"
        return variables
    }

    /// flannel's variables for a node, of both families where it has both. For other nodes flannel gives those of IPv4 alone.
    private static func variables(
        _ subnet: IPPrefix, _ address: IPAddress, ipv6: BackendSide?
    ) -> [String: String] {
        switch subnet {
        case .v4:
            var variables = ["SUBNET": "\(subnet)", "PUBLIC_IP": "\(address)"]
            if let ipv6 {
                variables["IPV6SUBNET"] = "\(ipv6.subnet)"
                variables["PUBLIC_IPV6"] = "\(ipv6.address)"
            }
            return variables
        case .v6: return ["IPV6SUBNET": "\(subnet)", "PUBLIC_IPV6": "\(address)"]
        }
    }

    private func run() {
        while let job = next() {
            do {
                _ = try job.command.run(environment: job.environment, input: job.input)
                note(nil, of: job)
            } catch {
                note(error.description, of: job)
            }
        }
    }

    private func next() -> Job? {
        state.withLock { state in
            guard !state.jobs.isEmpty else {
                state.isRunning = false
                return nil
            }
            return state.jobs.removeFirst()
        }
    }

    private func note(_ failure: String?, of job: Job) {
        let name =
            switch job.subject {
            case .own(let subnet, _, _): "\(subnet)"
            case .peer(let peer), .former(let peer): "\(peer.subnet) at \(peer.address)"
            }
        state.withLock { state in
            var isOfInterest = true
            if case .former = job.subject {
            } else {
                isOfInterest = state.wanted.map { Self.subjects(of: $0).contains(job.subject) } ?? false
            }
            state.failures[job.subject] =
                isOfInterest
                ? failure.map { Failure(words: "\(name): \($0)", retryAt: .now + Self.retryPause) } : nil
        }
    }
}
