import Glibc
import Health
public import Leases
import Synchronization

extension StoreOptions {
    /// A directory that all nodes have mounted.
    public static func directory(path: String) -> StoreOptions { StoreOptions(DirectoryLocation(path: path)) }
}

private struct DirectoryLocation: StoreLocation {
    let path: String
    var remarks: [String] { [] }

    @available(*, noasync, message: "it blocks: use onThread")
    func open() -> any LeaseStore { DirectoryStore(path: path) }
}

/// The embedded store: a directory on one machine or on a shared file system, key for key what etcd holds.
///
/// - `DIR/config`: the network configuration. A directory without one is no store, and nothing is written into it: it
///   may be the place where the store is mounted at other times.
/// - `DIR/subnets/10.66.28.0-24`: one lease, its value byte for byte.
/// - `DIR/holders/10.66.28.0-24~IDENTITY~…`: a second name (hard link) of a lease that has a time to live; it
///   tells whose lease it is, and the file's modification time is when it ends by the file system's clock. A file in
///   `subnets` without such a name is a reservation, which is what a file written by hand is.
///
/// Every change is one link or rename, so daemons and people may write at the same time: docs/adr/0021. Nobody's
/// clock decides whether a lease has ended: it has when its file did not change for a lease's whole time while this
/// store watched it, by this machine's monotonic clock: docs/adr/0024.
public final class DirectoryStore: LeaseStore {
    /// `directory /var/lib/twill`.
    public let name: String

    let root: FilePath
    let configurationFile: FilePath
    let subnets: FilePath
    let holders: FilePath
    let queue: FileQueue
    let clocks: Clocks
    let state = Mutex(State())

    /// The clocks that a store goes by.
    struct Clocks: Sendable {
        /// Time since some moment, which goes on while the machine sleeps and is never set.
        var monotonic: @Sendable () -> Duration = {
            var time = timespec()
            clock_gettime(CLOCK_BOOTTIME, &time)
            return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
        }
        /// This machine's wall clock.
        var wall: @Sendable () -> WallTime = { .now }
    }

    /// What is known; touched on the queue's thread alone.
    struct State {
        var contents = Contents()
        /// How many snapshots were read: a position is the number of one. A directory has no history, and so no
        /// order.
        var snapshotCount: Int64 = 0

        var position: StorePosition { StorePosition(snapshotCount, isOrdered: false) }
        /// What each watch has told of; this store's own writes are in it from the moment when they are done.
        var baselines: [Int: Contents] = [:]
        var watchCount = 0
        /// Names among the holders that belong to no lease, since when.
        var orphans: [String: Duration] = [:]
    }

    /// What a scan found.
    struct Contents: Sendable {
        var configuration: String?
        var files: [String: File] = [:]
        /// Files without a text, which may be about to be written by hand.
        var empty: [String: Duration] = [:]

        struct File: Sendable {
            var status: FilePath.Status
            var entry: StoreEntry
            /// When it was first seen in this state, by the monotonic clock.
            var firstSeen: Duration
        }
    }

    // How long a look at a directory may take: one with 10,000 files takes a second on a slow server.
    private static let answerLimit = Duration.seconds(10)
    /// A lease's time; flannel's, and that of every daemon.
    static let leaseTime = Duration.seconds(86_400)

    /// Opens the store at `path`; nothing is read before the first request, and nothing made before a configuration
    /// is written.
    public convenience init(path: String) {
        self.init(path: path, answerLimit: Self.answerLimit, clocks: Clocks())
    }

    init(path: String, answerLimit: Duration, clocks: Clocks, hook: @escaping @Sendable () -> Void = {}) {
        root = FilePath(path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path)
        configurationFile = root.appending("config")
        subnets = root.appending("subnets")
        holders = root.appending("holders")
        name = "directory \(root)"
        queue = FileQueue(name: name, limit: answerLimit, hook: hook)
        self.clocks = clocks
    }

