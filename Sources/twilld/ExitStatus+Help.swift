import NodeDaemon

extension ExitStatus {
    /// The table for `--help`.
    static let helpText =
        "Exit status:\n  0   stopped by a signal, or done\n"
        + allCases.map { status in
            let number = String(status.rawValue)
            return "  \(number)\(String(repeating: " ", count: 4 - number.count))\(status.meaning)"
        }.joined(separator: "\n")
}
