import Addresses
import Health

/// What was carried to and from a peer since the data plane was started.
public struct PathTraffic: Sendable, Hashable {
    /// Inner bytes sent to it.
    public var sentBytes: UInt64
    /// Inner packets received from it and let in.
    public var receivedPackets: UInt64

    /// Makes a traffic.
    public init(sentBytes: UInt64, receivedPackets: UInt64) {
        self.sentBytes = sentBytes
        self.receivedPackets = receivedPackets
    }
}

/// The paths to all peers: which are looked at when, and what is known of each. No socket and no clock in it.
///
/// Only a path that packets go to is probed, and again only after more went there than the answers to another node's
/// probes make: an idle network stays silent. At most `concurrentSearches` paths are looked at beside each other,
/// each with one probe in 20 ms: 400 a second at worst, when very many paths change at once.
struct PathWatch {
    /// Searches beside each other.
    static let concurrentSearches = 8
    /// Bytes to a peer since its path was looked at last that make it worth looking again: three full packets, and
    /// seven times what an answer to a probe is, so that two idle nodes do not keep each other busy.
    static let notableBytes: UInt64 = 4096
    /// How often a peer that does not answer is asked again while packets go to it.
    static let unreachablePause = Duration.seconds(30)
    /// A peer that nothing was sent to for so long alarms nobody.
    static let idleAfter = Duration.seconds(300)
    /// Problems told one by one; of more, how many.
    static let problemLimit = 16

    private struct Peer {
        let address: IPAddress
        var search: PathSearch
        /// What the kernel's route and interface limit datagrams to; nil while not asked.
        var route: PathLimit?
        /// What an ICMP error told of the path, and what of that was looked at.
        var learnt: Int?
        var judged: Int?
        var traffic: PathTraffic?
        /// Bytes of probes that the traffic does not show yet.
        var probeBytes: UInt64 = 0
        var uncheckedBytes: UInt64 = 0
        var lastSent: ContinuousClock.Instant?
        /// Since when packets go to it and none comes from it.
        var unheardSince: ContinuousClock.Instant?
        var lastCheck: ContinuousClock.Instant?
        /// When it answered no probe of any size.
        var unanswered: ContinuousClock.Instant?
        var raise: ContinuousClock.Instant?
        /// Answers no probe although it is heard: its path cannot be probed.
        var isSilent = false
        var isUnreachable = false
        /// When its host said last that nobody listens on the peer's port.
        var refused: ContinuousClock.Instant?
        var isRefused: Bool { isUnreachable && refused != nil }
        /// Checks in a row in which nothing came back.
        var unansweredChecks = 0
    }

    let timing: PathTiming
    /// Whether probes are sent at all; without, what ICMP errors tell is believed within `PathSizes.leastBelieved`.
    let probes: Bool
    private var peers: [IPPrefix: Peer] = [:]
    private var subnets: [IPAddress: IPPrefix] = [:]
    private var subnetsByAddress: [IPAddress: [IPPrefix]] = [:]
    private var tunnelMTU = 0
    /// The least that inner packets ask for.
    private var minimum = TunnelMTU.minimum
    /// The bytes that the outer headers of a packet take.
    private var overhead = 0
    private var queue: [IPPrefix] = []
    private var queued: Set<IPPrefix> = []
    private var active: [IPPrefix] = []
    /// Peers that are looked at without traffic: narrow ones, and those that do not answer.
    private var watched: Set<IPPrefix> = []
    /// How many peers packets go to and none comes from.
    private var unheardCount = 0
    private var isChanged = false
    /// Narrow paths that the process before had found, inner sizes; each until its peer is followed.
    private var inherited: [IPPrefix: Int]

    /// - Parameter inherited: narrow paths that the process before had found: inner sizes by subnet. They are looked at
    ///   again at once.
    init(timing: PathTiming, probes: Bool, inherited: [IPPrefix: Int] = [:]) {
        self.timing = timing
        self.probes = probes
        self.inherited = inherited
    }

