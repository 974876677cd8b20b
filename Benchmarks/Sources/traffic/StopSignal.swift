import Glibc
import Synchronization

/// Whether SIGTERM or SIGINT asked the program to end and say what it has.
enum StopSignal {
    private static let isSet = Atomic<Bool>(false)

    static var came: Bool { isSet.load(ordering: .relaxed) }

    /// Without `SA_RESTART`, so that a waiting `poll` ends.
    static func install() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in StopSignal.isSet.store(true, ordering: .relaxed) }
        sigaction(SIGTERM, &action, nil)
        sigaction(SIGINT, &action, nil)
    }
}
