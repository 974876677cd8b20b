import Glibc
import Health
import Logging
import Synchronization

/// How much is logged; may be changed while loggers are in use.
final class LogLevel: Sendable {
    private let verbosity: Mutex<LogVerbosity>

    init(_ verbosity: LogVerbosity = LogVerbosity()) { self.verbosity = Mutex(verbosity) }

    var current: LogVerbosity {
        get { verbosity.withLock { $0 } }
        set { verbosity.withLock { $0 = newValue } }
    }
}

/// Writes one line an event to standard error, its fields in a fixed order:
///
///     2026-11-23T01:40:12.123Z notice event=lease_acquired subnet=10.66.28.0/24 timeToLive=24h
///
/// Towards journald the time gives way to the priority, `<5>notice event=…`.
///
/// `event` is the message, which throughout twill is an `EventName`; what varies is in the fields, sorted by name.
/// Values with spaces, quotes or `=` stand in quotes, with `\` before a quote or a backslash, and `\n` for a line's end.
struct LineLogHandler: LogHandler {
    /// Shared by all copies of the handler: SIGHUP may change it.
    var logLevel: Logger.Level {
        get { level.current.least }
        set { level.current = LogVerbosity(newValue) }
    }
    var metadata: Logger.Metadata = [:]
    private let level: LogLevel
    private let head: LogLineHead
    private let write: @Sendable (String) -> Void
    private let now: @Sendable () -> timespec

    /// Makes a handler that gives each line, without its end, to `write`.
    init(
        level: LogLevel = LogLevel(), head: LogLineHead = .standardError,
        write: @escaping @Sendable (String) -> Void = LogWriter.standardError.write,
        now: @escaping @Sendable () -> timespec = LineLogHandler.currentTime
    ) {
        self.level = level
        self.head = head
        self.write = write
        self.now = now
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        guard level.current.admits(event.level, loggedIn: event.file) else { return }
        let fields = metadata.merging(event.metadata ?? [:]) { _, new in new }
        var line = head.text(event.level, now: now)
        line += " event=" + LineLogHandler.quoted("\(event.message)")
        for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
            line += " \(key)=" + LineLogHandler.quoted("\(value)")
        }
        if let error = event.error { line += " error=" + LineLogHandler.quoted("\(error)") }
        write(line)
    }

    /// A value as it stands after `=`.
    static func quoted(_ text: String) -> String {
        let isPlain =
            !text.isEmpty
            && text.unicodeScalars.allSatisfy {
                $0.value > 0x20 && $0.value != 0x22 && $0.value != 0x3D && $0.value != 0x5C
                    && !$0.steersTerminals
            }
        if isPlain { return text }
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            default:
                if scalar.steersTerminals {
                    let digits = String(scalar.value, radix: 16)
                    result += "\\u{" + digits + "}"
                } else {
                    result.unicodeScalars.append(scalar)
                }
            }
        }
        return result + "\""
    }

    /// RFC 3339, UTC, milliseconds.
    static func timestamp(_ time: timespec) -> String {
        var seconds = time.tv_sec
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func padded(_ number: some BinaryInteger, _ width: Int = 2) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return padded(parts.tm_year + 1900, 4) + "-" + padded(parts.tm_mon + 1) + "-" + padded(parts.tm_mday)
            + "T"
            + padded(parts.tm_hour) + ":" + padded(parts.tm_min) + ":" + padded(parts.tm_sec) + "."
            + padded(time.tv_nsec / 1_000_000, 3) + "Z"
    }

    /// The real-time clock.
    static let currentTime: @Sendable () -> timespec = {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return time
    }
}
