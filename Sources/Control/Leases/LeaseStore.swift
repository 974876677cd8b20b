public import Health

/// Where a network keeps its configuration and its leases.
///
/// A store moves bytes and guards writes; what they mean is decided in one place, `LeaseMachine`. It is asked for
/// three things, a protocol each: nodes read and watch, nodes write what is theirs, and people look and set up. Keys
/// are without the store's own prefix: `config` is named by `configuration` members, a lease by its key text
/// (`10.66.28.0-24`), which may be one that does not parse.
///
/// A store needs neither a history nor counted versions. `StorePosition` and `StoreVersion` are tokens that it gets
/// back; where it has no order of moments, it says so, and what that order would tell is done without.
public typealias LeaseStore = LeaseReading & LeaseWriting & LeaseAdministration

/// What a node reads, and how it hears of changes.
public protocol LeaseReading: Sendable {
    /// How a log names the store: `etcd http://127.0.0.1:2379 /coreos.com/network`.
    var name: String { get }

    /// Reads the configuration and every entry, as of one moment.
    func snapshot() async throws(LeaseStoreError) -> StoreSnapshot

    /// Watches everything that changes after the moment of a snapshot, or after one that a watch told of.
    ///
    /// The stream throws `LeaseStoreError`, also where it can no longer tell whether it is alive; one of kind
    /// `.historyLost` asks for a new snapshot. It is stopped by ending its consumer's task.
    func watch(after position: StorePosition) -> AsyncThrowingStream<StoreUpdate, any Error>

    /// Told that this machine's address is another: a connection from the old one is dead, and nobody says so.
    func addressChanged() async
}

/// What a node writes. Each write names what it expects to find, and does nothing where it finds something else.
public protocol LeaseWriting: Sendable {
    /// Creates an entry where the key is absent; never overwrites.
    ///
    /// - Parameters:
    ///   - key: the key text, `10.66.28.0-24`.
    ///   - value: flannel's JSON.
    ///   - timeToLive: how long the entry lives without a renewal; nil for a reservation.
    ///   - holder: the node whose lease it is; nil for a reservation that no node has yet.
    func create(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) async throws(LeaseStoreError) -> StoreWriteResult

    /// Starts an entry's time to live anew and sets its value and holder, where it still is at `version`.
    ///
    /// An entry that is `permanent` stays so: `timeToLive` is nil for it.
    func renew(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity, version: StoreVersion
    ) async throws(LeaseStoreError) -> StoreWriteResult

    /// Deletes an entry where it still is at `version`.
    ///
    /// - Returns: `.refused` where it is at another version or absent.
    func delete(key: String, version: StoreVersion) async throws(LeaseStoreError) -> StoreWriteResult
}

/// What people do to a store by `twilld lease …` and `twilld network …`; no node asks for it.
public protocol LeaseAdministration: Sendable {
    /// A snapshot with each entry's remaining time, also where that costs a request for each.
    func snapshotWithRemainingTimes() async throws(LeaseStoreError) -> StoreSnapshot

    /// Writes the network configuration, whatever stood there.
    func setConfiguration(_ json: String) async throws(LeaseStoreError)
}

extension LeaseReading {
    /// Does nothing: right for a store without connections.
    public func addressChanged() {}
}

/// A moment of a store, which a watch goes on from. Only the store that told of it knows what its number is.
public struct StorePosition: Sendable, Hashable {
    /// What the store knows the moment by.
    public let number: Int64
    /// Whether later moments have larger numbers, whichever node asks and however often the store was started anew. A
    /// smaller one tells then that the store lost changes, or that a member lags behind.
    public let isOrdered: Bool

    /// Makes a position of a store's number.
    public init(_ number: Int64, isOrdered: Bool) {
        self.number = number
        self.isOrdered = isOrdered
    }

    /// Whether it is certainly of an earlier moment than `other`, a position in the same store.
    func isBefore(_ other: StorePosition) -> Bool { isOrdered && other.isOrdered && number < other.number }
}

/// Names one write of one entry, so that a later write finds out whether another came in between. Only the store that
/// made it knows what its number is; nobody compares two of them but for being the same.
public struct StoreVersion: Sendable, Hashable {
    /// What the store knows the write by.
    public let number: UInt64
    /// Whether the number is that of the position at which it was written, in a store whose positions are ordered.
    public let isPosition: Bool

