import Glibc
import Synchronization

/// Runs a program that must take down what it made, also when it is interrupted.
public enum Interruption {
    private static let number = Atomic<Int32>(0)
    /// Where a signal's handler writes to.
    private static let pipe = Atomic<Int32>(-1)

    /// The signal that came; 0 where none did.
    public static var signal: Int32 { number.load(ordering: .acquiring) }

    /// Does the work of a program. SIGINT, SIGTERM and SIGHUP cancel it; a second one ends the process at once.
    ///
    /// - Parameter body: gives the exit status.
    /// - Returns: what `body` gave; 128 and the signal's number where one came.
    public static func run(_ body: @escaping @Sendable () async -> Int32) async -> Int32 {
        // Blocking them would not do: the main thread of a concurrent program sleeps with no signal blocked.
        var ends: [Int32] = [-1, -1]
        precondition(Glibc.pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        pipe.store(ends[1], ordering: .releasing)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { number in
                var byte = UInt8(truncatingIfNeeded: number)
                _ = write(Interruption.pipe.load(ordering: .acquiring), &byte, 1)
            }
            action.sa_flags = SA_RESTART
            sigaction(number, &action, nil)
        }
        let work = Task { await body() }
        wait(on: ends[0]) { number in
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

    private final class Reader: Sendable {
        let descriptor: Int32
        let come: @Sendable (Int32) -> Void

        init(_ descriptor: Int32, _ come: @escaping @Sendable (Int32) -> Void) {
            self.descriptor = descriptor
            self.come = come
        }

        func work() {
            var byte: UInt8 = 0
            while read(descriptor, &byte, 1) != 0 { come(Int32(byte)) }
        }
    }

    private static func wait(on descriptor: Int32, _ come: @escaping @Sendable (Int32) -> Void) {
        var thread = pthread_t()
        let reader = Unmanaged.passRetained(Reader(descriptor, come))
        let code = pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Reader>.fromOpaque(argument).takeRetainedValue().work() }
                return nil
            }, reader.toOpaque())
        precondition(code == 0)
        pthread_detach(thread)
    }
}