    /// The distinct addresses of the peers.
    var addresses: [IPAddress] { subnetsByAddress.keys.sorted() }

    /// Whether something is known now that was not when this was asked last.
    mutating func takeChange() -> Bool {
        defer { isChanged = false }
        return isChanged
    }

    // MARK: What is told

    /// Follows these peers, given as each one's underlay address by its subnet.
    ///
    /// - Parameters:
    ///   - tunnelMTU: the largest inner packet in bytes.
    ///   - minimum: the least that inner packets ask for.
    ///   - overhead: the bytes that the outer headers of a packet take.
    mutating func follow(
        _ addresses: [IPPrefix: IPAddress], tunnelMTU: Int, minimum: Int = TunnelMTU.minimum, overhead: Int
    ) {
        self.minimum = minimum
        self.overhead = overhead
        self.tunnelMTU = tunnelMTU
        isChanged = true
        var kept: [IPPrefix: Peer] = [:]
        kept.reserveCapacity(addresses.count)
        subnets = [:]
        subnetsByAddress = [:]
        for (subnet, address) in addresses {
            let found = inherited.removeValue(forKey: subnet)
            var peer =
                peers[subnet].flatMap { $0.address == address ? $0 : nil }
                ?? Peer(
                    address: address,
                    search: PathSearch(
                        fullSize: tunnelMTU, overhead: overhead,
                        smallest: PathSizes.smallest(subnet.addressFamily), timing: timing, found: found),
                    raise: found == nil ? nil : .now)
            if found != nil { watched.insert(subnet) }
            peer.search.change(fullSize: fullSize(peer.route))
            kept[subnet] = peer
            subnets[subnet.address] = subnet
            subnetsByAddress[address, default: []].append(subnet)
        }
        peers = kept
        unheardCount = kept.values.count { $0.unheardSince != nil }
        active.removeAll { kept[$0]?.search.isBusy != true }
        queue.removeAll { kept[$0] == nil }
        queued = Set(queue)
        watched = watched.filter { kept[$0] != nil }
    }

    /// The largest inner packet that this machine itself lets go to a peer.
    private func fullSize(_ limit: PathLimit?) -> Int {
        limit.map { max(min(tunnelMTU, $0.mtu - overhead), PathSizes.leastOfRoute) } ?? tunnelMTU
    }

    /// Takes what the kernel says of the way to an address.
    mutating func take(
        _ limit: PathLimit?, learnt: Int?, of address: IPAddress, at now: ContinuousClock.Instant
    ) {
        for subnet in subnetsByAddress[address] ?? [] {
            guard var peer = peers[subnet] else { continue }
            if let limit, limit != peer.route {
                let isAnotherWay = peer.route != nil
                peer.route = limit
                peer.search.change(fullSize: fullSize(limit))
                if !peer.search.isBusy { active.removeAll { $0 == subnet } }
                isChanged = true
                if isAnotherWay {
                    if case .narrow = peer.search.finding { peer.raise = now }
                    peer.uncheckedBytes = max(peer.uncheckedBytes, PathWatch.notableBytes)
                    peer.lastCheck = nil
                }
            }
            if peer.learnt != learnt {
                peer.learnt = learnt
                if learnt == nil { peer.judged = nil }
            }
            let isNews =
                learnt.map { $0 - overhead < peer.search.size && $0 != peer.judged } ?? false
            keep(peer, of: subnet)
            // Somebody says that the path is narrower: it is looked at, at most as often as an unheard peer is.
            if isNews, peer.lastCheck.map({ $0 + timing.unheardLimit <= now }) ?? true { enqueue(subnet) }
        }
    }

