import Addresses
internal import Backends
import Health

/// The peers among a register's entries, kept up to date entry by entry: with 10,000 leases, and 20,000 entries that
/// are none, one that changes costs that one alone.
struct PeerIndex {
    /// What an entry is judged by.
    struct Context: Equatable {
        var configuration: NetworkConfiguration
        var identity: NodeIdentity
        /// This node's entry, which is no peer, as is none that `identity` holds.
        var ownKey: String?
        var ownSubnet: LeaseSubnet?
        var ownEndpoint: Endpoint
        /// Where this node is reached: a lease of another node that announces one of them names this node.
        var ownAddresses: [IPv4Address] = []
    }

    /// Ordered by subnet.
    private(set) var peers: [Peer] = []
    /// Why an entry is no peer, by key.
    private(set) var reasons: [String: String] = [:]
    /// The keys whose reasons are others than when they were last taken.
    private var changedReasons: Set<String> = []
    private var context: Context?
    private var subnets: [String: LeaseSubnet] = [:]
    private var holders: [LeaseSubnet.Half: String] = [:]
    // Entries that overlap a peer, by the half of it that keeps them out, and the other way round.
    private var waiting: [LeaseSubnet.Half: Set<String>] = [:]
    private var waitingFor: [String: LeaseSubnet.Half] = [:]

    /// The keys of the entries that are peers.
    var keys: some Collection<String> { subnets.keys }

    /// Whether an entry is a peer.
    func contains(_ key: String) -> Bool { subnets[key] != nil }

    /// The keys whose reasons changed since this was last asked.
    mutating func takeChangedReasons() -> Set<String> {
        defer { changedReasons = [] }
        return changedReasons
    }

    /// Judges everything anew.
    mutating func rebuild(_ register: LeaseRegister, in context: Context) {
        let inUse = subnets
        let before = self
        self = PeerIndex()
        self.context = context
        // A newcomer does not push aside a peer that it overlaps: those in use come first.
        let keys = register.records.keys.sorted {
            let (left, right) = (inUse[$0] != nil, inUse[$1] != nil)
            return left != right ? left : $0 < $1
        }
        for key in keys {
            if let peer = judge(key, register.known(key)) { peers.append(peer) }
        }
        peers.sort { $0.subnet < $1.subnet }
        changedReasons = before.changedReasons
        for key in before.reasons.keys where before.reasons[key] != reasons[key] {
            changedReasons.insert(key)
        }
        for key in reasons.keys where before.reasons[key] != reasons[key] { changedReasons.insert(key) }
    }

    /// Judges everything anew where the context is another.
    mutating func follow(_ context: Context, in register: LeaseRegister) {
        if context != self.context { rebuild(register, in: context) }
    }

    /// Judges one entry anew that was put or removed.
    mutating func update(_ key: String, in register: LeaseRegister, context: Context) {
        guard context == self.context else { return rebuild(register, in: context) }
        guard let subnet = subnets.removeValue(forKey: key) else {
            return insert(judge(key, register.known(key)))
        }
        let halves = subnet.halves
        for half in halves { holders[half] = nil }
        peers.remove(at: position(of: subnet))
        insert(judge(key, register.known(key)))
        // What it kept out may come in.
        let candidates = halves.flatMap { waiting[$0] ?? [] }
        for other in candidates.sorted() where other != key { insert(judge(other, register.known(other))) }
    }

    private mutating func insert(_ peer: Peer?) {
        if let peer { peers.insert(peer, at: position(of: peer.subnet)) }
    }

    /// Where a subnet stands, or would stand, among the peers.
    private func position(of subnet: LeaseSubnet) -> Int {
        var (low, high) = (0, peers.count)
        while low < high {
            let middle = (low &+ high) / 2
            // checked: 0 <= low <= middle < high <= count
            if peers[middle].subnet < subnet { low = middle &+ 1 } else { high = middle }
        }
        return low
    }

