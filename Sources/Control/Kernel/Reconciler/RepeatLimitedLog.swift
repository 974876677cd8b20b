import Health
import Logging

/// Log lines about items that are looked at many times a minute: one line when something is said of an item for the
/// first time, and again when it is another thing or a while has passed.
package struct RepeatLimitedLog {
    /// How long the same line about the same item is kept back.
    private static let interval = Duration.seconds(60)

    private struct Said {
        var text: String
        var time: ContinuousClock.Instant
        var keptBack = 0
    }

    private let logger: Logger
    private var said: [String: Said] = [:]

    /// Writes to a logger.
    package init(logger: Logger) { self.logger = logger }

    /// Says what helps to find a fault.
    package mutating func debug(_ event: EventName, item: String, _ detail: String) {
        say(.debug, event, item: item, detail)
    }

    /// Says that something was done.
    package mutating func notice(_ event: EventName, item: String, _ detail: String) {
        say(.notice, event, item: item, detail)
    }

    /// Says that something failed.
    package mutating func warning(_ event: EventName, item: String, _ detail: String) {
        say(.warning, event, item: item, detail)
    }

    /// Forgets a failure, so that the next one is told at once.
    package mutating func settled(item: String) {
        guard let last = said[item], ContinuousClock.now - last.time > RepeatLimitedLog.interval else {
            return
        }
        said[item] = nil
    }

    private mutating func say(_ level: Logger.Level, _ event: EventName, item: String, _ detail: String) {
        guard logger.logLevel <= level else { return }
        let text = "\(event): \(detail)"
        let now = ContinuousClock.now
        if var last = said[item], last.text == text, now - last.time <= RepeatLimitedLog.interval {
            last.keptBack += 1
            said[item] = last
            return
        }
        var metadata: Logger.Metadata = ["item": "\(item)", "detail": "\(detail)"]
        if let keptBack = said[item]?.keptBack, keptBack > 0 { metadata["repeated"] = "\(keptBack)" }
        logger.log(level: level, event, metadata: metadata)
        said[item] = Said(text: text, time: now)
    }
}