    /// Takes what was carried: of those peers at least where it is not what it was.
    mutating func take(_ traffic: [IPPrefix: PathTraffic], at now: ContinuousClock.Instant) {
        for (subnet, news) in traffic {
            guard var peer = peers[subnet] else { continue }
            let wanted = note(news, of: &peer, at: now)
            keep(peer, of: subnet)
            if wanted { enqueue(subnet) }
        }
        for subnet in watched {
            guard var peer = peers[subnet] else { continue }
            if peer.isUnreachable, peer.lastSent.map({ $0 + PathWatch.idleAfter <= now }) ?? true {
                peer.isUnreachable = false
                keep(peer, of: subnet)
            } else if let refused = peer.refused, refused + PathWatch.idleAfter <= now {
                peer.refused = nil
                keep(peer, of: subnet)
            }
            if let raise = peer.raise, raise <= now { enqueue(subnet) }
        }
    }

    /// Notes what was carried to and from one peer, and says whether its path is to be looked at.
    private func note(_ news: PathTraffic, of peer: inout Peer, at now: ContinuousClock.Instant)
        -> Bool
    {
        let before = peer.traffic ?? PathTraffic(sentBytes: 0, receivedPackets: 0)
        peer.traffic = news
        // Counters begin at zero with each data plane.
        let all = news.sentBytes >= before.sentBytes ? news.sentBytes - before.sentBytes : news.sentBytes
        let own = min(all, peer.probeBytes)
        // What was not counted some seconds after the last probe never will be: the data plane dropped it.
        let isOver = !peer.search.isBusy && peer.lastCheck.map { $0 + timing.unheardLimit <= now } ?? true
        peer.probeBytes = isOver ? 0 : peer.probeBytes - own
        let sent = all - own
        peer.uncheckedBytes &+= sent
        if sent > 0 { peer.lastSent = now }
        if news.receivedPackets != before.receivedPackets {
            peer.unheardSince = nil
            peer.refused = nil
            if peer.isUnreachable {
                peer.isUnreachable = false
                peer.uncheckedBytes = max(peer.uncheckedBytes, PathWatch.notableBytes)
                peer.lastCheck = nil
            }
            if peer.unanswered != nil { peer.isSilent = true }
        } else if sent > 0, peer.unheardSince == nil {
            peer.unheardSince = now
        }
        guard sent > 0 || peer.uncheckedBytes >= PathWatch.notableBytes else { return false }
        if let since = peer.unheardSince, sent > 0, since + timing.unheardLimit <= now {
            if !peer.isUnreachable, let unanswered = peer.unanswered, unanswered >= since {
                peer.isUnreachable = true
                return false
            }
            let pause = peer.isUnreachable ? PathWatch.unreachablePause : timing.unheardLimit
            if peer.lastCheck.map({ $0 + pause <= now }) ?? true { return true }
        }
        guard peer.uncheckedBytes >= PathWatch.notableBytes else { return false }
        let pause = peer.unansweredChecks > 1 ? timing.raiseInterval : timing.confirmInterval
        return peer.lastCheck.map { $0 + pause <= now } ?? true
    }

    /// Takes the answer to a probe, from a peer's tunnel address.
    mutating func takeAnswer(from address: IPAddress, sequence: Int, at now: ContinuousClock.Instant) {
        guard let subnet = subnets[address], var peer = peers[subnet] else { return }
        peer.search.answered(sequence: sequence, at: now)
        keep(peer, of: subnet)
    }

    /// Whether packets go to some peer and none comes from it: what its host says is worth hearing then.
    var isAnybodyUnheard: Bool { unheardCount > 0 }

    /// Takes it that a peer's host said that nobody listens on the peer's port. Of one that is heard nobody believes it.
    mutating func takeRefusal(of subnet: IPPrefix, at now: ContinuousClock.Instant) {
        guard var peer = peers[subnet], peer.unheardSince != nil else { return }
        peer.refused = now
        keep(peer, of: subnet)
    }

