public import Health

/// Where a network keeps its configuration and its leases.
///
/// A store moves bytes and guards writes; what they mean is decided in one place, `LeaseMachine`. Keys are
/// without the store's own prefix: `config` is named by `configuration` members, a lease by its key text
/// (`10.66.28.0-24`), which may be one that does not parse.
public protocol LeaseStore: Sendable {
    /// How a log names the store: `etcd http://127.0.0.1:2379 /coreos.com/network`.
    var name: String { get }

    /// Reads the configuration and every entry, as of one revision.
    func snapshot() async throws(LeaseStoreError) -> StoreSnapshot

    /// The same with each entry's remaining time, also where that costs a request for each: for people, not for
    /// nodes.
    func snapshotWithRemainingTimes() async throws(LeaseStoreError) -> StoreSnapshot

    /// Creates an entry where the key is absent; never overwrites.
    ///
    /// - Parameters:
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

    /// Writes the network configuration, whatever stood there.
    func setConfiguration(_ json: String) async throws(LeaseStoreError)

    /// Watches everything that changes after `revision`.
    ///
    /// The stream throws `LeaseStoreError`, also where it can no longer tell whether it is alive; one of kind
    /// `.historyLost` asks for a new snapshot. It is stopped by ending its consumer's task.
    func watch(after revision: Int64) -> AsyncThrowingStream<StoreUpdate, any Error>

    /// Told that this machine's address is another: a connection from the old one is dead, and nobody says so.
    func addressChanged() async
}

extension LeaseStore {
    /// Does nothing: right for a store without connections.
    public func addressChanged() {}
}

extension LeaseStore {
    /// A plain snapshot, which tells the remaining times where reading them costs nothing more.
    public func snapshotWithRemainingTimes() async throws(LeaseStoreError) -> StoreSnapshot {
        try await snapshot()
    }
}

/// Names one write of one entry; only the store that made it knows what its number counts.
public struct StoreVersion: Sendable, Hashable {
    /// etcd: the revision of the key's last change. Directory: a hash of the file's inode and time.
    public let number: UInt64

    /// Makes a version of a store's number.
    public init(number: UInt64) { self.number = number }
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

/// Everything in a store as of one revision.
public struct StoreSnapshot: Sendable, Hashable {
    /// The network configuration's JSON; nil where there is none.
    public var configuration: String?
    /// Every lease and reservation.
    public var entries: [StoreEntry]
    /// The revision that a watch goes on from.
    public var revision: Int64
    /// What tells this store from another that answers under the same name (etcd: the cluster's number; a directory:
    /// its file system and inode); nil where the store has no such thing.
    public var storeIdentity: String?

    /// Makes a snapshot.
    public init(
        configuration: String?, entries: [StoreEntry], revision: Int64, storeIdentity: String? = nil
    ) {
        self.configuration = configuration
        self.entries = entries
        self.revision = revision
        self.storeIdentity = storeIdentity
    }
}

/// What a watch tells.
public enum StoreUpdate: Sendable, Hashable {
    /// The watch is in place and the store answers; it stands at `revision`. Says nothing about changes.
    case alive(revision: Int64)
    /// Everything that changed up to `revision`, in order.
    case changes([StoreEvent], revision: Int64)
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