    /// Makes a version of a store's number.
    ///
    /// - Parameters:
    ///   - number: what the store knows the write by.
    ///   - isPosition: whether that is the number of the position at which it was written.
    public init(number: UInt64, isPosition: Bool = false) {
        self.number = number
        self.isPosition = isPosition
    }

    /// Whether it was certainly written before or at `position`, so that a watch that stands there has told of it.
    func isToldBy(_ position: StorePosition) -> Bool {
        isPosition && position.isOrdered && number <= UInt64(clamping: position.number)
    }
}

/// One lease or reservation as a store holds it.
public struct StoreEntry: Sendable, Hashable {
    /// How long an entry lives.
    public enum Lifetime: Sendable, Hashable {
        /// It has no time to live: a reservation.
        case permanent
        /// It ends unless renewed; nil where the store does not tell when, and deletes it by itself.
        case expiring(remaining: Duration?)
    }

    /// The key text, `10.66.28.0-24` where it parses.
    public var key: String
    /// The value, JSON where it parses.
    public var value: String
    /// Guards a later write.
    public var version: StoreVersion
    /// The node that holds it; nil where a flanneld, a person or a script wrote it.
    public var holder: NodeIdentity?
    /// When it ends.
    public var lifetime: Lifetime
    /// Why the store could not read the value, as the end of a sentence that begins with the key; nil where it could.
    public var flaw: String?

    /// Makes an entry.
    public init(
        key: String, value: String, version: StoreVersion, holder: NodeIdentity?, lifetime: Lifetime,
        flaw: String? = nil
    ) {
        self.key = key
        self.value = value
        self.version = version
        self.holder = holder
        self.lifetime = lifetime
        self.flaw = flaw
    }
}

/// Everything in a store as of one moment.
public struct StoreSnapshot: Sendable, Hashable {
    /// The network configuration's JSON; nil where there is none.
    public var configuration: String?
    /// Every lease and reservation.
    public var entries: [StoreEntry]
    /// The moment, which a watch goes on from.
    public var position: StorePosition
    /// What tells this store from another that answers under the same name (etcd: the cluster's number; a directory:
    /// its file system and inode); nil where the store has no such thing.
    public var storeIdentity: String?

    /// Makes a snapshot.
    public init(
        configuration: String?, entries: [StoreEntry], position: StorePosition, storeIdentity: String? = nil
    ) {
        self.configuration = configuration
        self.entries = entries
        self.position = position
        self.storeIdentity = storeIdentity
    }
}

/// What a watch tells.
public enum StoreUpdate: Sendable, Hashable {
    /// The watch is in place and the store answers; it stands at this moment. Says nothing about changes.
    case alive(StorePosition)
    /// Everything that changed up to a moment, in order.
    case changes([StoreEvent], upTo: StorePosition)
    /// What is wrong with the store though it answers, a clock for example; takes the place of what was told before.
    case conditions([Component: Problem])
}

/// One change in a store.
public enum StoreEvent: Sendable, Hashable {
    /// An entry was made or changed.
    case put(StoreEntry)
    /// An entry was deleted or expired.
    case deleted(key: String)
    /// The configuration was written, or with nil deleted.
    case configuration(String?)
}

/// What became of a guarded write.
public enum StoreWriteResult: Sendable, Hashable {
    /// It is done; the entry is at this version now.
    case done(version: StoreVersion)
    /// The guard did not hold: somebody else has the key, changed it or deleted it. Nothing was written.
    case refused
}

/// Why a store did not do what it was asked.
public struct LeaseStoreError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What can be done about it.
    public enum Kind: Sendable, Hashable {
        /// Nobody answers: try again later.
        case unreachable
        /// Somebody answers and says no (a password, a certificate, a right): an operator has to act.
        case denied
        /// The store no longer has, or never had, the history that a watch asked for: read a snapshot.
        case historyLost
        /// Anything else that the store answered.
        case failed
    }

    /// What can be done about it.
    public var kind: Kind
    /// What happened, to what.
    public var description: String

    /// Makes an error.
    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }
}
