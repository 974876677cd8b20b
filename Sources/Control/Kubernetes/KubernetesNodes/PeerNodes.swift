internal import Addresses
internal import Backends
import Health
internal import JSON
internal import Leases

/// The other nodes of a cluster, by name, and which of them are peers.
struct PeerNodes {
    /// What a node is judged by.
    struct Context: Equatable {
        var configuration: NetworkConfiguration
        var ownSubnet: LeaseSubnet?
        /// Where this node is reached, and its port: another node that announces one of them cannot be sent to.
        var ownAddresses: [IPAddress] = []
        var ownPort: UInt16 = 0
    }

    /// What a node is to this one.
    private enum Verdict: Equatable {
        /// None of the network's, or none yet.
        case stranger
        case peer(Peer)
        /// Its annotations are gone or say nothing any longer; the reason.
        case lastKnown(Peer, reason: String)
        case skipped(String)
    }

    /// Why a node cannot be sent to.
    private struct Refusal: Error {
        var reason: String
        /// Whether the node may be meant to be as it was before: somebody took its annotations away, or broke them.
        var mayBeDamage: Bool

        init(_ reason: String, mayBeDamage: Bool = false) {
            self.reason = reason
            self.mayBeDamage = mayBeDamage
        }
    }

    /// All nodes but this one, as they were last seen.
    private(set) var records: [String: NodeRecord] = [:]
    /// The peers, ordered by subnet.
    private(set) var peers: [Peer] = []
    /// Why nodes are no peers, by name.
    private(set) var skipped: [String: String] = [:]
    /// Peers that are sent to though their annotations are gone, with the reason, by name.
    private(set) var lastKnown: [String: String] = [:]
    /// Nodes that announce one endpoint, ordered by name.
    private(set) var shared: [Endpoint: [String]] = [:]

    private let backends: BackendRegistry
    private var context: Context?
    private var verdicts: [String: Verdict] = [:]
    /// The record of each node that last said well where to send to.
    private var good: [String: NodeRecord] = [:]
    private var inUse: Set<String> = []
    private var isStale = false

    init(backends: BackendRegistry) { self.backends = backends }

    /// What to keep of the nodes for the next start, ordered by name.
    var worthKeeping: [NodeRecord] {
        records.values.filter { $0.annotations.isManaged == "true" || good[$0.name] != nil }
            .map { good[$0.name] ?? $0 }.sorted { $0.name < $1.name }
    }

    /// Remembers how nodes were in an earlier run.
    mutating func remember(_ kept: [NodeRecord]) {
        for record in kept where good[record.name] == nil { good[record.name] = record }
    }

    /// Takes a node over.
    ///
    /// - Returns: whether anything that counts is another than before.
    mutating func put(_ record: NodeRecord) -> Bool {
        let before = records.updateValue(record, forKey: record.name)
        if let before, before.isSame(as: record) { return false }
        if let context { judge(record, in: context) }
        isStale = true
        return true
    }

    /// Forgets a node, whatever it said.
    ///
    /// - Returns: whether it was known.
    mutating func remove(_ name: String) -> Bool {
        good[name] = nil
        guard records.removeValue(forKey: name) != nil else { return false }
        verdicts[name] = nil
        isStale = true
        return true
    }

    /// Takes a list over: it is the whole truth.
    ///
    /// - Returns: whether anything that counts is another than before.
    mutating func replaceAll(with nodes: [NodeRecord]) -> Bool {
        var hasChanged = false
        let names = Set(nodes.map(\.name))
        for name in records.keys where !names.contains(name) { hasChanged = remove(name) || hasChanged }
        for name in good.keys where !names.contains(name) { good[name] = nil }
        for node in nodes { hasChanged = put(node) || hasChanged }
        return hasChanged
    }

    /// Whether another node has addresses of this subnet.
    func hasNode(overlapping subnet: LeaseSubnet) -> Bool {
        records.values.contains { record in
            LeaseSubnet(ipv4: record.ipv4, ipv6: record.ipv6)?.overlaps(subnet) ?? false
        }
    }

