public import Logging

extension Logger {
    /// Logs an event; the handler writes its name as `event=`.
    ///
    /// - Parameters:
    ///   - metadata: the event's fields, which are only made where the level is logged.
    ///   - file: where it is logged: `--vmodule` chooses by module and file.
    public func log(
        level: Logger.Level, _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil,
        file: String = #fileID
    ) {
        log(level: level, "\(event.rawValue)", metadata: metadata(), file: file)
    }

    /// Logs an event that only helps to find a fault.
    public func debug(
        _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil, file: String = #fileID
    ) {
        log(level: .debug, event, metadata: metadata(), file: file)
    }

    /// Logs an event that is usual and not frequent.
    public func notice(
        _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil, file: String = #fileID
    ) {
        log(level: .notice, event, metadata: metadata(), file: file)
    }

    /// Logs an event that an operator should know of.
    public func warning(
        _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil, file: String = #fileID
    ) {
        log(level: .warning, event, metadata: metadata(), file: file)
    }

    /// Logs a failure.
    public func error(
        _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil, file: String = #fileID
    ) {
        log(level: .error, event, metadata: metadata(), file: file)
    }

    /// Logs a failure that stopped something that packets need.
    public func critical(
        _ event: EventName, metadata: @autoclosure () -> Logger.Metadata? = nil, file: String = #fileID
    ) {
        log(level: .critical, event, metadata: metadata(), file: file)
    }
}
