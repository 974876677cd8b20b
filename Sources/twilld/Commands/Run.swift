import Addresses
import ArgumentParser
import FoundationEssentials
import Glibc
import Health
import Leases
import Logging
import Node
import Processes
import Synchronization
import UnixSignals

/// `twilld run`: the daemon.
struct Run: FlagTaking {
    static let flags = GoFlag.run

    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Take a subnet, make the tunnel, carry packets until stopped (the default).",
        discussion: """
            Flags may be written -flag=value, -flag value, --flag=value or --flag value; a boolean alone means \
            true. What the command line lacks is taken from the environment (FLANNELD_ETCD_ENDPOINTS for \
            --etcd-endpoints, and so on for each flag), then from the file that --config names, which holds \
            flags as name = value, one a line.

            SIGTERM and SIGINT stop the daemon; the lease stays. SIGHUP reads the file that --config names again. \
            SIGUSR1 prints all counters to standard error.

            \(ExitStatus.helpText)
            """)

    @OptionGroup(title: "Store") var store: StoreFlags
    @OptionGroup(title: "Underlay") var underlay: UnderlayFlags
    @OptionGroup(title: "Lease") var lease: LeaseFlags
    @OptionGroup(title: "Rules") var rules: RuleFlags
    @OptionGroup(title: "Tunnel") var tunnel: TunnelFlags
    @OptionGroup(title: "Tuning") var tuning: TuningFlags
    @OptionGroup(title: "Seen from outside") var observation: ObservationFlags
    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesFlags
    @OptionGroup(title: "Logging of flanneld") var logging: LoggingFlags

    @Option(help: ArgumentHelp("File with flags that the command line lacks.", valueName: "file"))
    var config: String?

    /// Within this time of a signal the process is gone, whatever does not answer: a store that hangs, say.
    private static let stopLimitMilliseconds: UInt32 = 900
    /// How long another daemon at the status socket is waited for: one that was told to stop is gone by then.
    private static let otherDaemonPatienceMilliseconds = 2000
    /// Seconds between two tries to listen on a taken health port.
    private static let listenPauseSeconds = 5

    func run() async throws {
        try refuseWhatIsNotBuilt()
        // A reader of the log, or of an answer, that is gone ends nothing: the write fails instead.
        signal(SIGPIPE, SIG_IGN)
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint, .sigusr1, .sighup)
        let level = LogLevel(LineLogHandler.level(verbosity: observation.verbosity))
        let logger = Logger(label: "twilld") { _ in LineLogHandler(level: level) }
        do {
            try DescriptorLimit.raise()
            let leases = try await onThread { () throws(CommandFailure) in try store.open() }
            logger.notice("starting", metadata: ["version": "\(Version.text)", "store": "\(leases.name)"])
            for (flag, advice) in logging.withoutEffect {
                logger.warning("flag without effect", metadata: ["flag": "\(flag)", "detail": "\(advice)"])
            }
            for remark in store.remarks {
                logger.warning("flag without effect", metadata: ["detail": "\(remark)"])
            }
            try await onThread { () throws(CommandFailure) in try Rights.check() }
            try await run(leases, signals, logger, level)
        } catch {
            throw CommandFailure(error)
        }
    }

    private func run(
        _ leases: any LeaseStore, _ signals: UnixSignalsSequence, _ logger: Logger, _ level: LogLevel
    ) async throws {
        let health = NodeHealth(logger: logger)
        let socket = try await statusSocket(health, logger)
        defer { socket?.removeName() }
        // First: without it there is no telling which lease is this node's.
        let found = try await onThread { () throws(CommandFailure) in
            try IdentityFile.identity(in: lease.stateDir)
        }
        let exclusions = await onThread { self.exclusions }
        let node = try NodeNetwork(
            options: underlay.options, exclusions: exclusions, resyncInterval: .seconds(rules.resyncSeconds),
            health: health, logger: logger, pathTiming: tunnel.pathTiming)
        let parts = Parts(
            health: health, node: node, logger: logger,
            notification: ServiceNotification(environment: ProcessInfo.processInfo.environment),
            seen: Observation(
                storeName: leases.name, peerMetricsLimit: observation.metricsPeers, health: health))
        let server = ObservationServer(parts.seen)
        if let socket { try await server.listen(socket) }
        let watch = Watch(
            heartbeats: parts.heartbeats, health: health, log: .standardError,
            notification: parts.notification)
        watch.start()
        let reload = Reload(of: self, level: level, node: node, health: health, logger: logger)
        let running = Running()

        let result = await withTaskGroup(of: Result<Void, any Error>.self) { group in
            group.addTask {
                await Result {
                    let chosen = try await firstUnderlay(parts)
                    let identity = try await confirmed(found, at: chosen.publicAddress, logger)
                    let daemon = Daemon(flags: self, underlay: chosen, parts: parts)
                    running.daemon = daemon
                    try await daemon.run(store: leases, identity: identity)
                }
            }
            group.addTask { await Result { try await listen(server, health, logger) } }
            group.addTask {
                await DescriptorLimit.keepTimers()
                return .success(())
            }
            group.addTask {
                await stopSignal(signals, reload, parts)
                return .success(())
            }
            let result = await group.next() ?? .success(())
            watch.end()
            parts.notification.stopping()
            endSoon(Run.status(of: result), logger)
            await running.daemon?.stop()
            group.cancelAll()
            return result
        }
        await server.stop()
        logger.notice("stopped")
        try result.get()
    }

    /// What is never the underlay: the tunnel's device, and what this node's bridges may have left of the network that
    /// `subnet.env` names. The network of now is not known before the store answered.
    private var exclusions: UnderlayExclusions {
        let former = (try? SubnetFileValues(path: lease.subnetFile))?.network
        return UnderlayExclusions(interfaceName: tunnel.tunName, networks: former.map { [$0] } ?? [])
    }

    /// The identity to use on this machine, which its address is a part of.
    private func confirmed(
        _ found: IdentityFile.Kept, at address: IPv4Address, _ logger: Logger
    ) async throws(CommandFailure) -> IdentityFile.Kept {
        let identity = try await onThread { () throws(CommandFailure) in
            try IdentityFile.confirmed(found, in: lease.stateDir, machine: .current(address: address))
        }
        if let problem = identity.problem {
            logger.warning(
                "identity is another one",
                metadata: ["identity": "\(identity.identity)", "detail": "\(problem.cause)"])
        }
        return identity
    }

    /// Ends the process before long, on a thread that waits for nothing.
    private func endSoon(_ status: Int32, _ logger: Logger) {
        startThread("stop") {
            usleep(Run.stopLimitMilliseconds * 1000)
            logger.warning("stopped without waiting any longer")
            LogWriter.standardError.flush(milliseconds: 50)
            _exit(status)
        }
    }

    /// Waits for a signal that stops the daemon; answers the others.
    private func stopSignal(_ signals: UnixSignalsSequence, _ reload: Reload, _ parts: Parts) async {
        for await signal in signals {
            switch signal {
            case .sigusr1: LogWriter.standardError.write(parts.seen.counterLines + "end=counters")
            case .sighup: await reload.read()
            default:
                parts.logger.notice("stopping", metadata: ["signal": "\(signal)"])
                return
            }
        }
    }

    private static func status(of result: Result<Void, any Error>) -> Int32 {
        switch result {
        case .success: 0
        case .failure(let error): CommandFailure(error).status.rawValue
        }
    }

    /// Ends with the name of what was asked for and is not built: an operator must not believe that it works.
    func refuseWhatIsNotBuilt() throws(CommandFailure) {
        if kubernetes.kubeSubnetMgr {
            throw CommandFailure(
                .unavailable,
                "--kube-subnet-mgr (leases from the Kubernetes API) is not built yet; use etcd or --lease-dir"
            )
        }
    }
}