    /// Brings peers and reasons up to date.
    mutating func settle(in context: Context) {
        if context != self.context {
            self.context = context
            for record in records.values { judge(record, in: context) }
            isStale = true
        }
        guard isStale else { return }
        isStale = false
        assemble()
    }

    // MARK: One node

    private mutating func judge(_ record: NodeRecord, in context: Context) {
        verdicts[record.name] = verdict(on: record, in: context)
    }

    private mutating func verdict(on record: NodeRecord, in context: Context) -> Verdict {
        do throws(Refusal) {
            let peer = try peer(record, in: context)
            good[record.name] = record
            return .peer(peer)
        } catch {
            guard error.mayBeDamage else {
                good[record.name] = nil
                return .skipped(error.reason)
            }
            if let before = good[record.name], before.uid == record.uid, before.ipv4 == record.ipv4,
                before.ipv6 == record.ipv6,
                let peer = try? peer(before, in: context)
            {
                return .lastKnown(peer, reason: error.reason)
            }
            good[record.name] = nil
            return record.annotations.isManaged == "true" ? .skipped(error.reason) : .stranger
        }
    }

    private func peer(_ record: NodeRecord, in context: Context) throws(Refusal) -> Peer {
        let annotations = record.annotations
        let configuration = context.configuration
        guard annotations.isManaged == "true" else {
            throw Refusal("its annotation kube-subnet-manager is gone", mayBeDamage: true)
        }
        let backend = try announcedBackend(of: annotations, in: configuration)
        let family = configuration.underlayFamily
        let address = try address(family, of: annotations, in: configuration)
        let subnet = try subnet(of: record, in: configuration)
        if let own = context.ownSubnet, subnet.overlaps(own) {
            throw Refusal("its podCIDR, \(subnet), overlaps this node's own subnet, \(own)")
        }
        let data = try data(family, of: annotations, by: backend)
        if let refusal = configuration.backend.refusal(of: data.announced) {
            throw Refusal(refusal, mayBeDamage: true)
        }
        let endpoint = Endpoint(
            address: address, port: data.announced?.value.port ?? configuration.backend.port)
        if endpoint.port == context.ownPort, context.ownAddresses.contains(address) {
            throw Refusal("it announces this node's own address, \(endpoint)")
        }
        var peer = Peer(subnet: subnet, endpoint: endpoint, isTwill: data.isTwills)
        peer.name = record.name.printable
        if family == .ipv4 { peer.announced = data.announced }
        if backend.hasEndpointOfEachFamily, subnet.ipv6 != nil {
            // Whoever has no IPv6 address is reached by IPv4 all the same.
            let ipv6 = try? self.data(.ipv6, of: annotations, by: backend)
            if let ipv6, configuration.backend.refusal(of: ipv6.announced) == nil {
                peer.ipv6Address = (try? self.address(.ipv6, of: annotations, in: configuration))?.v6
                peer.announcedIPv6 = ipv6.announced
            }
        }
        return peer
    }

    /// The address of a family that a node announces.
    private func address(
        _ family: AddressFamily, of annotations: NodeAnnotations, in configuration: NetworkConfiguration
    ) throws(Refusal) -> IPAddress {
        let field = family == .ipv4 ? NodeAnnotations.Field.publicIP : .publicIPv6
        let name = field.rawValue
        guard let text = annotations[field] else {
            throw Refusal("it has no annotation \(name)", mayBeDamage: true)
        }
        guard let address = IPAddress(text), address.addressFamily == family else {
            throw Refusal(
                "its \(name) is \"\(text.prefix(60))\", which is no \(family) address", mayBeDamage: true)
        }
        guard address.isReachable else {
            throw Refusal("its \(name) is \(address), which no other node can send to", mayBeDamage: true)
        }
        if let network = configuration.networks.first(where: { $0.contains(address) }) {
            throw Refusal(
                "its \(name) is \(address), which lies inside Network, \(network): packets to it"
                    + " would go round in the tunnel", mayBeDamage: true)
        }
        return address
    }

