import Addresses
import Glibc
import Health
import Netlink
import Reconciler

/// The overlay of one family as its routes are judged.
public struct OverlayTargets: Sendable, Hashable {
    /// The tunnel device's name.
    public var interfaceName: String
    /// The overlay.
    public var network: IPPrefix
    /// This node's subnet.
    public var subnet: IPPrefix
    /// The other nodes' subnets.
    public var peers: Set<IPPrefix>
    /// By which interface and next hop packets may leave for each peer; nil where all of the overlay is routed to the
    /// device itself.
    public var hops: [IPPrefix: [Hop]]?

    /// A way to a peer.
    public struct Hop: Sendable, Hashable {
        /// The interface's name.
        public var interfaceName: String
        /// The next hop.
        public var gateway: IPAddress

        /// Names a way.
        public init(interfaceName: String, gateway: IPAddress) {
            self.interfaceName = interfaceName
            self.gateway = gateway
        }
    }

    /// Of what family all of it is.
    public var family: AddressFamily { network.addressFamily }

    /// Names what is to be judged; all prefixes are of one family.
    public init(interfaceName: String, network: IPPrefix, subnet: IPPrefix, peers: Set<IPPrefix>) {
        self.interfaceName = interfaceName
        self.network = network
        self.subnet = subnet
        self.peers = peers
    }
}

/// Judges the overlay's routes of one family by their effect: asks the kernel where it sends a packet for each peer's
/// subnet, as it comes from a pod and as this machine sends it, and where that is not the tunnel device, says which
/// route or rule takes it. A route that is in its place says little: rules come before it (Tailscale's table 52), more specific
/// routes too.
///
/// The work is bounded: a question costs about 10 µs, and a look asks about `peersPerLook` peers at most, two
/// questions each, so that with ten looks a second all of it takes 5 % of a core, and with 10,000 peers 4 s, after a
/// change that concerns all of them. A change that concerns one peer's subnet asks about that one. Without any
/// change, `peersPerResync` peers are asked about every 5 s, 0.03 % of a core, for what the kernel does not tell of.
struct RouteJudge {
    /// How many peers one look asks about at most.
    static let peersPerLook = 256
    /// How many peers are asked about anew at each resync, where nothing is told to have changed.
    static let peersPerResync = 64
    /// How many narrower routes inside of peers' subnets are kept in mind: of more, those that came last are asked
    /// about no more.
    private static let narrowerLimit = 1024

    /// Who takes packets that belong to the tunnel.
    struct Taker: Hashable {
        /// What tells it from others, in few words: `100.64.0.0/10 dev tailscale0 table 52`.
        var name: String
        /// Where it stands, as the end of a sentence.
        var explanation: String
        /// What to do about it.
        var remedy: String
        /// Whether only what this machine itself sends is concerned, and not what pods send.
        var sparesPods = false
    }

    private(set) var targets: OverlayTargets?
    private var order: [IPPrefix] = []
    private var resyncPosition = 0
    private var doubted: Set<IPPrefix> = []
    private var narrower: [IPPrefix: Set<IPAddress>] = [:]
    private var narrowerCount = 0
    private var taken: [IPPrefix: Taker] = [:]
    private var ownTaker: Taker?
    /// The address by which this node's pods were last seen to be behind an interface.
    private var podAddress: InterfaceAddress?

    /// Whether more is to be asked at once.
    var hasDoubts: Bool { doubtCount > 0 }

    /// How many peers are to be asked about.
    var doubtCount: Int { doubted.count }

    // MARK: What may have changed

    /// Takes new targets; those that were judged before keep their verdict until something changes.
    mutating func set(_ new: OverlayTargets) {
        guard new != targets else { return }
        let old = targets
        targets = new
        order = new.peers.sorted()
        if old?.subnet != new.subnet { podAddress = nil }
        // Where each peer has a route of its own, nothing leads to a subnet that none has.
        if order.isEmpty, new.hops == nil { order = [RouteJudge.sample(of: new)] }
        let all = Set(order)
        taken = taken.filter { all.contains($0.key) }
        narrower = narrower.filter { all.contains($0.key) }
        narrowerCount = narrower.values.reduce(0) { $0 + $1.count }
        let isSame =
            old?.network == new.network && old?.interfaceName == new.interfaceName && old?.hops == new.hops
        doubted = isSame ? doubted.intersection(all).union(all.subtracting(old?.peers ?? [])) : all
    }

