/// Standard error, a whole line at a time: lines of several threads do not mix, and nobody waits for its
/// reader.
package enum StandardError {
    /// Writes the line and its end, after what was written before.
    package static func write(_ line: String) { LogWriter.standardError.write(line) }
}
