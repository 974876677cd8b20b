import Glibc
import Logging

/// What stands before the event in a line of the log.
enum LogLineHead: Sendable {
    /// `2026-11-23T01:40:12.123Z notice`, for files, pipes and people.
    case time
    /// `<5>notice`: journald takes the number for the line's priority, and has the time itself (sd-daemon(3)).
    case priority

    /// That of standard error.
    static let standardError = LogLineHead(
        descriptor: STDERR_FILENO, journalStream: getenv("JOURNAL_STREAM").map { String(cString: $0) })

    /// Finds out where a descriptor leads.
    ///
    /// - Parameter journalStream: device and inode of the stream to the journal, `9:12345`, as systemd.exec(5) has it. A
    ///   program inherits the variable and may have got another standard error since, so that only both together count.
    init(descriptor: Int32, journalStream: String?) {
        var status = stat()
        let isJournal =
            journalStream != nil && fstat(descriptor, &status) == 0
            && journalStream == "\(status.st_dev):\(status.st_ino)"
        self = isJournal ? .priority : .time
    }

    /// The head of a line at a level.
    ///
    /// - Parameter now: the real-time clock; read only where it is written.
    func text(_ level: Logger.Level, now: () -> timespec = LineLogHandler.currentTime) -> String {
        switch self {
        case .time: LineLogHandler.timestamp(now()) + " \(level)"
        case .priority: mark(level) + "\(level)"
        }
    }

    /// What makes journald give a line that is no event the priority of a level; nothing elsewhere.
    func mark(_ level: Logger.Level) -> String {
        guard case .priority = self else { return "" }
        // syslog(3): LOG_CRIT is 2, LOG_DEBUG 7.
        return switch level {
        case .critical: "<2>"
        case .error: "<3>"
        case .warning: "<4>"
        case .notice: "<5>"
        case .info: "<6>"
        case .debug, .trace: "<7>"
        }
    }
}
