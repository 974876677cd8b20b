import Glibc
import Synchronization

/// Runs a program that must take down what it made, also when it is interrupted.
public enum Interruption {
    private static let number = Atomic<Int32>(0)

    /// The signal that came; 0 where none did.
    public static var signal: Int32 { number.load(ordering: .acquiring) }

    /// Does the work of a program. SIGINT, SIGTERM and SIGHUP cancel it; a second one ends the process at once.
    ///
    /// - Parameter body: gives the exit status.
    /// - Returns: what `body` gave; 128 and the signal's number where one came.
    public static func run(_ body: @escaping @Sendable () async -> Int32) async -> Int32 {
        // Threads that are started from here on have these signals blocked, so that they come to the one that waits.
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, number) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        let work = Task { await body() }
        wait(for: signals) { number in
            if Interruption.number.compareExchange(
                expected: 0, desired: number, ordering: .acquiringAndReleasing
            ).exchanged {
                work.cancel()
            } else {
                _exit(128 + number)
            }
        }
        let status = await work.value
        return signal == 0 ? status : 128 + signal
    }

    private final class Handler: Sendable {
        let signals: sigset_t
        let come: @Sendable (Int32) -> Void

        init(_ signals: sigset_t, _ come: @escaping @Sendable (Int32) -> Void) {
            self.signals = signals
            self.come = come
        }
    }

    private static func wait(for signals: sigset_t, _ come: @escaping @Sendable (Int32) -> Void) {
        var thread = pthread_t()
        let handler = Unmanaged.passRetained(Handler(signals, come))
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let handler = Unmanaged<Handler>.fromOpaque(argument).takeRetainedValue()
                var signals = handler.signals
                while true {
                    var number: Int32 = 0
                    if sigwait(&signals, &number) == 0 { handler.come(number) }
                }
            }, handler.toOpaque())
        precondition(code == 0)
        pthread_detach(thread)
    }
}