    /// Everything may have changed.
    mutating func doubtAll() { doubted = Set(order) }

    /// What took packets may be gone.
    mutating func doubtTaken() { doubted.formUnion(taken.keys.prefix(RouteJudge.peersPerLook)) }

    /// A route to `destination`, of whichever table, is new, changed or gone.
    mutating func doubt(_ destination: IPPrefix) {
        guard let targets, destination.overlaps(targets.network) else { return }
        if destination.length <= targets.network.length { return doubtAll() }
        let first = order.partitioningIndex { $0.last >= destination.address }
        for peer in order[first...] {
            guard peer.overlaps(destination) else { break }
            doubted.insert(peer)
            if destination.length > peer.length { remember(destination.address, in: peer) }
        }
    }

    private mutating func remember(_ address: IPAddress, in peer: IPPrefix) {
        guard narrowerCount < RouteJudge.narrowerLimit,
            narrower[peer, default: []].insert(address).inserted
        else { return }
        narrowerCount += 1
    }

    /// Where there is no peer yet: a subnet that one may get.
    fileprivate static func sample(of targets: OverlayTargets) -> IPPrefix {
        let last = IPPrefix(targets.network.last, length: targets.subnet.length)
        return last == targets.subnet ? IPPrefix(targets.network.address, length: last.length) : last
    }

    // MARK: Asking

    /// Asks about the doubted peers, `peersPerLook` of them at most, and about this node's own subnet.
    mutating func look(in state: NetworkState, using socket: RouteSocket, isResync: Bool) throws {
        // Without the device there is nothing to be right; that is told by whoever makes it.
        guard let targets, let device = state.link(named: targets.interfaceName), device.isUp else { return }
        for route in state.routes {
            // Where each peer has a route of its own, also one by the device may lead elsewhere.
            let isOfDevice = route.interfaceIndexes.contains(device.index)
            if isOfDevice, targets.hops == nil || route.destination.length <= targets.subnet.length {
                continue
            }
            let destination = route.destination
            if destination.length > targets.network.length, targets.network.contains(destination),
                !targets.subnet.contains(destination)
            {
                noteNarrower(destination)
            }
        }
        if isResync { doubtSome() }
        var asking = Question(targets: targets, device: device, state: state, socket: socket)
        for peer in doubted.prefix(RouteJudge.peersPerLook) {
            taken[peer] = try judge(peer, &asking)
            doubted.remove(peer)
        }
        podAddress = asking.podInterfaceAddress ?? podAddress
        ownTaker = try asking.takerOfOwnSubnet() ?? asking.loss(of: podAddress)
    }

    /// Keeps in mind the narrower routes that stand, once each: a verdict on them is asked for when they come.
    private mutating func noteNarrower(_ destination: IPPrefix) {
        let index = order.partitioningIndex { $0.last >= destination.address }
        guard index < order.count, order[index].contains(destination),
            narrower[order[index]]?.contains(destination.address) != true
        else { return }
        doubted.insert(order[index])
        if destination.length > order[index].length { remember(destination.address, in: order[index]) }
    }

    private mutating func doubtSome() {
        doubtTaken()
        guard !order.isEmpty else { return }
        for _ in 0..<min(RouteJudge.peersPerResync, order.count) {
            resyncPosition = (resyncPosition + 1) % order.count
            doubted.insert(order[resyncPosition])
        }
    }

    private mutating func judge(_ peer: IPPrefix, _ asking: inout Question) throws -> Taker? {
        if let taker = try asking.taker(of: RouteJudge.address(in: peer), peer) { return taker }
        for address in narrower[peer] ?? [] {
            if let taker = try asking.taker(of: address, peer) { return taker }
        }
        narrowerCount -= narrower.removeValue(forKey: peer)?.count ?? 0
        return nil
    }

