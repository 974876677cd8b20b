import Logging
import Synchronization
import Testing

@testable import Reconciler

@Suite struct RepeatLimitedLogTests {
    /// Keeps the lines that it is given.
    private final class Lines: Sendable {
        let kept = Mutex<[String]>([])
    }

    private struct Handler: LogHandler {
        let lines: Lines
        var logLevel = Logger.Level.trace
        var metadata = Logger.Metadata()

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let line = "\(event.level) \(event.message) \(event.metadata?["item"]?.description ?? "")"
            lines.kept.withLock { $0.append(line) }
        }
    }

    @Test func theSameLineAboutTheSameItemIsSaidOnce() {
        let lines = Lines()
        var log = RepeatLimitedLog(logger: Logger(label: "test") { _ in Handler(lines: lines) })
        for _ in 0..<5 { log.warning(.cannotRestore, item: "route", "refused") }
        log.warning(.cannotRestore, item: "address", "refused")
        log.notice(.restored, item: "route", "missing")
        log.warning(.cannotRestore, item: "route", "refused")
        let kept = lines.kept.withLock { $0 }
        #expect(
            kept == [
                "warning cannot_restore route", "warning cannot_restore address", "notice restored route",
                "warning cannot_restore route",
            ])
    }
}
