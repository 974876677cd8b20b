import Addresses
import Counters
import Forwarding
import FoundationEssentials
import Glibc
import Health
import Leases
import Node
import Reconciler
import Synchronization
import Telemetry
import Worker

/// What is known of the running node, for whoever asks: told by the daemon, read by the server's thread at
/// any time.
final class Observation: Observable {
    private struct Knowledge {
        var state = "starting"
        var isSetUp = false
        var underlay: Underlay?
        var table = PeerTable()
        /// The components that the table said something of.
        var tableComponents: Set<Component> = []
        var reconnects: UInt64 = 0
        var hasBeenConnected = false
        var dataPlane: DataPlane?
        var tunnel: NodeStatus.Tunnel?
        var samples = TrafficSamples()
        var kernelPath: AttachedKernelPath?
        var paths: KnownPaths?
        var kernel: ItemStatuses?
        var losses = LossWatch()
    }

    /// What a table says something of even where all is well.
    private static let tableComponents: Set<Component> = [
        Component(.store), Component(.configuration), Component(.lease),
    ]

    private let started = ContinuousClock.now
    private let origin: Origin
    private let peerMetricsLimit: Int
    private let health: NodeHealth
    private let knowledge = Mutex(Knowledge())
    /// Whether a capture goes on.
    private let isCaptured = Mutex(false)

    /// Where the network's configuration, its nodes and this node's subnet come from.
    struct Origin: Sendable {
        /// As the status has it: `etcd http://…`.
        var name: String
        /// Whether it is a cluster that assigns subnets, and not a store of leases.
        var isCluster = false
    }

    /// - Parameter peerMetricsLimit: up to how many peers `/metrics` has series for each.
    init(origin: Origin, peerMetricsLimit: Int = 0, health: NodeHealth) {
        self.health = health
        self.origin = origin
        self.peerMetricsLimit = peerMetricsLimit
    }

    // MARK: What the daemon tells

    /// - Parameter isSetUp: whether lease, device, routes and `subnet.env` have all been in place once.
    /// - Returns: whether the state is another one than before.
    @discardableResult
    func update(state: String, isSetUp: Bool) -> Bool {
        knowledge.withLock {
            guard $0.state != state || $0.isSetUp != isSetUp else { return false }
            $0.state = state
            $0.isSetUp = isSetUp
            return true
        }
    }

    func update(_ underlay: Underlay) { knowledge.withLock { $0.underlay = underlay } }

    func update(_ table: PeerTable) {
        let skipped = TableProblems.skipped(table.skipped, isCluster: origin.isCluster)
        let problems = table.conditions.merging(skipped) { first, _ in first }
        let before = knowledge.withLock { knowledge in
            defer { knowledge.tableComponents = Set(problems.keys).union(Observation.tableComponents) }
            return knowledge.tableComponents
        }
        for component in before.union(Observation.tableComponents).sorted() where problems[component] == nil {
            if Observation.tableComponents.contains(component) {
                health.set(component, nil)
            } else {
                health.forget(component)
            }
        }
        for (component, problem) in problems.sorted(by: { $0.key < $1.key }) {
            health.set(component, problem)
        }
        knowledge.withLock {
            if table.isStoreConnected && !$0.table.isStoreConnected {
                if $0.hasBeenConnected { $0.reconnects += 1 }
                $0.hasBeenConnected = true
            }
            $0.table = table
        }
    }

    /// - Parameter continuing: whether it goes on with the counts of the one before.
    func update(_ dataPlane: DataPlane?, continuing: Bool = false) {
        knowledge.withLock {
            $0.losses.beginAnew()
            $0.dataPlane = dataPlane
            if !continuing { $0.samples = TrafficSamples() }
        }
    }

    func update(_ kernelPath: AttachedKernelPath?) { knowledge.withLock { $0.kernelPath = kernelPath } }

    func update(_ paths: KnownPaths) { knowledge.withLock { $0.paths = paths } }

    func update(_ kernel: ItemStatuses) { knowledge.withLock { $0.kernel = kernel } }

    func update(_ tunnel: NodeStatus.Tunnel?) { knowledge.withLock { $0.tunnel = tunnel } }

    /// Keeps what has been counted until now, for rates; to be called every second or so.
    ///
    /// - Returns: what was carried to and from each peer, where that was due.
    @discardableResult
    func sampleTraffic() -> PeerTotals? {
        let now = monotonicNanoseconds()
        let (wanting, samples) = knowledge.withLock { ($0.dataPlane, $0.samples) }
        guard let dataPlane = wanting, samples.isDue(nowNanoseconds: now) else { return nil }
        // Not under the lock, which whoever asks for a status waits for.
        let sample = TrafficSamples.Sample(
            counters: dataPlane.counters(), peers: dataPlane.countersOfPeers(), nanoseconds: now)
        knowledge.withLock {
            if $0.dataPlane === dataPlane { $0.samples.take(sample) }
        }
        return sample.peers
    }

