import Engines
import Synchronization

/// The memory of workers that has no pages yet: packet buffers of those that began where packets waited, and what each writes
/// before it reads it. They get pages as packets come, and the rest afterwards, so that a node's memory does not grow for as
/// long as larger bursts than before come.
final class UntouchedMemory: Sendable {
    /// Kept while their worker lives, and used under the lock.
    private let known = Mutex<[Int: [MemoryPages]]>([:])

    /// Notes memory of a worker, on its thread.
    func note(_ pages: [MemoryPages], of worker: Int) {
        known.withLock { $0[worker, default: []] += pages }
    }

    /// Forgets a worker's, before it is freed.
    func forget(_ worker: Int) { known.withLock { $0[worker] = nil } }

    /// Touches what was noted; takes some milliseconds for each worker, once.
    func touch() {
        known.withLock { known in
            for pages in known.values.joined() { pages.touch() }
            known = [:]
        }
    }
}