    /// The address that stands for a subnet: the first that a pod gets; the one before it is the bridge's.
    fileprivate static func address(in subnet: IPPrefix, after number: UInt32 = 0) -> IPAddress {
        let isNarrow = subnet.length > subnet.address.bitWidth - 2
        return subnet.address(at: isNarrow ? number : number &+ 2)
    }

    // MARK: What it came to

    /// What is wrong, by the taker's name.
    var problems: [String: Problem] {
        guard let targets else { return [:] }
        var problems: [String: Problem] = [:]
        for (taker, peers) in Dictionary(grouping: taken.keys, by: { taken[$0] }) {
            guard let taker else { continue }
            problems[taker.name] = problem(taker, peers.sorted(), targets)
        }
        if let taker = ownTaker {
            problems["\(targets.subnet): \(taker.name)"] = Problem(
                .cutOff,
                "packets for this node's own pods (\(targets.subnet)) do not reach them: \(taker.explanation)",
                remedy: taker.remedy)
        }
        return problems
    }

    private func problem(_ taker: Taker, _ subnets: [IPPrefix], _ targets: OverlayTargets) -> Problem {
        let sender = taker.sparesPods ? "packets of this machine itself" : "packets"
        if targets.peers.isEmpty {
            return Problem(
                .degraded,
                "\(sender) for other nodes' pods (\(targets.network)) would not reach \(targets.interfaceName): \(taker.explanation)",
                remedy: taker.remedy)
        }
        let isAll = taken.count == targets.peers.count && taken.values.allSatisfy { !$0.sparesPods }
        let names = subnets.prefix(3).map(\.description).joined(separator: ", ")
        let rest = subnets.count > 3 ? " and \(subnets.count - 3) more" : ""
        return Problem(
            isAll ? .cutOff : .degraded,
            """
            \(sender) for \(isAll ? "all peers, " : "")\(names)\(rest) do not reach \(targets.interfaceName): \
            \(taker.explanation)
            """, remedy: taker.remedy)
    }
}

/// The questions of one look, with what they share.
private struct Question {
    let targets: OverlayTargets
    let device: Link
    let state: NetworkState
    let socket: RouteSocket
    /// An address of this node's subnet that is no address of this machine: a pod's.
    private let podAddress: IPAddress?
    /// The interfaces that this node's pods are behind: those other than the tunnel device with a prefix that holds
    /// them.
    let podInterfaces: [Link]
    /// The address by which the first of them is known.
    let podInterfaceAddress: InterfaceAddress?
    private var rules: [RoutingRule]?
    private var rejections: [UInt32: [Route]] = [:]

    init(targets: OverlayTargets, device: Link, state: NetworkState, socket: RouteSocket) {
        self.targets = targets
        self.device = device
        self.state = state
        self.socket = socket
        let podAddress = (0..<8).lazy.map { RouteJudge.address(in: targets.subnet, after: $0) }.first {
            address in
            targets.subnet.contains(address) && !state.addresses.contains { $0.address == address }
        }
        self.podAddress = podAddress
        let addresses = state.addresses.filter { entry in
            guard let podAddress else { return false }
            return targets.subnet.contains(entry.address)
                && IPPrefix(entry.address, length: entry.prefixLength).contains(podAddress)
        }
        let podInterfaces = state.links.filter { link in
            addresses.contains { $0.interfaceIndex == link.index } && link.index != device.index
                && !link.flags.contains(.loopback)
        }
        self.podInterfaces = podInterfaces
        podInterfaceAddress = addresses.first { $0.interfaceIndex == podInterfaces.first?.index }
    }

