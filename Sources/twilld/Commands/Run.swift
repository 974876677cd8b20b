import ArgumentParser
import Dispatch
import FoundationEssentials
import Glibc
import Health
import Leases
import Logging
import Node
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

            SIGTERM and SIGINT stop the daemon; the lease stays. SIGUSR1 prints all counters to standard error.

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

    @Option(help: ArgumentHelp("File with flags that the command line lacks.", valueName: "file"))
    var config: String?

    /// Within this time of a signal the process is gone, whatever does not answer: a store that hangs, say.
    private static let stopLimitMilliseconds = 900

    func run() async throws {
        try refuseWhatIsNotBuilt()
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint, .sigusr1)
        let level = LineLogHandler.level(verbosity: observation.verbosity)
        let logger = Logger(label: "twilld") { _ in
            var handler = LineLogHandler()
            handler.logLevel = level
            return handler
        }
        let leases = try store.open()
        for remark in store.remarks {
            logger.warning("flag without effect", metadata: ["flag": "etcd", "detail": "\(remark)"])
        }
        logger.notice("starting", metadata: ["version": "\(Version.text)", "store": "\(leases.name)"])
        if observation.vmodule != nil {
            logger.warning("flag without effect", metadata: ["flag": "vmodule", "detail": "use -v"])
        }
        do {
            try await run(leases, signals, logger)
        } catch let error as CommandFailure {
            throw error
        } catch let error as LeaseStoreError {
            throw CommandFailure(error)
        } catch let error as LeaseLost {
            throw CommandFailure(.temporary, error.description)
        } catch let error as UnderlayError {
            throw CommandFailure(.configuration, error.description)
        } catch let error as TunnelMTUError {
            throw CommandFailure(.configuration, error.description)
        } catch {
            throw CommandFailure(.system, "\(error)")
        }
    }

    private func run(_ leases: any LeaseStore, _ signals: UnixSignalsSequence, _ logger: Logger) async throws
    {
        // First: without it there is no telling which lease is this node's.
        let found = try IdentityFile.identity(in: lease.stateDir)
        let health = NodeHealth(logger: logger)
        let node = try NodeNetwork(
            options: underlay.options, resyncInterval: .seconds(rules.iptablesResync), health: health,
            logger: logger)
        let chosen = try await node.chooseUnderlay()
        logger.notice(
            "underlay chosen",
            metadata: [
                "interface": "\(chosen.interfaceName)", "address": "\(chosen.address)",
                "public": "\(chosen.publicAddress)", "mtu": "\(chosen.mtu)",
            ])
        let identity = try IdentityFile.confirmed(
            found, in: lease.stateDir, machine: .current(address: chosen.publicAddress))
        if let problem = identity.problem {
            logger.warning(
                "identity is another one",
                metadata: ["identity": "\(identity.identity)", "detail": "\(problem.cause)"])
        }
        let notification = ServiceNotification(environment: ProcessInfo.processInfo.environment)
        let seen = Observation(
            storeName: leases.name, peerMetricsLimit: observation.metricsPeers, health: health)
        let server = ObservationServer(seen)
        let socketPath = try await listen(server, logger)
        let daemon = Daemon(
            flags: self, underlay: chosen, logger: logger, notification: notification, observation: seen,
            health: health)

        let result = await withTaskGroup(of: Result<Void, any Error>.self) { group in
            group.addTask {
                await Result { try await daemon.run(store: leases, identity: identity, node: node) }
            }
            group.addTask {
                await stopSignal(signals, seen, logger)
                return .success(())
            }
            let result = await group.next()!
            notification.stopping()
            DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(Run.stopLimitMilliseconds)) {
                logger.warning("stopped without waiting any longer")
                _exit(Run.status(of: result))
            }
            await daemon.stop()
            group.cancelAll()
            return result
        }
        await server.stop(removing: socketPath)
        logger.notice("stopped")
        try result.get()
    }

    /// Starts what answers from outside.
    ///
    /// - Returns: the path of the status socket; nil where there is none.
    private func listen(_ server: ObservationServer, _ logger: Logger) async throws(CommandFailure) -> String?
    {
        if observation.healthzPort != 0 {
            try await server.listen(host: observation.healthzIp, port: observation.healthzPort)
        }
        let path = observation.status.statusSocket
        do throws(CommandFailure) {
            try await server.listen(socketPath: path)
            return path
        } catch {
            // Nobody's packets depend on it.
            logger.warning("no status socket", metadata: ["detail": "\(error.message)"])
            return nil
        }
    }

    /// Waits for a signal that stops the daemon; answers the others.
    private func stopSignal(_ signals: UnixSignalsSequence, _ seen: Observation, _ logger: Logger) async {
        for await signal in signals {
            if signal == .sigusr1 {
                StandardError.write(seen.counterLines + "end=counters")
                continue
            }
            logger.notice("stopping", metadata: ["signal": "\(signal)"])
            return
        }
    }

    private static func status(of result: Result<Void, any Error>) -> Int32 {
        switch result {
        case .success: 0
        case .failure(let failure as CommandFailure): failure.status.rawValue
        case .failure: ExitStatus.system.rawValue
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

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
