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
            if !table.refusedNetworks.isEmpty { _ = await node.setOverlay(table.refusedNetworks) }
            let missing = options.origin.isCluster ? "a podCIDR" : "a lease"
            let wait = "waiting for \(table.configuration == nil ? "the network config" : missing)"
            report(state: table.problems.first.map { "\(wait): \($0)" } ?? wait)
            await withdrawSubnetFile()
            await announce()
            return
        }
        guard await node.setOverlay(configuration.networks) else {
            report(state: "waiting for an underlay outside of the network \(configuration.networkText)")
            return
        }
        do {
            let places = try places(configuration, lease)
            guard let place = places.first else {
                report(state: "waiting for an underlay with an address of \(configuration.underlayFamily)")
                await announce()
                return
            }
            let routes = routes(lease, mtu: place.mtu)
            let dataPlane = try await dataPlane(configuration, lease, places, routes)
            stage.routes = routes
            dataPlane?.publish(routes)
            // One that came half the way to new settings is on the port of before still, where others are to send.
            let port = options.tunnel.port ?? configuration.backend.port
            if dataPlane.map({ $0.underlay.port == port }) ?? true { await announce() }
            try await keepNetwork(node, configuration, lease, places, dataPlane)
            await followPaths(
                node,
                through: dataPlane.flatMap { _ in
                    place.tunnel(
                        overhead: configuration.backend.overhead(over: configuration.underlayFamily))
                })
            await node.judgeRoutes(places.map { targets(configuration.backend, $0) })
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
        await announce()
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

    /// Where on this machine the backend works, for each family of the network and of this node's subnet; IPv4 first. A
    /// family that this node has no address for on its underlay is told of, and left out.
    ///
    /// - Throws: where the underlay has no room for the backend's headers.
    private func places(
        _ configuration: NetworkConfiguration, _ lease: OwnLease
    ) throws(TunnelMTUError) -> [BackendPlace] {
        let backend = configuration.backend
        var places: [BackendPlace] = []
        for (network, subnet) in configuration.networks.compactMap({ network in
            lease.subnet.prefix(network.addressFamily).map { (network, $0) }
        }) {
            let hasOwnEndpoint = type(of: backend).hasEndpointOfEachFamily
            let family = hasOwnEndpoint ? network.addressFamily : configuration.underlayFamily
            guard let address = underlay.address(family), let publicAddress = underlay.publicAddress(family)
            else { continue }
            let mtu = try TunnelMTU.choose(
                underlayMTU: underlay.mtu, overhead: backend.overhead(over: family),
                configured: options.tunnel.mtu ?? configuration.backend.mtu(over: family),
                carriesIPv6: hasOwnEndpoint ? family == .ipv6 : configuration.ipv6 != nil)
            places.append(
                BackendPlace(
                    network: network, subnet: subnet, tunnelName: options.tunnel.interfaceName,
                    alias: alias,
                    underlayName: underlay.interfaceName, underlayIndex: underlay.interfaceIndex,
                    underlayAddress: address, publicAddress: publicAddress, mtu: mtu,
                    queueLength: options.tuning.queueLength, machine: options.machine,
                    prepared: preparation?.announced))
        }
        tellMissingFamily(configuration, lease, places)
        let ipv6 = places.first { $0.network.addressFamily == .ipv6 }.map {
            BackendSide(subnet: $0.subnet, address: $0.publicAddress)
        }
        return places.map { place in
            var place = place
            if place.network.addressFamily == .ipv4 { place.ipv6 = ipv6 }
            return place
        }
    }

    /// Says which family of the network this node does not carry.
    private func tellMissingFamily(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, _ places: [BackendPlace]
    ) {
        let component = Component(.underlay, "IPv6")
        guard configuration.ipv6 != nil, !places.contains(where: { $0.network.addressFamily == .ipv6 }) else {
            return health.forget(component)
        }
        let problem =
            lease.subnet.ipv6 == nil
            ? Problem(
                .degraded, "the network has IPv6, and this node's subnet, \(lease.subnet), has none",
                remedy: options.origin.isCluster
                    ? "have podCIDRs of both families assigned: kube-controller-manager --cluster-cidr=IPV4,IPV6"
                    : "delete the lease, and restart twilld: twilld lease release \(lease.subnet)")
            : Problem(
                .degraded,
                "the network has IPv6, and \(underlay.interfaceName), this node's underlay interface, has no IPv6 "
                    + "address, so that pods here reach those of other nodes by IPv4 alone",
                remedy: "give it one that is global or unique local, or name another interface with --iface")
        health.set(component, problem)
    }

    /// Where packets for the other nodes' pods are to go, in the family of `place`.
    private func targets(_ backend: any Backend, _ place: BackendPlace) -> OverlayTargets {
        let family = place.network.addressFamily
        var targets = OverlayTargets(
            interfaceName: backend.interfaceName(in: place), network: place.network, subnet: place.subnet,
            peers: Set(table.peers.compactMap { $0.subnet.prefix(family) }))
        guard !type(of: backend).hasDataPlane else { return targets }
        var hops: [IPPrefix: [OverlayTargets.Hop]] = [:]
        for peer in table.peers {
            guard let subnet = peer.subnet.prefix(family), let known = BackendPeer(peer, family) else {
                continue
            }
            // The whole network is routed to the device.
            guard let ways = backend.hops(to: known, in: place) else { return targets }
            hops[subnet] = ways.map {
                OverlayTargets.Hop(interfaceName: $0.interfaceName, gateway: $0.gateway)
            }
        }
        // Where packets to a peer go by is not always for twill to say (alloc, extension).
        targets.peers = targets.peers.filter { hops[$0]?.isEmpty == false }
        targets.hops = hops
        return targets
    }

    private func keepNetwork(
        _ node: NodeNetwork, _ configuration: NetworkConfiguration, _ lease: OwnLease,
        _ places: [BackendPlace], _ dataPlane: DataPlane?
    ) async throws {
        let backend = configuration.backend
        filterEffects.update(
            peers: places.map(\.network.addressFamily).flatMap { family in
                table.peers.compactMap { peer -> PacketFilterEffects.Peer? in
                    // Where both families go to one address, it is the endpoint's.
                    let address =
                        type(of: backend).hasEndpointOfEachFamily
                        ? BackendPeer(peer, family)?.address : peer.endpoint.address
                    guard let subnet = peer.subnet.prefix(family), let address else { return nil }
                    return .init(subnet: subnet, address: address)
                }
            })
        let desired = desiredNetwork(configuration, lease, places, dataPlane)
        if desired == stage.desired { return }
        // All is as it was, and the kernel path's programs are there.
        var withPrograms = stage.desired
        withPrograms?.awaitsKernelPath = false
        let isAddition = desired == withPrograms
        let file = KeptSubnetFile(
            desired.file, at: options.lease.subnetFile, wasInPlace: stage.subnetFile != nil)
        var items: [any DesiredItem] = []
        for place in places {
            let family = place.network.addressFamily
            let peers = desired.peers.filter { $0.subnet.addressFamily == family }
            // What the families share, a data plane's device, is wanted once.
            items += backend.desiredItems(in: place, peers: peers).filter { item in
                !items.contains { $0.name == item.name }
            }
        }
        items += desired.blackholes
        let rules = desired.rules.map {
            PacketFilterRules(
                $0, preferring: desired.filter, interfaceName: options.tunnel.interfaceName,
                beside: filterEffects)
        }
        items += rules
        for surroundings in desired.surroundings {
            items += filterEffects.desiredItems(in: surroundings).filter { item in
                !items.contains { $0.name == item.name }
            }
        }
        items.append(file)
        items += podItems(
            in: places.map { PodPrefix(network: $0.network, subnet: $0.subnet) }, after: file)
        items += await kernelPathItems(of: dataPlane)
        stage.keptFile = file
        // Where it fails, what stands is neither what was wanted before nor this.
        stage.desired = nil
        try await node.setDesired(items, isAddition: isAddition)
        // Where no program for rules works, that is told, and the node goes on without.
        stage.standingItems =
            items.filter { $0.isEssential }.map(\.name) + [file.name]
            + rules.filter { $0.used != nil }.map(\.name)
        for rules in rules { tellFilter(wanted: desired.filter, used: rules.used) }
        stage.desired = desired
    }

    private func desiredNetwork(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, _ places: [BackendPlace],
        _ dataPlane: DataPlane?
    ) -> DesiredNetwork {
        let backend = configuration.backend
        let surroundings = places.map { place in
            PacketFilterEffects.Surroundings(
                network: place.network, subnet: place.subnet, tunnel: backend.interfaceName(in: place),
                underlay: underlay.interfaceName, address: place.underlayAddress,
                port: (dataPlane == nil ? nil : options.tunnel.port) ?? backend.port)
        }
        return DesiredNetwork(
            backend: ConfiguredBackend(backend), places: places,
            peers: dataPlane == nil
                ? places.flatMap { place in
                    table.peers.compactMap { BackendPeer($0, place.network.addressFamily) }
                } : [],
            rules: places.map { place in
                PacketFilterSettings(
                    network: place.network, subnet: place.subnet, masquerades: options.rules.masquerades,
                    randomizesPorts: options.rules.randomizesPorts,
                    acceptsForwarding: options.rules.acceptsForwarding)
            },
            filter: configuration.enableNFTables ? .nftables : .iptables, surroundings: surroundings,
            file: subnetFile(configuration, lease, places),
            blackholes: options.rules.hasBlackholeRoute
                ? places.map { BlackholeRoute(subnet: $0.subnet) } : [],
            tunnelIndex: dataPlane?.tunnel?.index ?? 0,
            awaitsKernelPath: dataPlane?.awaitsKernelPath ?? false)
    }

    private func subnetFile(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, _ places: [BackendPlace]
    ) -> SubnetFile {
        var ipv4: SubnetFile.IPv4?
        if let network = configuration.ipv4?.network, let subnet = lease.subnet.ipv4 {
            ipv4 = SubnetFile.IPv4(network: network, subnet: subnet)
        }
        var ipv6: SubnetFile.IPv6?
        if let network = configuration.ipv6?.network, let subnet = lease.subnet.ipv6 {
            ipv6 = SubnetFile.IPv6(network: network, subnet: subnet)
        }
        // Pods have one interface for both families: what the narrower one takes.
        return SubnetFile(
            ipv4: ipv4, ipv6: ipv6, mtu: places.map(\.mtu).min() ?? 0,
            masquerades: options.rules.masquerades)
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
        let peers =
            tunnel == nil
            ? [] : table.peers.map { FollowedPeer(prefixes: $0.subnet.prefixes, endpoint: $0.endpoint) }
        let paths = FollowedPeers(peers: peers, tunnel: tunnel)
        if paths == stage.paths { return }
        stage.paths = paths
        await node.followPaths(to: peers, through: tunnel)
    }

    /// Says what a new `subnet.env` means for pods. Before the node was ready once, a file that can never be written ends
    /// the daemon.
    private func tellSubnetFile() throws(ExitFailure) {
        if !stage.isReady, let failure = stage.keptFile?.failure, failure.isHopeless {
            throw ExitFailure(.configuration, failure.description)
        }
        guard let file = stage.desired?.file, file != stage.subnetFile else { return }
        if let old = stage.subnetFile, old.subnetText != file.subnetText || old.mtu != file.mtu {
            logger.warning(
                .subnetFileChanged,
                metadata: [
                    "file": "\(options.lease.subnetFile)", "subnet": "\(file.subnetText)",
                    "was": "\(old.subnetText)",
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