    /// What a node announces for its backend and one family.
    ///
    /// - Returns: also whether twilld wrote it: flanneld's udp and host-gw write null, twilld an object.
    private func data(
        _ family: AddressFamily, of annotations: NodeAnnotations, by backend: any Backend.Type
    ) throws(Refusal) -> (announced: BackendAnnouncement?, isTwills: Bool) {
        let field = family == .ipv4 ? NodeAnnotations.Field.backendData : .backendV6Data
        let value = annotations[field].map { JSONValue(parsing: $0) }
        if value == .some(nil) { throw Refusal("its \(field.rawValue) is no JSON", mayBeDamage: true) }
        do throws(BackendError) {
            let data = try backend.data(reading: value ?? nil)
            var isTwills = false
            if case .object?? = value { isTwills = true }
            return (data.map { BackendAnnouncement($0) }, isTwills)
        } catch {
            throw Refusal("in its \(field.rawValue) \(error)", mayBeDamage: true)
        }
    }

    private func announcedBackend(
        of annotations: NodeAnnotations, in configuration: NetworkConfiguration
    ) throws(Refusal) -> any Backend.Type {
        let name = type(of: configuration.backend).typeName
        let announced = annotations.backendType ?? ""
        let backend = try? backends.announced(by: .string(announced))
        guard let backend, backend.announcedType == type(of: configuration.backend).announcedType else {
            throw Refusal("its backend is \(announced.prefix(60)), and this network's is \(name)")
        }
        return backend
    }

    private func subnet(
        of record: NodeRecord, in configuration: NetworkConfiguration
    ) throws(Refusal) -> LeaseSubnet {
        let family = configuration.underlayFamily
        guard let prefix = record.prefix(family) else {
            let given = record.podCIDRs.first.map { "its podCIDR is \"\($0.prefix(60))\"" }
            throw Refusal("\(given ?? "it has no podCIDR"), and an \(family) prefix is needed")
        }
        guard let subnet = record.subnet(in: configuration), subnet.prefix(family) != nil else {
            throw Refusal("its podCIDR, \(prefix), lies outside Network, \(configuration.networkText)")
        }
        return subnet
    }

    // MARK: All nodes

    private struct Candidate {
        var name: String
        var peer: Peer
        /// Those in use come before newcomers, and those that say where they are before those that said it once.
        var rank: Int
    }

    private mutating func assemble() {
        skipped = [:]
        lastKnown = [:]
        var candidates: [Candidate] = []
        for (name, verdict) in verdicts {
            switch verdict {
            case .stranger: break
            case .skipped(let reason): skipped[name] = reason
            case .peer(let peer):
                candidates.append(Candidate(name: name, peer: peer, rank: inUse.contains(name) ? 0 : 1))
            case .lastKnown(let peer, let reason):
                candidates.append(Candidate(name: name, peer: peer, rank: 2))
                lastKnown[name] = reason
            }
        }
        candidates.sort { ($0.peer.subnet, $0.name) < ($1.peer.subnet, $1.name) }
        let overlap = zip(candidates, candidates.dropFirst()).contains {
            $0.peer.subnet.overlaps($1.peer.subnet)
        }
        if overlap { candidates = disjoint(candidates) }
        peers = candidates.map(\.peer)
        inUse = Set(candidates.map(\.name))
        var names: [Endpoint: [String]] = [:]
        for candidate in candidates { names[candidate.peer.endpoint, default: []].append(candidate.name) }
        shared = names.filter { $0.value.count > 1 }.mapValues { $0.sorted() }
    }

    /// The candidates without those that overlap a better one, ordered as before.
    private mutating func disjoint(_ candidates: [Candidate]) -> [Candidate] {
        var chosen: [Candidate] = []
        for candidate in candidates.sorted(by: { ($0.rank, $0.name) < ($1.rank, $1.name) }) {
            if let other = chosen.first(where: { $0.peer.subnet.overlaps(candidate.peer.subnet) }) {
                skipped[candidate.name] =
                    "its podCIDR, \(candidate.peer.subnet), overlaps that of \(other.name), which is in use"
                lastKnown[candidate.name] = nil
            } else {
                chosen.append(candidate)
            }
        }
        return chosen.sorted { ($0.peer.subnet, $0.name) < ($1.peer.subnet, $1.name) }
    }
}
