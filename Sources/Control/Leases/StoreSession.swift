import Addresses

/// A node's dealings with its store: what it was asked and has not answered, how the watch stands, up to where the
/// store is known, and what fails.
struct StoreSession {
    typealias Instant = ContinuousClock.Instant

    /// The snapshot or the write that is under way: one at a time, so that no answer is about a state that another
    /// request made.
    enum Request {
        case none
        /// With the latest moment that was known when it was asked for: an answer of then may come after the watch has told more.
        case snapshot(known: StorePosition?)
        case write(Write)

        /// What is known of a write that is under way.
        struct Write {
            /// When it was asked for. The store counts a lease's life from some moment after it; the answer may be heard
            /// hours later, where the machine slept meanwhile.
            var asked: Instant
            /// The keys that the watch told of meanwhile. For those the watch is believed and not the write's
            /// answer, which may come after the news of what another node did to the key next.
            var keysTold: Set<String> = []
        }
    }

    /// The watch; with the time since when it has told something, nil where it has not.
    enum Watch {
        /// There is none.
        case none
        /// A snapshot was read since it began, so that another one is to take its place. It tells on until then.
        case outdated(aliveSince: Instant?)
        case open(aliveSince: Instant?)

        /// Since when it has told something.
        var aliveSince: Instant? {
            switch self {
            case .none: nil
            case .outdated(let since), .open(let since): since
            }
        }
    }

    /// Up to where the store is known.
    struct Position {
        /// What a watch goes on from.
        var current: StorePosition
        /// The latest moment that was ever told of the store as it is now.
        var latest: StorePosition
        /// When a snapshot is read whatever the watch told.
        var resyncAt: Instant

        mutating func advance(to position: StorePosition) {
            current = position
            if !position.isBefore(latest) { latest = position }
        }
    }

    /// The kinds of requests that failed last time, and since when there are any.
    struct Outage {
        var since: Instant
        var errors: [RequestPacing.Request: LeaseStoreError] = [:]
    }

    var request = Request.none
    var watch = Watch.none
    /// The number of the watch that was begun last; 0 before the first.
    var watchNumber = 0
    /// Nil before the first snapshot.
    var position: Position?
    /// When a snapshot was asked for last; nil before the first.
    var snapshotAsked: Instant?
    /// When the one was asked for that was taken over last; nil before the first.
    var lastRead: Instant?
    /// Whether a snapshot is to be read as soon as may be.
    var isSnapshotWanted = true
    /// Whether the snapshot that is under way was asked for by time alone, while the watch told: then what it says
    /// and what the watch told are compared.
    var isComparison = false
    /// Nil where all that was asked last succeeded.
    var outage: Outage?
    var pacing: RequestPacing

    init(now: Instant) { pacing = RequestPacing(now: now) }

    /// Whether a snapshot or a write is under way.
    var isRequestUnderWay: Bool {
        if case .none = request { false } else { true }
    }

    /// Whether the watch begins where the last snapshot ended.
    var isWatchOpen: Bool {
        if case .open = watch { true } else { false }
    }

    /// Whether all that was asked last succeeded, and the watch tells.
    var isConnected: Bool { outage == nil && watch.aliveSince != nil }

    /// Whether requests of this kind failed the last time.
    func isFailing(_ kind: RequestPacing.Request) -> Bool { outage?.errors[kind] != nil }

    /// Has a snapshot read for time alone.
    mutating func wantComparison() {
        guard !isSnapshotWanted else { return }
        isSnapshotWanted = true
        isComparison = isConnected && isWatchOpen
    }

    /// Takes note of a key that the watch told of.
    mutating func note(told key: String) {
        guard case .write(var write) = request else { return }
        write.keysTold.insert(key)
        request = .write(write)
    }

    /// Ends the request that is under way.
    ///
    /// - Returns: what is known of it where it was a write, else nil.
    @discardableResult
    mutating func endRequest() -> Request.Write? {
        defer { request = .none }
        if case .write(let write) = request { return write }
        return nil
    }

    /// Whether the answer to the snapshot that is under way is only late: the store was there when it was asked, and the watch has
    /// told of later moments since. A store that was put back in between is found by the next one.
    func isLate(_ answer: StorePosition) -> Bool {
        guard case .snapshot(let known?) = request, let latest = position?.latest else { return false }
        return answer.isBefore(latest) && !answer.isBefore(known)
    }

    /// Takes over where a snapshot stands. What the watch told while it was read may be older or newer: another one
    /// is begun.
    mutating func take(_ moment: StorePosition, resyncAt: Instant) {
        lastRead = snapshotAsked
        isSnapshotWanted = false
        isComparison = false
        position = Position(current: moment, latest: moment, resyncAt: resyncAt)
        if case .open(let since) = watch { watch = .outdated(aliveSince: since) }
    }

    /// Takes note that the watch told something.
    mutating func noteSignOfLife(now: Instant) {
        switch watch {
        case .none: break
        case .outdated(let since): watch = .outdated(aliveSince: since ?? now)
        case .open(let since): watch = .open(aliveSince: since ?? now)
        }
    }
}
