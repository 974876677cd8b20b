import EtcdAPI
import FoundationEssentials
import GRPCCore
public import Leases

/// A network's leases in etcd (v3 API), as flannel keeps them.
public struct EtcdStore: LeaseStore {
    // The sixteen bits that an etcd lease of twill begins with; see docs/adr/0020.
    private static let leaseMark: Int64 = 0x7477

    /// The cluster's endpoints and the prefix.
    public let name: String
    let directory: String
    let connection: EtcdConnection

    /// Checks the configuration, but not its files (`EtcdConfiguration.checkFiles`); connects at the first request,
    /// and again as needed.
    ///
    /// - Throws: `LeaseStoreError` of kind `.denied` that names a bad URL.
    public init(configuration: EtcdConfiguration) throws(LeaseStoreError) {
        directory = configuration.directory
        name = "etcd \(configuration.endpoints.joined(separator: ",")) \(directory)"
        connection = try EtcdConnection(configuration: configuration)
    }
}

extension EtcdStore {
    /// Connects anew, rather than after the limit of a request that nobody answers.
    public func addressChanged() async { await connection.drop() }
}

// MARK: - Reading

extension EtcdStore {
    // How many etcd leases are asked for at a time.
    private static let questionsUnderWay = 16
    // How many leases one answer holds: 0.2 MB of usual ones.
    private static let pageSize: Int64 = 1_000

    /// Reads the configuration and the leases as of one revision, page by page. Nothing else under the prefix is
    /// asked for: a role that may read those two is enough, as for flanneld.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func snapshot() async throws(LeaseStoreError) -> StoreSnapshot {
        try snapshot(of: try await range())
    }

    /// Reads the configuration and the leases, then asks for each etcd lease that a key hangs on.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func snapshotWithRemainingTimes() async throws(LeaseStoreError) -> StoreSnapshot {
        let response = try await range()
        let times = try await remainingTimes(of: Set(response.kvs.map(\.lease)).subtracting([0]))
        var snapshot = try snapshot(of: response)
        let leases = Dictionary(
            response.kvs.map { ($0.modRevision, $0.lease) }, uniquingKeysWith: { first, _ in first })
        for (index, entry) in snapshot.entries.enumerated() {
            if let lease = leases[Int64(bitPattern: entry.version.number)], let time = times[lease] {
                snapshot.entries[index].lifetime = .expiring(remaining: time)
            }
        }
        return snapshot
    }

    private func range() async throws(LeaseStoreError) -> Etcdserverpb_RangeResponse {
        let range = leaseRange
        var all = try await page(from: range.first, to: range.end, revision: 0)
        let revision = all.header.revision
        var last = all.kvs.last
        var hasMore = all.more
        // Where the store was compacted meanwhile, it says so, and the machine begins anew.
        while hasMore, let key = last?.key {
            let next = try await page(from: key + [0], to: range.end, revision: revision)
            // A server that repeats itself must not keep this going.
            guard let newest = next.kvs.last, newest.key.lexicographicallyPrecedes(range.end),
                key.lexicographicallyPrecedes(newest.key)
            else { break }
            all.kvs += next.kvs
            last = newest
            hasMore = next.more
        }
        all.kvs += try await page(from: configurationKey, to: Data(), revision: revision).kvs
        return all
    }

    /// Reads the keys from `first` to before `end`, or `first` alone where there is none; of the newest revision
    /// where `revision` is 0.
    private func page(
        from first: Data, to end: Data, revision: Int64
    ) async throws(LeaseStoreError) -> Etcdserverpb_RangeResponse {
        try await connection.perform(isRepeatable: true) { link in
            try await Etcdserverpb_KV.Client(wrapping: link.client).range(
                Etcdserverpb_RangeRequest.with {
                    $0.key = first
                    $0.rangeEnd = end
                    $0.limit = Self.pageSize
                    $0.revision = revision
                }, metadata: link.metadata, options: EtcdConnection.options)
        }
    }

    /// What a response says. A revision that no etcd has is an answer of somebody else.
    func snapshot(of response: Etcdserverpb_RangeResponse) throws(LeaseStoreError) -> StoreSnapshot {
        guard (0..<Int64.max).contains(response.header.revision) else {
            throw LeaseStoreError(
                .failed, "\(name) answers with revision \(response.header.revision), which is none")
        }
        let cluster = response.header.clusterID
        var snapshot = StoreSnapshot(
            configuration: nil, entries: [], position: StorePosition(revision: response.header.revision),
            storeIdentity: cluster == 0 ? nil : String(cluster, radix: 16))
        for pair in response.kvs {
            switch event(put: pair) {
            case .put(let entry): snapshot.entries.append(entry)
            case .configuration(let text): snapshot.configuration = text
            case .deleted, nil: break
            }
        }
        return snapshot
    }

    /// The configuration's key.
    var configurationKey: Data { Data("\(directory)/config".utf8) }

    /// Every key of a lease. "0" is the byte after "/".
    var leaseRange: (first: Data, end: Data) {
        (Data("\(directory)/subnets/".utf8), Data("\(directory)/subnets0".utf8))
    }

    private func dataKey(_ key: String) -> Data { Data("\(directory)/subnets/\(key)".utf8) }

    /// What a key-value pair says; nil for a key that is none of the network's.
    func event(put pair: Etcdserverpb_KeyValue) -> StoreEvent? {
        let value = String(decoding: pair.value, as: UTF8.self)
        switch networkKey(pair.key) {
        case .configuration: return .configuration(value)
        case .lease(let key):
            return .put(
                StoreEntry(
                    key: key, value: value,
                    version: StoreVersion(revision: pair.modRevision),
                    holder: Self.holder(lease: pair.lease),
                    lifetime: pair.lease == 0 ? .permanent : .expiring(remaining: nil)))
        case nil: return nil
        }
    }

    /// What the deletion of a key says; nil for a key that is none of the network's.
    func event(deletionOf key: Data) -> StoreEvent? {
        switch networkKey(key) {
        case .configuration: .configuration(nil)
        case .lease(let key): .deleted(key: key)
        case nil: nil
        }
    }

    private enum NetworkKey {
        case configuration
        case lease(String)
    }

    private func networkKey(_ key: Data) -> NetworkKey? {
        let text = String(decoding: key, as: UTF8.self).dropFirst(directory.count)
        if text == "/config" { return .configuration }
        return text.hasPrefix("/subnets/") ? .lease(String(text.dropFirst("/subnets/".count))) : nil
    }
}

