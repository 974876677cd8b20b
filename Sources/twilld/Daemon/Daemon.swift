// How it works. Three things tell the daemon how the node should be: a source of peers (the network's configuration and
// its nodes), a claim (this node's subnet; the lease keeper is both), and the node's network (interface, address, MTU).
// Each leaves its newest word here and asks for a pass; one task makes the passes, one after another, and each pass brings the node to what was said
// last: data plane, routes, rules, subnet.env. What fails is said once and tried again, with a pause.

import Addresses
import Backends
import Counters
import Forwarding
import Glibc
import Health
import Leases
import Logging
import Netlink
import Node
import Telemetry
import Devices
import Worker

/// One node of a network, from its start to its end.
actor Daemon {
    /// Seconds between two tries of something that failed: doubles up to the limit.
    private static let retryPauseSeconds = (first: 1, limit: 30)
    /// How long a taken port and a taken device are waited for within the first pass, and how often the port is tried: the
    /// kernel takes down the ring of a process that was killed within some milliseconds, on a busy machine within a second.
    /// What this process closed itself is free at once. Who has the port for longer is named.
    private static let portPatienceMilliseconds = 1000
    private static let devicePatienceMilliseconds = 2000
    private static let portPauseMilliseconds = 20
    /// Seconds between two tries of what another process holds: the node heals when that one ends.
    private static let heldPauseSeconds = 2

    let flags: Run
    let logger: Logger
    private let notification: ServiceNotification
    let observation: Observation
    let health: NodeHealth
    let heartbeats: Heartbeats
    private let node: NodeNetwork
    private let filterEffects = PacketFilterEffects()
    private let passes: AsyncStream<Void>
    private let passContinuation: AsyncStream<Void>.Continuation

    private(set) var underlay: Underlay
    private var network = KnownNetwork()
    private var ownLease: OwnLease?
    private(set) var table = PeerTable()
    private var isPassWanted = false
    private var deviceIsLost = false
    var stage = Stage()
    private var retryPause = Daemon.retryPauseSeconds.first
    private var isStopping = false
    var dataPlaneWatch: DataPlaneWatch
    var wakesSeen: [UInt64] = []
    /// Whether this process has had a data plane: then nobody who ended before it can hold port or device.
    private var hasHadDataPlane = false

    /// What stands, as far as the passes have come.
    struct Stage {
        var dataPlane: DataPlane?
        var dataPlaneKey: DataPlaneKey?
        var fallbacks = FallbackWatch()
        /// The port that another process holds or held, until it was had.
        var heldPort: Component?
        var desired: DesiredNetwork?
        var paths: FollowedPeers?
        /// What keeps `subnet.env`, and what that holds.
        var keptFile: KeptSubnetFile?
        var subnetFile: SubnetFile?
        /// The program that keeps the rules in the place of the one that was asked for, as it was told.
        var toldFilter: PacketFilter?
        var isReady = false
    }

    /// What a data plane is made for: where it changes, another one is made.
    struct DataPlaneKey: Equatable {
        var underlay: Endpoint
        var tunnelAddress: IPv4Address
    }

    /// What the node's network is asked to follow the paths of.
    struct FollowedPeers: Equatable {
        var addresses: [IPv4Prefix: IPv4Address]
        var tunnel: TunnelSettings?
    }

    /// What the node's network is asked to keep.
    struct DesiredNetwork: Equatable {
        var tunnel: TunnelSettings
        /// Whom the backend is told of; none where a data plane is.
        var peers: [BackendPeer]
        var rules: PacketFilterSettings
        var filter: PacketFilter
        var surroundings: PacketFilterEffects.Surroundings
        var file: SubnetFile
        var blackhole: BlackholeRoute?
        /// Another device of the same name: its addresses and routes are to be made anew.
        var tunnelIndex: UInt32
    }

    init(flags: Run, underlay: Underlay, parts: Parts) {
        health = parts.health
        heartbeats = parts.heartbeats
        node = parts.node
        logger = parts.logger
        notification = parts.notification
        observation = parts.seen
        dataPlaneWatch = DataPlaneWatch(health: parts.health)
        self.flags = flags
        self.underlay = underlay
        (passes, passContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        observation.update(underlay)
    }

    /// Runs the node in `store` until the task is cancelled.
    ///
    /// - Throws: What keeps the node from starting, or `LeaseLost`.
    func run(store: any LeaseStore, identity: IdentityFile.Kept) async throws {
        let heartbeats = heartbeats
        var options = LeaseOptions(identity: identity.identity)
        options.identityProblem = identity.problem
        options.previousSubnet = await previousSubnet()
        options.renewalMargin = .seconds(flags.lease.subnetLeaseRenewMargin * 60)
        options.lossPolicy = flags.lease.onLeaseLoss == .exit ? .exit : .reacquire
        let keeper = LeaseKeeper(
            store: store, announcement: announcement, options: options, logger: logger,
            identityChanged: keepIdentity, heartbeat: { heartbeats.stamp(.leaseKeeper) })
        try await run(peersFrom: keeper, subnetFrom: keeper) { try await keeper.run() }
    }

    /// Runs the node by what `source` and `claim` say, until the task is cancelled.
    ///
    /// - Parameter work: keeps the two going; where it ends or throws, the node ends.
    /// - Throws: What keeps the node from starting, or what `work` throws.
    func run(
        peersFrom source: any PeerSource, subnetFrom claim: any SubnetClaim,
        by work: @escaping @Sendable () async throws -> Void
    ) async throws {
        let node = node
        let heartbeats = heartbeats
        observation.update(node.pathMTUs)
        defer { heartbeats.forgetAll() }

        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await work() }
            group.addTask { await node.run() }
            group.addTask { for await network in source.networks { await self.take(network) } }
            group.addTask { for await lease in claim.subnets { await self.take(lease) } }
            group.addTask { for await event in node.events { await self.take(event, claim: claim) } }
            group.addTask { for await _ in self.passes { try await self.turn(node) } }
            group.addTask { try await self.watchOver(node) }
            group.addTask { try await self.askForHeartbeats { await source.poke() } }
            group.addTask {
                try await self.askForHeartbeats {
                    await node.answer()
                    heartbeats.stamp(.controlThread)
                }
            }
            group.addTask { try await self.askForHeartbeats { await self.wakeLoops() } }
            // The first to end ends all: the task was cancelled, or one of them threw.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func keepIdentity(_ identity: NodeIdentity) async {
        let directory = flags.lease.stateDir
        do throws(CommandFailure) {
            try await onThread { () throws(CommandFailure) in
                try IdentityFile.keep(identity, in: directory)
            }
        } catch {
            logger.error("identity not kept", metadata: ["detail": "\(error.message)"])
        }
    }

    /// Ends the packet threads and takes the device away. The lease, the rules and `subnet.env` stay, for the next
    /// start.
    func stop() async {
        isStopping = true
        heartbeats.forgetAll()
        passContinuation.finish()
        await closeDataPlane()
    }

    // MARK: What is said

    private func take(_ network: KnownNetwork) {
        self.network = network
        take(PeerTable(network, ownLease: ownLease))
    }

    private func take(_ ownLease: OwnLease?) {
        self.ownLease = ownLease
        take(PeerTable(network, ownLease: ownLease))
    }

    private func take(_ table: PeerTable) {
        if logger.logLevel <= .debug { logChanges(from: self.table, to: table) }
        self.table = table
        observation.update(table)
        updateTableProblems()
        askForPass()
    }

    func askForPass() {
        isPassWanted = true
        passContinuation.yield()
    }

    /// Lets the loop of the passes go round, for a heartbeat.
    func wakePasses() { passContinuation.yield() }

    private func take(_ event: NodeEvent, claim: any SubnetClaim) async {
        switch event {
        case .underlayChanged(let underlay):
            logger.notice(
                "underlay changed",
                metadata: [
                    "interface": "\(underlay.interfaceName)", "address": "\(underlay.address)",
                    "public": "\(underlay.publicAddress)", "mtu": "\(underlay.mtu)",
                ])
            let before = (self.underlay.address, announcement)
            self.underlay = underlay
            observation.update(underlay)
            if (underlay.address, announcement) != before { await claim.announce(announcement) }
        case .deviceLost(let name):
            logger.error("tunnel device lost", metadata: ["interface": "\(name)"])
            deviceIsLost = true
        }
        askForPass()
    }

    private var announcement: NodeAnnouncement {
        NodeAnnouncement(
            publicAddress: underlay.publicAddress, publicIPv6Address: flags.underlay.publicIpv6,
            port: flags.tunnel.port, underlayAddress: underlay.address)
    }

    private func previousSubnet() async -> LeaseSubnet? {
        let path = flags.lease.subnetFile
        do throws(SubnetFileError) {
            let values = try await onThread { () throws(SubnetFileError) in try SubnetFileValues(path: path) }
            if let values, values.subnet == nil {
                logger.warning(
                    "previous subnet not known",
                    metadata: ["detail": "\(path) has no FLANNEL_SUBNET that is an IPv4 prefix"])
            }
            return values?.subnet.map { LeaseSubnet(ipv4: $0) }
        } catch {
            logger.warning("previous subnet not known", metadata: ["detail": "\(error)"])
            return nil
        }
    }

    // MARK: A pass

    /// One turn of the loop that makes the passes.
    private func turn(_ node: NodeNetwork) async throws {
        heartbeats.stamp(.passes)
        guard isPassWanted else { return }
        isPassWanted = false
        try await pass(node)
        heartbeats.stamp(.passes)
    }

    /// Brings the node to what was said last. What fails is said and tried again; before the node was ready once,
    /// what no waiting mends (flags that can't be followed, a right that is lacking) ends the daemon.
    private func pass(_ node: NodeNetwork) async throws {
        guard let configuration = table.configuration, let lease = table.ownLease else {
            // An address that an earlier start left on a bridge may have been taken for the underlay's.
            if let network = table.refusedNetwork { _ = await node.setOverlay(network) }
            let wait = table.configuration == nil ? "waiting for the network config" : "waiting for a lease"
            report(state: table.problems.first.map { "\(wait): \($0)" } ?? wait)
            return
        }
        guard await node.setOverlay(configuration.network) else {
            report(state: "waiting for an underlay outside of the network \(configuration.network)")
            return
        }
        do {
            let mtu = try TunnelMTU.choose(
                underlayMTU: underlay.mtu, overhead: configuration.backend.overhead(over: .ipv4),
                configured: flags.tunnel.mtu ?? configuration.backend.mtu)
            let dataPlane = try await dataPlane(configuration, lease, mtu: mtu)
            dataPlane?.publish(routes(lease, mtu: mtu))
            try await keepNetwork(node, configuration, lease, mtu: mtu, dataPlane)
            await followPaths(node)
            await node.judgeRoutes(
                OverlayTargets(
                    interfaceName: flags.tunnel.tunName, network: configuration.network,
                    subnet: lease.subnet.ipv4, peers: Set(table.peers.map(\.subnet.ipv4))))
            try tellSubnetFile()
            health.set(Component(.dataPlane), nil)
            retryPause = Daemon.retryPauseSeconds.first
            becomeReady(lease)
        } catch {
            try setUpFailed(error)
        }
    }

    private func setUpFailed(_ error: any Error) throws {
        guard !isStopping, !(error is CancellationError) else { throw error }
        if let taken = error as? PortTaken {
            stage.heldPort = taken.component
            health.set(taken.component, taken.problem(retrySeconds: Daemon.heldPauseSeconds))
            if !stage.isReady { report(state: "waiting for the port: \(taken.cause)") }
            askForPass(afterSeconds: Daemon.heldPauseSeconds)
            return
        }
        let failure = CommandFailure(error)
        guard stage.isReady || !isHopeless(failure, error) else { throw failure }
        let pause = retryPause
        retryPause = min(
            retryPause * 2,
            failure.status == .temporary ? Daemon.heldPauseSeconds : Daemon.retryPauseSeconds.limit)
        health.set(
            Component(.dataPlane),
            Problem(.cutOff, failure.message, remedy: "it is tried again every \(retryPause) s or sooner"))
        logger.error(
            "set-up failed", metadata: ["detail": "\(failure.message)", "retry_seconds": "\(pause)"])
        if !stage.isReady { report(state: "waiting: \(failure.message)") }
        askForPass(afterSeconds: pause)
    }

    /// Whether a failure can be mended by nobody but who gave the flags and the rights: the network's own
    /// configuration, which is followed, is none of that.
    private func isHopeless(_ failure: CommandFailure, _ error: any Error) -> Bool {
        if error is TunnelMTUError, flags.tunnel.mtu == nil { return false }
        // --engine=uring on a kernel that has none.
        if case .engine(_, errorNumber: ENOSYS)? = error as? DataPlaneError { return true }
        return [.usage, .unavailable, .permission, .configuration].contains(failure.status)
    }

    /// Makes the data plane anew.
    func startDataPlaneAnew() {
        deviceIsLost = true
        askForPass()
    }

    func askForPass(afterSeconds seconds: Int) {
        Task {
            try? await Task.sleep(for: .seconds(seconds))
            askForPass()
        }
    }

    private func routes(_ lease: OwnLease, mtu: Int) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: lease.subnet.ipv4, localIPv6: lease.subnet.ipv6, mtu: mtu,
            peers: table.peers.map {
                ForwardingPeer(ipv4: $0.subnet.ipv4, ipv6: $0.subnet.ipv6, endpoint: $0.endpoint)
            })
    }

    /// The data plane that carries the packets; nil where the network's backend leaves that to the kernel.
    private func dataPlane(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, mtu: Int
    ) async throws -> DataPlane? {
        guard type(of: configuration.backend).hasDataPlane else {
            await closeDataPlane()
            return nil
        }
        let key = DataPlaneKey(
            underlay: Endpoint(
                address: underlay.address, port: flags.tunnel.port ?? configuration.backend.port),
            tunnelAddress: lease.subnet.ipv4.address)
        let tunnel = NodeStatus.Tunnel(
            interface: flags.tunnel.tunName, network: "\(configuration.network)", mtu: mtu)
        if let current = stage.dataPlane, stage.dataPlaneKey == key, !deviceIsLost, current.carries(mtu: mtu)
        {
            observation.update(tunnel)
            return current
        }
        await closeDataPlane()
        deviceIsLost = false
        let settings = DataPlaneConfiguration(
            tunnelName: flags.tunnel.tunName, underlay: key.underlay, mtu: mtu,
            tunnelAddress: key.tunnelAddress, tunnelAddressIPv6: lease.subnet.ipv6?.address,
            acceptsAnySource: flags.tunnel.acceptAnySource, tuning: flags.tuning.tuning)
        let made = try await open(settings)
        // While the device was waited for, the daemon may have been told to stop.
        guard !isStopping else {
            await onThread { made.stop() }
            throw CancellationError()
        }
        hasHadDataPlane = true
        stage.dataPlane = made
        stage.dataPlaneKey = key
        if let port = stage.heldPort { health.forget(port) }
        stage.heldPort = nil
        stage.fallbacks = FallbackWatch()
        observation.update(made)
        observation.update(tunnel)
        if let refusal = made.uringRefusal {
            logger.warning(
                "io_uring is not to be had; plain system calls are used", metadata: ["detail": "\(refusal)"])
        }
        logger.notice(
            "data plane started",
            metadata: [
                "engine": "\(made.engine.rawValue)",
                "interface": "\(settings.tunnelName)", "bound": "\(key.underlay)", "mtu": "\(mtu)",
                "workers": "\(made.workerCount)",
                "udp_segments": "\(made.underlayOffloads.segmentLimit)",
            ])
        return made
    }

    /// Opens the device and the sockets. At the start both can be held for a while by a process that was killed: the kernel
    /// takes its ring down late.
    ///
    /// - Throws: `PortTaken` where another process has the port.
    private func open(_ settings: DataPlaneConfiguration) async throws -> DataPlane {
        let logger = logger
        let isFirst = !hasHadDataPlane
        var waited = 0
        while true {
            do throws(DataPlaneError) {
                return try await onThread { () throws(DataPlaneError) -> DataPlane in
                    let patience = isFirst ? Daemon.devicePatienceMilliseconds : 0
                    let dataPlane = try DataPlane(settings, patienceMilliseconds: patience) {
                        logger.notice(
                            "waiting for the tunnel device",
                            metadata: [
                                "interface": "\(settings.tunnelName)",
                                "detail":
                                    "its name is held by another process, or by one that has just ended",
                            ])
                    }
                    try dataPlane.start()
                    return dataPlane
                }
            } catch {
                if case .tunnel(let tunnelError) = error, tunnelError.errorNumber == EBUSY {
                    let holder = await onThread { PortHolder.name(ofDevice: settings.tunnelName) }
                    throw CommandFailure(.temporary, error.description + (holder.map { ": \($0)" } ?? ""))
                }
                guard case .socket(let socketError) = error, socketError.errorNumber == EADDRINUSE,
                    !isStopping
                else {
                    throw error
                }
                // What was waited for already is not waited for again with each pass.
                guard isFirst, waited < Daemon.portPatienceMilliseconds, stage.heldPort == nil else {
                    throw await portTaken(settings.underlay)
                }
                try? await Task.sleep(for: .milliseconds(Daemon.portPauseMilliseconds))
                waited += Daemon.portPauseMilliseconds
            }
        }
    }

    private func closeDataPlane() async {
        guard let dataPlane = stage.dataPlane else { return }
        stage.dataPlane = nil
        stage.dataPlaneKey = nil
        observation.update(nil as DataPlane?)
        observation.update(nil as NodeStatus.Tunnel?)
        await onThread { dataPlane.stop() }
    }

    private func keepNetwork(
        _ node: NodeNetwork, _ configuration: NetworkConfiguration, _ lease: OwnLease, mtu: Int,
        _ dataPlane: DataPlane?
    ) async throws {
        filterEffects.update(
            peers: table.peers.lazy.map { .init(subnet: $0.subnet.ipv4, address: $0.endpoint.address) })
        let subnet = lease.subnet.ipv4
        let desired = DesiredNetwork(
            tunnel: TunnelSettings(
                interfaceName: flags.tunnel.tunName, address: subnet.address, network: configuration.network,
                mtu: mtu, overhead: configuration.backend.overhead(over: .ipv4),
                transmitQueueLength: flags.tuning.tuning.queueLength),
            peers: dataPlane == nil ? table.peers.map { BackendPeer($0) } : [],
            rules: PacketFilterSettings(
                network: configuration.network, subnet: subnet, masquerades: flags.rules.ipMasq,
                randomizesPorts: !flags.rules.ipMasqFullyRandomDisable,
                acceptsForwarding: flags.rules.iptablesForwardRules),
            filter: configuration.enableNFTables ? .nftables : .iptables,
            surroundings: .init(
                network: configuration.network, subnet: subnet, tunnel: flags.tunnel.tunName,
                underlay: underlay.interfaceName, address: underlay.address,
                port: flags.tunnel.port ?? configuration.backend.port),
            file: SubnetFile(
                network: configuration.network, subnet: subnet, ipv6: ipv6Lines(configuration, lease),
                mtu: mtu,
                masquerades: flags.rules.ipMasq),
            blackhole: flags.rules.ipBlackholeRoute ? BlackholeRoute(subnet: subnet) : nil,
            tunnelIndex: dataPlane?.tunnel.index ?? 0)
        if desired == stage.desired { return }
        let file = KeptSubnetFile(
            desired.file, at: flags.lease.subnetFile, wasInPlace: stage.subnetFile != nil)
        var items = configuration.backend.desiredItems(for: desired.tunnel, peers: desired.peers)
        if let blackhole = desired.blackhole { items.append(blackhole) }
        let rules = PacketFilterRules(
            desired.rules, preferring: desired.filter, interfaceName: flags.tunnel.tunName,
            beside: filterEffects)
        items.append(rules)
        items += filterEffects.desiredItems(in: desired.surroundings)
        items.append(file)
        stage.keptFile = file
        try await node.setDesired(items)
        tellFilter(wanted: desired.filter, used: rules.used)
        stage.desired = desired
    }

    private func ipv6Lines(_ configuration: NetworkConfiguration, _ lease: OwnLease) -> SubnetFile.IPv6? {
        guard let network = configuration.ipv6?.network, let subnet = lease.subnet.ipv6 else { return nil }
        return SubnetFile.IPv6(network: network, subnet: subnet)
    }

    /// Says where the rules are kept by another program than the network's configuration asks for.
    private func tellFilter(wanted: PacketFilter, used: PacketFilter?) {
        guard flags.rules.ipMasq || flags.rules.iptablesForwardRules, let used, used != wanted else {
            stage.toldFilter = nil
            return
        }
        if stage.toldFilter == used { return }
        stage.toldFilter = used
        logger.warning(
            "rules by another program",
            metadata: [
                "wanted": "\(wanted.rawValue)", "used": "\(used.rawValue)",
                "detail": "\(wanted.rawValue) does not work here; EnableNFTables says which is wanted",
            ])
    }

    /// Keeps routes of their own for peers that are reached over a path narrower than the underlay.
    private func followPaths(_ node: NodeNetwork) async {
        let addresses = Dictionary(
            table.peers.map { ($0.subnet.ipv4, $0.endpoint.address) }, uniquingKeysWith: { first, _ in first }
        )
        let paths = FollowedPeers(addresses: addresses, tunnel: stage.desired?.tunnel)
        if paths == stage.paths { return }
        stage.paths = paths
        await node.followPaths(to: addresses, through: paths.tunnel)
    }

    /// Says what a new `subnet.env` means for pods. Before the node was ready once, a file that can never be written ends
    /// the daemon.
    private func tellSubnetFile() throws(CommandFailure) {
        if !stage.isReady, let failure = stage.keptFile?.failure, failure.isHopeless {
            throw CommandFailure(.configuration, failure.description)
        }
        guard let file = stage.desired?.file, file != stage.subnetFile else { return }
        if let old = stage.subnetFile, old.subnet != file.subnet || old.mtu != file.mtu {
            logger.warning(
                "subnet file changed",
                metadata: [
                    "file": "\(flags.lease.subnetFile)", "subnet": "\(file.subnet)", "was": "\(old.subnet)",
                    "mtu": "\(file.mtu)",
                    "detail":
                        "pods that run have addresses and MTU of the old file: restart Docker and the pods",
                ])
        }
        stage.subnetFile = file
    }

    private func becomeReady(_ lease: OwnLease) {
        let state = "subnet \(lease.subnet), peers: \(table.peers.count)"
        if !stage.isReady {
            stage.isReady = true
            logger.notice(
                "ready", metadata: ["subnet": "\(lease.subnet)", "peers": "\(table.peers.count)"])
            notification.ready(status: state)
            observation.update(state: state, isSetUp: true)
        } else {
            report(state: state)
        }
    }

    private func portTaken(_ endpoint: Endpoint) async -> PortTaken {
        let holder = await onThread { PortHolder.name(.udp, endpoint) }
        if stage.heldPort == nil {
            logger.warning(
                "waiting for the port",
                metadata: [
                    "bound": "\(endpoint)", "detail": "held by \(holder ?? "a process that can't be found")",
                ])
        }
        return PortTaken(endpoint: endpoint, holder: holder)
    }

    private func report(state: String) {
        guard observation.update(state: state, isSetUp: stage.isReady) else { return }
        notification.status(state)
    }
}