    /// Keeps what is known of a peer now, and notes whether that is news.
    private mutating func keep(_ peer: Peer, of subnet: IPPrefix) {
        if let before = peers[subnet] {
            unheardCount += (peer.unheardSince == nil ? 0 : 1) - (before.unheardSince == nil ? 0 : 1)
            isChanged =
                isChanged || size(of: before) != size(of: peer) || before.isUnreachable != peer.isUnreachable
                || before.isRefused != peer.isRefused
                || (before.raise == nil) != (peer.raise == nil)
        }
        peers[subnet] = peer
        if peer.isUnreachable || peer.raise != nil { watched.insert(subnet) } else { watched.remove(subnet) }
    }

    private mutating func enqueue(_ subnet: IPPrefix) {
        guard probes, peers[subnet]?.search.isBusy == false, queued.insert(subnet).inserted else { return }
        queue.append(subnet)
    }

    // MARK: Probing

    /// Does what is due, and gives when to come back; nil where nothing is looked at.
    ///
    /// - Parameter send: sends an inner packet of that size to a tunnel address, and gives whether it could.
    mutating func turn(
        at now: ContinuousClock.Instant, send: (IPAddress, _ sequence: Int, _ size: Int) -> Bool
    ) -> ContinuousClock.Instant? {
        let free = PathWatch.concurrentSearches - active.count
        if free > 0, !queue.isEmpty {
            for subnet in queue.prefix(free) { begin(subnet, at: now) }
            queue.removeFirst(min(free, queue.count))
        }
        var next: ContinuousClock.Instant?
        for subnet in active {
            guard var peer = peers[subnet] else { continue }
            let time = advance(&peer, subnet, at: now, send: send)
            keep(peer, of: subnet)
            if let time { next = min(next ?? time, time) }
        }
        active.removeAll { peers[$0]?.search.isBusy != true }
        return queue.isEmpty ? next : min(next ?? now, now)
    }

    private mutating func begin(_ subnet: IPPrefix, at now: ContinuousClock.Instant) {
        queued.remove(subnet)
        guard let peer = peers[subnet] else { return }
        peers[subnet]?.search.begin(
            raises: peer.raise.map { $0 <= now } ?? false, hint: peer.learnt.map { $0 - overhead })
        active.append(subnet)
    }

    private mutating func advance(
        _ peer: inout Peer, _ subnet: IPPrefix, at now: ContinuousClock.Instant,
        send: (IPAddress, _ sequence: Int, _ size: Int) -> Bool
    ) -> ContinuousClock.Instant? {
        switch peer.search.next(at: now) {
        case .idle:
            return nil
        case .wait(let until):
            return until
        case .send(let sequence, let size):
            if send(subnet.address, sequence, size) {
                peer.probeBytes &+= UInt64(clamping: size)
                return now + timing.spacing
            }
            // The device is down, or its MTU just changed: nothing is known by that.
            peer.search.abandon()
            peer.lastCheck = now
            return nil
        case .ended(let isAnswered):
            conclude(&peer, isAnswered: isAnswered, at: now)
            return nil
        }
    }

    private func conclude(_ peer: inout Peer, isAnswered: Bool, at now: ContinuousClock.Instant) {
        peer.lastCheck = now
        peer.uncheckedBytes = 0
        peer.judged = peer.learnt
        peer.unansweredChecks = isAnswered ? 0 : peer.unansweredChecks + 1
        if isAnswered {
            peer.unanswered = nil
            peer.isSilent = false
            peer.isUnreachable = false
        } else {
            peer.unanswered = now
            if peer.unheardSince == nil { peer.isSilent = true }
        }
        if case .narrow = peer.search.finding {
            peer.raise = now + timing.raiseInterval
        } else {
            peer.raise = nil
        }
    }

    // MARK: What is known

    /// The peers that packets go to and nothing comes back from.
    var silent: [IPPrefix: PeerSilence] {
        peers.compactMapValues { peer in
            guard peer.isUnreachable else { return nil }
            return peer.isRefused ? .refused : .unanswered
        }
    }

    /// The paths that are narrower than the tunnel: the largest inner packet of each.
    var narrow: [IPPrefix: Int] {
        var narrow: [IPPrefix: Int] = [:]
        for (subnet, peer) in peers {
            let size = size(of: peer)
            if size < tunnelMTU { narrow[subnet] = size }
        }
        return narrow
    }

