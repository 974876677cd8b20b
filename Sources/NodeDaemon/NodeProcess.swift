// How it works. What an operator must be able to see comes first: the log, the status socket, the health port. Then
// the node's identity is read, or its cluster asked for its annotations, and an underlay is chosen, which may take as
// long as DHCP does; and only then there is a `Daemon`, which has the subnet, the data plane and the routes. The first
// part to end ends all: a `ServiceGroup` then stops the others.

import Addresses
import Backends
import Processes
import FoundationEssentials
import Glibc
import Health
import Host
import Leases
import Logging
import Node
import ServiceLifecycle
import Synchronization
import UnixSignals

/// One node in this process, from its options to its end: what `twilld run` runs, and tests without a command line.
package struct NodeProcess: Sendable {
    /// How long another daemon at the status socket is waited for: one that was told to stop is gone by then.
    private static let otherDaemonPatience = Duration.seconds(2)
    /// Seconds between two tries to listen on a taken health port.
    private static let listenPauseSeconds = 5
    /// How often a taken health port is tried at once, 50 ms apart, before it is told.
    private static let listenTriesAtOnce = 20
    /// How long the parts may take to stop one after another.
    static let gracefulStopLimit = Duration.milliseconds(600)

    /// What the process logs with.
    package let logger: Logger
    private let options: NodeOptions
    private let inheritance: Inheritance
    private let source: OptionsSource?
    private let level: LogLevel

    /// Makes a node that does nothing yet.
    ///
    /// - Parameters:
    ///   - options: what it is told.
    ///   - inheritance: what the process before has left.
    ///   - source: where to read them again when SIGHUP comes; nil: nowhere.
    ///   - writeLine: takes each line of the log, without its end, on whatever thread has it to say.
    package init(
        _ options: NodeOptions, inheritance: Inheritance = Inheritance(), source: OptionsSource? = nil,
        writeLine: @escaping @Sendable (String) -> Void = LogWriter.standardError.write
    ) {
        let level = LogLevel(options.observation.logVerbosity)
        self.options = options
        self.inheritance = inheritance
        self.source = source
        self.level = level
        logger = Logger(label: "twilld") { _ in LineLogHandler(level: level, write: writeLine) }
    }

    /// Runs the node until SIGTERM or SIGINT comes, or something fails that no waiting mends. The lease, the rules
    /// and `subnet.env` stay, for the next start. To be called once in a process: it takes the process's signals.
    ///
    /// - Parameter willStop: is called when the node begins to stop, with the status that the process should exit
    ///   with, on whatever thread; whoever cannot wait for a store that hangs ends the process by itself from there.
    /// - Throws: what ended the node, with the exit status; nothing where a signal did.
    package func run(willStop: @escaping @Sendable (Int32) -> Void = { _ in }) async throws(ExitFailure) {
        // A reader of the log, or of an answer, that is gone ends nothing: the write fails instead.
        signal(SIGPIPE, SIG_IGN)
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint, .sigusr1, .sighup)
        let succession = Succession(inheritance, options, logger: logger)
        do {
            try DescriptorLimit.raise()
            await onThread { succession.inherit() }
            let heartbeats = Heartbeats()
            let membership = try await onThread { [options, logger] () throws(ExitFailure) in
                try Membership(opening: options.origin, logger: logger, heartbeats: heartbeats)
            }
            logger.notice(.starting, metadata: ["version": "\(Version.text)", "store": "\(membership.name)"])
            sayWhatHasNoEffect()
            try await onThread { () throws(ExitFailure) in try Rights.check() }
            try await run(membership, heartbeats, signals, succession, willStop)
        } catch {
            await onThread { succession.leave() }
            throw ExitFailure(error)
        }
        await onThread { succession.leave() }
        if succession.isTakenOver, options.succession.waitsWhenTakenOver { await waitForEnd(signals) }
    }

    /// Does nothing until it is told to stop, so that whoever looks after this process does not start it again.
    private func waitForEnd(_ signals: UnixSignalsSequence) async {
        for await signal in signals where signal == .sigterm || signal == .sigint { return }
    }

    private func sayWhatHasNoEffect() {
        let remarks = options.origin.remarks.map { NodeOptions.Ineffective(advice: $0) }
        for option in options.ineffective + remarks {
            var metadata: Logger.Metadata = ["detail": "\(option.advice)"]
            if let name = option.name { metadata["flag"] = "\(name)" }
            logger.warning(.flagWithoutEffect, metadata: metadata)
        }
    }

    private func run(
        _ membership: Membership, _ heartbeats: Heartbeats, _ signals: UnixSignalsSequence,
        _ succession: Succession, _ willStop: @escaping @Sendable (Int32) -> Void
    ) async throws {
        let health = NodeHealth(logger: logger)
        let socket = try await statusSocket(health, succession)
        let successors = await onThread { [options] in
            socket == nil ? nil : HandOverSocket.open(beside: options.observation.statusSocket)
        }
        let result: Result<Void, any Error>
        do {
            let parts = try await makeParts(health, heartbeats, membership, succession)
            result = try await run(parts, membership, signals, health, socket, successors, willStop)
        } catch {
            result = .failure(error)
        }
        await onThread {
            socket?.removeName()
            successors?.remove()
        }
        try result.get()
    }

    /// Runs the parts to their end.
    ///
    /// - Returns: what ended them.
    /// - Throws: where the status socket cannot be listened at.
    private func run(
        _ parts: Parts, _ membership: Membership, _ signals: UnixSignalsSequence, _ health: NodeHealth,
        _ socket: StatusSocket?, _ successors: HandOverSocket?,
        _ willStop: @escaping @Sendable (Int32) -> Void
    ) async throws -> Result<Void, any Error> {
        let server = ObservationServer(parts.seen)
        if let socket { try await server.listen(socket) }
        let watch = Watch(
            heartbeats: parts.heartbeats, health: health, log: .standardError,
            notification: parts.notification)
        watch.start()
        let waits = options.succession.waitsWhenTakenOver
        let ending = NodeEnding { result in
            watch.end()
            parts.notification.stopping()
            if !parts.succession.isTakenOver || !waits { willStop(NodeProcess.status(of: result)) }
        }
        let running = Running(options)
        let reload = Reload(from: source, level: level, node: parts.node, health: health, logger: logger) {
            await running.follow($0)
        }
        await NodeProcess.run([
            // What the clocks need is the last to go: the others' pauses need it.
            NodePart(description: "clocks", ending: ending, body: DescriptorLimit.keepTimers),
            NodePart(
                description: "observation", ending: ending, body: { try await listen(server, health) },
                stop: server.stop),
            NodePart(
                description: "hand-over", ending: ending,
                body: {
                    if let successors { try await self.handOver(through: successors, parts, running) }
                    // The first part to end ends the node.
                    if !parts.succession.isTakenOver { try await NodeProcess.waitForCancellation() }
                }),
            NodePart(
                description: "node", ending: ending,
                body: { try await runDaemon(membership, parts, running) },
                stop: { await running.daemon?.stop() }),
            NodePart(
                description: "signals", ending: ending, body: { await stopSignal(signals, reload, parts) }),
        ])
        logger.notice(.stopped)
        return ending.result ?? .success(())
    }

    /// Runs the parts, in their order, until the first has ended, and then stops the others, the last one first.
    ///
    /// - Parameter limit: after this time the parts that still run are no longer stopped one after another, but
    ///   cancelled all at once.
    static func run(_ parts: [NodePart], gracefulStopLimit limit: Duration = gracefulStopLimit) async {
        var configuration = ServiceGroupConfiguration(
            services: parts.map { .init(service: $0, successTerminationBehavior: .gracefullyShutdownGroup) },
            // What there is to say the parts say.
            logger: Logger(label: "parts") { _ in SwiftLogNoOpLogHandler() })
        configuration.maximumGracefulShutdownDuration = limit
        // A part throws nothing to the group: `NodeEnding` has what ended it.
        try? await ServiceGroup(configuration: configuration).run()
    }

    private func runDaemon(
        _ membership: Membership, _ parts: Parts, _ running: Running
    ) async throws {
        switch membership {
        case .leased(let store):
            // First: without it there is no telling which lease is this node's.
            let found = try await onThread { () throws(ExitFailure) in
                try IdentityFile.identity(in: options.lease.stateDirectory)
            }
            let chosen = try await firstUnderlay(parts)
            try refuseMTU(over: chosen)
            let identity = try await confirmed(found, at: chosen.mainPublicAddress)
            let daemon = running.begin { options in
                Daemon(
                    options, underlay: chosen, parts: parts, inherited: parts.succession.takeInherited())
            }
            try await daemon.run(store: store, identity: identity)
        case .assigned(let cluster):
            try await ClusterNode(cluster, parts, options.underlay).run {
                let chosen = try await firstUnderlay(parts)
                return running.begin { options in
                    Daemon(
                        options, underlay: chosen, parts: parts, inherited: parts.succession.takeInherited())
                }
            }
        }
    }

    /// Refuses an MTU of the flags that fits with no backend, before a lease is taken. Whether it fits with the network's own
    /// is known with its configuration.
    private func refuseMTU(over underlay: Underlay) throws(TunnelMTUError) {
        guard let mtu = options.tunnel.mtu else { return }
        let carriesIPv6 = underlay.address == nil
        let isPossible =
            (try? TunnelMTU.choose(
                underlayMTU: underlay.mtu, overhead: 0, configured: mtu, carriesIPv6: carriesIPv6)) != nil
        guard !isPossible else { return }
        _ = try TunnelMTU.choose(
            underlayMTU: underlay.mtu,
            overhead: UDPBackend().overhead(over: underlay.mainAddress.addressFamily), configured: mtu,
            carriesIPv6: carriesIPv6)
    }

    private func makeParts(
        _ health: NodeHealth, _ heartbeats: Heartbeats, _ membership: Membership, _ succession: Succession
    ) async throws -> Parts {
        let timing = options.tunnel.pathProbeInterval.map { PathTiming(confirmInterval: $0) }
        let node = try NodeNetwork(
            options: options.underlay, exclusions: await onThread { exclusions() },
            alias: SubnetFile.deviceAlias(ofDaemonKeeping: options.lease.subnetFile),
            resyncInterval: options.rules.resyncInterval, health: health, logger: logger, pathTiming: timing,
            inherited: succession.inheritedPaths)
        let origin = Observation.Origin(name: membership.name, isCluster: options.origin.isCluster)
        return Parts(
            health: health, node: node, logger: logger,
            notification: succession.notification, store: succession.store, succession: succession,
            seen: Observation(
                origin: origin, peerMetricsLimit: options.observation.peerMetricsLimit, health: health),
            heartbeats: heartbeats)
    }

    /// What is never the underlay: the tunnel's device, and what this node's bridges may have left of the network
    /// that `subnet.env` names. The network of now is not known before the store answered.
    @available(*, noasync, message: "it blocks: use onThread")
    private func exclusions() -> UnderlayExclusions {
        let former = (try? SubnetFileValues(path: options.lease.subnetFile))?.networks
        return UnderlayExclusions(
            interfaceName: options.tunnel.interfaceName, networks: former ?? [])
    }

    /// The identity to use on this machine, which its address is a part of.
    private func confirmed(
        _ found: IdentityFile.Kept, at address: IPAddress
    ) async throws(ExitFailure) -> IdentityFile.Kept {
        let identity = try await onThread { () throws(ExitFailure) in
            try IdentityFile.confirmed(
                found, in: options.lease.stateDirectory, machine: .current(address: address))
        }
        if let problem = identity.problem {
            logger.warning(
                .identityIsAnother,
                metadata: ["identity": "\(identity.identity)", "detail": "\(problem.cause)"])
        }
        return identity
    }

    /// Waits for a signal that stops the daemon; answers the others.
    private func stopSignal(_ signals: UnixSignalsSequence, _ reload: Reload, _ parts: Parts) async {
        // What was read may be older than a signal of before.
        if EarlySignals.hadHangUp { await read(reload, parts) }
        for await signal in signals {
            switch signal {
            case .sigusr1: LogWriter.standardError.write(parts.seen.counterLines + "end=counters")
            case .sighup: await read(reload, parts)
            default:
                logger.notice(.stopping, metadata: ["signal": "\(signal)"])
                return
            }
        }
    }

    private func read(_ reload: Reload, _ parts: Parts) async {
        parts.notification.reloading()
        await reload.read()
        parts.notification.reloaded()
    }

    private static func status(of result: Result<Void, any Error>) -> Int32 {
        switch result {
        case .success: 0
        case .failure(let error): ExitFailure(error).status.rawValue
        }
    }
}

