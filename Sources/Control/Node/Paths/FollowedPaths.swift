import Addresses
import Health
import Netlink
import Reconciler
import Synchronization

/// What is known of the paths to peers that is not as it should be, for whoever asks, from any thread.
public final class KnownPaths: Sendable {
    private let values = Mutex<(narrow: [IPPrefix: Int], silent: [IPPrefix: PeerSilence])>(([:], [:]))

    /// The MTU in bytes of the path to the node of each subnet, the tunnel's headers included, by each of its prefixes;
    /// those that carry the tunnel's full size are not in it.
    public var narrow: [IPPrefix: Int] { values.withLock { $0.narrow } }

    /// The peers that packets go to and nothing comes back from, by the first prefix of each.
    public var silent: [IPPrefix: PeerSilence] { values.withLock { $0.silent } }

    func replace(narrow: [IPPrefix: Int], silent: [IPPrefix: PeerSilence]) {
        values.withLock { $0 = (narrow, silent) }
    }
}

/// A peer whose path is followed.
public struct FollowedPeer: Sendable, Hashable {
    /// What is behind it: the first prefix names it, and is probed.
    public var prefixes: [IPPrefix]
    /// Where it is sent to.
    public var endpoint: Endpoint

    /// Makes a peer.
    public init(prefixes: [IPPrefix], endpoint: Endpoint) {
        self.prefixes = prefixes
        self.endpoint = endpoint
    }
}

/// How a peer is silent that packets go to.
public enum PeerSilence: String, Sendable, Hashable {
    /// Neither a packet nor an answer to a probe comes back.
    case unanswered
    /// Its host says besides that nobody listens on its UDP port (ICMP "port unreachable").
    case refused
}

extension NodeNetwork {
    /// How often answers are looked for while there are probes on their way.
    private static let pauseBetweenTurns = Duration.milliseconds(20)

    /// Follows the paths to the peers: one that carries less than the tunnel's size gets a route of its own through
    /// the tunnel device, for as long as it does. What the kernel's routes and interfaces say counts as it stands;
    /// what ICMP errors say, and what they do not say, is found out by probes.
    ///
    /// - Parameters:
    ///   - peers: the peers; the first prefix of each is of the family of the device's address.
    ///   - tunnel: the device that the peers are reached by; nil for none.
    public func followPaths(to peers: [FollowedPeer], through tunnel: TunnelSettings?) {
        pathTunnel = peers.isEmpty ? nil : tunnel
        pathPeers = [:]
        if pathTunnel != nil {
            for peer in peers { if let first = peer.prefixes.first { pathPeers[first] = peer } }
        }
        pathWatch.follow(
            pathPeers.mapValues(\.endpoint.address), tunnelMTU: tunnel?.mtu ?? 0,
            minimum: TunnelMTU.least(
                for: peers.contains { $0.prefixes.contains { $0.addressFamily == .ipv6 } } ? .ipv6 : .ipv4),
            overhead: tunnel?.overhead ?? 0)
        pathQuestions.follow(pathWatch.addresses)
        if pathProbes?.address != tunnel?.address { pathProbes = nil }
        askKernelAboutPaths(at: .now)
        publishPaths()
        pathKick.yield()
    }

    /// Takes what was carried to and from peers, of those at least where it is not what it was: which paths are
    /// looked at depends on it. To be called every few seconds.
    public func noteTraffic(_ traffic: [IPPrefix: PathTraffic]) {
        let now = ContinuousClock.now
        takeRefusals(at: now)
        pathWatch.take(traffic, at: now)
        publishPaths()
        pathKick.yield()
    }

    /// Asks the kernel anew about the way to every peer: right after a datagram was too large for an interface.
    public func checkPaths() { noteForPaths(isResync: false) }

    /// Takes note that something changed in the kernel, or that time has passed.
    func noteForPaths(isResync: Bool) {
        if isResync { pathQuestions.noteResync() } else { pathQuestions.noteChange() }
        pathKick.yield()
    }

    /// Looks at the paths when there is something to look at, until the task is cancelled.
    func runPaths() async {
        for await _ in pathKicks {
            while !Task.isCancelled, let pause = turnPaths() { try? await Task.sleep(for: pause) }
        }
    }

    /// Does what is due; gives how long to wait before there is more, nil for nothing.
    private func turnPaths() -> Duration? {
        let now = ContinuousClock.now
        askKernelAboutPaths(at: now)
        for answer in pathProbes?.answers() ?? [] {
            pathWatch.takeAnswer(from: answer.peer, sequence: answer.sequence, at: now)
        }
        takeRefusals(at: now)
        let next = pathWatch.turn(at: now) { address, sequence, size in
            guard let source = pathTunnel?.address else { return false }
            if pathProbes == nil { pathProbes = PathProbeSocket(address: source) }
            return pathProbes?.send(to: address, sequence: sequence, size: size) ?? false
        }
        publishPaths()
        if next != nil { return NodeNetwork.pauseBetweenTurns }
        return pathQuestions.due.map { max($0 - ContinuousClock.now, NodeNetwork.pauseBetweenTurns) }
    }

