import Synchronization

/// How one item stands: what was tried last, and how that went.
public struct ItemStatus: Sendable, Hashable {
    /// Where an item can stand. The raw values are the names in the status' JSON.
    public enum State: String, Sendable {
        /// The kernel has it as it is wanted.
        case good
        /// It is not as it is wanted, or that cannot be known: it is tried again.
        case failing
        /// It is no longer wanted, and could not be taken away yet: it is tried again.
        case leaving
    }

    /// The item's name: `route 10.66.0.0/16 dev flannel0`.
    public let item: String
    /// Where it stands.
    public internal(set) var state: State
    /// What kept it from being as it is wanted, the last time that it was tried; nil once it is.
    public internal(set) var lastError: String?
    /// How often it was tried again in this state, after the first time.
    public internal(set) var retries: Int
    /// Since when it stands so.
    public internal(set) var since: ContinuousClock.Instant
}

/// How all items stand, for whoever asks, from any thread.
public final class ItemStatuses: Sendable {
    private let statuses = Mutex<[String: ItemStatus]>([:])

    /// Makes the statuses of no item.
    public init() {}

    /// All items; those that are not as they are wanted first, then by name.
    public var all: [ItemStatus] {
        statuses.withLock { Array($0.values) }.sorted {
            ($0.state == .good ? 1 : 0, $0.item) < ($1.state == .good ? 1 : 0, $1.item)
        }
    }

    /// Whether all items of these names are as they are wanted.
    public func areGood(_ items: [String]) -> Bool {
        statuses.withLock { statuses in items.allSatisfy { statuses[$0]?.state == .good } }
    }

    /// Says how an item stands.
    ///
    /// - Parameters:
    ///   - item: its name.
    ///   - state: how it stands from now on.
    ///   - error: what went wrong; nil for a state that is good.
    package func set(_ item: String, _ state: ItemStatus.State, error: String? = nil) {
        statuses.withLock { statuses in
            guard let before = statuses[item], before.state == state else {
                statuses[item] = ItemStatus(
                    item: item, state: state, lastError: error, retries: 0, since: .now)
                return
            }
            guard state != .good else { return }
            statuses[item]?.lastError = error
            statuses[item]?.retries = before.retries &+ 1
        }
    }

    /// Knows no more of an item: it is neither wanted nor there.
    package func forget(_ item: String) { statuses.withLock { $0[item] = nil } }

    /// Knows no more of items but those in `names`, and of those that are still to be taken away.
    func keep(only names: Set<String>) {
        statuses.withLock { statuses in
            statuses = statuses.filter { names.contains($0.key) || $0.value.state == .leaving }
        }
    }
}
