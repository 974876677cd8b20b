import Glibc
import Synchronization

// SIGHUP and SIGUSR1 end a process that does nothing about them. A node answers them once it has read its command line
// and its configuration file; whoever sends one before, a service manager or a script after an upgrade, must not end it.

/// The signals that a node answers and that come before it does.
package enum EarlySignals {
    private static let hungUp = Atomic(false)
    private static let numbers = [SIGHUP, SIGUSR1]
    private static let former = Mutex<[sigaction]>([])

    /// Whether SIGHUP has come since `hold()`.
    package static var hadHangUp: Bool { hungUp.load(ordering: .relaxed) }

    /// Keeps the signals from ending the process, as the first thing that it does, until whoever runs a node has
    /// taken them or `release()` is called.
    package static func hold() {
        // Made before a handler can come across it.
        hungUp.store(false, ordering: .relaxed)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            if number == SIGHUP { EarlySignals.hungUp.store(true, ordering: .relaxed) }
        }
        action.sa_flags = SA_RESTART
        former.withLock { former in
            former = numbers.map { number in
                var before = sigaction()
                sigaction(number, &action, &before)
                return before
            }
        }
    }

    /// Has the signals do what they did before `hold()`, for a command that runs no node; a SIGHUP that came since then
    /// comes again.
    package static func release() {
        former.withLock { former in
            for (number, action) in zip(numbers, former) {
                _ = withUnsafePointer(to: action) { sigaction(number, $0, nil) }
            }
            former = []
        }
        if hadHangUp { raise(SIGHUP) }
    }
}
