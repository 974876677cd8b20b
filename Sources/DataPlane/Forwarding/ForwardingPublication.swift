// How it works. The control side builds a new snapshot and swaps one pointer; each worker loads the pointer
// once a round and says which generation it saw. A snapshot that was replaced is freed once every worker has
// seen a later generation (quiescent-state reclamation: between two rounds a worker holds no snapshot), so
// readers never lock, never count references, and never wait.

import Synchronization

/// The place where the control side leaves the current forwarding snapshot and the workers find it.
public final class ForwardingPublication: ForwardingSubscriber {
    private let current: Mailbox
    private let retired: Mutex<[(generation: UInt64, snapshot: ForwardingSnapshot)]>
    private let readers: [ForwardingReader]
    private let built = Atomic<UInt64>(0)

    /// Makes a publication for a number of workers, with a snapshot of no routes.
    public init(workers: Int) {
        let mailbox = Mailbox(ForwardingSnapshot.build(ForwardingRoutes()))
        current = mailbox
        retired = Mutex([])
        readers = (0..<workers).map { _ in ForwardingReader(mailbox) }
    }

    deinit {
        // Workers end before the publication does: `DataPlane` owns both.
        for entry in retired.withLock({ $0 }) { entry.snapshot.deallocate() }
        current.snapshot.deallocate()
        for reader in readers { reader.deallocate() }
        current.deallocate()
    }

    /// The reading end of one worker, valid as long as the publication.
    public func reader(_ worker: Int) -> ForwardingReader { readers[worker] }

    /// Replaces the snapshot. Each worker uses the new one from its next round on; call the workers' wake after
    /// this, so that sleeping ones let go of the old one too.
    ///
    /// - Returns: how many peers were left out, being more than `ForwardingSnapshot.peerLimit`.
    @discardableResult
    public func publish(_ routes: ForwardingRoutes) -> Int {
        let snapshot = ForwardingSnapshot.build(
            routes, generation: built.add(1, ordering: .relaxed).newValue)
        retired.withLock { retired in
            let (generation, old) = current.replace(with: snapshot)
            retired.append((generation, old))
            let seen = readers.map(\.seenGeneration).min() ?? .max
            retired.removeAll { entry in
                guard entry.generation <= seen else { return false }
                entry.snapshot.deallocate()
                return true
            }
        }
        return max(0, routes.peers.count - ForwardingSnapshot.peerLimit)
    }

    /// How many replaced snapshots still wait for a worker to let go of them.
    public var retiredCount: Int { retired.withLock { $0.count } }
}

/// One worker's end of a publication. Used by that worker's thread alone.
@frozen
public struct ForwardingReader: @unchecked Sendable {
    @usableFromInline let mailbox: Mailbox
    @usableFromInline let seen: UnsafeMutablePointer<Atomic<UInt64>>

    init(_ mailbox: Mailbox) {
        self.mailbox = mailbox
        seen = .allocate(capacity: 1)
        seen.initialize(to: Atomic(0))
    }

    func deallocate() {
        seen.deinitialize(count: 1)
        seen.deallocate()
    }

    var seenGeneration: UInt64 { seen.pointee.load(ordering: .acquiring) }

    /// The snapshot of this round. What the last call returned must not be used any more: it may be freed.
    @inlinable @inline(__always)
    public func load() -> ForwardingSnapshot {
        // The generation is read before the pointer: a swap in between makes the pointer newer than what is
        // acknowledged, never older.
        let generation = mailbox.words[1].load(ordering: .acquiring)
        if seen.pointee.load(ordering: .relaxed) != generation {
            seen.pointee.store(generation, ordering: .releasing)
        }
        return mailbox.snapshot
    }
}

/// Two shared words: the snapshot's address, and how often it was replaced.
@frozen @usableFromInline
struct Mailbox: @unchecked Sendable {
    @usableFromInline let words: UnsafeMutablePointer<Atomic<UInt64>>

    init(_ snapshot: ForwardingSnapshot) {
        words = .allocate(capacity: 2)
        words.initialize(to: Atomic(Mailbox.address(snapshot)))
        (words + 1).initialize(to: Atomic(0))
    }

    private static func address(_ snapshot: ForwardingSnapshot) -> UInt64 {
        UInt64(UInt(bitPattern: snapshot.storage))
    }

    /// Swaps the snapshot; returns the old one and the generation from which on nobody uses it.
    func replace(with snapshot: ForwardingSnapshot) -> (UInt64, ForwardingSnapshot) {
        let old = words[0].exchange(Mailbox.address(snapshot), ordering: .acquiringAndReleasing)
        let generation = words[1].add(1, ordering: .acquiringAndReleasing).newValue
        return (generation, Mailbox.snapshot(old))
    }

    @inlinable @inline(__always)
    var snapshot: ForwardingSnapshot { Mailbox.snapshot(words[0].load(ordering: .acquiring)) }

    @inlinable @inline(__always)
    static func snapshot(_ address: UInt64) -> ForwardingSnapshot {
        ForwardingSnapshot(storage: UnsafeMutablePointer(bitPattern: UInt(address)).unsafelyUnwrapped)
    }

    func deallocate() {
        words.deinitialize(count: 2)
        words.deallocate()
    }
}
