// How it works. Three things tell the daemon how the node should be: a source of peers (the network's configuration
// and its nodes), a claim (this node's subnet; the lease keeper is both), and the node's network (interface, address,
// MTU). Each stores its last report here and asks for a pass. This is level-triggered reconciliation: one task makes
// the passes, one after another, and each compares the node with what was reported last and makes it so (data plane,
// routes, rules, subnet.env), however many reports came before. What fails is logged once and tried again, with a
// pause.

import Addresses
import Backends
import Health
import Host
import Leases
import Logging
import Firewall
import Forwarding
import Node
import Reconciler
import TrafficControl
import Worker

/// One node of a network, from its start to its end.
actor Daemon {
    /// Seconds between two tries of something that failed: doubles up to the limit.
    static let retryPauseSeconds = (first: 1, limit: 30)
    /// Seconds between two tries of what another process holds: the node heals when that one ends.
    static let heldPauseSeconds = 2

    var options: NodeOptions
    let logger: Logger
    let notification: ServiceNotification
    let store: DescriptorStore
    let observation: Observation
    let health: NodeHealth
    let heartbeats: Heartbeats
    let node: NodeNetwork
    let filterEffects = PacketFilterEffects()
    private let passes: AsyncStream<Void>
    private let passContinuation: AsyncStream<Void>.Continuation

    var underlay: Underlay
    private var network = KnownNetwork()
    private var ownLease: OwnLease?
    var table = PeerTable()
    var isPassWanted = false
    var deviceIsLost = false
    var stage = Stage()
    var retryPause = Daemon.retryPauseSeconds.first
    var isStopping = false
    var claim: (any SubnetClaim)?
    /// What was done on this machine for the network's backend before the node announced itself.
    var preparation: BackendPreparation?
    /// The backend of the first configuration that this process was told.
    var firstBackend: ConfiguredBackend?
    /// What others were told of this node last.
    private var announced: NodeAnnouncement?
    /// Who is told whether the network of this node stands, and what that one was told last.
    private(set) var standingListener: (@Sendable (Bool) async -> Void)?
    var toldStands: Bool?
    var dataPlaneWatch: DataPlaneWatch
    var wakesSeen: [UInt64] = []
    /// The data plane is being handed over: nothing else touches it meanwhile.
    var isHandingOver = false
    /// When one was given the data plane last that did not take it.
    var failedHandOver: ContinuousClock.Instant?
    /// Another data plane is following the one that there is: nobody else touches that meanwhile.
    var isReplacing = false
    var hasToldKernelPathRefusal = false
    var hasRemovedLeftPrograms = false
    /// This node's identity; nil where its cluster has it.
    private(set) var identity: NodeIdentity?
    /// Whether this process has had a data plane: then nobody who ended before it can hold port or device.
    var hasHadDataPlane = false

    /// What stands, as far as the passes have come.
    struct Stage {
        var dataPlane: DataPlane?
        /// What was published to it last.
        var routes: ForwardingRoutes?
        /// What is stored for the next process.
        var stored: StoredDescriptors?
        var fallbacks = FallbackWatch()
        var formerPort = FormerPort()
        var kernelPath: AttachedKernelPath?
        /// Where the kernel path's programs stand, or are to.
        var programPlaces: [ProgramPlace] = []
        /// The data plane whose kernel path was last asked for.
        weak var loadsKernelPath: DataPlane?
        /// The port that another process holds or held, until it was had.
        var heldPort: Component?
        var desired: DesiredNetwork?
        var paths: FollowedPeers?
        /// What keeps `subnet.env`, and what that holds.
        var keptFile: KeptSubnetFile?
        var subnetFile: SubnetFile?
        /// The names of the items that must be as they are wanted for pods to have a network.
        var standingItems: [String] = []
        /// The program that keeps the rules in the place of the one that was asked for, as it was told.
        var toldFilter: PacketFilter?
        var isReady = false
    }

    /// What the node's network is asked to follow the paths of.
    struct FollowedPeers: Equatable {
        var peers: [FollowedPeer]
        var tunnel: TunnelSettings?
    }

    /// What the node's network is asked to keep.
    struct DesiredNetwork: Equatable {
        var backend: ConfiguredBackend
        /// Where the backend works, for each family of the network.
        var places: [BackendPlace]
        /// Whom the backend is told of, of each family; none where a data plane is.
        var peers: [BackendPeer]
        var rules: [PacketFilterSettings]
        var filter: PacketFilter
        /// What others' rules are judged by, for each family of the network.
        var surroundings: [PacketFilterEffects.Surroundings]
        var file: SubnetFile
        var blackholes: [BlackholeRoute]
        /// Another device of the same name: its addresses and routes are to be made anew.
        var tunnelIndex: UInt32
        /// The kernel path's programs are not there yet.
        var awaitsKernelPath: Bool
    }

    /// - Parameter inherited: a data plane that forwards already.
    init(_ options: NodeOptions, underlay: Underlay, parts: Parts, inherited: InheritedDataPlane? = nil) {
        health = parts.health
        heartbeats = parts.heartbeats
        node = parts.node
        logger = parts.logger
        notification = parts.notification
        observation = parts.seen
        store = parts.store
        dataPlaneWatch = DataPlaneWatch(health: parts.health)
        if let inherited {
            stage.dataPlane = inherited.dataPlane
            stage.routes = inherited.state.routes
            hasHadDataPlane = true
            observation.update(inherited.dataPlane, continuing: true)
        }
        self.options = options
        self.underlay = underlay
        (passes, passContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        observation.update(underlay)
    }

    /// Runs the node in `store` until the task is cancelled.
    ///
    /// - Throws: What keeps the node from starting, or `LeaseLost`.
    func run(store: any LeaseStore, identity: IdentityFile.Kept) async throws {
        let heartbeats = heartbeats
        self.identity = identity.identity
        let announcement = announcement
        announced = announcement
        let keeper = LeaseKeeper(
            store: store, announcement: announcement, options: await leaseOptions(of: identity),
            logger: logger,
            identityChanged: keepIdentity, heartbeat: { heartbeats.stamp(.leaseKeeper) })
        try await run(
            peersFrom: keeper, subnetFrom: keeper, tellingWhetherItStands: nil, by: { try await keeper.run() }
        )
    }

    /// Runs the node by what `source` and `claim` say, until the task is cancelled.
    ///
    /// - Parameters:
    ///   - listener: is told each time that device, routes, rules and `subnet.env` have come to stand, or no longer
    ///     do; nil where nobody wants to know.
    ///   - work: keeps the two going; where it ends or throws, the node ends.
    /// - Throws: What keeps the node from starting, or what `work` throws.
    func run(
        peersFrom source: any PeerSource, subnetFrom claim: any SubnetClaim,
        tellingWhetherItStands listener: (@Sendable (Bool) async -> Void)?,
        by work: @escaping @Sendable () async throws -> Void
    ) async throws {
        standingListener = listener
        self.claim = claim
        let node = node
        let heartbeats = heartbeats
        observation.update(node.knownPaths)
        observation.update(node.itemStatuses)
        defer { heartbeats.forgetAll() }

        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await work() }
            group.addTask { await node.run() }
            group.addTask { for await network in source.networks { await self.take(network) } }
            group.addTask { for await lease in claim.subnets { await self.take(lease) } }
            group.addTask { for await event in node.events { await self.take(event) } }
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

    private func leaseOptions(of identity: IdentityFile.Kept) async -> LeaseOptions {
        var lease = LeaseOptions(identity: identity.identity)
        lease.identityProblem = identity.problem
        lease.previousSubnet = await previousSubnet()
        lease.renewalMargin = options.lease.renewalMargin
        lease.lossPolicy = options.lease.lossPolicy
        return lease
    }

    private func keepIdentity(_ identity: NodeIdentity) async {
        self.identity = identity
        let directory = options.lease.stateDirectory
        do throws(ExitFailure) {
            try await onThread { () throws(ExitFailure) in
                try IdentityFile.keep(identity, in: directory)
            }
        } catch {
            logger.error(.identityNotKept, metadata: ["detail": "\(error.message)"])
        }
    }

    /// Ends the packet threads, once they have sent and written out what they hold. The lease, the rules and `subnet.env`
    /// stay for the next start, and the device where that is asked for; the descriptors do where systemd keeps them.
    func stop() async {
        isStopping = true
        heartbeats.forgetAll()
        passContinuation.finish()
        await leaveDataPlane()
    }

    /// Takes over those of other options that need no restart. What the data plane is made of changes without a break: a
    /// new one follows it.
    func follow(_ new: NodeOptions) async {
        let before = options
        options.follow(new)
        guard options != before else { return }
        // Others are told of another port by the pass, once it is open.
        askForPass()
    }

    /// Tells others of this node as it is now, where they were told otherwise.
    func announce() async {
        let announcement = announcement
        guard announcement != announced else { return }
        announced = announcement
        await claim?.announce(announcement)
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

    private func take(_ event: NodeEvent) async {
        switch event {
        case .underlayChanged(let underlay):
            logger.notice(
                .underlayChanged,
                metadata: [
                    "interface": "\(underlay.interfaceName)", "address": "\(underlay.addressText)",
                    "public": "\(underlay.publicAddressText)", "mtu": "\(underlay.mtu)",
                ])
            self.underlay = underlay
            observation.update(underlay)
            await announce()
        case .deviceLost(let name):
            logger.error(.tunnelDeviceLost, metadata: ["interface": "\(name)"])
            deviceIsLost = true
        }
        askForPass()
    }

    /// What the other nodes are to be told of this one.
    var announcement: NodeAnnouncement {
        var announcement = NodeAnnouncement(
            publicAddress: underlay.publicAddress, publicIPv6Address: underlay.publicIPv6Address,
            port: options.tunnel.port, underlayAddress: underlay.address,
            underlayIPv6Address: underlay.ipv6Address, hostName: HostName.own)
        announcement.preparation = preparation
        // In a store of leases a node has no port in its entry but one of its own: flannel's udp has none.
        announcement.openPort = options.origin.isCluster ? stage.dataPlane?.underlay.port : nil
        return announcement
    }

    private func previousSubnet() async -> LeaseSubnet? {
        let path = options.lease.subnetFile
        do throws(SubnetFileError) {
            let values = try await onThread { () throws(SubnetFileError) in try SubnetFileValues(path: path) }
            guard let values else { return nil }
            let subnet = LeaseSubnet(ipv4: values.subnet, ipv6: values.ipv6Subnet)
            if subnet == nil {
                logger.warning(
                    .previousSubnetUnknown,
                    metadata: [
                        "detail": "\(path) has no FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET that is a prefix"
                    ])
            }
            return subnet
        } catch {
            logger.warning(.previousSubnetUnknown, metadata: ["detail": "\(error)"])
            return nil
        }
    }

    func report(state: String) {
        guard observation.update(state: state, isSetUp: stage.isReady) else { return }
        notification.status(state)
    }
}
