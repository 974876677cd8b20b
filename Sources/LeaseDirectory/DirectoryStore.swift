import Glibc
public import Leases

/// The embedded store: a directory on one machine or on a shared file system, key for key what etcd holds.
///
/// - `DIR/config`: the network configuration.
/// - `DIR/subnets/10.66.28.0-24`: one lease, its value byte for byte.
/// - `DIR/holders/10.66.28.0-24~IDENTITY~…`: a second name (hard link) of a lease that has a time to live; it
///   tells whose lease it is, and the file's modification time is when it ends. A file in `subnets` without
///   such a name is a reservation, which is what a file written by hand is.
///
/// Every change is one link or rename, so daemons and people may write at the same time: docs/adr/0021.
public actor DirectoryStore: LeaseStore {
    /// `directory /var/lib/twill`.
    public nonisolated let name: String

    let root: FilePath
    let configurationFile: FilePath
    let subnets: FilePath
    let holders: FilePath

    private var contents = Contents()
    private var revision: Int64 = 0

    /// What a scan found.
    struct Contents: Sendable {
        var configuration: String?
        var files: [String: File] = [:]

        struct File: Sendable {
            var status: FilePath.Status
            var entry: StoreEntry
        }
    }

    /// Opens the store at `path`, whose parent directory must be there; nothing is read or made before the first
    /// request.
    public init(path: String) {
        root = FilePath(path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path)
        configurationFile = root.appending("config")
        subnets = root.appending("subnets")
        holders = root.appending("holders")
        name = "directory \(root)"
    }

    /// Scans the directory.
    public func snapshot() async throws(LeaseStoreError) -> StoreSnapshot {
        try makeDirectories()
        contents = try scan(knowing: contents)
        revision += 1
        return StoreSnapshot(
            configuration: contents.configuration, entries: contents.files.values.map(\.entry),
            revision: revision)
    }

    /// What the snapshot of `revision` found; a watch goes on from there.
    func contents(at revision: Int64) throws(LeaseStoreError) -> Contents {
        guard revision == self.revision else {
            throw LeaseStoreError(.historyLost, "\(name): revision \(revision) is no longer known")
        }
        return contents
    }

    private func makeDirectories() throws(LeaseStoreError) {
        for directory in [root, subnets, holders] { try directory.makeDirectory() }
    }
}

// MARK: - Reading

extension DirectoryStore {
    /// Reads what changed since `known`, the rest is taken from there.
    nonisolated func scan(knowing known: Contents) throws(LeaseStoreError) -> Contents {
        for _ in 0..<Self.attempts {
            if let contents = try scanOnce(knowing: known, isLast: false) { return contents }
        }
        return try scanOnce(knowing: known, isLast: true) ?? known
    }

    // A lease that is released while it is read has lost its holder's name already: read again, not for ever.
    private static let attempts = 3
    // A file written by hand is empty for a moment.
    private static let emptyFileGrace = Duration.seconds(2)

    private nonisolated func scanOnce(
        knowing known: Contents, isLast: Bool
    ) throws(LeaseStoreError) -> Contents? {
        var contents = Contents()
        contents.configuration = try configurationFile.read()?.text
        var read: [(key: String, status: FilePath.Status, value: String)] = []
        for key in try subnets.names() {
            let path = subnets.appending(key)
            guard let status = try path.status() else { continue }
            if let file = known.files[key], file.status == status {
                contents.files[key] = file
            } else if let (status, text) = try path.read(),
                status.size > 0 || WallTime.now - status.modified > Self.emptyFileGrace
            {
                read.append((key, status, text))
            }
        }
        // After the leases: a holder's name is there before the lease's own.
        let identities = read.contains { $0.status.links > 1 } ? try holderNames() : [:]
        for (key, status, value) in read {
            let holder = identities[status.inode]?.identity
            if status.links > 1, holder == nil, !isLast { return nil }
            contents.files[key] = Contents.File(
                status: status,
                entry: StoreEntry(
                    key: key, value: value.trimmedAtEnd, version: StoreVersion(status), holder: holder,
                    lifetime: status.links > 1 ? .expiring(remaining: nil) : .permanent))
        }
        let now = WallTime.now
        for (key, file) in contents.files where file.entry.lifetime != .permanent {
            contents.files[key]?.entry.lifetime = .expiring(remaining: file.status.modified - now)
        }
        return contents
    }

    /// The holders' names by inode.
    nonisolated func holderNames() throws(LeaseStoreError) -> [UInt64: (
        path: FilePath, identity: NodeIdentity
    )] {
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
}

// MARK: - Writing

extension DirectoryStore {
    /// Writes the lease under the holder's name and links it to the key, which fails where the key is there.
    public func create(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        try makeDirectories()
        let (path, status) = try write(key: key, value: value, timeToLive: timeToLive, holder: holder)
        do {
            guard try path.link(to: subnets.appending(key)) else {
                path.remove()
                return .refused
            }
        } catch {
            path.remove()
            throw error
        }
        if timeToLive == nil { path.remove() }
        return .done(version: StoreVersion(status))
    }

    /// Sets the time of the lease's end; where the value or the holder changes, a new file takes the key over.
    public func renew(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity, version: StoreVersion
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        let path = subnets.appending(key)
        guard let (status, text) = try path.read(), StoreVersion(status) == version else { return .refused }
        let known = try holderNames()[status.inode]
        if text.trimmedAtEnd == value, known?.identity == (timeToLive == nil ? nil : holder) {
            guard let timeToLive else { return .done(version: version) }
            return try path.touch(status, modified: .now + timeToLive).map {
                .done(version: StoreVersion($0))
            }
                ?? .refused
        }
        let (newPath, newStatus) = try write(key: key, value: value, timeToLive: timeToLive, holder: holder)
        let second = temporaryPath()
        // Between this look and the rename another daemon could only take the key if the lease had ended.
        guard try path.status() == status, try newPath.link(to: second) else {
            newPath.remove()
            return .refused
        }
        try second.rename(to: path)
        if timeToLive == nil { newPath.remove() }
        known?.path.remove()
        return .done(version: StoreVersion(newStatus))
    }

    /// Moves the file away, looks whether it was the expected one, and puts it back if not.
    public func delete(key: String, version: StoreVersion) async throws(LeaseStoreError) -> StoreWriteResult {
        let path = subnets.appending(key)
        guard let status = try path.status(), StoreVersion(status) == version else { return .refused }
        let holder = try holderNames()[status.inode]
        let aside = temporaryPath()
        guard try path.rename(to: aside) else { return .refused }
        guard let moved = try aside.status(), StoreVersion(moved) == version else {
            _ = try aside.link(to: path)
            aside.remove()
            return .refused
        }
        holder?.path.remove()
        aside.remove()
        return .done(version: version)
    }

    /// Replaces `DIR/config`.
    public func setConfiguration(_ json: String) async throws(LeaseStoreError) {
        try makeDirectories()
        let path = temporaryPath()
        _ = try path.write(json, modified: nil)
        try path.rename(to: configurationFile)
    }

    private func write(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) throws(LeaseStoreError) -> (path: FilePath, status: FilePath.Status) {
        let path =
            holder.flatMap { holder in
                timeToLive.map { _ in holders.appending("\(key)~\(holder)~\(NodeIdentity.random())") }
            } ?? temporaryPath()
        do {
            return (path, try path.write(value, modified: timeToLive.map { .now + $0 }))
        } catch {
            path.remove()
            throw error
        }
    }

    private func temporaryPath() -> FilePath {
        holders.appending(".\(NodeIdentity.random())\(NodeIdentity.random())")
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
