import Addresses
internal import Backends

/// The entries of a store as this node last saw them, each parsed once.
struct LeaseRegister {
    /// An entry with what its texts mean.
    struct Record {
        var entry: StoreEntry
        /// When it ends; nil for a reservation and where the store deletes it by itself.
        var expiry: ContinuousClock.Instant?
        /// What the key says; nil where it does not parse.
        var subnet: LeaseSubnet?
        var value: Result<LeaseValue, LeaseValueError>

        var isReservation: Bool { entry.lifetime == .permanent }

        init(_ entry: StoreEntry, backends: BackendRegistry, now: ContinuousClock.Instant) {
            self.entry = entry
            subnet = LeaseSubnet(key: entry.key)
            value = Result { () throws(LeaseValueError) in
                if let flaw = entry.flaw { throw LeaseValueError(flaw) }
                return try LeaseValue(parsing: entry.value, backends: backends)
            }
            renew(entry, now: now)
        }

        /// Takes over everything but the texts, which are the same.
        mutating func renew(_ entry: StoreEntry, now: ContinuousClock.Instant) {
            self.entry = entry
            expiry = nil
            if case .expiring(let remaining?) = entry.lifetime { expiry = now + remaining }
        }

        /// Where the entry's node receives what comes to an address of a family.
        func endpoint(_ family: AddressFamily, defaultPort: UInt16) -> Endpoint? {
            guard case .success(let value) = value else { return nil }
            return value.endpoint(family, defaultPort: defaultPort)
        }
    }

    /// An entry that the store no longer names and that is not believed gone.
    struct Held {
        /// When its lease would have ended at the latest.
        var until: ContinuousClock.Instant
        /// Whether the store is doubted for it; else it is waited for a moment whether the entry comes back.
        var isDoubted: Bool
    }

    /// Whose entries this node's are.
    var identity: NodeIdentity {
        didSet {
            ownKeys = Set(records.filter { $0.value.entry.holder == identity && held[$0.key] == nil }.keys)
        }
    }
    private(set) var records: [String: Record] = [:]
    /// When entries end, for those that do and whose store leaves it to the nodes.
    private(set) var endings: [String: ContinuousClock.Instant] = [:]
    /// The keys that `identity` holds.
    private(set) var ownKeys: Set<String> = []
    /// The entries among `records` that the store no longer names.
    private(set) var held: [String: Held] = [:]
    /// What the entries are known by, those that are held as well.
    var versions: [String: StoreVersion] { records.mapValues(\.entry.version) }
    /// How many of them the store is doubted for.
    var doubtedCount: Int { held.isEmpty ? 0 : held.values.count { $0.isDoubted } }
    // Those entries by what a new one can take from them.
    private var heldByPrefix: [IPPrefix: String] = [:]
    private var heldByAddress: [PublishedAddress: String] = [:]

    /// Where an entry says its node is, as written.
    private struct PublishedAddress: Hashable {
        var address: IPv4Address?
        var ipv6Address: IPv6Address?
        var port: UInt16?

        init?(_ record: Record) {
            guard case .success(let value) = record.value else { return nil }
            address = value.publicAddress
            // What a node says beside its IPv4 address may change while it is the same.
            ipv6Address = address == nil ? value.publicIPv6Address : nil
            port = value.port
        }
    }

    private let backends: BackendRegistry

    init(identity: NodeIdentity, backends: BackendRegistry = .all) {
        self.identity = identity
        self.backends = backends
    }

    /// The entry as the store has it; nil where it has none, also where one is held.
    subscript(key: String) -> Record? { held.isEmpty || held[key] == nil ? records[key] : nil }

    /// The entry, be it in the store or held.
    func known(_ key: String) -> Record? { records[key] }

    /// Takes an entry in. What was held in its place, or for its node, is so no longer.
    ///
    /// - Returns: the keys of other entries that went with that.
    mutating func put(_ entry: StoreEntry, now: ContinuousClock.Instant) -> [String] {
        let record = Record(entry, backends: backends, now: now)
        var displaced = insert(record)
        // Its node has another subnet now. A snapshot's entry says no such thing: it may be older than what is held.
        if !held.isEmpty, let address = PublishedAddress(record), let other = heldByAddress[address] {
            remove(other)
            displaced.append(other)
        }
        return displaced
    }

    mutating func remove(_ key: String) {
        release(key)
        records[key] = nil
        endings[key] = nil
        ownKeys.remove(key)
    }

    /// Takes a snapshot over; what did not change keeps what was parsed. What is held stays, unless it is there
    /// again.
    mutating func replace(with entries: [StoreEntry], now: ContinuousClock.Instant) {
        let known = records
        let kept = held
        self = LeaseRegister(identity: identity, backends: backends)
        records.reserveCapacity(entries.count)
        // First, so that each entry takes away what it takes the place of.
        for (key, held) in kept {
            if let record = known[key] { hold(record, until: held.until, isDoubted: held.isDoubted) }
        }
        for entry in entries {
            if var record = known[entry.key], record.entry.value == entry.value,
                record.entry.flaw == entry.flaw
            {
                record.renew(entry, now: now)
                insert(record)
            } else {
                insert(Record(entry, backends: backends, now: now))
            }
        }
    }