    /// Scans the directory.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func snapshot() async throws(LeaseStoreError) -> StoreSnapshot {
        try await queue.run { () throws(LeaseStoreError) in try self.readSnapshot() }
    }

    /// The same with the times as the files have them, which is what a person asks for: by the clocks of who wrote
    /// them.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func snapshotWithRemainingTimes() async throws(LeaseStoreError) -> StoreSnapshot {
        try await queue.run { () throws(LeaseStoreError) in
            var snapshot = try self.readSnapshot()
            let files = self.state.withLock { $0.contents.files }
            let now = self.clocks.wall()
            for (index, entry) in snapshot.entries.enumerated() where entry.lifetime != .permanent {
                let end = files[entry.key]?.status.modified
                snapshot.entries[index].lifetime = .expiring(remaining: end.map { $0 - now })
            }
            return snapshot
        }
    }

    private func readSnapshot() throws(LeaseStoreError) -> StoreSnapshot {
        let identity = try directoryIdentity()
        let contents = try scan(knowing: state.withLock { $0.contents })
        return state.withLock { state in
            state.contents = contents
            state.snapshotCount += 1
            return StoreSnapshot(
                configuration: contents.configuration, entries: contents.files.values.map(\.entry),
                position: state.position, storeIdentity: identity)
        }
    }

    /// What tells the directory from another at its path.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func directoryIdentity() throws(LeaseStoreError) -> String {
        guard let status = try root.status() else {
            throw LeaseStoreError(
                .unreachable,
                "\(name) is not there: is it mounted, is its name right? twilld network set --lease-dir makes one"
            )
        }
        guard status.type == S_IFDIR || status.type == S_IFLNK else {
            throw LeaseStoreError(.denied, "\(root) is \(status.oddity ?? "a file"), not a directory")
        }
        return "\(status.device):\(status.inode)"
    }

    /// Makes what is missing, where this is a store at all.
    private func prepareForWriting() throws(LeaseStoreError) {
        _ = try directoryIdentity()
        guard try configurationFile.status() != nil else {
            throw LeaseStoreError(
                .failed, "\(name) has no config file, so no lease is written there: is it mounted?")
        }
        for directory in [subnets, holders] { try directory.makeDirectory() }
    }
}

// MARK: - Reading

extension DirectoryStore {
    // A lease that is released while it is read has lost its holder's name already: read again, not for ever.
    private static let attempts = 3
    // A file written by hand is empty for a moment.
    private static let emptyFileGrace = Duration.seconds(2)