// MARK: - Writing

extension EtcdStore {
    /// Puts the key where it has no version.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func create(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity?
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        var guarded = Etcdserverpb_Compare()
        guarded.result = .equal
        guarded.target = .version
        guarded.key = dataKey(key)
        guarded.version = 0
        return try await put(
            key: key, value: value, where: guarded, timeToLive: timeToLive,
            holder: holder)
    }

    /// Keeps the node's etcd lease alive and, where the value or the lease is another, puts the key anew.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func renew(
        key: String, value: String, timeToLive: Duration?, holder: NodeIdentity, version: StoreVersion
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        let data = dataKey(key)
        let found = try await connection.perform(isRepeatable: true) { link in
            try await Etcdserverpb_KV.Client(wrapping: link.client).range(
                Etcdserverpb_RangeRequest.with { $0.key = data }, metadata: link.metadata,
                options: EtcdConnection.options
            ).kvs.first
        }
        guard let found, UInt64(bitPattern: found.modRevision) == version.number else { return .refused }
        let lease = timeToLive == nil ? 0 : Self.lease(of: holder, directory: directory)
        if found.lease == lease, found.value == Data(value.utf8) {
            if lease == 0 { return .done(version: version) }
            if try await keepAlive(lease) { return .done(version: version) }
            return .refused  // it ended just now, and the key with it
        }
        var guarded = Etcdserverpb_Compare()
        guarded.result = .equal
        guarded.target = .mod
        guarded.key = data
        guarded.modRevision = found.modRevision
        return try await put(key: key, value: value, where: guarded, timeToLive: timeToLive, holder: holder)
    }

    /// Deletes the key where its last change is the expected one.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func delete(key: String, version: StoreVersion) async throws(LeaseStoreError) -> StoreWriteResult {
        let data = dataKey(key)
        return try await connection.perform(isRepeatable: false) { link in
            let response = try await Etcdserverpb_KV.Client(wrapping: link.client).txn(
                Etcdserverpb_TxnRequest.with {
                    $0.compare = [
                        .with {
                            $0.result = .equal
                            $0.target = .mod
                            $0.key = data
                            $0.modRevision = Int64(bitPattern: version.number)
                        }
                    ]
                    $0.success = [.with { $0.requestDeleteRange = .with { $0.key = data } }]
                }, metadata: link.metadata, options: EtcdConnection.options)
            return response.succeeded
                ? .done(version: StoreVersion(revision: response.header.revision))
                : .refused
        }
    }

    /// Puts the configuration's key.
    ///
    /// - Throws: `LeaseStoreError`: `.unreachable` while no server answers, `.denied` where one refuses.
    public func setConfiguration(_ json: String) async throws(LeaseStoreError) {
        let key = configurationKey
        try await connection.perform(isRepeatable: false) { link in
            _ = try await Etcdserverpb_KV.Client(wrapping: link.client).put(
                Etcdserverpb_PutRequest.with {
                    $0.key = key
                    $0.value = Data(json.utf8)
                }, metadata: link.metadata, options: EtcdConnection.options)
        }
    }

    private func put(
        key: String, value: String, where guarded: Etcdserverpb_Compare, timeToLive: Duration?,
        holder: NodeIdentity?
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        var lease: Int64 = 0
        if let timeToLive, let holder {
            lease = Self.lease(of: holder, directory: directory)
            try await grant(lease, timeToLive: timeToLive)
        }
        let attached = lease
        let data = dataKey(key)
        return try await connection.perform(isRepeatable: false) { link in
            let response = try await Etcdserverpb_KV.Client(wrapping: link.client).txn(
                Etcdserverpb_TxnRequest.with {
                    $0.compare = [guarded]
                    $0.success = [
                        .with {
                            $0.requestPut = .with {
                                $0.key = data
                                $0.value = Data(value.utf8)
                                $0.lease = attached
                            }
                        }
                    ]
                }, metadata: link.metadata, options: EtcdConnection.options)
            return response.succeeded
                ? .done(version: StoreVersion(revision: response.header.revision))
                : .refused
        }
    }
}