    /// Takes what hosts say of peers that are silent. Without CAP_NET_RAW they are not heard.
    private func takeRefusals(at now: ContinuousClock.Instant) {
        guard pathWatch.isAnybodyUnheard else {
            refusals = nil
            return
        }
        // Peers are sent to by addresses of one family.
        guard let family = pathPeers.values.first?.endpoint.address.addressFamily else { return }
        if refusals?.family != family { refusals = RefusalSocket(family) }
        let refused = Set(refusals?.refusals() ?? [])
        guard !refused.isEmpty else { return }
        for (subnet, peer) in pathPeers where refused.contains(peer.endpoint) {
            pathWatch.takeRefusal(of: subnet, at: now)
        }
    }

    private func askKernelAboutPaths(at now: ContinuousClock.Instant) {
        var mtus: [Int32: Int?] = [:]
        for address in pathQuestions.take(at: now) {
            do {
                // A peer without a route at all is no narrow one; that it is not reached is told elsewhere.
                let source = underlay?.address(address.addressFamily)
                guard let path = try socket.path(to: address, from: source), let index = path.interfaceIndex
                else { continue }
                // An address inside the overlay is no way to a peer: its route would be made narrower by what it is
                // itself.
                if mtus[index] == nil {
                    let link = try socket.link(index: index)
                    mtus[index] = link?.name == pathTunnel?.interfaceName ? .some(nil) : link?.mtu
                }
                guard let mtu = mtus[index] ?? nil else { continue }
                pathWatch.take(
                    PathLimit(interfaceIndex: index, mtu: min(mtu, path.routeMTU ?? mtu)),
                    learnt: path.learntMTU, of: address, at: now)
            } catch {
                continue
            }
        }
    }

    /// Brings routes, status and health to what is known of the paths.
    private func publishPaths() {
        guard pathWatch.takeChange() else { return }
        var narrow: [IPPrefix: Int] = [:]
        for (subnet, mtu) in pathWatch.narrow {
            for prefix in pathPeers[subnet]?.prefixes ?? [] { narrow[prefix] = mtu }
        }
        let wanted = (pathTunnel?.interfaceName).map { name in
            narrow.map { NarrowPathRoute(interfaceName: name, subnet: $0.key, mtu: $0.value) }
                .sorted { $0.subnet < $1.subnet }
        }
        setNarrowPaths(wanted ?? [])
        knownPaths.replace(
            narrow: narrow.mapValues { $0 + (pathTunnel?.overhead ?? 0) }, silent: pathWatch.silent)
        health.replace(
            .path, with: pathWatch.problems(underlay: (underlay?.interfaceName ?? "", underlay?.mtu ?? 0)))
    }

    private func setNarrowPaths(_ wanted: [NarrowPathRoute]) {
        guard wanted != narrowPaths else { return }
        // What was read of routes is older than what this does to them.
        defer { routes = nil }
        let subnets = Set(wanted.map(\.subnet))
        let before = Set(narrowPaths)
        for path in narrowPaths where !subnets.contains(path.subnet) {
            do {
                try path.delete(using: socket)
                itemStatuses.forget(path.name)
                log.notice(.pathIsWideAgain, item: path.name, "")
            } catch {
                // It carries twill's number and is not wanted: it is pruned.
                log.warning(.cannotWithdraw, item: path.name, "\(error)")
            }
        }
        narrowPaths = wanted
        for path in wanted where !before.contains(path) {
            log.notice(.narrowPath, item: path.name, "MTU \(path.mtu)")
            restore(path)
        }
    }

    /// Restores the routes of narrow paths that somebody took away.
    func restoreNarrowPaths(in state: NetworkState, isFirstTime: Bool) {
        for path in NarrowPathRoute.missing(of: narrowPaths, in: state) {
            if !isFirstTime { log.notice(.restored, item: path.name, "missing, or not of MTU \(path.mtu)") }
            restore(path)
        }
    }

    private func restore(_ path: NarrowPathRoute) {
        do {
            try path.update(using: socket)
        } catch {
            log.warning(.cannotRestore, item: path.name, "\(error)")
            itemStatuses.set(path.name, .failing, error: "\(error)")
            health.set(
                Component(.route, "\(path.subnet) MTU"),
                Problem(
                    .degraded, "\(path.name) with an MTU of \(path.mtu) bytes cannot be set: \(error)",
                    remedy: "it is tried again every \(resyncInterval)"))
            return
        }
        log.settled(item: path.name)
        itemStatuses.forget(path.name)
        health.forget(Component(.route, "\(path.subnet) MTU"))
    }
}
