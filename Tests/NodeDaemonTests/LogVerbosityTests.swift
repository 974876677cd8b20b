import Glibc
import Logging
import Synchronization
import Testing

@testable import NodeDaemon

@Suite struct LogVerbosityTests {
    private static let some = LogVerbosity(
        .info, places: [.init("leases", .debug), .init("Daemon+*", .debug)])

    @Test(arguments: [
        ("Leases/LeaseKeeper.swift", Logger.Level.debug, true), ("Leases/LeaseKeeper.swift", .trace, false),
        ("Node/NodeNetwork.swift", .debug, false), ("Node/NodeNetwork.swift", .info, true),
        ("NodeDaemon/Daemon+Watching.swift", .debug, true), ("NodeDaemon/Daemon.swift", .debug, false),
        ("", .debug, false), ("/", .debug, false),
    ])
    func aModuleOrAFileIsChosen(file: String, level: Logger.Level, isAdmitted: Bool) {
        #expect(Self.some.admits(level, loggedIn: file) == isAdmitted)
        #expect(Self.some.least == .debug && LogVerbosity().least == .info)
    }

    @Test func onlyTheChosenModulesSayMore() {
        let written = Mutex<[String]>([])
        let level = LogLevel(LogVerbosity(.info, places: [.init("Leases", .debug)]))
        let logger = Logger(label: "test") { _ in
            LineLogHandler(level: level, write: { line in written.withLock { $0.append(line) } })
        }
        logger.debug(.peerAdded, file: "Leases/LeaseKeeper.swift")
        logger.debug(.peerRemoved, file: "NodeDaemon/Daemon.swift")
        logger.notice(.ready, file: "NodeDaemon/Daemon.swift")
        level.current = LogVerbosity(.debug)
        logger.debug(.itemSet, file: "NodeDaemon/Daemon.swift")
        let events = written.withLock { $0 }.map { $0.split(separator: "event=").last ?? "" }
        #expect(events == ["peer_added", "ready", "item_set"])
    }
}
