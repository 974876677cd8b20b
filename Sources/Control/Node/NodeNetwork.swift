// long: one actor, whose state is private to it: what it chooses, what it keeps and what it judges are one look at the kernel.

import Addresses
import Health
import Host
import Logging
import Netlink
import Processes
import Reconciler

/// What happened on this machine's network that the daemon has to act upon.
public enum NodeEvent: Sendable, Hashable {
    /// The interface, its address, the advertised address or the MTU is another now.
    case underlayChanged(Underlay)
    /// The tunnel device of that name is gone: somebody deleted it.
    case deviceLost(String)
}

/// This machine's network as the daemon wants it: chooses the underlay and follows it, and keeps desired items by
/// netlink notifications and a slow resync.
///
/// Works on a thread of its own, in the network namespace of the thread that made it.
public actor NodeNetwork {
    /// How long after one look at the kernel the next may follow: notifications come in bursts (a container's start
    /// makes a dozen), and somebody who fights over a route shall not keep a core busy.
    private static let pauseBetweenPasses = Duration.milliseconds(100)

    /// How many times longer than a look the pause after it is at least, so that whoever changes routes on a machine
    /// with hundreds of thousands of them makes the daemon use a fifth of a core at most.
    private static let pausePerLook = 4

    /// How long that pause is at most: what is taken away shall be back soon whatever a look took.
    private static let longestPause = Duration.seconds(1)

    /// How long routes of which nothing was told are believed to stand: notifications are all that is known to be
    /// lost (`NetworkChange.unknown`), so that this is for what nobody thought of.
    private static let routesLifetime = Duration.seconds(60)

    /// How many events wait for their reader; of more, the oldest are lost.
    private static let eventLimit = 64

    /// What the daemon has to act upon; for one reader.
    public nonisolated let events: AsyncStream<NodeEvent>

    private nonisolated let thread: ControlThread
    private let continuation: AsyncStream<NodeEvent>.Continuation
    private var options: UnderlayOptions
    var resyncInterval: Duration { reconciler.resyncInterval }
    let socket: RouteSocket
    private let monitor: RouteMonitor
    let health: NodeHealth
    var log: RepeatLimitedLog

    /// What keeps the items. The thread's alone, as all of this.
    let reconciler: Reconciler
    private let exclusions: UnderlayExclusions
    private let patience: Duration
    private let routePatience: Duration
    /// The network that the tunnel carries, and whether the underlay is outside of it.
    private var overlay: (networks: [IPPrefix], isAccepted: Bool)?
    /// The networks that it carried before, which this node's bridges may still have.
    private var formerOverlays: [IPPrefix] = []
    private var watch: UnderlayWatch?
    /// One for each family of the overlay.
    private var judges: [AddressFamily: RouteJudge] = [:]
    /// What packets are taken by, since when it is seen, and whether it is told.
    private var routeProblems: [String: (since: ContinuousClock.Instant, isTold: Bool)] = [:]
    private var missingDevice: String?

    /// The routes of interest as they were read last; nil where they may have changed since.
    var routes: (known: [Route], interest: RouteInterest, time: ContinuousClock.Instant)?
    /// The neighbour and forwarding tables of the devices that have wanted entries, as they were read last; nil where
    /// they may have changed since.
    private var neighbors: [Neighbor]?
    /// The numbers of those devices.
    private var neighborDevices: [Int32] = []
    /// Tells of their changes, for as long as there are such devices.
    private var neighborMonitor: (monitor: RouteMonitor, reader: Task<Void, Never>)?
    /// Whether `run` takes in what the kernel tells, so that `routes` may be believed.
    private var isFollowing = false
    private var nextLook: ContinuousClock.Instant?

    /// How the items stand.
    public nonisolated let itemStatuses: ItemStatuses

    // The paths to the peers (FollowedPaths.swift).

    /// Which of them are narrow, or lead to silent peers.
    public nonisolated let knownPaths = KnownPaths()
    let pathKicks: AsyncStream<Void>
    let pathKick: AsyncStream<Void>.Continuation
    var pathTunnel: TunnelSettings?
    var pathWatch: PathWatch
    var pathQuestions = PathQuestions()
    var pathProbes: PathProbeSocket?
    /// The peers whose paths are followed, by the first prefix of each.
    var pathPeers: [IPPrefix: FollowedPeer] = [:]
    /// Tells which hosts say that nobody listens on a port, from when a peer is silent on.
    var refusals: RefusalSocket?
    var narrowPaths: [NarrowPathRoute]
    var underlay: Underlay? { watch?.underlay }

    /// Asks `run` for a look.
    private nonisolated let looks: AsyncStream<Void>
    private nonisolated let look: AsyncStream<Void>.Continuation

    /// Where the actor's code runs.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { thread.asUnownedSerialExecutor() }

    /// Opens the netlink sockets.
    ///
    /// - Parameters:
    ///   - options: how the underlay is chosen.
    ///   - exclusions: what is never the underlay; `setOverlay` adds to it.
    ///   - alias: what the devices are called that this daemon makes: one so called that is not wanted is an earlier
    ///     run's; nil where it makes none.
    ///   - resyncInterval: how often everything is compared without a notification.
    ///   - patience: how long the underlay must be away before another takes over.
    ///   - routePatience: how long packets must go astray before that is told: whoever sets up a bridge or a VPN does
    ///     so step by step.
    ///   - health: is told how the underlay, the routes and the items are.
    ///   - logger: takes what was restored, and what could not be.
    ///   - pathTiming: the times by which paths to peers are probed; nil for not at all.
    ///   - inherited: narrow paths that the process before had found, whose routes stand: the largest inner packet in
    ///     bytes, by subnet.
    /// - Throws: `NetlinkError` where the kernel gives no sockets, `SystemError` where it gives no thread.
    public init(
        options: UnderlayOptions, exclusions: UnderlayExclusions = UnderlayExclusions(),
        alias: String? = nil,
        resyncInterval: Duration = .seconds(5), patience: Duration = .seconds(5),
        routePatience: Duration = .seconds(2), health: NodeHealth, logger: Logger,
        pathTiming: PathTiming? = PathTiming(), inherited: [IPPrefix: Int] = [:]
    ) throws {
        pathWatch = PathWatch(
            timing: pathTiming ?? PathTiming(), probes: pathTiming != nil,
            inherited: inherited)
        narrowPaths = inherited.map {
            NarrowPathRoute(interfaceName: exclusions.interfaceName ?? "", subnet: $0.key, mtu: $0.value)
        }
        (pathKicks, pathKick) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        self.exclusions = exclusions
        self.patience = patience
        self.routePatience = routePatience
        (looks, look) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        self.health = health
        socket = try RouteSocket()
        monitor = try RouteMonitor()
        thread = try ControlThread()
        (events, continuation) = AsyncStream.makeStream(
            bufferingPolicy: .bufferingNewest(NodeNetwork.eventLimit))
        self.options = options
        log = RepeatLimitedLog(logger: logger)
        reconciler = Reconciler(
            socket: socket, health: health, logger: logger, resyncInterval: resyncInterval, alias: alias)
        itemStatuses = reconciler.statuses
    }

    deinit {
        neighborMonitor?.reader.cancel()
        continuation.finish()
        thread.close()
    }

    /// Chooses the underlay from what the kernel says now. From here on `run` follows it, and keeps it for as long as
    /// it qualifies.
    ///
    /// - Throws: `UnderlayError` where none fits, `NetlinkError` where the kernel's state cannot be read.
    public func chooseUnderlay() throws -> Underlay {
        routes = nil
        let chosen = try chosenUnderlay(in: readState()).get()
        watch = UnderlayWatch(chosen, patience: patience)
        return chosen
    }

    /// Takes over addresses that somebody else than the command line says, and may say otherwise at any time.
    ///
    /// - Parameters:
    ///   - publicAddress: as `UnderlayOptions.publicAddress`. Where it becomes another one, an interface is chosen
    ///     anew.
    ///   - announcedAddress: as `UnderlayOptions.announcedAddress`.
    ///   - publicIPv6Address: as `UnderlayOptions.publicIPv6Address`.
    ///   - announcedIPv6Address: as `UnderlayOptions.announcedIPv6Address`.
    public func follow(
        publicAddress: IPv4Address?, announcedAddress: IPv4Address?, publicIPv6Address: IPv6Address? = nil,
        announcedIPv6Address: IPv6Address? = nil
    ) {
        let isChosenAnew =
            publicAddress != options.publicAddress || publicIPv6Address != options.publicIPv6Address
        options.publicAddress = publicAddress
        options.announcedAddress = announcedAddress
        options.publicIPv6Address = publicIPv6Address
        options.announcedIPv6Address = announcedIPv6Address
        guard let before = watch?.underlay else { return }
        routes = nil
        do {
            let state = try readState()
            // What cannot be chosen now is kept: it is told of and waited for as any other that is away.
            if isChosenAnew, case .success(let chosen) = chosenUnderlay(in: state), chosen != before {
                watch = UnderlayWatch(chosen, patience: patience)
                continuation.yield(.underlayChanged(chosen))
            }
            followUnderlay(in: state)
        } catch {
            tellUnreadable(error)
        }
    }

    /// Says which networks the tunnel carries, one of each family, before anything is made for them. An underlay inside
    /// of one is none, and one without an address of IPv4, or of the overlay's family: another takes its place at once
    /// (`NodeEvent.underlayChanged`).
    ///
    /// - Returns: whether the underlay that was chosen last will do. Where it will not, and there is no other, the node's
    ///   health says so.
    public func setOverlay(_ networks: [IPPrefix]) -> Bool {
        if overlay?.networks != networks {
            // One that was never carried left nothing behind, and may have been a slip.
            if let overlay, overlay.isAccepted {
                formerOverlays = Array(
                    (overlay.networks + formerOverlays).prefix(NodeNetwork.formerOverlayLimit))
            }
            overlay = (networks, isAccepted: false)
            routes = nil
            look.yield()
        }
        guard let underlay = watch?.underlay, isUnfit(underlay) else {
            overlay = (networks, isAccepted: true)
            return true
        }
        do { followUnderlay(in: try readState()) } catch { tellUnreadable(error) }
        return false
    }

    /// How many former networks are kept in mind: they follow one another rarely.
    private static let formerOverlayLimit = 8

    private func isUnfit(_ underlay: Underlay) -> Bool {
        underlay.address(mainFamily) == nil
            || AddressFamily.allCases.contains { family in
                underlay.address(family).map { allExclusions.network(with: $0) != nil } == true
            }
    }

    /// By whose addresses the underlay is chosen and kept: before it is known what the overlay is of, by IPv4, where the
    /// underlay has it.
    private var mainFamily: AddressFamily {
        guard let overlay else { return watch.map { $0.underlay.mainAddress.addressFamily } ?? .ipv4 }
        return overlay.networks.contains { $0.addressFamily == .ipv4 } ? .ipv4 : .ipv6
    }

    private var allExclusions: UnderlayExclusions {
        var all = exclusions
        if let overlay { all.networks.insert(contentsOf: overlay.networks, at: 0) }
        all.networks += formerOverlays
        return all
    }

    /// Judges from here on where packets into the overlay really go, for each family of `targets`.
    public func judgeRoutes(_ targets: [OverlayTargets]) {
        let isSame =
            judges.count == targets.count && targets.allSatisfy { judges[$0.family]?.targets == $0 }
        if isSame { return }
        let families = targets.map(\.family)
        judges = judges.filter { families.contains($0.key) }
        for targets in targets { judges[targets.family, default: RouteJudge()].set(targets) }
        do { judgeRoutes(in: try readState(), isResync: false) } catch { tellUnreadable(error) }
    }

    /// Replaces all desired items: takes away what is no longer wanted, and makes the rest so in their order.
    ///
    /// - Parameters:
    ///   - items: all that is wanted.
    ///   - isAddition: whether what was wanted before, and is among them, is as it was: who has changed something of that is told of.
    /// - Throws: the first failure of an essential item, which `run` tries again.
    public func setDesired(_ items: [any DesiredItem], isAddition: Bool = false) throws {
        reconciler.replace(with: items, isAddition: isAddition)
        missingDevice = nil
        routes = nil
        try followNeighbors()
        // First the new, so that no packet is without a route that has one before and after.
        let failure = try updateItems(in: readState(), isResync: true, isFirstTime: true)
        if reconciler.deleteUnwanted() { routes = nil }
        try prune(in: readState())
        if let failure { throw failure }
        if !narrowPaths.isEmpty { restoreNarrowPaths(in: try readState(), isFirstTime: true) }
    }

    /// Makes items so. Gives the first failure of an essential one.
    private func updateItems(
        in state: NetworkState, isResync: Bool, isFirstTime: Bool
    ) throws -> (any Error)? {
        let outcome = try reconciler.update(in: state, isResync: isResync, isFirstTime: isFirstTime) {
            hasChangedRoutes in
            if hasChangedRoutes { (routes, neighbors) = (nil, nil) }
            return try readState()
        }
        if let missing = outcome.missingDevice, !isFirstTime { tellDeviceMissing(missing) }
        return outcome.failure
    }

    private func prune(in state: NetworkState) throws {
        let narrow = NarrowPathRoute.routes(of: narrowPaths, in: state)
        let isPruned = try reconciler.prune(
            in: state, besideOther: { RunningProcess.otherNodeDaemon != nil }, where: narrow.contains)
        if isPruned { routes = nil }
    }

    /// Listens to changes of neighbour tables where entries of such are wanted.
    ///
    /// - Throws: `NetlinkError` where the kernel gives no socket for it.
    private func followNeighbors() throws(NetlinkError) {
        neighbors = nil
        guard !reconciler.neighborDeviceNames.isEmpty else {
            neighborMonitor?.reader.cancel()
            neighborMonitor = nil
            return
        }
        guard neighborMonitor == nil else { return }
        let monitor = try RouteMonitor.ofNeighbors()
        let changes = monitor.changes
        neighborMonitor = (
            monitor,
            Task { [weak self] in for await change in changes { await self?.takeNeighbors(change) } }
        )
    }

    private func takeNeighbors(_ change: NetworkChange) {
        if case .neighbor(let index) = change {
            // Most of a machine's changes are of other devices.
            guard neighborDevices.contains(index) else { return }
        }
        neighbors = nil
        look.yield()
    }

    /// Which routes matter: default routes, what touches a desired route, what leaves by the tunnel device, and what
    /// twill has made.
    private func interest(in links: [Link]) -> RouteInterest {
        let names = reconciler.deviceNames
        // Narrow paths lie inside of the overlay.
        var interest = RouteInterest(
            prefixes: reconciler.destinations.compactMap(\.v4).sorted(),
            interfaceIndexes: links.filter { names.contains($0.name) }.map(\.index),
            origin: Route.twillOrigin)
        interest.ipv6Prefixes = reconciler.destinations.compactMap(\.v6).sorted()
        // Until it is known that nothing here is of IPv6, the underlay may be chosen by its default route.
        interest.includesIPv6 =
            overlay.map { $0.networks.contains { $0.addressFamily == .ipv6 } } ?? true
            || !interest.ipv6Prefixes.isEmpty
        return interest
    }

    /// Reads the neighbour and forwarding tables of those devices that have wanted entries, where they may be others
    /// than those known.
    private func readNeighbors(of links: [Link]) throws(NetlinkError) -> [Neighbor] {
        let names = reconciler.neighborDeviceNames
        if names.isEmpty { return [] }
        let devices = links.filter { names.contains($0.name) }.map(\.index)
        if let neighbors, isFollowing, devices == neighborDevices { return neighbors }
        var read: [Neighbor] = []
        for index in devices {
            read += try socket.neighbors(.neighbors, ofInterface: index)
            read += try socket.neighbors(.forwarding, ofInterface: index)
        }
        (neighbors, neighborDevices) = (read, devices)
        return read
    }

    /// Reads the kernel's state; its routes only where they may be others than those known.
    private func readState() throws(NetlinkError) -> NetworkState {
        let links = try socket.links()
        let addresses = try socket.addresses()
        let neighbors = try readNeighbors(of: links)
        let interest = interest(in: links)
        let now = ContinuousClock.now
        if let routes, isFollowing, routes.interest == interest,
            now - routes.time < NodeNetwork.routesLifetime
        {
            return NetworkState(
                links: links, addresses: addresses, routes: routes.known, neighbors: neighbors)
        }
        if routes?.interest != interest { monitor.watch(interest) }
        let known = try NetworkState.routes(from: socket, interest: interest)
        routes = (known, interest, now)
        return NetworkState(links: links, addresses: addresses, routes: known, neighbors: neighbors)
    }

    /// Takes away every desired item that outlives the tunnel device, and keeps none from here on.
    ///
    /// - Throws: `NetlinkError` where the kernel's state cannot be read.
    public func withdrawAll() throws {
        followPaths(to: [], through: nil)
        try setDesired([])
    }

    /// Returns once the thread that all of this runs on has come to it: whether it still answers.
    public func answer() {}

    /// Compares everything this often from now on, from the next time on that it is due.
    public func follow(resyncInterval: Duration) {
        reconciler.resyncInterval = resyncInterval
    }

    /// Compares everything with the kernel once, restores what differs, and follows the underlay.
    public func reconcile() {
        routes = nil
        reconcile(isResync: true)
    }

    private func reconcile(isResync: Bool) {
        if isResync { neighbors = nil }
        noteForPaths(isResync: isResync)
        if isResync, reconciler.deleteUnwanted() { routes = nil }
        do {
            let state = try readState()
            _ = try updateItems(in: state, isResync: isResync, isFirstTime: false)
            try prune(in: state)
            restoreNarrowPaths(in: try readState(), isFirstTime: false)
            followUnderlay(in: state)
            judgeRoutes(in: try readState(), isResync: isResync)
            health.set(Component(.setting, "netlink"), nil)
        } catch {
            tellUnreadable(error)
        }
    }

    private func tellUnreadable(_ error: any Error) {
        log.warning(.cannotReadNetworkState, item: "netlink", "\(error)")
        health.set(
            Component(.setting, "netlink"),
            Problem(
                .degraded, "the kernel's interfaces and routes can't be read: \(error)",
                remedy:
                    "what is taken away meanwhile does not come back; it is tried again every \(resyncInterval)"
            ))
    }

    private func judgeRoutes(in state: NetworkState, isResync: Bool) {
        var problems: [String: Problem] = [:]
        for family in judges.keys {
            do {
                try judges[family]?.look(in: state, using: socket, isResync: isResync)
            } catch {
                tellUnreadable(error)
            }
            // A rule for all packets reads the same in both families.
            for (subject, problem) in judges[family]?.problems ?? [:] {
                problems[subject + family.suffix] = problem
            }
        }
        let now = ContinuousClock.now
        for (subject, seen) in routeProblems where problems[subject] == nil {
            if seen.isTold { health.forget(Component(.route, subject)) }
            routeProblems[subject] = nil
        }
        for (subject, problem) in problems {
            let since = routeProblems[subject]?.since ?? now
            let isTold = now - since >= routePatience
            routeProblems[subject] = (since, isTold)
            if isTold {
                health.set(Component(.route, subject), problem)
            } else {
                look(at: since + routePatience)
            }
        }
        if judges.values.contains(where: \.hasDoubts) { look.yield() }
    }

    /// Follows the kernel until the task is cancelled; once for each `NodeNetwork`.
    public func run() async {
        let changes = monitor.changes
        let looks = looks
        isFollowing = true
        routes = nil
        await withDiscardingTaskGroup { group in
            group.addTask {
                while !Task.isCancelled {
                    await self.reconcile(isResync: true)
                    try? await Task.sleep(for: self.resyncInterval)
                }
            }
            group.addTask { await self.runPaths() }
            group.addTask {
                for await change in changes { await self.take(change) }
                if !Task.isCancelled { await self.tellMonitorEnded() }
            }
            for await _ in looks {
                let start = ContinuousClock.now
                reconcile(isResync: false)
                let pause = (ContinuousClock.now - start) * NodeNetwork.pausePerLook
                try? await Task.sleep(
                    for: min(max(pause, NodeNetwork.pauseBetweenPasses), NodeNetwork.longestPause))
            }
            group.cancelAll()
        }
        isFollowing = false
    }

    /// Takes in what the kernel told; every change of a link, an address or a route of interest is a reason to look.
    private func take(_ change: NetworkChange) {
        reconciler.noteForPruning(change)
        switch change {
        case .route(let route), .routeRemoved(let route):
            if route.table == Route.mainTable { note(route, isThere: change == .route(route)) }
            judges[route.destination.addressFamily]?.doubt(route.destination)
        case .rule(let rule):
            judges[rule.family]?.doubtAll()
        case .neighbor:
            break
        case .nextHop, .unknown:
            routes = nil
            for family in judges.keys { judges[family]?.doubtAll() }
        case .link(let link), .linkRemoved(let link):
            // Routes that go with their link are not told of one by one.
            if change == .linkRemoved(link) || !link.isUp { forgetRoutes(of: link.index) }
        case .addressRemoved(let address):
            forgetRoutes(of: address.interfaceIndex)
        case .address:
            break
        }
        look.yield()
    }

    /// Follows one route of the main table without reading the others again, so that what somebody took away comes
    /// back at once on a machine with hundreds of thousands of them.
    private func note(_ route: Route, isThere: Bool) {
        if !isThere {
            routes?.known.removeAll { $0 == route }
        } else if routes?.known.contains(route) == false {
            // Whether it is one more, or has replaced one, and which the kernel takes first, only a list tells.
            routes = nil
        }
    }

    private func forgetRoutes(of index: Int32) {
        // Also those by other interfaces that have the address as their source.
        if routes?.known.contains(where: { $0.interfaceIndexes.contains(index) || $0.preferredSource != nil })
            == true
        {
            routes = nil
        }
        for family in judges.keys { judges[family]?.doubtTaken() }
    }

    /// Looks again at a time at which nothing may be told.
    private func look(at time: ContinuousClock.Instant?) {
        guard let time, nextLook.map({ time < $0 || $0 <= .now }) ?? true else { return }
        nextLook = time
        let look = look
        Task {
            try? await Task.sleep(until: time, clock: .continuous)
            look.yield()
        }
    }

    private func tellMonitorEnded() {
        isFollowing = false
        log.warning(
            .noMoreNotifications, item: "netlink",
            "changes are seen every \(resyncInterval)")
        health.set(
            Component(.setting, "netlink notifications"),
            Problem(
                .degraded,
                "the kernel tells no more of changes: what is taken away comes back after "
                    + "\(resyncInterval) only",
                remedy: "restart twilld"))
    }

    private func tellDeviceMissing(_ error: DeviceMissingError) {
        guard missingDevice != error.interfaceName else { return }
        missingDevice = error.interfaceName
        log.warning(.deviceLost, item: error.interfaceName, "\(error)")
        continuation.yield(.deviceLost(error.interfaceName))
    }

    private func chosenUnderlay(in state: NetworkState) -> Result<Underlay, UnderlayError> {
        // A kernel that knows no route refuses: then there is none to go by.
        let route = options.reachableAddress.flatMap { try? socket.route(to: $0) }
        return Result { () throws(UnderlayError) in
            try Underlay(
                choosing: options, excluding: allExclusions, in: state, routeToReachable: route,
                by: overlay == nil ? AddressFamily.allCases : [mainFamily])
        }
    }

    private func followUnderlay(in state: NetworkState) {
        guard var watch else { return }
        let before = watch.underlay
        var choice = UnderlayChoice(
            options: options, exclusions: allExclusions, state: state, routeToReachable: nil)
        choice.family = mainFamily
        watch.look(choice, now: .now) { chosenUnderlay(in: state) }
        self.watch = watch
        health.set(Component(.underlay), watch.problem)
        look(at: watch.nextLook)
        if watch.underlay != before { continuation.yield(.underlayChanged(watch.underlay)) }
    }
}