    /// Reads what changed since `known`, the rest is taken from there.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func scan(knowing known: Contents) throws(LeaseStoreError) -> Contents {
        for _ in 0..<Self.attempts {
            if let contents = try scanOnce(knowing: known, isLast: false) { return contents }
        }
        return try scanOnce(knowing: known, isLast: true) ?? known
    }

    private func readConfiguration() throws(LeaseStoreError) -> String? {
        do throws(FilePath.Unreadable) {
            return try configurationFile.read()?.text
        } catch {
            throw LeaseStoreError(.denied, "\(configurationFile): \(error.reason)")
        }
    }

    private func scanOnce(knowing known: Contents, isLast: Bool) throws(LeaseStoreError) -> Contents? {
        var contents = Contents()
        contents.configuration = try readConfiguration()
        let now = clocks.monotonic()
        var read: [(key: String, status: FilePath.Status, text: Result<String, FilePath.Unreadable>)] = []
        for key in try subnets.names() {
            let path = subnets.appending(key)
            guard let status = try path.status() else { continue }
            if let file = known.files[key], file.status == status {
                contents.files[key] = file
                continue
            }
            do throws(FilePath.Unreadable) {
                if let oddity = status.oddity {
                    throw FilePath.Unreadable(reason: "it is \(oddity), not a file")
                }
                guard let (status, text) = try path.read() else { continue }
                let emptySince = known.empty[key] ?? now
                if text.isEmpty, now - emptySince < Self.emptyFileGrace {
                    contents.empty[key] = emptySince
                } else {
                    read.append((key, status, .success(text)))
                }
            } catch {
                read.append((key, status, .failure(error)))
            }
        }
        // After the leases: a holder's name is there before the lease's own.
        let isLease = { (status: FilePath.Status) in status.oddity == nil && status.links > 1 }
        let identities = read.contains { isLease($0.status) } ? try holderNames() : [:]
        for (key, status, text) in read {
            let holder = isLease(status) ? identities[status.inode]?.identity : nil
            if isLease(status), holder == nil, !isLast { return nil }
            var entry = StoreEntry(
                key: key, value: (try? text.get())?.trimmedAtEnd ?? "", version: StoreVersion(status),
                holder: holder,
                lifetime: isLease(status) ? .expiring(remaining: nil) : .permanent)
            if case .failure(let error) = text { entry.flaw = error.reason }
            contents.files[key] = Contents.File(status: status, entry: entry, firstSeen: now)
        }
        for (key, file) in contents.files where file.entry.lifetime != .permanent {
            let remaining = Self.leaseTime - (now - file.firstSeen)
            contents.files[key]?.entry.lifetime = .expiring(remaining: remaining)
        }
        return contents
    }

    /// The holders' names by inode.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func holderNames() throws(LeaseStoreError) -> [UInt64: (path: FilePath, identity: NodeIdentity)] {
        var found: [UInt64: (path: FilePath, identity: NodeIdentity)] = [:]
        for name in try holders.names() {
            let parts = name.split(separator: "~")
            let path = holders.appending(name)
            guard parts.count == 3, let identity = parts.dropFirst().first.flatMap({ NodeIdentity($0) }),
                let status = try path.status()
            else {
                continue
            }
            found[status.inode] = (path, identity)
        }
        return found
    }

    /// The time by the file system's clock, which on a shared one is the same for all nodes.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func fileSystemTime() throws(LeaseStoreError) -> WallTime {
        let path = temporaryPath()
        defer { path.remove() }
        return try path.makeEmpty().changed
    }
}

// MARK: - Writing

