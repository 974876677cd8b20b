import ArgumentParser

/// How `twilld` ends, as its exit status tells the caller. The numbers are those of `sysexits.h`.
enum ExitStatus: Int32, CaseIterable {
    /// `twilld check` found something that keeps twilld from running.
    case checkFailed = 1
    /// The command line is wrong.
    case usage = 64
    /// What was asked for is not built, or the daemon that was asked does not answer.
    case unavailable = 69
    /// The kernel refused something for no reason that twilld knows.
    case system = 71
    /// It may work later: the port is taken, the device is still held, the lease was lost.
    case temporary = 75
    /// A right is lacking.
    case permission = 77
    /// The configuration, of this node or of the network, does not work.
    case configuration = 78

    /// What `--help` says.
    var meaning: String {
        switch self {
        case .checkFailed: "check found something that keeps twilld from running"
        case .usage: "the command line is wrong"
        case .unavailable: "not built yet, or no answer from the running daemon"
        case .system: "the kernel refused something; the message names it"
        case .temporary: "may work later: port taken, device still held, lease lost"
        case .permission: "a right is lacking: root, CAP_NET_ADMIN, io_uring"
        case .configuration: "the configuration of the node or of the network does not work"
        }
    }

    /// The table for `--help`.
    static let helpText =
        "Exit status:\n  0   stopped by a signal, or done\n"
        + allCases.map { status in
            let number = String(status.rawValue)
            return "  \(number)\(String(repeating: " ", count: 4 - number.count))\(status.meaning)"
        }.joined(separator: "\n")
}

/// An end of the program that the operator must read about: what happened, to what, and what to do.
struct CommandFailure: Error, Equatable, CustomStringConvertible {
    let status: ExitStatus
    let message: String

    init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    var description: String { message }
}