    /// Who takes packets to an address of a peer's subnet; nil where they go into the tunnel.
    mutating func taker(of address: IPAddress, _ peer: IPPrefix) throws -> RouteJudge.Taker? {
        if let pods = podInterfaces.first(where: \.isUp), let source = podAddress {
            let question = RouteQuestion(to: address, from: source, by: pods.index)
            switch try socket.answer(to: question) {
            case .route(let route):
                if !isGood(route, peer) { return try taker(route, question, pods.name) }
            case .refused:
                // Without a route or rule that refuses it, the kernel's reason is another: forwarding is off, or a
                // source that it does not expect; which is told elsewhere.
                if let taker = try refuser(question, pods.name) { return taker }
            }
        }
        let question = RouteQuestion(to: address)
        var taker: RouteJudge.Taker? =
            switch try socket.answer(to: question) {
            case .route(let route): isGood(route, peer) ? nil : try self.taker(route, question, nil)
            case .refused(let code):
                try refuser(question, nil)
                    ?? RouteJudge.Taker(
                        name: "no route", explanation: "the kernel has no route for them (error \(code))",
                        remedy: "look at: \(program) route get \(address)")
            }
        taker?.sparesPods = !podInterfaces.isEmpty
        return taker
    }

    /// Who takes packets for this node's own pods; nil where they reach the interface that the pods are behind, or
    /// where there is none yet.
    mutating func takerOfOwnSubnet() throws -> RouteJudge.Taker? {
        guard let pods = podInterfaces.first else { return nil }
        guard podInterfaces.contains(where: \.isUp) else {
            return RouteJudge.Taker(
                name: "\(pods.name) down",
                explanation: "interface \(pods.name), which they are behind, is down",
                remedy: "ip link set \(pods.name) up")
        }
        guard let address = podAddress else { return nil }
        // As it comes from another node, out of the tunnel.
        let peer = targets.peers.first ?? RouteJudge.sample(of: targets)
        let question = RouteQuestion(to: address, from: RouteJudge.address(in: peer), by: device.index)
        switch try socket.answer(to: question) {
        case .route(let route):
            return isLocal(route) ? nil : try taker(route, question, device.name)
        case .refused:
            return try refuser(question, device.name)
        }
    }

    /// What keeps packets from this node's own pods where the interface that they were behind is there and has lost its
    /// address: IPv6's go when an interface goes down, and do not come back with it. Nil where it has it, or where there was
    /// never one.
    func loss(of address: InterfaceAddress?) -> RouteJudge.Taker? {
        guard podInterfaces.isEmpty, let address, let link = state.link(index: address.interfaceIndex) else {
            return nil
        }
        let text = "\(address.address)/\(address.prefixLength)"
        return RouteJudge.Taker(
            name: "\(link.name) without \(text)",
            explanation: "interface \(link.name), which they are behind, has lost its address \(text)",
            remedy: (link.isUp ? "" : "ip link set \(link.name) up && ")
                + "ip address add \(text) dev \(link.name)")
    }

    /// Whether a route leads to this node's pods: to the interface that they are behind, or to that of one pod alone.
    private func isLocal(_ route: Route) -> Bool {
        guard route.kind == .unicast, route.gateway == nil else { return false }
        let destination = route.destination
        return route.interfaceIndexes.allSatisfy { index in
            podInterfaces.contains { $0.index == index }
                || destination.length == destination.address.bitWidth && index != device.index
        }
    }

    private func isGood(_ route: Route, _ peer: IPPrefix) -> Bool {
        if let hops = targets.hops {
            // Where a wider route takes them, the peer's own is missing: whoever makes that says why. In another table it is
            // not looked for.
            if route.destination.length < peer.length, route.table == Route.mainTable { return true }
            return route.kind == .unicast
                && hops[peer]?.contains { hop in
                    route.gateway == hop.gateway
                        && route.interfaceIndex.flatMap { state.link(index: $0) }?.name == hop.interfaceName
                } == true
        }
        return route.kind == .unicast && route.gateway == nil && !route.interfaceIndexes.isEmpty
            && route.interfaceIndexes.allSatisfy { $0 == device.index }
    }

    // MARK: Who it is

