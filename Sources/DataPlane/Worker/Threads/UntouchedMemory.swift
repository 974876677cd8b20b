import Engines
import Synchronization

/// The packet memory of workers that began where packets waited: they got pages as packets came, and get the rest afterwards, so
/// that a node's memory does not grow for as long as larger bursts than before come.
final class UntouchedMemory: Sendable {
    /// Kept while its worker lives, and used under the lock.
    private struct Kept: @unchecked Sendable {
        let memory: PacketMemory
    }

    private let known = Mutex<[Int: Kept]>([:])

    /// Notes the memory of a worker, on its thread.
    func note(_ memory: PacketMemory, of worker: Int) {
        let kept = Kept(memory: memory)
        known.withLock { $0[worker] = kept }
    }

    /// Forgets a worker's, before it is freed.
    func forget(_ worker: Int) { known.withLock { $0[worker] = nil } }

    /// Touches what was noted; takes some milliseconds for each worker, once.
    func touch() {
        known.withLock { known in
            for kept in known.values { kept.memory.touch() }
            known = [:]
        }
    }
}
