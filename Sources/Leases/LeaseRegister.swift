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
            if case .expiring(let remaining?) = entry.lifetime { expiry = now + remaining }
            subnet = LeaseSubnet(key: entry.key)
            value = Result { () throws(LeaseValueError) in try LeaseValue(parsing: entry.value) }
        }

        /// Where the entry's node receives.
        func endpoint(defaultPort: UInt16) -> Endpoint? {
            guard case .success(let value) = value else { return nil }
            return Endpoint(address: value.publicAddress, port: value.port ?? defaultPort)
        }
    }

    private(set) var records: [String: Record] = [:]

    subscript(key: String) -> Record? { records[key] }

    mutating func put(_ entry: StoreEntry, now: ContinuousClock.Instant) {
        records[entry.key] = Record(entry, now: now)
    }

    mutating func remove(_ key: String) { records[key] = nil }

    /// Takes a snapshot over; what did not change keeps what was parsed.
    mutating func replace(with entries: [StoreEntry], now: ContinuousClock.Instant) {
        var replaced: [String: Record] = [:]
        replaced.reserveCapacity(entries.count)
        for entry in entries {
            if var known = records[entry.key], known.entry.value == entry.value {
                known.entry = entry
                known.expiry = nil
                if case .expiring(let remaining?) = entry.lifetime { known.expiry = now + remaining }
                replaced[entry.key] = known
            } else {
                replaced[entry.key] = Record(entry, now: now)
            }
        }
        records = replaced
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
        let step = UInt64(1) << UInt64(32 - configuration.subnetLength)
        let taken = (records.values.compactMap { $0.subnet?.ipv4 } + tried.map(\.ipv4)).sorted()
        var free: [IPv4Prefix] = []
        var next = 0
        var bits = UInt64(configuration.subnetMinimum.bits)
        var reach: UInt64 = 0  // the end of the furthest taken prefix that begins at or before `bits`
        while bits <= UInt64(configuration.subnetMaximum.bits), free.count < limit {
            let candidate = IPv4Prefix(IPv4Address(bits: UInt32(bits)), length: configuration.subnetLength)
            while next < taken.count, taken[next].address <= candidate.last {
                reach = max(reach, UInt64(taken[next].last.bits) + 1)
                next += 1
            }
            if reach <= bits { free.append(candidate) }
            bits += step
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

    /// The peers, and what is none with the reason.
    ///
    /// - Parameters:
    ///   - ownKey: this node's entry, which is neither, as is any that `identity` holds.
    ///   - inUse: the keys of the peers before, which an overlapping newcomer does not push aside.
    func peers(
        configuration: NetworkConfiguration, identity: NodeIdentity, ownKey: String?, ownSubnet: LeaseSubnet?,
        ownEndpoint: Endpoint, inUse: Set<String>
    ) -> (peers: [Peer], keys: Set<String>, skipped: [SkippedLease]) {
        var peers: [Peer] = []
        var skipped: [SkippedLease] = []
        var holders: [LeaseSubnet.Half: String] = [:]
        let ordered = records.values.filter {
            $0.entry.key != ownKey && $0.entry.holder != identity
        }.sorted {
            let (left, right) = (inUse.contains($0.entry.key), inUse.contains($1.entry.key))
            return left != right ? left : $0.entry.key < $1.entry.key
        }
        var keys = Set<String>()
        for record in ordered {
            switch record.peer(in: configuration, ownSubnet: ownSubnet, ownEndpoint: ownEndpoint) {
            case .failure(let problem):
                skipped.append(SkippedLease(key: record.entry.key, reason: problem.description))
            case .success(let peer):
                if let other = peer.subnet.halves.compactMap({ holders[$0] }).first {
                    skipped.append(
                        SkippedLease(key: record.entry.key, reason: "it overlaps \(other), which is in use"))
                    continue
                }
                for half in peer.subnet.halves { holders[half] = record.entry.key }
                peers.append(peer)
                keys.insert(record.entry.key)
            }
        }
        return (peers.sorted { $0.subnet < $1.subnet }, keys, skipped.sorted { $0.key < $1.key })
    }
}

extension LeaseRegister.Record {
    /// The peer that the entry describes, or why it describes none.
    func peer(
        in configuration: NetworkConfiguration, ownSubnet: LeaseSubnet? = nil, ownEndpoint: Endpoint? = nil
    ) -> Result<Peer, LeaseValueError> {
        guard let subnet else {
            return .failure(LeaseValueError("the key is no subnet such as 10.66.28.0-24"))
        }
        guard configuration.network.contains(subnet.ipv4) else {
            return .failure(LeaseValueError("it lies outside Network, \(configuration.network)"))
        }
        // Peers of one length cannot overlap but by being equal, which is what makes `halves` enough.
        guard subnet.ipv4.length == configuration.subnetLength else {
            return .failure(
                LeaseValueError(
                    "it is a /\(subnet.ipv4.length), and the network's SubnetLen is \(configuration.subnetLength)"
                ))
        }
        if let ownSubnet, subnet.overlaps(ownSubnet) {
            return .failure(LeaseValueError("it overlaps this node's own subnet, \(ownSubnet)"))
        }
        return value.flatMap { value in
            let endpoint = Endpoint(
                address: value.publicAddress, port: value.port ?? configuration.backend.port)
            if endpoint == ownEndpoint {
                return .failure(LeaseValueError("it announces this node's own address, \(endpoint)"))
            }
            return .success(Peer(subnet: subnet, endpoint: endpoint))
        }
    }
}

extension LeaseSubnet {
    /// One of a subnet's prefixes.
    enum Half: Hashable {
        case ipv4(IPv4Prefix)
        case ipv6(IPv6Prefix)
    }

    /// The subnet's prefixes.
    var halves: [Half] { [.ipv4(ipv4)] + (ipv6.map { [.ipv6($0)] } ?? []) }
}
