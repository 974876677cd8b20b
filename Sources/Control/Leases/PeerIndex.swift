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
        var ownAddresses: [IPAddress] = []
        /// The network's port of before, while nodes change over to another one.
        var formerPort: FormerPort?
    }

    /// The port that the network had before its configuration changed. Each node hears of that by itself and receives on both
    /// ports for a while, so that the former one is the one that every node is sure to have.
    struct FormerPort: Equatable {
        var port: UInt16
        /// Until when it is sent to.
        var end: ContinuousClock.Instant
        /// The entries of then, by key. A node that has written another one since was started after the change, or has
        /// seen it.
        var versions: [String: StoreVersion]

        /// One change is one port and one end: what was known then needs no comparing.
        static func == (left: FormerPort, right: FormerPort) -> Bool {
            left.port == right.port && left.end == right.end
        }
    }

    /// Ordered by subnet.
    private(set) var peers: [Peer] = []
    /// Why an entry is no peer, or not of all families of the network, by key.
    private(set) var reasons: [String: String] = [:]
    /// The keys whose reasons are others than when they were last taken.
    private var changedReasons: Set<String> = []
    private var context: Context?
    private var subnets: [String: LeaseSubnet] = [:]
    private var holders: [IPPrefix: String] = [:]
    // Entries that overlap a peer, by the prefix of it that keeps them out, and the other way round.
    private var waiting: [IPPrefix: Set<String>] = [:]
    private var waitingFor: [String: IPPrefix] = [:]

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
        let halves = subnet.prefixes
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
            let halves = peer.subnet.prefixes
            if let half = halves.first(where: { holders[$0] != nil }), let other = holders[half] {
                waiting[half, default: []].insert(key)
                waitingFor[key] = half
                note("it overlaps \(other), which is in use".printable, for: key)
                return nil
            }
            for half in halves { holders[half] = key }
            subnets[key] = peer.subnet
            note(record.lackOfFamily(of: peer, in: context.configuration), for: key)
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
                    || context.ownAddresses.contains(peer.endpoint.address)
            {
                if context.ownKey == nil { return .success(nil) }
                return .failure(LeaseValueError("it announces this node's own address, \(peer.endpoint)"))
            }
            var peer = peer
            if let former = context.formerPort, former.versions[entry.key] == entry.version,
                peer.announced?.value.port == nil
            {
                peer.endpoint.port = former.port
            }
            return .success(peer)
        }
    }

    /// The peer that the entry describes to every node, or why it describes none.
    func peer(in configuration: NetworkConfiguration) -> Result<Peer, LeaseValueError> {
        Result { () throws(LeaseValueError) in
            let subnet = try usedSubnet(in: configuration)
            let value = try value.get()
            let family = configuration.underlayFamily
            guard let endpoint = value.endpoint(family, defaultPort: configuration.backend.port) else {
                throw LeaseValueError(
                    family == .ipv4
                        ? "it has no PublicIP that this node can send to"
                        : "it has no PublicIPv6, and this network is of IPv6 alone")
            }
            if let network = configuration.networks.first(where: { $0.contains(endpoint.address) }) {
                throw LeaseValueError(
                    "\(family == .ipv4 ? "PublicIP" : "PublicIPv6") is \(endpoint.address), which lies inside "
                        + "\(family == .ipv4 ? "Network" : "IPv6Network"), \(network): packets to it would go round in the tunnel"
                )
            }
            // Two backends write no type, udp and alloc: what a lease says is all that they are told apart by.
            guard value.backendType == type(of: configuration.backend).announcedType else {
                throw LeaseValueError(
                    "its backend is \(value.backendName), and this network's is "
                        + "\(type(of: configuration.backend).typeName)")
            }
            let hasOwnIPv6 = type(of: configuration.backend).hasEndpointOfEachFamily
            let announced = hasOwnIPv6 && family == .ipv6 ? value.announcedIPv6 : value.announced
            if let refusal = configuration.backend.refusal(of: announced) { throw LeaseValueError(refusal) }
            var peer = Peer(
                subnet: subnet, endpoint: endpoint,
                isTwill: entry.holder != nil || value.announced?.value is UDPData || isReservation)
            peer.announced = value.announced
            peer.name = value.hostName
            if hasOwnIPv6, subnet.ipv6 != nil, ipv6Refusal(value, in: configuration) == nil {
                peer.ipv6Address = value.publicIPv6Address
                peer.announcedIPv6 = value.announcedIPv6
            }
            return peer
        }
    }

    /// What of the key's subnet the network uses.
    ///
    /// - Throws: why none of it.
    private func usedSubnet(in configuration: NetworkConfiguration) throws(LeaseValueError) -> LeaseSubnet {
        guard let subnet else { throw LeaseValueError("the key is no subnet such as 10.66.28.0-24") }
        // A family that the network has not, or no longer, is left out, whatever a key of before says.
        var (ipv4, ipv6) = (subnet.ipv4, subnet.ipv6)
        if configuration.ipv4 == nil { ipv4 = nil }
        if configuration.ipv6 == nil { ipv6 = nil }
        guard let used = LeaseSubnet(ipv4: ipv4, ipv6: ipv6),
            used.prefix(configuration.underlayFamily) != nil
        else {
            throw LeaseValueError(
                "it has no \(configuration.underlayFamily) subnet, and this network is of "
                    + "\(configuration.underlayFamily)")
        }
        // Peers of one length overlap only by being equal, which is why `PeerIndex` need not search.
        if let side = configuration.ipv4, let ipv4 {
            guard side.network.contains(ipv4) else {
                throw LeaseValueError("it lies outside Network, \(side.network)")
            }
            guard ipv4.length == side.subnetLength else {
                throw LeaseValueError(
                    "it is a /\(ipv4.length), and the network's SubnetLen is \(side.subnetLength)")
            }
        }
        if let side = configuration.ipv6, let ipv6 {
            guard side.network.contains(ipv6) else {
                throw LeaseValueError("\(ipv6) lies outside IPv6Network, \(side.network)")
            }
            guard ipv6.length == side.subnetLength else {
                throw LeaseValueError(
                    "\(ipv6) is a /\(ipv6.length), and the network's IPv6SubnetLen is \(side.subnetLength)")
            }
        }
        return used
    }

    /// Why a node's pods are not reached by IPv6, where the backend has an address of its own for that; nil where they
    /// are.
    private func ipv6Refusal(_ value: LeaseValue, in configuration: NetworkConfiguration) -> String? {
        guard let address = value.publicIPv6Address else { return "it announces no PublicIPv6" }
        if configuration.contains(.v6(address)) {
            return "its PublicIPv6, \(address), lies inside the network"
        }
        return configuration.backend.refusal(of: value.announcedIPv6)
    }

    /// What a peer lacks of a network of both families, as a sentence; nil for nothing.
    func lackOfFamily(of peer: Peer, in configuration: NetworkConfiguration) -> String? {
        guard configuration.ipv4 != nil, configuration.ipv6 != nil else { return nil }
        guard peer.subnet.ipv6 != nil else {
            return "it has no IPv6 subnet, so its pods are reached by IPv4 alone"
        }
        guard type(of: configuration.backend).hasEndpointOfEachFamily, peer.ipv6Address == nil,
            case .success(let value) = value, let reason = ipv6Refusal(value, in: configuration)
        else { return nil }
        return "its pods are reached by IPv4 alone: \(reason)"
    }
}