// MARK: - What answers from outside

extension NodeProcess {
    /// Makes the status socket. What keeps it from being made is said; nobody's packets depend on it.
    ///
    /// - Throws: Where another daemon answers there: with the same options, it has the lease and the port too.
    private func statusSocket(_ health: NodeHealth, _ succession: Succession) async throws -> StatusSocket? {
        let path = options.observation.statusSocket
        let limit = ContinuousClock.now + NodeProcess.otherDaemonPatience
        while true {
            do {
                let isTaken = succession.hasTakenOver
                let socket = try await onThread { try StatusSocket.open(at: path, replacing: isTaken) }
                health.set(Component(.endpoint, "status socket"), nil)
                return socket
            } catch let held as StatusSocket.Held {
                // What refuses now may be ready the next time: it may have just been started.
                if await onThread({ succession.takeOver() }) { continue }
                guard ContinuousClock.now < limit else {
                    throw await onThread { NodeProcess.failure(held, path, succession.refusal) }
                }
                try await Task.sleep(for: .milliseconds(100))
            } catch let failure as ExitFailure where failure.status != .usage {
                logger.warning(.noStatusSocket, metadata: ["detail": "\(failure.message)"])
                health.set(
                    Component(.endpoint, "status socket"),
                    Problem(.degraded, failure.message, remedy: "until then twilld status does not work"))
                return nil
            }
        }
    }

