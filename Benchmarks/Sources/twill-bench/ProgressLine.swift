import Foundation

/// The one line on the terminal that says what runs now; in a file it is a line each time.
enum ProgressLine {
    /// Replaces the line.
    static func show(_ text: String) {
        write(isTerminal ? "\(start)\(text)" : "\(text)\n")
    }

    /// Leaves a line that stays.
    static func note(_ text: String) {
        write("\(start)\(text)\n")
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