extension DirectoryStore {
    /// Writes the lease under the holder's name and links it to the key, which fails where the key is there.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func create(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        try await queue.run { () throws(LeaseStoreError) in
            try self.prepareForWriting()
            let (path, status) = try self.write(
                key: key, value: value, timeToLive: timeToLive, holder: holder)
            do throws(LeaseStoreError) {
                guard try path.link(to: self.subnets.appending(key)) else {
                    path.remove()
                    return .refused
                }
            } catch {
                path.remove()
                throw error
            }
            if timeToLive == nil { path.remove() }
            self.subnets.synchronize()
            return self.done(key, value, status, holder: timeToLive == nil ? nil : holder)
        }
    }

    /// Sets the time of the lease's end; where the value or the holder changes, a new file takes the key over.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func renew(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity, version: StoreVersion
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        try await queue.run { () throws(LeaseStoreError) in
            try self.prepareForWriting()
            let path = self.subnets.appending(key)
            guard let (status, text) = try path.lease(), StoreVersion(status) == version else {
                return .refused
            }
            let known = try self.holderNames()[status.inode]
            let owner = timeToLive == nil ? nil : holder
            if text.trimmedAtEnd == value, known?.identity == owner {
                guard let timeToLive else { return .done(version: version) }
                let end = try self.fileSystemTime() + timeToLive
                guard let touched = try path.touch(status, modified: end) else { return .refused }
                return self.done(key, value, touched, holder: owner)
            }
            let (newPath, newStatus) = try self.write(
                key: key, value: value, timeToLive: timeToLive, holder: holder)
            let second = self.temporaryPath()
            // Between this look and the rename another daemon could only take the key if the lease had ended.
            guard try path.status() == status, try newPath.link(to: second) else {
                newPath.remove()
                return .refused
            }
            try second.rename(to: path)
            if timeToLive == nil { newPath.remove() }
            known?.path.remove()
            self.subnets.synchronize()
            return self.done(key, value, newStatus, holder: owner)
        }
    }

    /// Moves the file away, looks whether it was the expected one, and puts it back if not.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func delete(key: String, version: StoreVersion) async throws(LeaseStoreError) -> StoreWriteResult {
        try await queue.run { () throws(LeaseStoreError) in
            try self.prepareForWriting()
            let path = self.subnets.appending(key)
            guard let status = try path.status(), StoreVersion(status) == version else { return .refused }
            let holder = try self.holderNames()[status.inode]
            let aside = self.temporaryPath()
            guard try path.rename(to: aside) else { return .refused }
            guard let moved = try aside.status(), StoreVersion(moved) == version else {
                _ = try aside.link(to: path)
                aside.remove()
                return .refused
            }
            holder?.path.remove()
            aside.remove()
            self.subnets.synchronize()
            return .done(version: version)
        }
    }

    /// Replaces `DIR/config`; makes the store where it is not there, in a directory that is.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while the file system does not answer, `.denied` where it is no
    ///   store.
    public func setConfiguration(_ json: String) async throws(LeaseStoreError) {
        try await queue.run { () throws(LeaseStoreError) in
            for directory in [self.root, self.subnets, self.holders] { try directory.makeDirectory() }
            let path = self.temporaryPath()
            _ = try path.write(json, modified: nil)
            try path.rename(to: self.configurationFile)
            self.root.synchronize()
        }
    }

    /// Tells the watches' baselines of a write: what goes right after it would otherwise have been there for no look.
    private func done(
        _ key: String, _ value: String, _ written: FilePath.Status, holder: NodeIdentity?
    ) -> StoreWriteResult {
        let version = StoreVersion(written)
        // Links changed its status since; where it is another file by now, the next look tells so.
        let current = try? subnets.appending(key).status()
        let status = current?.inode == written.inode ? current ?? written : written
        let entry = StoreEntry(
            key: key, value: value, version: version, holder: holder,
            lifetime: holder == nil ? .permanent : .expiring(remaining: Self.leaseTime))
        let file = Contents.File(status: status, entry: entry, firstSeen: clocks.monotonic())
        state.withLock { state in
            state.contents.files[key] = file
            for number in state.baselines.keys { state.baselines[number]?.files[key] = file }
        }
        return .done(version: version)
    }

    private func write(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) throws(LeaseStoreError) -> (path: FilePath, status: FilePath.Status) {
        let path =
            holder.flatMap { holder in
                timeToLive.map { _ in holders.appending("\(key)~\(holder)~\(NodeIdentity.random())") }
            } ?? temporaryPath()
        let end: WallTime? = if let timeToLive { try fileSystemTime() + timeToLive } else { nil }
        do {
            return (path, try path.write(value, modified: end))
        } catch {
            path.remove()
            throw error
        }
    }

    private func temporaryPath() -> FilePath {
        holders.appending(".\(NodeIdentity.random())\(NodeIdentity.random())")
    }
}

extension FilePath {
    /// The status and text of a lease; nil where there is none, or what is there is none.
    fileprivate func lease() throws(LeaseStoreError) -> (status: Status, text: String)? {
        do throws(Unreadable) {
            return try read()
        } catch {
            throw LeaseStoreError(.denied, "\(description): \(error.reason)")
        }
    }
}

extension StoreVersion {
    /// A file's inode and time: a renewal is another version, or a node that saw the lease end could delete it.
    init(_ status: FilePath.Status) {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325  // FNV-1a, 64 bits
        for word in [
            status.inode, UInt64(bitPattern: Int64(status.modified.seconds)),
            UInt64(bitPattern: Int64(status.modified.nanoseconds)),
        ] {
            hash = (hash ^ word) &* 0x0000_0100_0000_01B3
        }
        self.init(number: hash)
    }
}

extension String {
    /// Without the line end that an editor leaves.
    fileprivate var trimmedAtEnd: String { String(reversed().drop { $0.isWhitespace }.reversed()) }
}
