import Glibc
import Synchronization

/// What a signal asked for; the forwarder looks after every wait.
enum StopRequest {
    static let counters = Atomic<Bool>(false)
    static let stop = Atomic<Bool>(false)

    static func install() {
        set(SIGUSR1) { _ in StopRequest.counters.store(true, ordering: .relaxed) }
        set(SIGTERM) { _ in StopRequest.stop.store(true, ordering: .relaxed) }
        set(SIGINT) { _ in StopRequest.stop.store(true, ordering: .relaxed) }
    }

    /// Without `SA_RESTART`, so that a waiting `poll` ends with EINTR.
    private static func set(_ number: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = handler
        sigaction(number, &action, nil)
    }
}