    /// Looks for packets that found no room, and says what is wrong; to be called once a second.
    ///
    /// - Parameter processorTimes: reads them, where they are wanted.
    func lookForLosses(_ processorTimes: () async -> ProcessorTimes) async {
        guard let dataPlane = knowledge.withLock({ $0.dataPlane }) else { return }
        let counters = dataPlane.counters()
        let isWanted = knowledge.withLock { $0.losses.wantsTimes(counters, at: .now) }
        let times = isWanted ? await processorTimes() : nil
        let now = ContinuousClock.now
        let problem: Problem? = knowledge.withLock {
            // Another one may have taken its place meanwhile.
            if $0.dataPlane === dataPlane { $0.losses.look(at: counters, times, at: now) }
            return $0.losses.problem(at: now)
        }
        health.set(Component(.dataPlane, "losses"), problem)
    }

    /// The data plane and what a capture of it needs to know; nil before there is one.
    var capturable: (dataPlane: DataPlane, interface: String, endpoint: Endpoint)? {
        knowledge.withLock {
            guard let dataPlane = $0.dataPlane, let tunnel = $0.tunnel else { return nil }
            return (dataPlane, tunnel.interface, dataPlane.underlay)
        }
    }

    // MARK: What others read

    /// `name=value` lines of all counters; empty while nothing moves packets.
    var counterLines: String { knowledge.withLock { $0.dataPlane }?.counters().lines ?? "" }

    /// Whether the node was set up and nothing cuts its pods off.
    var isReady: Bool { knowledge.withLock { $0.isSetUp } && !health.isCutOff }

    /// Everything that is known now.
    var status: NodeStatus {
        let knowledge = knowledge.withLock { $0 }
        let now = ContinuousClock.now
        var status = NodeStatus(
            version: Version.text, processIdentifier: getpid(), uptimeSeconds: (now - started).seconds,
            isReady: isReady, state: knowledge.state,
            store: NodeStatus.Store(
                name: origin.name, isConnected: knowledge.table.isStoreConnected,
                reconnects: knowledge.reconnects))
        status.commit = Version.commit
        status.build = Version.build
        status.kernelRelease = MachineCheck.kernelRelease()
        if let underlay = knowledge.underlay {
            status.underlay = NodeStatus.Underlay(
                interface: underlay.interfaceName,
                address:
                    "\(knowledge.table.ownLease.flatMap { underlay.address($0.endpoint.address.addressFamily) } ?? underlay.mainAddress)",
                endpoint: knowledge.table.ownLease.map { "\($0.endpoint)" }
                    ?? "\(underlay.mainPublicAddress)",
                mtu: underlay.mtu)
        }
        status.tunnel = knowledge.tunnel
        if let lease = knowledge.table.ownLease {
            status.lease = NodeStatus.Lease(
                subnet: "\(lease.subnet)", isReservation: lease.isReservation,
                isAssigned: origin.isCluster,
                ageSeconds: (now - lease.acquired).seconds,
                expirySeconds: lease.expiry.map { ($0 - now).seconds })
        }
        let narrow = knowledge.paths?.narrow ?? [:]
        let able = knowledge.dataPlane?.kernelPath?.standing.able
        let silent = knowledge.paths?.silent ?? [:]
        let hellos = knowledge.dataPlane?.answeredHellos() ?? [:]
        status.peers = knowledge.table.peers.map { known in
            let subnet = known.subnet.prefixes.first
            var peer = NodeStatus.Peer(
                subnet: "\(known.subnet)", endpoint: "\(known.endpoint)",
                pathMTU: subnet.flatMap { narrow[$0] }, kernelPath: able?.contains(known.endpoint))
            peer.name = known.name
            if status.tunnel?.ipv6 != nil, let address = known.ipv6Address {
                peer.ipv6Endpoint = "\(Endpoint(address: .v6(address), port: known.endpoint.port))"
            }
            peer.silence = subnet.flatMap { silent[$0]?.rawValue }
            peer.hellos = hellos[known.endpoint].map {
                NodeStatus.Hellos(
                    asked: $0.asked, answered: $0.answered,
                    roundTripSeconds: Double($0.roundTripNanoseconds) / 1e9)
            }
            return peer
        }
        if let dataPlane = knowledge.dataPlane {
            status.kernelPath = NodeStatus.KernelPath(of: dataPlane, knowledge.kernelPath)
            addTraffic(of: dataPlane, knowledge, to: &status)
            status.engine = NodeStatus.Engine(dataPlane)
            status.offenders = Counter.allCases.filter(\.isDrop).flatMap { reason in
                dataPlane.lastDropped(reason).map {
                    NodeStatus.Offender($0, nowNanoseconds: monotonicNanoseconds())
                }
            }
        }
        status.loss = knowledge.losses.status(at: now)
        status.skipped = knowledge.table.skipped.map { NodeStatus.Skipped(key: $0.key, reason: $0.reason) }
        let states = health.all
        status.components = states.map { NodeStatus.Component($0, now: now) }
        status.kernel = (knowledge.kernel?.all ?? []).map { item in
            NodeStatus.KernelItem(
                item: item.item, state: item.state.rawValue, lastError: item.lastError, retries: item.retries,
                sinceSeconds: (now - item.since).seconds)
        }
        status.problems = states.compactMap(\.problem?.sentence)
        return status
    }