// MARK: - What answers from outside

extension Run {
    /// Makes the status socket. What keeps it from being made is said; nobody's packets depend on it.
    ///
    /// - Throws: Where another daemon answers there: with the same flags, it has the lease and the port too.
    private func statusSocket(_ health: NodeHealth, _ logger: Logger) async throws -> StatusSocket? {
        let path = observation.status.statusSocket
        var waited = 0
        while true {
            do {
                let socket = try await onThread { try StatusSocket.open(at: path) }
                health.set(Component(.endpoint, "status socket"), nil)
                return socket
            } catch let held as StatusSocket.Held {
                guard waited < Run.otherDaemonPatienceMilliseconds else { throw Run.failure(held, path) }
                try await Task.sleep(for: .milliseconds(100))
                waited += 100
            } catch let failure as CommandFailure where failure.status != .usage {
                logger.warning("no status socket", metadata: ["detail": "\(failure.message)"])
                health.set(
                    Component(.endpoint, "status socket"),
                    Problem(.degraded, failure.message, remedy: "until then twilld status does not work"))
                return nil
            }
        }
    }

    private static func failure(_ held: StatusSocket.Held, _ path: String) -> CommandFailure {
        let process = held.processIdentifier.map { ", \(RunningProcess(number: $0))," } ?? ""
        return CommandFailure(
            .temporary,
            "another twilld\(process) answers at \(path): stop that one; or, for another network on "
                + "this host, give this one "
                + "a --status-socket, --tun-name, --subnet-file and --state-dir of its own")
    }

