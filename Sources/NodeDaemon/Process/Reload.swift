import Health
import Host
import Logging
import Node
import Synchronization

/// What SIGHUP does: reads the configuration file again, takes over what needs no restart, and names the
/// rest.
final class Reload: Sendable {
    private let source: OptionsSource?
    private let level: LogLevel
    private let node: NodeNetwork
    private let health: NodeHealth
    private let logger: Logger
    private let follow: @Sendable (NodeOptions) async -> Void
    /// What is in effect of what was given.
    private let given: Mutex<[String: [String]]>

    /// - Parameters:
    ///   - source: nil where the options were not read from anywhere.
    ///   - follow: brings the daemon to options; it takes those that need no restart.
    init(
        from source: OptionsSource?, level: LogLevel, node: NodeNetwork, health: NodeHealth, logger: Logger,
        follow: @escaping @Sendable (NodeOptions) async -> Void
    ) {
        self.follow = follow
        self.source = source
        self.level = level
        self.node = node
        self.health = health
        self.logger = logger
        given = Mutex(source?.given ?? [:])
    }

    /// Reads the file; never ends the daemon.
    func read() async {
        let component = Component(.configuration, "file")
        guard let source else { return sayNothingToReload() }
        do throws(ExitFailure) {
            let reading = try await onThread(source.read)
            guard let file = reading.file else { return sayNothingToReload() }
            health.set(component, nil)
            await apply(reading, liveNames: source.liveNames, file)
        } catch {
            logger.error(.reloadFailed, metadata: ["detail": "\(error.message)"])
            health.set(
                component,
                Problem(
                    .degraded,
                    "the configuration file is wrong, and twilld would not start with it: \(error.message)",
                    remedy: "correct it and send SIGHUP again; until then what was read before holds"))
        }
    }

    private func sayNothingToReload() {
        logger.notice(
            .nothingToReload,
            metadata: ["detail": "no file is given with --config; what flags say is taken over by a restart"])
    }

    private func apply(_ reading: OptionsSource.Reading, liveNames: Set<String>, _ file: String) async {
        let before = given.withLock { $0 }
        let names = Set(before.keys).union(reading.given.keys)
        let changed = names.filter { before[$0] != reading.given[$0] }
        let taken = changed.intersection(liveNames).sorted()
        let rest = changed.subtracting(liveNames).sorted()
        level.current = reading.options.observation.logVerbosity
        await node.follow(resyncInterval: reading.options.rules.resyncInterval)
        await follow(reading.options)
        given.withLock { for name in taken { $0[name] = reading.given[name] } }
        logger.notice(
            .configurationReloaded,
            metadata: [
                "file": "\(file)", "taken_over": "\(taken.joined(separator: ","))",
                "needs_a_restart": "\(rest.joined(separator: ","))",
            ])
    }
}
