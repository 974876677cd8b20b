/// Standard error, a whole line at a time: lines of several threads do not mix, and nobody waits for its
/// reader.
package enum StandardError {
    /// Writes the line and its end, after what was written before.
    package static func write(_ line: String) { LogWriter.standardError.write(line) }

    /// Writes the lines of a text that says why the program ends; journald has them as errors.
    package static func writeFailure(_ text: String) {
        let mark = LogLineHead.standardError.mark(.error)
        write(mark + text.replacing("\n", with: "\n" + mark))
    }
}