    @available(*, noasync, message: "it blocks: use onThread")
    private static func failure(
        _ held: StatusSocket.Held, _ path: String, _ refusal: String?
    ) -> ExitFailure {
        let process = held.processIdentifier.map { ", \(RunningProcess(number: $0))," } ?? ""
        return ExitFailure(
            .temporary,
            "another twilld\(process) answers at \(path)\(refusal.map { ", and does not hand over (\($0))" } ?? ""): "
                + "stop that one; or, for another network on "
                + "this host, give this one "
                + "a --status-socket, --tun-name, --subnet-file and --state-dir of its own")
    }

    /// Listens for `/healthz` and `/metrics` until cancelled. A taken port is waited for: packets do not
    /// depend on it.
    private func listen(_ server: ObservationServer, _ health: NodeHealth) async throws {
        let (host, port) = (options.observation.healthHost, options.observation.healthPort)
        let component = Component(.endpoint, "\(host):\(port)")
        var triesAtOnce = NodeProcess.listenTriesAtOnce
        while port != 0 {
            do throws(ExitFailure) {
                try await server.listen(host: host, port: port)
                health.set(component, nil)
                break
            } catch {
                guard error.status != .permission else { throw error }
                // The daemon that handed over is about to let go of it.
                if triesAtOnce > 0 {
                    triesAtOnce -= 1
                    try await Task.sleep(for: .milliseconds(50))
                    continue
                }
                let holder = await onThread {
                    IPv4Address(host).flatMap {
                        RunningProcess.holder(of: Endpoint(address: $0, port: port), .tcp)?.description
                    }
                }
                health.set(
                    component,
                    Problem(
                        .degraded, error.message + (holder.map { " (held by \($0))" } ?? ""),
                        remedy:
                            "free the port, which is tried again every \(NodeProcess.listenPauseSeconds) s, "
                            + "or choose another with --healthz-port (0: none)"))
                try await Task.sleep(for: .seconds(NodeProcess.listenPauseSeconds))
            }
        }
        // The first part to end ends the daemon: this one waits to be cancelled.
        try await NodeProcess.waitForCancellation()
    }