    /// Keeps an entry that the store no longer names.
    mutating func hold(_ record: Record, until: ContinuousClock.Instant, isDoubted: Bool) {
        let key = record.entry.key
        records[key] = record
        endings[key] = nil
        ownKeys.remove(key)
        held[key] = Held(until: until, isDoubted: isDoubted)
        if let prefix = record.subnet?.prefixes.first { heldByPrefix[prefix] = key }
        if let address = PublishedAddress(record) { heldByAddress[address] = key }
    }

    /// Holds an entry no longer; it stays among the records.
    private mutating func release(_ key: String) {
        guard !held.isEmpty, held.removeValue(forKey: key) != nil, let record = records[key] else { return }
        if let prefix = record.subnet?.prefixes.first, heldByPrefix[prefix] == key {
            heldByPrefix[prefix] = nil
        }
        if let address = PublishedAddress(record), heldByAddress[address] == key {
            heldByAddress[address] = nil
        }
    }

    @discardableResult
    private mutating func insert(_ record: Record) -> [String] {
        let key = record.entry.key
        var displaced: [String] = []
        if !held.isEmpty {
            release(key)
            if let prefix = record.subnet?.prefixes.first, let other = heldByPrefix[prefix] {
                remove(other)
                displaced.append(other)
            }
        }
        if record.entry.holder == identity { ownKeys.insert(key) } else { ownKeys.remove(key) }
        records[key] = record
        endings[key] = record.expiry
        return displaced
    }

    /// Whether no entry, however broken its value, has any address of `subnet`.
    func isFree(_ subnet: LeaseSubnet) -> Bool {
        if records[subnet.key] != nil { return false }
        return !records.values.contains { $0.subnet?.overlaps(subnet) ?? false }
    }

    /// The first `limit` free subnets from `SubnetMin` on; IPv6 prefixes are paired with them in order.
    func freeSubnets(
        in configuration: NetworkConfiguration, limit: Int, without tried: Set<LeaseSubnet>
    ) -> [LeaseSubnet] {
        switch (configuration.ipv4, configuration.ipv6) {
        case (let ipv4?, nil):
            return freeIPv4Prefixes(in: ipv4, limit: limit, without: tried).map { LeaseSubnet(ipv4: $0) }
        case (nil, let ipv6?):
            return freeIPv6Prefixes(in: ipv6, limit: limit, without: tried).map { LeaseSubnet(ipv6: $0) }
        case (let ipv4?, let ipv6?):
            let free = freeIPv4Prefixes(in: ipv4, limit: limit, without: tried)
            let pairs = zip(free, freeIPv6Prefixes(in: ipv6, limit: free.count, without: tried))
            return pairs.map { LeaseSubnet(ipv4: $0, ipv6: $1) }
        case (nil, nil):
            return []
        }
    }

    private func freeIPv4Prefixes(
        in allocation: NetworkConfiguration.IPv4Allocation, limit: Int, without tried: Set<LeaseSubnet>
    ) -> [IPv4Prefix] {
        let step = UInt64(1) << (32 &- allocation.subnetLength)
        let taken = (records.values.compactMap { $0.subnet?.ipv4 } + tried.compactMap(\.ipv4)).sorted()
        var free: [IPv4Prefix] = []
        var next = 0
        var bits = UInt64(allocation.subnetMinimum.bits)
        var reach: UInt64 = 0  // the end of the furthest taken prefix that begins at or before `bits`
        while bits <= UInt64(allocation.subnetMaximum.bits), free.count < limit {
            let candidate = IPv4Prefix(
                IPv4Address(bits: UInt32(truncatingIfNeeded: bits)), length: allocation.subnetLength)
            while next < taken.count {
                let other = taken[next]  // checked: by the loop's condition
                guard other.address <= candidate.last else { break }
                reach = max(reach, UInt64(other.last.bits) &+ 1)
                next += 1
            }
            if reach <= bits { free.append(candidate) }
            bits &+= step
        }
        return free
    }

    private func freeIPv6Prefixes(
        in allocation: NetworkConfiguration.IPv6Allocation, limit: Int, without tried: Set<LeaseSubnet>
    ) -> [IPv6Prefix] {
        let taken = (records.values.compactMap { $0.subnet?.ipv6 } + tried.compactMap(\.ipv6)).sorted()
        var free: [IPv6Prefix] = []
        var next = 0
        // The end of the furthest taken prefix that begins at or before `address`; prefixes are nested or apart, so
        // what holds an address is the furthest of those that begin before it.
        var reach: IPv6Address?
        var isFull = false
        var address = allocation.subnetMinimum
        while !isFull, address <= allocation.subnetMaximum, free.count < limit {
            let candidate = IPv6Prefix(address, length: allocation.subnetLength)
            let end = candidate.next
            while next < taken.count {
                let other = taken[next]  // checked: by the loop's condition
                guard end.map({ other.address < $0 }) ?? true else { break }
                if let last = other.next { reach = max(reach ?? last, last) } else { isFull = true }
                next += 1
            }
            if !isFull, reach.map({ $0 <= address }) ?? true { free.append(candidate) }
            guard let end else { break }
            // What a wide prefix takes is passed over at once.
            address = max(end, reach.map { IPv6Prefix($0, length: allocation.subnetLength).address } ?? end)
        }
        return free
    }
}