// MARK: - etcd's leases

extension EtcdStore {
    /// The etcd lease of a node: one for each node and network, always the same, so that none can be left over
    /// whenever a request is cut short.
    static func lease(of holder: NodeIdentity, directory: String) -> Int64 {
        // FNV-1a of the prefix, folded to 16 bits: one cluster may hold several networks of one node.
        let hash = directory.utf8.reduce(UInt32(0x811C_9DC5)) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
        return leaseMark << 48 | Int64(holder.number) << 16 | Int64((hash >> 16 ^ hash) & 0xFFFF)
    }

    /// The node whose etcd lease it is; nil for one that etcd numbered by itself.
    static func holder(lease: Int64) -> NodeIdentity? {
        guard lease >> 48 == leaseMark else { return nil }
        return NodeIdentity(number: UInt32(truncatingIfNeeded: lease >> 16))
    }

    private func grant(_ lease: Int64, timeToLive: Duration) async throws(LeaseStoreError) {
        if try await keepAlive(lease) { return }
        try await connection.perform(isRepeatable: false) { link in
            do {
                _ = try await Etcdserverpb_Lease.Client(wrapping: link.client).leaseGrant(
                    Etcdserverpb_LeaseGrantRequest.with {
                        $0.id = lease
                        $0.ttl = max(1, timeToLive.components.seconds)
                    }, metadata: link.metadata, options: EtcdConnection.options)
            } catch let error as RPCError where error.message.contains("lease already exists") {
                // An earlier request was cut short, and done all the same.
            }
        }
    }

    /// How long etcd leases live unless renewed; without those that have just ended.
    private func remainingTimes(of leases: Set<Int64>) async throws(LeaseStoreError) -> [Int64: Duration] {
        do {
            return try await withThrowingTaskGroup(of: (Int64, Int64).self) { group in
                var times: [Int64: Duration] = [:]
                var asked = 0
                for lease in leases {
                    if asked >= Self.questionsUnderWay, let (answered, seconds) = try await group.next() {
                        if seconds >= 0 { times[answered] = .seconds(seconds) }
                    }
                    group.addTask { (lease, try await seconds(of: lease)) }
                    asked += 1
                }
                for try await (answered, seconds) in group where seconds >= 0 {
                    times[answered] = .seconds(seconds)
                }
                return times
            }
        } catch let error as LeaseStoreError {
            throw error
        } catch {
            throw LeaseStoreError(.failed, "\(error)")
        }
    }

    /// The seconds that an etcd lease has left; -1 where there is no such lease.
    private func seconds(of lease: Int64) async throws(LeaseStoreError) -> Int64 {
        try await connection.perform(isRepeatable: true) { link in
            try await Etcdserverpb_Lease.Client(wrapping: link.client).leaseTimeToLive(
                Etcdserverpb_LeaseTimeToLiveRequest.with { $0.id = lease }, metadata: link.metadata,
                options: EtcdConnection.options
            ).ttl
        }
    }

    /// Starts the lease's time anew; false where there is no such lease.
    private func keepAlive(_ lease: Int64) async throws(LeaseStoreError) -> Bool {
        try await connection.perform(isRepeatable: true) { link in
            try await Etcdserverpb_Lease.Client(wrapping: link.client).leaseKeepAlive(
                metadata: link.metadata, options: EtcdConnection.options,
                requestProducer: { writer in
                    try await writer.write(.with { $0.id = lease })
                },
                onResponse: { response in
                    for try await message in response.messages { return message.ttl > 0 }
                    return false
                })
        }
    }
}

extension StorePosition {
    /// A revision of etcd's, which counts the writes to the whole cluster.
    init(revision: Int64) { self.init(revision, isOrdered: true) }
}

extension StoreVersion {
    /// What etcd knows a key's last change by, which is the revision of the store at which it was made.
    init(revision: Int64) { self.init(number: UInt64(bitPattern: revision), isPosition: true) }
}