    private func size(of peer: Peer) -> Int {
        let told = believed(of: peer).map { $0 - overhead } ?? .max
        return max(min(fullSize(peer.route), peer.search.size, told), PathSizes.leastOfRoute)
    }

    /// What an ICMP error told and nothing can prove: it is taken, but not for less than paths have.
    private func believed(of peer: Peer) -> Int? {
        guard peer.isSilent || !probes, let learnt = peer.learnt, learnt >= PathSizes.leastBelieved else {
            return nil
        }
        return learnt
    }

    /// What is wrong with the paths, by the peer's subnet.
    ///
    /// - Parameter underlay: the interface and its MTU.
    func problems(underlay: (name: String, mtu: Int)) -> [String: Problem] {
        var found: [(rank: Int, subnet: IPPrefix, problem: Problem)] = []
        for (subnet, peer) in peers {
            if let (rank, problem) = problem(of: peer, subnet, underlay: underlay) {
                found.append((rank, subnet, problem))
            }
        }
        found.sort { ($0.rank, $0.subnet) < ($1.rank, $1.subnet) }
        var problems = Dictionary(
            uniqueKeysWithValues: found.prefix(PathWatch.problemLimit).map { ("\($0.subnet)", $0.problem) })
        let others = found.dropFirst(PathWatch.problemLimit)
        if !others.isEmpty {
            let silent = others.count { $0.rank == 0 }
            problems["others"] = Problem(
                .degraded,
                "of the other peers \(silent) do not answer, and \(others.count - silent) are behind narrow paths",
                remedy: "see the log and the peers in twilld status; look at what they have in common")
        }
        return problems
    }

    private func problem(
        of peer: Peer, _ subnet: IPPrefix, underlay: (name: String, mtu: Int)
    ) -> (rank: Int, Problem)? {
        let name = "\(subnet) (\(peer.address))"
        if peer.isRefused {
            return (
                0,
                Problem(
                    .degraded,
                    "peer \(name) does not answer, and its host says that nobody listens on the UDP port of its lease",
                    remedy:
                        "start that node's daemon; if it runs: see that its port is the network's (Backend.Port, --port) "
                        + "and that no firewall there rejects it; if it is gone for good: twilld lease release \(subnet)"
                )
            )
        }
        if peer.isUnreachable {
            return (
                0,
                Problem(
                    .degraded,
                    "peer \(name) does not answer: packets go to it, and neither one nor an answer to a probe comes back",
                    remedy:
                        "see whether that node and its daemon run, and whether UDP passes between the two nodes; "
                        + "if it is gone for good: twilld lease release \(subnet)"
                )
            )
        }
        let size = size(of: peer)
        let path = size + overhead
        if size < minimum {
            return (
                1,
                Problem(
                    .degraded,
                    "the path to peer \(name) carries packets of \(path) bytes only: the tunnel needs "
                        + "\(minimum + overhead)",
                    remedy: "raise the MTU of the route or link to \(peer.address)")
            )
        }
        // What the operator gave the route or the interface is no news to him.
        guard size < fullSize(peer.route) else { return nil }
        let told = peer.learnt == nil ? ", and no ICMP error says so" : ""
        return (
            2,
            Problem(
                .degraded,
                "the path to peer \(name) carries packets of \(path) bytes, \(underlay.name) takes \(underlay.mtu)\(told)",
                remedy:
                    "pods there are told to send \(size) at most; raise the MTU on the way, or set Backend.MTU to "
                    + "\(size) and restart the pods")
        )
    }
}

/// What this machine itself limits datagrams to a peer to.
struct PathLimit: Sendable, Hashable {
    /// The interface that they leave by.
    var interfaceIndex: Int32
    /// The largest in bytes, headers included: the interface's MTU, or less where the route says so.
    var mtu: Int
}