    /// The peer that an entry is now, its subnet claimed; else the reason is noted.
    private mutating func judge(_ key: String, _ record: LeaseRegister.Record?) -> Peer? {
        if let half = waitingFor.removeValue(forKey: key) {
            waiting[half]?.remove(key)
            if waiting[half]?.isEmpty ?? false { waiting[half] = nil }
        }
        guard let context, let record, key != context.ownKey, record.entry.holder != context.identity else {
            note(nil, for: key)
            return nil
        }
        switch record.peer(in: context) {
        case .failure(let problem):
            note(problem.description.printable, for: key)
            return nil
        case .success(nil):
            note(nil, for: key)
            return nil
        case .success(let peer?):
            let halves = peer.subnet.halves
            if let half = halves.first(where: { holders[$0] != nil }), let other = holders[half] {
                waiting[half, default: []].insert(key)
                waitingFor[key] = half
                note("it overlaps \(other), which is in use".printable, for: key)
                return nil
            }
            for half in halves { holders[half] = key }
            subnets[key] = peer.subnet
            note(nil, for: key)
            return peer
        }
    }

    private mutating func note(_ reason: String?, for key: String) {
        guard reasons[key] != reason else { return }
        reasons[key] = reason
        changedReasons.insert(key)
    }
}

extension LeaseRegister.Record {
    /// The peer that the entry describes, or why it describes none; nil where it names this node, which has no lease
    /// yet and is about to take it over.
    fileprivate func peer(in context: PeerIndex.Context) -> Result<Peer?, LeaseValueError> {
        peer(in: context.configuration).flatMap { peer in
            if let ownSubnet = context.ownSubnet, peer.subnet.overlaps(ownSubnet) {
                return .failure(LeaseValueError("it overlaps this node's own subnet, \(ownSubnet)"))
            }
            if peer.endpoint.port == context.ownEndpoint.port,
                peer.endpoint.address == context.ownEndpoint.address
                    || peer.endpoint.address.v4.map(context.ownAddresses.contains) == true
            {
                if context.ownKey == nil { return .success(nil) }
                return .failure(LeaseValueError("it announces this node's own address, \(peer.endpoint)"))
            }
            return .success(peer)
        }
    }

    /// The peer that the entry describes to every node, or why it describes none.
    func peer(in configuration: NetworkConfiguration) -> Result<Peer, LeaseValueError> {
        guard var subnet else {
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
        if let ipv6 = configuration.ipv6, let prefix = subnet.ipv6 {
            guard ipv6.network.overlaps(prefix), prefix.length >= ipv6.network.length else {
                return .failure(LeaseValueError("\(prefix) lies outside IPv6Network, \(ipv6.network)"))
            }
            guard prefix.length == ipv6.subnetLength else {
                return .failure(
                    LeaseValueError(
                        "\(prefix) is a /\(prefix.length), and the network's IPv6SubnetLen is \(ipv6.subnetLength)"
                    ))
            }
        } else {
            // A network without IPv6 carries none, whatever a key of before says: the node is reached by IPv4.
            subnet.ipv6 = nil
        }
        return value.flatMap { value in
            let endpoint = Endpoint(
                address: value.publicAddress, port: value.port ?? configuration.backend.port)
            if configuration.network.contains(value.publicAddress) {
                return .failure(
                    LeaseValueError(
                        "PublicIP is \(endpoint.address), which lies inside Network, \(configuration.network):"
                            + " packets to it would go round in the tunnel"))
            }
            // Two backends write no type, udp and alloc: what a lease says is all that they are told apart by.
            guard value.backendType == type(of: configuration.backend).announcedType else {
                return .failure(
                    LeaseValueError(
                        "its backend is \(value.backendName), and this network's is "
                            + "\(type(of: configuration.backend).typeName)"))
            }
            if let refusal = configuration.backend.refusal(of: value.announced) {
                return .failure(LeaseValueError(refusal))
            }
            var peer = Peer(
                subnet: subnet, endpoint: endpoint,
                isTwill: entry.holder != nil || value.announced?.value is UDPData || isReservation)
            peer.announced = value.announced
            peer.name = value.hostName
            return .success(peer)
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
