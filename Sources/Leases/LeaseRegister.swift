import Addresses

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

        init(_ entry: StoreEntry, now: ContinuousClock.Instant) {
            self.entry = entry
            subnet = LeaseSubnet(key: entry.key)
            value = Result { () throws(LeaseValueError) in try LeaseValue(parsing: entry.value) }
            renew(entry, now: now)
        }

        /// Takes over everything but the texts, which are the same.
        mutating func renew(_ entry: StoreEntry, now: ContinuousClock.Instant) {
            self.entry = entry
            expiry = nil
            if case .expiring(let remaining?) = entry.lifetime { expiry = now + remaining }
        }

        /// Where the entry's node receives.
        func endpoint(defaultPort: UInt16) -> Endpoint? {
            guard case .success(let value) = value else { return nil }
            return Endpoint(address: value.publicAddress, port: value.port ?? defaultPort)
        }
    }

    private let identity: NodeIdentity
    private(set) var records: [String: Record] = [:]
    /// When entries end, for those that do and whose store leaves it to the nodes.
    private(set) var endings: [String: ContinuousClock.Instant] = [:]
    /// The keys that `identity` holds.
    private(set) var ownKeys: Set<String> = []

    init(identity: NodeIdentity) { self.identity = identity }

    subscript(key: String) -> Record? { records[key] }

    mutating func put(_ entry: StoreEntry, now: ContinuousClock.Instant) {
        insert(Record(entry, now: now))
    }

    mutating func remove(_ key: String) {
        records[key] = nil
        endings[key] = nil
        ownKeys.remove(key)
    }

    /// Takes a snapshot over; what did not change keeps what was parsed.
    mutating func replace(with entries: [StoreEntry], now: ContinuousClock.Instant) {
        let known = records
        records = [:]
        records.reserveCapacity(entries.count)
        endings = [:]
        ownKeys = []
        for entry in entries {
            if var record = known[entry.key], record.entry.value == entry.value {
                record.renew(entry, now: now)
                insert(record)
            } else {
                put(entry, now: now)
            }
        }
    }

    private mutating func insert(_ record: Record) {
        let key = record.entry.key
        records[key] = record
        endings[key] = record.expiry
        if record.entry.holder == identity { ownKeys.insert(key) } else { ownKeys.remove(key) }
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
        let step = UInt64(1) << (32 &- configuration.subnetLength)
        let taken = (records.values.compactMap { $0.subnet?.ipv4 } + tried.map(\.ipv4)).sorted()
        var free: [IPv4Prefix] = []
        var next = 0
        var bits = UInt64(configuration.subnetMinimum.bits)
        var reach: UInt64 = 0  // the end of the furthest taken prefix that begins at or before `bits`
        while bits <= UInt64(configuration.subnetMaximum.bits), free.count < limit {
            let candidate = IPv4Prefix(
                IPv4Address(bits: UInt32(truncatingIfNeeded: bits)), length: configuration.subnetLength)
            while next < taken.count {
                let other = taken[next]  // checked: by the loop's condition
                guard other.address <= candidate.last else { break }
                reach = max(reach, UInt64(other.last.bits) &+ 1)
                next += 1
            }
            if reach <= bits { free.append(candidate) }
            bits &+= step
        }
        guard let ipv6 = configuration.ipv6 else {
            return free.map { LeaseSubnet(ipv4: $0) }
        }
        let pairs = zip(free, freeIPv6Prefixes(in: ipv6, limit: free.count, without: tried))
        return pairs.map { LeaseSubnet(ipv4: $0, ipv6: $1) }
    }

    private func freeIPv6Prefixes(
        in allocation: NetworkConfiguration.IPv6Allocation, limit: Int, without tried: Set<LeaseSubnet>
    ) -> [IPv6Prefix] {
        let taken = records.values.compactMap { $0.subnet?.ipv6 } + tried.compactMap(\.ipv6)
        var free: [IPv6Prefix] = []
        var address = allocation.subnetMinimum
        while address <= allocation.subnetMaximum, free.count < limit {
            let candidate = IPv6Prefix(address, length: allocation.subnetLength)
            if !taken.contains(where: { $0.overlaps(candidate) }) { free.append(candidate) }
            guard let next = candidate.next else { break }
            address = next
        }
        return free
    }
}