    /// Listens for `/healthz` and `/metrics` until cancelled. A taken port is waited for: packets do not
    /// depend on it.
    private func listen(_ server: ObservationServer, _ health: NodeHealth, _ logger: Logger) async throws {
        let (host, port) = (observation.healthzIp, observation.healthzPort)
        let component = Component(.endpoint, "\(host):\(port)")
        while port != 0 {
            do throws(CommandFailure) {
                try await server.listen(host: host, port: port)
                health.set(component, nil)
                break
            } catch {
                guard error.status != .permission else { throw error }
                let holder = await onThread {
                    IPv4Address(host).flatMap {
                        RunningProcess.holder(of: Endpoint(address: $0, port: port), .tcp)
                    }
                }
                health.set(
                    component,
                    Problem(
                        .degraded, error.message + (holder.map { " (held by \($0))" } ?? ""),
                        remedy:
                            "free the port, which is tried again every \(Run.listenPauseSeconds) s, or "
                            + "choose another "
                            + "with --healthz-port (0: none)"))
                try await Task.sleep(for: .seconds(Run.listenPauseSeconds))
            }
        }
        // The first part to end ends the daemon: this one waits to be cancelled.
        while true { try await Task.sleep(for: .seconds(86_400)) }
    }
}

// MARK: - Before there is an underlay

extension Run {
    /// Chooses the underlay; waits for one that may still come, and says so, since DHCP may be late.
    private func firstUnderlay(_ parts: Parts) async throws -> Underlay {
        var said = ""
        while true {
            do {
                let chosen = try await parts.node.chooseUnderlay()
                parts.health.set(Component(.underlay), nil)
                parts.logger.notice(
                    "underlay chosen",
                    metadata: [
                        "interface": "\(chosen.interfaceName)", "address": "\(chosen.address)",
                        "public": "\(chosen.publicAddress)", "mtu": "\(chosen.mtu)",
                    ])
                return chosen
            } catch let error as UnderlayError where !error.isTransient {
                throw error
            } catch {
                let reason = plainWords(error)
                if reason != said {
                    said = reason
                    parts.logger.warning("waiting for an underlay", metadata: ["detail": "\(reason)"])
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

/// The daemon, once there is an underlay for it.
private final class Running: Sendable {
    private let kept = Mutex<Daemon?>(nil)

    var daemon: Daemon? {
        get { kept.withLock { $0 } }
        set { kept.withLock { $0 = newValue } }
    }
}

/// What the daemon's parts share.
struct Parts: Sendable {
    let health: NodeHealth
    let node: NodeNetwork
    let logger: Logger
    let notification: ServiceNotification
    let seen: Observation
    let heartbeats = Heartbeats()

    /// Says what the daemon does or waits for, to whoever asks and to systemd.
    func report(_ state: String, isSetUp: Bool) {
        if seen.update(state: state, isSetUp: isSetUp) { notification.status(state) }
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