    private static func waitForCancellation() async throws {
        while true { try await Task.sleep(for: .seconds(86_400)) }
    }

    /// Hands over to the first who takes it.
    private func handOver(through socket: HandOverSocket, _ parts: Parts, _ running: Running) async throws {
        let (connections, continuation) = AsyncStream<Int32>.makeStream()
        try SystemThread.start("hand-over") {
            while let connection = socket.accept() { continuation.yield(connection) }
            continuation.finish()
        }
        for await descriptor in connections {
            let successor = Successor(connection: HandOverConnection(descriptor: descriptor))
            if let daemon = running.daemon {
                parts.succession.isTakenOver = await daemon.handOver(to: successor)
            } else {
                await onThread { successor.refuse("it is not set up") }
            }
            close(descriptor)
            if parts.succession.isTakenOver { return }
        }
    }
}

// MARK: - Before there is an underlay

extension NodeProcess {
    /// Chooses the underlay; waits for one that may still come, and says so, since DHCP may be late.
    private func firstUnderlay(_ parts: Parts) async throws -> Underlay {
        var said = ""
        while true {
            do {
                let chosen = try await parts.node.chooseUnderlay()
                parts.health.set(Component(.underlay), nil)
                logger.notice(
                    .underlayChosen,
                    metadata: [
                        "interface": "\(chosen.interfaceName)", "address": "\(chosen.addressText)",
                        "public": "\(chosen.publicAddressText)", "mtu": "\(chosen.mtu)",
                    ])
                return chosen
            } catch let error as UnderlayError where !error.isTransient {
                throw error
            } catch {
                let reason = plainWords(error)
                if reason != said {
                    said = reason
                    logger.warning(.waitingForUnderlay, metadata: ["detail": "\(reason)"])
                    parts.report("waiting for an underlay: \(reason)", isSetUp: false)
                }
                parts.health.set(
                    Component(.underlay),
                    Problem(
                        .cutOff, reason,
                        remedy: "it is looked for every second; see that the interface gets its address"))
                try await Task.sleep(for: .seconds(1))
            }
        }
    }
}

