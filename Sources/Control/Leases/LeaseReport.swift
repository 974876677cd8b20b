package import Logging

/// One line of the log: what happened, with stable field names.
package struct LeaseReport: Sendable, Hashable {
    package var level: Logger.Level
    package var message: String
    package var fields: [String: String]

    init(_ level: Logger.Level, _ message: String, _ fields: [String: String] = [:]) {
        self.level = level
        self.message = message
        self.fields = fields
    }
}
