import Foundation
import Synchronization

/// The one line on the terminal that says what runs now; in a file it is a line now and then.
enum ProgressLine {
    /// Lines in a file are at least so far apart.
    private static let secondsBetweenLines = 30.0

    private static let lastLine = Mutex<Date?>(nil)

    /// Replaces the line; in a file it is left out where the one before is not old.
    static func show(_ text: String) {
        guard !isTerminal else { return write("\(start)\(text)") }
        if lineIsDue(at: .now) { write("\(text)\n") }
    }

    /// Whether a file gets a line; asking is taken for writing it.
    private static func lineIsDue(at now: Date) -> Bool {
        lastLine.withLock { last in
            if let last, now.timeIntervalSince(last) < secondsBetweenLines { return false }
            last = now
            return true
        }
    }

    /// Leaves a line that stays.
    static func note(_ text: String) {
        write("\(start)\(text)\n")
    }

    /// Takes the line away: what follows is no progress.
    static func end() {
        if isTerminal { write(start) }
    }

    /// `12:05 left`, of seconds.
    static func timeLeft(seconds: Double) -> String {
        String(format: "%2d:%02d left", Int(seconds) / 60, Int(seconds) % 60)
    }

    private static var isTerminal: Bool { isatty(STDERR_FILENO) == 1 }
    /// To the line's start, which is cleared.
    private static var start: String { isTerminal ? "\r\u{1B}[K" : "" }

    private static func write(_ text: String) {
        FileHandle.standardError.write(Data(text.utf8))
    }
}
