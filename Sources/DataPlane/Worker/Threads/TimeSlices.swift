import CLinux
import Synchronization

/// Who waits for whom on a busy node: packet threads have short turns on their CPUs while packets wait, or have just waited,
/// for a data plane that begins or goes on, and all else of the process starts or ends beside them. Then they have the
/// kernel's own again, with which bulk is faster (ADR 92).
final class TimeSlices: Sendable {
    /// The shortest that the kernel gives.
    private static let shortNanoseconds: UInt64 = 100_000
    /// For how many looks, a second apart, they are short: the kernel path rests meanwhile, and the threads carry all.
    private static let looks = 2

    private struct Known {
        /// The threads' numbers, by worker.
        var threads: [Int: Int32] = [:]
        var looksLeft = 0
    }

    private let known = Mutex(Known())

    /// Gives the calling thread, a worker's, short ones: it has just been started.
    func enter(_ worker: Int) {
        let thread = twill_thread_number()
        known.withLock { known in
            known.threads[worker] = thread
            known.looksLeft = TimeSlices.looks
            _ = twill_set_time_slice(thread, TimeSlices.shortNanoseconds)
        }
    }

    /// Forgets the thread of a worker, which ends: its number may be another one's afterwards.
    func leave(_ worker: Int) { known.withLock { $0.threads[worker] = nil } }

    /// Gives all of them short ones.
    func shorten() {
        known.withLock { known in
            known.looksLeft = TimeSlices.looks
            for thread in known.threads.values {
                _ = twill_set_time_slice(thread, TimeSlices.shortNanoseconds)
            }
        }
    }

    /// Gives them the kernel's own again when it is time; to be called once a second.
    func look() {
        known.withLock { known in
            guard known.looksLeft > 0 else { return }
            known.looksLeft -= 1
            guard known.looksLeft == 0 else { return }
            for thread in known.threads.values { _ = twill_set_time_slice(thread, 0) }
        }
    }
}
