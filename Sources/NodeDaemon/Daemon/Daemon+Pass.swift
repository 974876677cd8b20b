import Addresses
import Backends
import Forwarding
import Glibc
import Health
import Host
import Leases
import Logging
import Firewall
import Node
import Reconciler
import Telemetry
import Worker

// One pass: brings the node to what was said last.
extension Daemon {
    /// One turn of the loop that makes the passes.
    func turn(_ node: NodeNetwork) async throws {
        heartbeats.stamp(.passes)
        guard isPassWanted, !isHandingOver else { return }
        isPassWanted = false
        try await pass(node)
        heartbeats.stamp(.passes)
    }

    /// Brings the node to what was said last. What fails is said and tried again; before the node was ready once,
    /// what no waiting mends (options that can't be followed, a right that is lacking) ends the daemon.
    private func pass(_ node: NodeNetwork) async throws {
        do { try await prepareBackend() } catch { return try setUpFailed(error) }
        guard let configuration = table.configuration, let lease = table.ownLease else {
            // An address that an earlier start left on a bridge may have been taken for the underlay's.
            if let network = table.refusedNetwork { _ = await node.setOverlay(network) }
            let missing = options.origin.isCluster ? "a podCIDR" : "a lease"
            let wait = "waiting for \(table.configuration == nil ? "the network config" : missing)"
            report(state: table.problems.first.map { "\(wait): \($0)" } ?? wait)
            await withdrawSubnetFile()
            await announceWhatIsDue()
            return
        }
        guard await node.setOverlay(configuration.network) else {
            report(state: "waiting for an underlay outside of the network \(configuration.network)")
            return
        }
        do {
            let mtu = try TunnelMTU.choose(
                underlayMTU: underlay.mtu, overhead: configuration.backend.overhead(over: .ipv4),
                configured: options.tunnel.mtu ?? configuration.backend.mtu(over: .ipv4))
            let place = place(configuration, lease, mtu: mtu)
            let routes = routes(lease, mtu: mtu)
            let dataPlane = try await dataPlane(configuration, lease, place, routes)
            stage.routes = routes
            dataPlane?.publish(routes)
            await announceWhatIsDue()
            try await keepNetwork(node, configuration, lease, place, dataPlane)
            await followPaths(
                node,
                through: dataPlane.flatMap { _ in
                    place.tunnel(overhead: configuration.backend.overhead(over: .ipv4))
                })
            await node.judgeRoutes(targets(configuration.backend, place, lease, configuration.network))
            try tellSubnetFile()
            health.set(Component(.dataPlane), nil)
            retryPause = Daemon.retryPauseSeconds.first
            becomeReady(lease)
            await tellWhetherItStands()
        } catch {
            try setUpFailed(error)
        }
    }

    /// Does what the network's backend needs before this node announces itself, once for each configuration.
    private func prepareBackend() async throws {
        guard let backend = table.configuration?.backend else { return }
        let first = firstBackend ?? ConfiguredBackend(backend)
        firstBackend = first
        guard !backend.isReady(preparation) else { return }
        guard !type(of: backend).runsCommands || first == ConfiguredBackend(backend) else {
            throw ItemProblem(
                Problem(
                    .cutOff,
                    "the network's configuration asks for other commands than at the start of this daemon: what it had "
                        + "stays, and these are not run",
                    remedy: "restart twilld where they are yours"))
        }
        if !stage.isReady { report(state: "preparing the backend \(backend)") }
        var machine = options.machine
        machine.alias = alias
        let announced = try await onThread { [machine] () throws in
            try backend.prepare(on: machine)
        }
        preparation = BackendPreparation(backend, announced)
        health.set(Component(.dataPlane), nil)
        await claim?.announce(announcement)
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
        let failure = ExitFailure(error)
        guard stage.isReady || !isHopeless(failure, error) else { throw failure }
        let pause = retryPause
        retryPause = min(
            retryPause * 2,
            failure.status == .temporary ? Daemon.heldPauseSeconds : Daemon.retryPauseSeconds.limit)
        health.set(
            Component(.dataPlane),
            Problem(.cutOff, failure.message, remedy: "it is tried again every \(retryPause) s or sooner"))
        logger.error(
            .setUpFailed, metadata: ["detail": "\(failure.message)", "retry_seconds": "\(pause)"])
        if !stage.isReady { report(state: "waiting: \(failure.message)") }
        askForPass(afterSeconds: pause)
    }