    private func addTraffic(of dataPlane: DataPlane, _ knowledge: Knowledge, to status: inout NodeStatus) {
        let now = monotonicNanoseconds()
        let earlier = knowledge.samples.reference(nowNanoseconds: now)
        let counters = dataPlane.counters()
        status.counters = counters.statusValues(
            since: earlier?.sample.counters, seconds: earlier?.seconds ?? 0)
        status.histograms = counters.statusHistograms
        status.gauges = counters.statusGauges
        let totals = dataPlane.countersOfPeers()
        func traffic(_ counts: PeerCounts, since before: PeerCounts?) -> NodeStatus.Traffic {
            counts.statusTraffic(since: before, seconds: earlier?.seconds ?? 0, nowNanoseconds: now)
        }
        for (index, peer) in knowledge.table.peers.enumerated() {
            let subnets = PeerSubnets(ipv4: peer.subnet.ipv4, ipv6: peer.subnet.ipv6)
            guard let counts = totals.peers[subnets] else { continue }
            status.peers[index].traffic = traffic(
                counts, since: earlier.map { $0.sample.peers.peers[subnets] ?? PeerCounts() })
        }
        if status.peers.contains(where: { $0.traffic == nil }) {
            status.otherPeersTraffic = traffic(totals.others, since: earlier?.sample.peers.others)
        }
    }

    func capture(_ request: CaptureRequest) -> Capture? {
        guard
            isCaptured.withLock({ isCaptured in
                defer { isCaptured = true }
                return !isCaptured
            })
        else { return nil }
        return Capture(
            request, of: { [weak self] in self?.capturable },
            ended: { [weak self] in self?.isCaptured.withLock { $0 = false } })
    }

    func answer(path: String) -> HTTPAnswer? {
        switch path {
        case "/healthz":
            let stalled = health.all.filter { $0.component.kind == .loop }.compactMap(\.problem?.sentence)
            guard stalled.isEmpty else {
                return HTTPAnswer(
                    status: .serviceUnavailable, body: stalled.joined(separator: "\n") + "\n")
            }
            return HTTPAnswer(status: .ok, body: "ok\n")
        case "/readyz":
            if isReady { return HTTPAnswer(status: .ok, body: "ok\n") }
            let (isSetUp, state) = knowledge.withLock { ($0.isSetUp, $0.state) }
            let problems = health.problems.filter { $0.effect == .cutOff }.map(\.sentence)
            return HTTPAnswer(
                status: .serviceUnavailable,
                body: ((isSetUp ? [] : [state.printable]) + problems).joined(separator: "\n") + "\n")
        case "/metrics":
            var metrics = MetricsText()
            let status = status
            metrics.add(status)
            metrics.addPeers(status, limit: peerMetricsLimit, unixTime: Date.now.timeIntervalSince1970)
            metrics.addProcess()
            if let dataPlane = knowledge.withLock({ $0.dataPlane }) {
                metrics.add(dataPlane.counters())
                metrics.add(workers: dataPlane.countersOfWorkers())
            }
            return HTTPAnswer(status: .ok, contentType: MetricsText.contentType, body: metrics.text)
        case "/status":
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            guard let data = try? encoder.encode(status) else { return nil }
            return HTTPAnswer(
                status: .ok, contentType: "application/json",
                body: String(decoding: data, as: UTF8.self) + "\n")
        default:
            return nil
        }
    }
}

extension Duration {
    /// Seconds, with a fraction.
    fileprivate var seconds: Double { self / .seconds(1) }
}

extension NodeStatus.Engine {
    /// What a data plane works with, by the names of the flags that ask for it.
    fileprivate init(_ dataPlane: DataPlane) {
        let wanted = dataPlane.tuning
        let tunnel = dataPlane.tunnel?.offloads ?? []
        let underlay = dataPlane.underlayOffloads
        let offloads: [(name: String, isWanted: Bool, isThere: Bool)] = [
            ("tun-tso4", wanted.tunnelOffloads.contains(.tcp4), tunnel.contains(.tcp4)),
            ("tun-tso6", wanted.tunnelOffloads.contains(.tcp6), tunnel.contains(.tcp6)),
            ("tun-ecn", wanted.tunnelOffloads.contains(.tcpECN), tunnel.contains(.tcpECN)),
            ("tun-uso", wanted.tunnelOffloads.contains(.udp), tunnel.contains(.udp)),
            ("udp-gso", wanted.usesSegmentation, underlay.segmentation),
            ("udp-gro", wanted.usesCoalescing, underlay.coalescing),
        ]
        self.init(
            name: dataPlane.engine.rawValue, workers: dataPlane.workerCount,
            offloads: offloads.filter(\.isThere).map(\.name),
            missingOffloads: offloads.filter { $0.isWanted && !$0.isThere }.map(\.name))
    }
}
