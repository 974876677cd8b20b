import ArgumentParser
import FoundationEssentials
import Glibc
import Health
import Host
import Logging
import NodeDaemon

/// `twilld run`: the daemon.
struct Run: FlagTaking {
    static let flags =
        StoreFlags.flags + UnderlayFlags.flags + LeaseFlags.flags + RuleFlags.flags + TunnelFlags.flags
        + TuningFlags.flags + SuccessionFlags.flags + ObservationFlags.flags + KubernetesFlags.flags
        + LoggingFlags.flags

    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Take a subnet, make the tunnel, carry packets until stopped (the default).",
        discussion: """
            Flags may be written -flag=value, -flag value, --flag=value or --flag value; a boolean alone means \
            true. What the command line lacks is taken from the environment (FLANNELD_ETCD_ENDPOINTS for \
            --etcd-endpoints, and so on for each flag), then from the file that --config names, which holds \
            flags as name = value, one a line.

            A twilld that runs already hands over to this one, and no packet is lost. \
            SIGTERM and SIGINT stop the daemon; the lease stays, and so does the device (--on-stop). SIGHUP reads the \
            file that --config names again, and takes over ports, tuning and rules without a break. \
            SIGUSR1 prints all counters to standard error.

            \(ExitStatus.helpText)
            """)

    @OptionGroup(title: "Store") var store: StoreFlags
    @OptionGroup(title: "Underlay") var underlay: UnderlayFlags
    @OptionGroup(title: "Lease") var lease: LeaseFlags
    @OptionGroup(title: "Rules") var rules: RuleFlags
    @OptionGroup(title: "Tunnel") var tunnel: TunnelFlags
    @OptionGroup(title: "Tuning") var tuning: TuningFlags
    @OptionGroup(title: "Start and stop") var succession: SuccessionFlags
    @OptionGroup(title: "Seen from outside") var observation: ObservationFlags
    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesFlags
    @OptionGroup(title: "Logging of flanneld") var logging: LoggingFlags

    @OptionGroup var configurationFile: ConfigurationFileFlag

    /// Within this time of a signal the process is gone, whatever does not answer: a store that hangs, say.
    private static let stopLimitMilliseconds: UInt32 = 900

    func run() async throws {
        let node = NodeProcess(options, inheritance: Twilld.inheritance, source: Run.source)
        try await node.run { Run.endSoon($0, node.logger) }
    }

    /// What the flags tell the daemon.
    var options: NodeOptions {
        let cluster = kubernetes.options(
            lease: lease.options, environment: ProcessInfo.processInfo.environment)
        var options = NodeOptions(origin: cluster.map { .kubernetes($0) } ?? .store(store.options))
        options.underlay = underlay.options
        options.lease = lease.options
        options.rules = rules.options
        options.tunnel = tunnel.options
        options.take(environment: ProcessInfo.processInfo.environment)
        options.tuning = tuning.tuning
        options.succession = succession.options
        options.observation = observation.options
        options.containerNetwork = kubernetes.containerNetwork
        options.ineffective =
            logging.ineffective + (cluster == nil ? [] : store.ineffective(beside: "--kube-subnet-mgr"))
        return options
    }

    /// Ends the process before long, on a thread that waits for nothing.
    private static func endSoon(_ status: Int32, _ logger: Logger) {
        try? SystemThread.start("stop") {
            usleep(stopLimitMilliseconds * 1000)
            logger.warning(.stoppedWithoutWaiting)
            LogWriter.standardError.flush(milliseconds: 50)
            _exit(status)
        }
    }
}

// MARK: - Read again

extension Run {
    /// The flags that a running daemon takes over.
    private static let liveFlags = Set(
        TuningFlags.flags.map(\.name) + RuleFlags.flags.map(\.name)
            + ["v", "vmodule", "port", "mtu", "accept-any-source", "on-stop"])

    /// The command line, the environment and the file of this process, for SIGHUP.
    private static var source: OptionsSource {
        OptionsSource(given: Twilld.given.withLock { $0 }, liveNames: liveFlags) {
            () throws(ExitFailure) in
            let line = try commandLine()
            return OptionsSource.Reading(
                options: try parsed(line).options, given: line.values, file: line.configurationFile)
        }
    }

    private static func parsed(_ line: CommandLineWords) throws(ExitFailure) -> Run {
        let command: any ParsableCommand
        do {
            command = try Twilld.parseAsRoot(line.words)
        } catch {
            throw ExitFailure(.usage, Twilld.message(for: error))
        }
        guard let run = command as? Run else { throw ExitFailure(.usage, "this is not twilld run") }
        return run
    }

    private static func commandLine() throws(ExitFailure) -> CommandLineWords {
        try CommandLineWords(
            Array(CommandLine.arguments.dropFirst()), environment: ProcessInfo.processInfo.environment,
            readFile: Twilld.readConfigurationFile)
    }
}
