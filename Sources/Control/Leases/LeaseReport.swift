package import Health
package import Logging

/// One line of the log: what happened, with stable field names.
package struct LeaseReport: Sendable, Hashable {
    package var level: Logger.Level
    package var event: EventName
    package var fields: [String: String]

    package init(_ level: Logger.Level, _ event: EventName, _ fields: [String: String] = [:]) {
        self.level = level
        self.event = event
        self.fields = fields
    }
}