    /// Whether a failure can be mended by nobody but who gave the options and the rights: the network's own
    /// configuration, which is followed, is none of that.
    private func isHopeless(_ failure: ExitFailure, _ error: any Error) -> Bool {
        if error is TunnelMTUError, options.tunnel.mtu == nil { return false }
        // What the kernel lacks.
        if let problem = error as? ItemProblem, problem.needsAnotherKernel { return true }
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
                ForwardingPeer(
                    ipv4: $0.subnet.ipv4, ipv6: $0.subnet.ipv6, endpoint: $0.endpoint, takesBursts: $0.isTwill
                )
            })
    }

    /// What devices are called that this daemon has the kernel make.
    private var alias: String { SubnetFile.deviceAlias(ofDaemonKeeping: options.lease.subnetFile) }

    /// Where on this machine the backend works.
    private func place(_ configuration: NetworkConfiguration, _ lease: OwnLease, mtu: Int) -> BackendPlace {
        BackendPlace(
            network: .v4(configuration.network), subnet: .v4(lease.subnet.ipv4),
            tunnelName: options.tunnel.interfaceName,
            alias: alias,
            underlayName: underlay.interfaceName, underlayIndex: underlay.interfaceIndex,
            underlayAddress: .v4(underlay.address), publicAddress: .v4(underlay.publicAddress), mtu: mtu,
            queueLength: options.tuning.queueLength, machine: options.machine,
            prepared: preparation?.announced)
    }

    /// Where packets for the other nodes' pods are to go.
    private func targets(
        _ backend: any Backend, _ place: BackendPlace, _ lease: OwnLease, _ network: IPv4Prefix
    ) -> OverlayTargets {
        var targets = OverlayTargets(
            interfaceName: backend.interfaceName(in: place), network: network, subnet: lease.subnet.ipv4,
            peers: Set(table.peers.map(\.subnet.ipv4)))
        guard !type(of: backend).hasDataPlane else { return targets }
        var hops: [IPv4Prefix: [OverlayTargets.Hop]] = [:]
        for peer in table.peers {
            // The whole network is routed to the device.
            guard let ways = backend.hops(to: BackendPeer(peer), in: place) else { return targets }
            hops[peer.subnet.ipv4] = ways.map {
                OverlayTargets.Hop(interfaceName: $0.interfaceName, gateway: $0.gateway)
            }
        }
        // Where packets to a peer go by is not always for twill to say (alloc, extension).
        targets.peers = targets.peers.filter { hops[$0]?.isEmpty == false }
        targets.hops = hops
        return targets
    }

    private func keepNetwork(
        _ node: NodeNetwork, _ configuration: NetworkConfiguration, _ lease: OwnLease, _ place: BackendPlace,
        _ dataPlane: DataPlane?
    ) async throws {
        filterEffects.update(
            peers: table.peers.lazy.compactMap { peer in
                peer.endpoint.address.v4.map { .init(subnet: peer.subnet.ipv4, address: $0) }
            })
        let subnet = lease.subnet.ipv4
        let backend = configuration.backend
        let desired = DesiredNetwork(
            backend: ConfiguredBackend(backend), place: place,
            peers: dataPlane == nil ? table.peers.map { BackendPeer($0) } : [],
            rules: PacketFilterSettings(
                network: configuration.network, subnet: subnet, masquerades: options.rules.masquerades,
                randomizesPorts: options.rules.randomizesPorts,
                acceptsForwarding: options.rules.acceptsForwarding),
            filter: configuration.enableNFTables ? .nftables : .iptables,
            surroundings: .init(
                network: configuration.network, subnet: subnet, tunnel: backend.interfaceName(in: place),
                underlay: underlay.interfaceName, address: underlay.address,
                port: (dataPlane == nil ? nil : options.tunnel.port) ?? backend.port),
            file: SubnetFile(
                network: configuration.network, subnet: subnet, ipv6: ipv6Lines(configuration, lease),
                mtu: place.mtu,
                masquerades: options.rules.masquerades),
            blackhole: options.rules.hasBlackholeRoute ? BlackholeRoute(subnet: subnet) : nil,
            tunnelIndex: dataPlane?.tunnel?.index ?? 0)
        if desired == stage.desired { return }
        let file = KeptSubnetFile(
            desired.file, at: options.lease.subnetFile, wasInPlace: stage.subnetFile != nil)
        var items = backend.desiredItems(in: place, peers: desired.peers)
        if let blackhole = desired.blackhole { items.append(blackhole) }
        let rules = PacketFilterRules(
            desired.rules, preferring: desired.filter, interfaceName: options.tunnel.interfaceName,
            beside: filterEffects)
        items.append(rules)
        items += filterEffects.desiredItems(in: desired.surroundings)
        items.append(file)
        items += podItems(subnet: subnet, after: file)
        items += await kernelPathItems(of: dataPlane)
        stage.keptFile = file
        // Where it fails, what stands is neither what was wanted before nor this.
        stage.desired = nil
        try await node.setDesired(items)
        // Where no program for rules works, that is told, and the node goes on without.
        stage.standingItems =
            items.filter { $0.isEssential }.map(\.name) + [file.name]
            + (rules.used == nil ? [] : [rules.name])
        tellFilter(wanted: desired.filter, used: rules.used)
        stage.desired = desired
    }

    private func ipv6Lines(_ configuration: NetworkConfiguration, _ lease: OwnLease) -> SubnetFile.IPv6? {
        guard let network = configuration.ipv6?.network, let subnet = lease.subnet.ipv6 else { return nil }
        return SubnetFile.IPv6(network: network, subnet: subnet)
    }

    /// Says where the rules are kept by another program than the network's configuration asks for.
    private func tellFilter(wanted: PacketFilter, used: PacketFilter?) {
        guard options.rules.masquerades || options.rules.acceptsForwarding, let used, used != wanted else {
            stage.toldFilter = nil
            return
        }
        if stage.toldFilter == used { return }
        stage.toldFilter = used
        logger.warning(
            .rulesByAnotherProgram,
            metadata: [
                "wanted": "\(wanted.rawValue)", "used": "\(used.rawValue)",
                "detail": "\(wanted.rawValue) does not work here; EnableNFTables says which is wanted",
            ])
    }

    /// Keeps routes of their own for peers that are reached over a path narrower than the underlay. The kernel does so
    /// by itself where its own devices carry the packets.
    ///
    /// - Parameter tunnel: the data plane's device; nil where there is none.
    private func followPaths(_ node: NodeNetwork, through tunnel: TunnelSettings?) async {
        let endpoints =
            tunnel == nil
            ? [:]
            : Dictionary(
                table.peers.map { ($0.subnet.ipv4, $0.endpoint) }, uniquingKeysWith: { first, _ in first })
        let paths = FollowedPeers(endpoints: endpoints, tunnel: tunnel)
        if paths == stage.paths { return }
        stage.paths = paths
        await node.followPaths(to: endpoints, through: paths.tunnel)
    }

    /// Says what a new `subnet.env` means for pods. Before the node was ready once, a file that can never be written ends
    /// the daemon.
    private func tellSubnetFile() throws(ExitFailure) {
        if !stage.isReady, let failure = stage.keptFile?.failure, failure.isHopeless {
            throw ExitFailure(.configuration, failure.description)
        }
        guard let file = stage.desired?.file, file != stage.subnetFile else { return }
        if let old = stage.subnetFile, old.subnet != file.subnet || old.mtu != file.mtu {
            logger.warning(
                .subnetFileChanged,
                metadata: [
                    "file": "\(options.lease.subnetFile)", "subnet": "\(file.subnet)", "was": "\(old.subnet)",
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
                .ready, metadata: ["subnet": "\(lease.subnet)", "peers": "\(table.peers.count)"])
            notification.ready(status: state)
            observation.update(state: state, isSetUp: true)
        } else {
            report(state: state)
        }
    }
}
