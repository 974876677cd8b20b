/// How the program ends, as its exit status tells the caller. The numbers are those of `sysexits.h`.
package enum ExitStatus: Int32, CaseIterable {
    /// `twilld check`, `ping` or `doctor` found something that keeps packets from passing.
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

    /// What it means, in a few words.
    package var meaning: String {
        switch self {
        case .checkFailed: "check, ping or doctor found something that keeps packets from passing"
        case .usage: "the command line is wrong"
        case .unavailable: "not built yet, or no answer from the running daemon"
        case .system: "the kernel refused something; the message names it"
        case .temporary: "may work later: port taken, device still held, lease lost"
        case .permission: "a right is lacking: root, CAP_NET_ADMIN, io_uring"
        case .configuration: "the configuration of the node or of the network does not work"
        }
    }
}

/// An end of the program that the operator must read about: what happened, to what, and what to do.
package struct ExitFailure: Error, Equatable, CustomStringConvertible {
    /// What the program exits with.
    package let status: ExitStatus
    /// A sentence for the operator.
    package let message: String

    /// Makes a failure.
    package init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    package var description: String { message }
}