/// The daemon, once there is an underlay for it, and what it is to be begun with, which a SIGHUP may change before that.
private final class Running: Sendable {
    private struct State {
        var options: NodeOptions
        var daemon: Daemon?
    }

    private let state: Mutex<State>

    init(_ options: NodeOptions) { state = Mutex(State(options: options)) }

    var daemon: Daemon? { state.withLock { $0.daemon } }

    func begin(_ daemon: (NodeOptions) -> Daemon) -> Daemon {
        state.withLock { state in
            let daemon = daemon(state.options)
            state.daemon = daemon
            return daemon
        }
    }

    func follow(_ new: NodeOptions) async {
        let daemon = state.withLock { state in
            if state.daemon == nil { state.options.follow(new) }
            return state.daemon
        }
        await daemon?.follow(new)
    }
}

/// What the daemon's parts share.
struct Parts: Sendable {
    let health: NodeHealth
    let node: NodeNetwork
    let logger: Logger
    let notification: ServiceNotification
    let store: DescriptorStore
    let succession: Succession
    let seen: Observation
    let heartbeats: Heartbeats

    /// Says what the daemon does or waits for, to whoever asks and to systemd.
    func report(_ state: String, isSetUp: Bool) {
        if seen.update(state: state, isSetUp: isSetUp) { notification.status(state) }
    }
}
