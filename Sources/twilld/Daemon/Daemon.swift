// How it works. Two things tell the daemon how the node should be: the lease keeper (the network's configuration,
// this node's lease, its peers) and the node's network (interface, address, MTU). Each leaves its newest word here
// and asks for a pass; one task makes the passes, one after another, and each pass brings the node to what was said
// last: data plane, routes, rules, subnet.env. What fails is said once and tried again, with a pause.

import Addresses
import Counters
import Forwarding
import Glibc
import Health
import Leases
import Logging
import Netlink
import Node
import Telemetry
import Tunnel
import Worker

/// One node of a network, from its start to its end.
actor Daemon {
    /// Seconds between two tries of something that failed: doubles up to the limit.
    private static let retryPauseSeconds = (first: 1, limit: 30)
    /// How long a taken port and a taken device are waited for at the start, how often the port is tried, and after what time
    /// that is said: the kernel takes down the ring of a process that was killed within some milliseconds, on a busy machine
    /// within a second. What this process closed itself is free at once.
    private static let portPatienceMilliseconds = 5000
    private static let devicePatienceMilliseconds = 10_000
    private static let portPauseMilliseconds = 20
    private static let portNoticeMilliseconds = 200

    private let flags: Run
    private let logger: Logger
    private let notification: ServiceNotification
    private let observation: Observation
    private let health: NodeHealth
    private let passes: AsyncStream<Void>
    private let passContinuation: AsyncStream<Void>.Continuation

    private var underlay: Underlay
    private var table = PeerTable()
    private var deviceIsLost = false
    private var stage = Stage()
    private var retryPause = Daemon.retryPauseSeconds.first
    private var isStopping = false
    private var watch: DataPlaneWatch
    /// Whether this process has had a data plane: then nobody who ended before it can hold port or device.
    private var hasHadDataPlane = false

    /// What stands, as far as the passes have come.
    private struct Stage {
        var dataPlane: DataPlane?
        var dataPlaneKey: DataPlaneKey?
        var fallbacks = FallbackWatch()
        var desired: DesiredNetwork?
        var paths: [IPv4Prefix: IPv4Address] = [:]
        var subnetFile: SubnetFile?
        var isReady = false
    }

    /// What a data plane is made for: where it changes, another one is made.
    private struct DataPlaneKey: Equatable {
        var underlay: Endpoint
        var tunnelAddress: IPv4Address
    }

    /// What the node's network is asked to keep.
    private struct DesiredNetwork: Equatable {
        var tunnel: TunnelSettings
        var rules: PacketFilterSettings
        var blackhole: BlackholeRoute?
        /// Another device of the same name: its addresses and routes are to be made anew.
        var tunnelIndex: UInt32
    }

    init(
        flags: Run, underlay: Underlay, logger: Logger, notification: ServiceNotification,
        observation: Observation, health: NodeHealth
    ) {
        self.health = health
        watch = DataPlaneWatch(health: health)
        self.flags = flags
        self.underlay = underlay
        self.logger = logger
        self.notification = notification
        self.observation = observation
        (passes, passContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        observation.update(underlay)
    }

    /// Runs the node in `store` until the task is cancelled.
    ///
    /// - Throws: What keeps the node from starting, or `LeaseLost`.
    func run(store: any LeaseStore, identity: IdentityFile.Kept, node: NodeNetwork) async throws {
        var options = LeaseOptions(identity: identity.identity)
        options.identityProblem = identity.problem
        options.previousSubnet = previousSubnet()
        options.renewalMargin = .seconds(flags.lease.subnetLeaseRenewMargin * 60)
        options.lossPolicy = flags.lease.onLeaseLoss == .exit ? .exit : .reacquire
        let (stateDirectory, logger) = (flags.lease.stateDir, logger)
        let keeper = LeaseKeeper(
            store: store, announcement: announcement, options: options, logger: logger,
            identityChanged: { identity in
                do throws(CommandFailure) {
                    try await onThread { () throws(CommandFailure) in
                        try IdentityFile.keep(identity, in: stateDirectory)
                    }
                } catch {
                    logger.error("identity not kept", metadata: ["detail": "\(error.message)"])
                }
            })

        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await keeper.run() }
            group.addTask { await node.run() }
            group.addTask { for await table in keeper.tables { await self.take(table) } }
            group.addTask { for await event in node.events { await self.take(event, keeper: keeper) } }
            group.addTask { for await _ in self.passes { try await self.pass(node) } }
            group.addTask { try await self.watchOver(node) }
            // The first to end ends all: the task was cancelled, or one of them threw.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    /// Ends the packet threads and takes the device away. The lease, the rules and `subnet.env` stay, for the next
    /// start.
    func stop() async {
        isStopping = true
        passContinuation.finish()
        await closeDataPlane()
    }

    // MARK: What is said

    private func take(_ table: PeerTable) {
        self.table = table
        observation.update(table)
        passContinuation.yield()
    }

    private func take(_ event: NodeEvent, keeper: LeaseKeeper) async {
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
            health.set(Component(.underlay), nil)
            if (underlay.address, announcement) != before { await keeper.announce(announcement) }
        case .underlayLost(let reason):
            logger.error("underlay lost", metadata: ["detail": "\(reason)"])
            health.set(
                Component(.underlay),
                Problem(
                    .cutOff, reason,
                    remedy: "packets leave by \(underlay.interfaceName) as before until it is back"))
            return
        case .deviceLost(let name):
            logger.error("tunnel device lost", metadata: ["interface": "\(name)"])
            deviceIsLost = true
        }
        passContinuation.yield()
    }

    private var announcement: NodeAnnouncement {
        NodeAnnouncement(
            publicAddress: underlay.publicAddress, publicIPv6Address: flags.underlay.publicIpv6,
            port: flags.tunnel.port, underlayAddress: underlay.address)
    }

    private func previousSubnet() -> LeaseSubnet? {
        do throws(SubnetFileError) {
            return try SubnetFile(path: flags.lease.subnetFile).map { LeaseSubnet(ipv4: $0.subnet) }
        } catch {
            logger.warning("previous subnet not known", metadata: ["detail": "\(error)"])
            return nil
        }
    }

    // MARK: A pass

    /// Brings the node to what was said last. Before the node was ready once, what fails ends the daemon, so that
    /// nobody takes a node for working that never was; afterwards it is tried again.
    private func pass(_ node: NodeNetwork) async throws {
        guard let configuration = table.configuration, let lease = table.ownLease else {
            let wait = table.configuration == nil ? "waiting for the network config" : "waiting for a lease"
            report(state: table.problems.first.map { "\(wait): \($0)" } ?? wait)
            return
        }
        do {
            let mtu = try TunnelMTU.choose(
                underlayMTU: underlay.mtu, configured: flags.tunnel.mtu ?? configuration.backend.mtu)
            let dataPlane = try await dataPlane(configuration, lease, mtu: mtu)
            publish(routes(lease, mtu: mtu), on: dataPlane)
            try await keepNetwork(node, configuration, lease, mtu: mtu, dataPlane)
            await followPaths(node)
            try writeSubnetFile(configuration, lease, mtu: mtu)
            health.set(Component(.dataPlane), nil)
            retryPause = Daemon.retryPauseSeconds.first
            becomeReady(lease)
        } catch {
            guard stage.isReady else { throw error }
            health.set(
                Component(.dataPlane),
                Problem(.cutOff, "\(error)", remedy: "it is tried again in \(retryPause) s"))
            logger.error(
                "set-up failed", metadata: ["detail": "\(error)", "retry_seconds": "\(retryPause)"])
            retry()
        }
    }

    private func retry() {
        let pause = retryPause
        retryPause = min(retryPause * 2, Daemon.retryPauseSeconds.limit)
        let continuation = passContinuation
        Task {
            try? await Task.sleep(for: .seconds(pause))
            continuation.yield()
        }
    }

    private func routes(_ lease: OwnLease, mtu: Int) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: lease.subnet.ipv4, localIPv6: lease.subnet.ipv6, mtu: mtu,
            peers: table.peers.map {
                ForwardingPeer(ipv4: $0.subnet.ipv4, ipv6: $0.subnet.ipv6, endpoint: $0.endpoint)
            })
    }

    private func dataPlane(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, mtu: Int
    ) async throws -> DataPlane {
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
    private func open(_ settings: DataPlaneConfiguration) async throws(CommandFailure) -> DataPlane {
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
                guard case .socket(let socketError) = error, socketError.errorNumber == EADDRINUSE,
                    isFirst, waited < Daemon.portPatienceMilliseconds, !isStopping
                else { throw CommandFailure(error) }
                if waited == Daemon.portNoticeMilliseconds {
                    logger.notice(
                        "waiting for the port",
                        metadata: [
                            "bound": "\(settings.underlay)",
                            "detail": "another process has it, or one that has just ended",
                        ])
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
        _ dataPlane: DataPlane
    ) async throws {
        let subnet = lease.subnet.ipv4
        let desired = DesiredNetwork(
            tunnel: TunnelSettings(
                interfaceName: flags.tunnel.tunName, address: subnet.address, network: configuration.network,
                mtu: mtu, transmitQueueLength: flags.tuning.tuning.queueLength),
            rules: PacketFilterSettings(
                network: configuration.network, subnet: subnet, masquerades: flags.rules.ipMasq,
                randomizesPorts: !flags.rules.ipMasqFullyRandomDisable,
                acceptsForwarding: flags.rules.iptablesForwardRules),
            blackhole: flags.rules.ipBlackholeRoute ? BlackholeRoute(subnet: subnet) : nil,
            tunnelIndex: dataPlane.tunnel.index)
        if desired == stage.desired { return }
        var items = desired.tunnel.desiredItems
        if let blackhole = desired.blackhole { items.append(blackhole) }
        if desired.rules.masquerades || desired.rules.acceptsForwarding {
            if let filter = await onThread({ PacketFilter.available() }) {
                items.append(filter.desiredItem(desired.rules))
            } else {
                health.set(
                    Component(.firewall),
                    Problem(
                        .degraded,
                        "neither nft nor iptables works here: no masquerade and forward rules are set",
                        remedy: "install nftables"))
                logger.error(
                    "no packet filter",
                    metadata: ["detail": "neither nft nor iptables works; install nftables"])
            }
        }
        try await node.setDesired(items)
        stage.desired = desired
    }

    /// Keeps routes of their own for peers that are reached over a path narrower than the underlay.
    private func followPaths(_ node: NodeNetwork) async {
        let paths = Dictionary(
            table.peers.map { ($0.subnet.ipv4, $0.endpoint.address) }, uniquingKeysWith: { first, _ in first }
        )
        if paths == stage.paths { return }
        stage.paths = paths
        await node.followPaths(to: paths, through: flags.tunnel.tunName)
    }

    private func writeSubnetFile(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, mtu: Int
    ) throws(CommandFailure) {
        let file = SubnetFile(
            network: configuration.network, subnet: lease.subnet.ipv4, mtu: mtu,
            masquerades: flags.rules.ipMasq)
        if file == stage.subnetFile { return }
        do throws(SubnetFileError) {
            try file.write(to: flags.lease.subnetFile)
        } catch {
            throw CommandFailure(.configuration, error.description)
        }
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

    private func report(state: String) {
        guard observation.update(state: state, isSetUp: stage.isReady) else { return }
        notification.status(state)
    }

    // MARK: Watching over

    /// Feeds systemd's watchdog, and looks after the packet threads, which can tell nobody what they meet.
    private func watchOver(_ node: NodeNetwork) async throws {
        let interval = min(notification.watchdogInterval ?? .seconds(1), .seconds(1))
        var tooLarge: UInt64 = 0
        while true {
            try await Task.sleep(for: interval)
            let counters = stage.dataPlane?.counters()
            let count = counters?[.dropOutboundTooLarge] ?? 0
            if count > tooLarge { await node.checkPaths() }
            tooLarge = count
            if let counters { reportFallbacks(in: counters) }
            observation.sampleTraffic()
            if let dataPlane = stage.dataPlane {
                var watch = watch
                let isToBeMadeAgain = await watch.look(at: dataPlane)
                self.watch = watch
                if isToBeMadeAgain, stage.dataPlane === dataPlane {
                    logger.critical(
                        "data plane ended",
                        metadata: [
                            "detail": "\(String(cString: strerror(dataPlane.failureErrorNumber)))",
                            "action": "starting it again",
                        ])
                    deviceIsLost = true
                    passContinuation.yield()
                }
            }
            notification.watchdog()
        }
    }
}

extension Daemon {
    private func publish(_ routes: ForwardingRoutes, on dataPlane: DataPlane) {
        let left = dataPlane.publish(routes)
        health.set(
            Component(.limit, "peers"),
            left == 0
                ? nil
                : Problem(
                    .degraded,
                    "\(left) of \(routes.peers.count) other nodes get no packets: \(ForwardingSnapshot.peerLimit) is the most",
                    remedy: "divide the network"))
    }

    private func reportFallbacks(in counters: CounterTotals) {
        for fallback in stage.fallbacks.news(in: counters) {
            logger.warning(
                "fallback taken",
                metadata: [
                    "fallback": "\(fallback.name)", "underlay": "\(underlay.interfaceName)",
                    "interface": "\(flags.tunnel.tunName)", "detail": "\(fallback.meaning)",
                ])
        }
    }
}

extension CommandFailure {
    /// What a data plane's failure means for the exit status.
    init(_ error: DataPlaneError) {
        let number: Int32 =
            switch error {
            case .tunnel(let error): error.errorNumber
            case .socket(let error): error.errorNumber
            case .tuning: EINVAL
            case .engine(_, let errorNumber), .resource(_, let errorNumber): errorNumber
            }
        let status: ExitStatus =
            switch number {
            case EPERM, EACCES: .permission
            case EADDRINUSE, EBUSY, ENOMEM, EAGAIN: .temporary
            case EADDRNOTAVAIL, EINVAL: .configuration
            default: .system
            }
        self.init(status, error.description)
    }
}
