import Addresses

/// The peers among a register's entries, kept up to date entry by entry: with 10,000 leases, one that changes
/// costs that one alone.
struct PeerIndex {
    /// What an entry is judged by.
    struct Context: Equatable {
        var configuration: NetworkConfiguration
        var identity: NodeIdentity
        /// This node's entry, which is no peer, as is none that `identity` holds.
        var ownKey: String?
        var ownSubnet: LeaseSubnet?
        var ownEndpoint: Endpoint
    }

    /// Ordered by subnet.
    private(set) var peers: [Peer] = []
    /// Why an entry is no peer, by key.
    private(set) var reasons: [String: String] = [:]
    private var context: Context?
    private var subnets: [String: LeaseSubnet] = [:]
    private var holders: [LeaseSubnet.Half: String] = [:]

    /// Judges everything anew.
    mutating func rebuild(_ register: LeaseRegister, in context: Context) {
        let inUse = subnets
        self = PeerIndex()
        self.context = context
        // A newcomer does not push aside a peer that it overlaps: those in use come first.
        let keys = register.records.keys.sorted {
            let (left, right) = (inUse[$0] != nil, inUse[$1] != nil)
            return left != right ? left : $0 < $1
        }
        for key in keys {
            if let peer = judge(key, register[key]) { peers.append(peer) }
        }
        peers.sort { $0.subnet < $1.subnet }
    }

    /// Judges everything anew where the context is another.
    mutating func follow(_ context: Context, in register: LeaseRegister) {
        if context != self.context { rebuild(register, in: context) }
    }

    /// Judges one entry anew that was put or removed.
    mutating func update(_ key: String, in register: LeaseRegister, context: Context) {
        guard context == self.context else { return rebuild(register, in: context) }
        reasons[key] = nil
        if let subnet = subnets.removeValue(forKey: key) {
            for half in subnet.halves { holders[half] = nil }
            let position = position(of: subnet)
            peers.remove(at: position)
            insert(judge(key, register[key]))
            // What it kept out may come in.
            for waiting in reasons.keys.sorted() where waiting != key {
                insert(judge(waiting, register[waiting]))
            }
        } else {
            insert(judge(key, register[key]))
        }
    }

    private mutating func insert(_ peer: Peer?) {
        if let peer { peers.insert(peer, at: position(of: peer.subnet)) }
    }

    /// Where a subnet stands, or would stand, among the peers.
    private func position(of subnet: LeaseSubnet) -> Int {
        var (low, high) = (0, peers.count)
        while low < high {
            let middle = (low + high) / 2
            if peers[middle].subnet < subnet { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The peer that an entry is now, its subnet claimed; else the reason is noted.
    private mutating func judge(_ key: String, _ record: LeaseRegister.Record?) -> Peer? {
        reasons[key] = nil
        guard let context, let record, key != context.ownKey, record.entry.holder != context.identity else {
            return nil
        }
        switch record.peer(
            in: context.configuration, ownSubnet: context.ownSubnet, ownEndpoint: context.ownEndpoint)
        {
        case .failure(let problem):
            reasons[key] = problem.description
            return nil
        case .success(let peer):
            if let other = peer.subnet.halves.compactMap({ holders[$0] }).first {
                reasons[key] = "it overlaps \(other), which is in use"
                return nil
            }
            for half in peer.subnet.halves { holders[half] = key }
            subnets[key] = peer.subnet
            return peer
        }
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
        // Peers of one length overlap only by being equal, which is why `PeerIndex` need not search.
        guard subnet.ipv4.length == configuration.subnetLength else {
            return .failure(
                LeaseValueError(
                    "it is a /\(subnet.ipv4.length), and the network's SubnetLen is "
                        + "\(configuration.subnetLength)"
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
            return .success(
                Peer(
                    subnet: subnet, endpoint: endpoint,
                    isTwill: entry.holder != nil || value.port != nil || isReservation))
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
