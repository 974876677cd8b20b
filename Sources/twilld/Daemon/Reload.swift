import FoundationEssentials
import Health
import Logging
import Node
import Synchronization

/// What SIGHUP does: reads the configuration file again, takes over what needs no restart, and names the
/// rest.
final class Reload: Sendable {
    /// What is taken over at once.
    private static let live: Set<String> = ["v", "iptables-resync"]

    private let level: LogLevel
    private let node: NodeNetwork
    private let health: NodeHealth
    private let logger: Logger
    /// The flags' values in effect; nil before the first reload of a command line that can't be read now.
    private let values: Mutex<[String: [String]]>

    init(of run: Run, level: LogLevel, node: NodeNetwork, health: NodeHealth, logger: Logger) {
        self.level = level
        self.node = node
        self.health = health
        self.logger = logger
        values = Mutex((try? Reload.commandLine())?.values ?? [:])
    }

    /// Reads the file; never ends the daemon.
    func read() async {
        let component = Component(.configuration, "file")
        do {
            let (line, run) = try await onThread { try Reload.parsed() }
            guard let file = line.configurationFile else {
                logger.notice(
                    "nothing to reload",
                    metadata: [
                        "detail": "no file is given with --config; what flags say is taken over by a restart"
                    ])
                return
            }
            health.set(component, nil)
            await apply(line, run, file)
        } catch {
            let reason = (error as? CommandFailure)?.message ?? Twilld.message(for: error)
            logger.error("reload failed", metadata: ["detail": "\(reason)"])
            health.set(
                component,
                Problem(
                    .degraded,
                    "the configuration file is wrong, and twilld would not start with it: \(reason)",
                    remedy: "correct it and send SIGHUP again; until then what was read before holds"))
        }
    }

    private func apply(_ line: CommandLineWords, _ run: Run, _ file: String) async {
        let before = values.withLock { $0 }
        let names = Set(before.keys).union(line.values.keys)
        let changed = names.filter { before[$0] != line.values[$0] }
        let taken = changed.intersection(Reload.live).sorted()
        let rest = changed.subtracting(Reload.live).sorted()
        level.current = LineLogHandler.level(verbosity: run.observation.verbosity)
        await node.follow(resyncInterval: .seconds(run.rules.resyncSeconds))
        values.withLock { for name in taken { $0[name] = line.values[name] } }
        logger.notice(
            "configuration reloaded",
            metadata: [
                "file": "\(file)", "taken_over": "\(taken.joined(separator: ","))",
                "needs_a_restart": "\(rest.joined(separator: ","))",
            ])
    }

    private static func parsed() throws -> (CommandLineWords, Run) {
        let line = try commandLine()
        guard let run = try Twilld.parseAsRoot(line.words) as? Run else {
            throw CommandFailure(.usage, "this is not twilld run")
        }
        return (line, run)
    }

    private static func commandLine() throws(CommandFailure) -> CommandLineWords {
        try CommandLineWords(
            GivenWords.all, environment: ProcessInfo.processInfo.environment,
            readFile: Twilld.readConfigurationFile)
    }
}
