public import Logging

extension Logger {
    /// Logs an event; the handler writes its name as `event=`.
    ///
    /// - Parameter metadata: the event's fields, which are only made where the level is logged.
    public func log(
        level: Logger.Level, _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil
    ) {
        log(level: level, "\(event.rawValue)", metadata: metadata())
    }

    /// Logs an event that only helps to find a fault.
    public func debug(_ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil) {
        log(level: .debug, event, metadata: metadata())
    }

    /// Logs an event that is usual and not frequent.
    public func notice(_ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil) {
        log(level: .notice, event, metadata: metadata())
    }

    /// Logs an event that an operator should know of.
    public func warning(_ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil) {
        log(level: .warning, event, metadata: metadata())
    }

    /// Logs a failure.
    public func error(_ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil) {
        log(level: .error, event, metadata: metadata())
    }

    /// Logs a failure that stopped something that packets need.
    public func critical(_ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil) {
        log(level: .critical, event, metadata: metadata())
    }
}