    private mutating func taker(
        _ route: Route, _ question: RouteQuestion, _ inputInterface: String?
    ) throws -> RouteJudge.Taker {
        let text = state.text(of: route)
        let name = route.text(interfaceName: state.name(ofLink:))
        if route.table != Route.mainTable && route.table != Route.localTable {
            let rule = try fittingRules(question, inputInterface).first {
                $0.table == route.table && $0.action == .table
            }
            return RouteJudge.Taker(
                name: name,
                explanation:
                    "the route \(text) takes them, to which the rule \"\(rule.map { "\($0)" } ?? "of table \(route.table)")\" leads",
                remedy: remedy(before: rule))
        }
        let device = route.interfaceIndexes.first.map(state.name(ofLink:))
        guard let device, route.origin == Route.kernelOrigin else {
            return RouteJudge.Taker(
                name: name, explanation: "the route \(text) takes them",
                remedy: "delete it, and keep what sets it from doing so again: \(program) route del \(name)")
        }
        return RouteJudge.Taker(
            name: name, explanation: "the route \(text) takes them, which an address of \(device) brings",
            remedy:
                "take that address away (ip address show dev \(device)), or delete \(device) if it is a bridge that is left over"
        )
    }

    /// The route or rule that refuses a packet.
    private mutating func refuser(
        _ question: RouteQuestion, _ inputInterface: String?
    ) throws -> RouteJudge.Taker? {
        for rule in try fittingRules(question, inputInterface) {
            if rule.action != .table {
                guard [.blackhole, .unreachable, .prohibit].contains(rule.action) else { continue }
                return RouteJudge.Taker(
                    name: "rule \(rule)", explanation: "the rule \"\(rule)\" refuses them",
                    remedy: remedy(before: rule))
            }
            let route = try rejections(rule.table)
                .filter { $0.destination.contains(question.destination) && $0.typeOfService == 0 }
                .max { ($0.destination.length, $1.metric) < ($1.destination.length, $0.metric) }
            guard let route else { continue }
            let isInMain = rule.table == Route.mainTable || rule.table == Route.localTable
            // IPv6's have the loopback interface.
            let name = route.text(interfaceName: state.name(ofLink:))
            return RouteJudge.Taker(
                name: name,
                explanation: "the route \(state.text(of: route)) refuses them"
                    + (isInMain ? "" : ", to which the rule \"\(rule)\" leads"),
                remedy: isInMain
                    ? "delete it, and keep what sets it from doing so again: \(program) route del \(name)"
                    : remedy(before: rule))
        }
        return nil
    }

    /// How ip(8) is told the family: of a rule it sees it by no address.
    private var program: String { targets.family == .ipv4 ? "ip" : "ip -6" }

    private func remedy(before rule: RoutingRule?) -> String {
        guard let rule, rule.priority > 0 else {
            return "let that table have no route that covers \(targets.network)"
        }
        return
            "let the overlay go before it: \(program) rule add to \(targets.network) lookup main priority \(rule.priority - 1)"
    }

    private mutating func fittingRules(
        _ question: RouteQuestion, _ inputInterface: String?
    ) throws -> [RoutingRule] {
        let all = try rules ?? socket.rules(targets.family)
        rules = all
        return all.filter {
            $0.fits(
                destination: question.destination, source: question.source, inputInterface: inputInterface)
        }
    }

    /// The routes of a table that refuse packets.
    private mutating func rejections(_ table: UInt32) throws -> [Route] {
        if let known = rejections[table] { return known }
        // What a rule of another sort has (l3mdev); the kernel would list all tables.
        if table == 0 { return [] }
        var routes: [Route] = []
        for kind in [Route.Kind.blackhole, .unreachable, .prohibit] {
            routes += try socket.routes(inTable: table, of: kind, targets.family)
        }
        rejections[table] = routes
        return routes
    }
}

extension [IPPrefix] {
    /// The first index from which on `isBeyond` holds, in an array that is sorted by it.
    fileprivate func partitioningIndex(_ isBeyond: (IPPrefix) -> Bool) -> Int {
        var (low, high) = (startIndex, endIndex)
        while low < high {
            let middle = low + (high - low) / 2
            if isBeyond(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
