import ArgumentParser
import NodeDaemon

/// What one that has handed over does.
enum EndWhenTakenOver: String, CaseIterable, ExpressibleByArgument {
    /// Ends with exit status 0.
    case exit
    /// Waits for SIGTERM.
    case wait
}

extension NodeOptions.StopAction: ExpressibleByArgument {}

/// What is taken over from the daemon before, and what is left to the next.
struct SuccessionFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("takeover", .boolean), GoFlag("no-takeover", .boolean), GoFlag("on-stop"),
        GoFlag("when-taken-over"),
    ]

    @Option(
        help: ArgumentHelp(
            "Take over from a twilld that answers on the status socket, without losing a packet.",
            valueName: "bool"))
    var takeover = true

    @Option(
        help: ArgumentHelp(
            "Do not start while another twilld answers there: the same as --takeover=false.",
            valueName: "bool"))
    var noTakeover = false

    @Option(
        help: ArgumentHelp(
            "What SIGTERM leaves of the tunnel device: keep (device and routes, which drop what goes there) or "
                + "remove (nothing, as flanneld does).",
            valueName: "action"))
    var onStop = NodeOptions.StopAction.keep

    @Option(
        help: ArgumentHelp(
            "What a twilld does that has handed over: exit, or wait for SIGTERM where its process would be started again.",
            valueName: "action"))
    var whenTakenOver = EndWhenTakenOver.exit

    /// The same for the daemon.
    var options: NodeOptions.Succession {
        var succession = NodeOptions.Succession()
        succession.takesOver = takeover && !noTakeover
        succession.stop = onStop
        succession.waitsWhenTakenOver = whenTakenOver == .wait
        return succession
    }
}
