import Addresses
import Health
import Logging
import Netlink

/// What happened on this machine's network that the daemon has to act upon.
public enum NodeEvent: Sendable, Hashable {
    /// The interface, its address, the advertised address or the MTU is another now, or the underlay is back
    /// after
    /// `underlayLost`.
    case underlayChanged(Underlay)
    /// No interface fits the options any more; the text says why. The last underlay stays in use.
    case underlayLost(String)
    /// The tunnel device of that name is gone: somebody deleted it.
    case deviceLost(String)
}

/// This machine's network as the daemon wants it: chooses the underlay and follows it, and keeps desired
/// items by
/// netlink notifications and a slow resync.
///
/// Works on a thread of its own, in the network namespace of the thread that made it.
public actor NodeNetwork {
    /// How long after one look at the kernel the next may follow: notifications come in bursts (a container's
    /// start
    /// makes a dozen), and somebody who fights over a route shall not keep a core busy.
    private static let pauseBetweenPasses = Duration.milliseconds(100)

    /// How many events wait for their reader; of more, the oldest are lost.
    private static let eventLimit = 64

    /// What the daemon has to act upon; for one reader.
    public nonisolated let events: AsyncStream<NodeEvent>

    private nonisolated let thread: ControlThread
    private let continuation: AsyncStream<NodeEvent>.Continuation
    private let options: UnderlayOptions
    private var resyncInterval: Duration
    private let socket: RouteSocket
    private let monitor: RouteMonitor
    private let health: NodeHealth
    private var log: RepeatLimitedLog

    private var items: [any DesiredItem] = []
    private var paths: FollowedPaths?
    private var narrowPaths: [NarrowPathRoute] = []
    private var underlay: Underlay?
    private var underlayProblem: String?
    private var missingDevice: String?

    /// Where the actor's code runs.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { thread.asUnownedSerialExecutor() }

    /// Opens the netlink sockets. `resyncInterval`: how often everything is compared without a notification.
    public init(
        options: UnderlayOptions, resyncInterval: Duration = .seconds(5), health: NodeHealth, logger: Logger
    ) throws {
        self.health = health
        socket = try RouteSocket()
        monitor = try RouteMonitor()
        thread = try ControlThread()
        (events, continuation) = AsyncStream.makeStream(
            bufferingPolicy: .bufferingNewest(NodeNetwork.eventLimit))
        self.options = options
        self.resyncInterval = resyncInterval
        log = RepeatLimitedLog(logger: logger)
    }

    deinit {
        continuation.finish()
        thread.close()
    }

    /// Chooses the underlay from what the kernel says now. From here on `run` follows it.
    public func chooseUnderlay() throws -> Underlay {
        let chosen = try chooseUnderlay(in: NetworkState(from: socket))
        underlay = chosen
        return chosen
    }

    /// Replaces all desired items: takes away what is no longer wanted, and makes the rest so in their order.
    /// Throws
    /// the first failure of an essential item; `run` tries again.
    public func setDesired(_ items: [any DesiredItem]) throws {
        withdraw(self.items, except: items)
        self.items = items
        missingDevice = nil
        if let failure = try restore(items + narrowPaths, in: NetworkState(from: socket), isFirstTime: true) {
            throw failure
        }
    }

    /// Takes away every desired item that outlives the tunnel device, and keeps none from here on.
    public func withdrawAll() throws {
        followPaths(to: [:], through: "")
        try setDesired([])
    }

    /// Follows the paths to the peers, given as each one's underlay address by its subnet: a path that the
    /// kernel
    /// learns is narrower than the underlay gets a route of its own through the tunnel device, with what the
    /// path
    /// leaves for an inner packet as its MTU, until the kernel forgets it.
    ///
    /// Looked at by every resync; `checkPaths` does so at once.
    public func followPaths(to peers: [IPv4Prefix: IPv4Address], through interfaceName: String) {
        paths = peers.isEmpty ? nil : FollowedPaths(interfaceName: interfaceName, peers: peers)
        checkPaths()
    }

    /// Looks at once whether a path became narrower: right after a datagram was too large for one.
    public func checkPaths() {
        do {
            let wanted =
                try paths.map { paths in
                    paths.narrow(learnt: try socket.learntPathMTUs(), underlayMTU: underlay?.mtu ?? .max)
                } ?? []
            guard wanted != narrowPaths else { return }
            withdraw(narrowPaths, except: wanted)
            for path in wanted where !narrowPaths.contains(path) {
                log.notice("narrow path", item: path.name, "MTU \(path.mtu)")
            }
            narrowPaths = wanted
            _ = try restore(wanted, in: NetworkState(from: socket), isFirstTime: true)
        } catch {
            log.warning("cannot follow the paths to the peers", item: "paths", "\(error)")
        }
    }

    private func withdraw(_ items: [any DesiredItem], except wanted: [any DesiredItem]) {
        let wanted = Set(wanted.map(\.name))
        for item in items where !wanted.contains(item.name) {
            do {
                try item.withdraw(using: socket)
                health.forget(item.component)
            } catch {
                log.warning("cannot withdraw", item: item.name, "\(error)")
            }
        }
    }

    /// Returns once the thread that all of this runs on has come to it: whether it still answers.
    public func answer() {}

    /// Compares everything this often from now on, from the next time on that it is due.
    public func follow(resyncInterval: Duration) { self.resyncInterval = resyncInterval }

    /// Compares everything with the kernel once, restores what differs, and follows the underlay.
    public func reconcile() { reconcile(isResync: true) }

    private func reconcile(isResync: Bool) {
        if isResync { checkPaths() }
        do {
            let state = try NetworkState(from: socket)
            let looked = items.filter { isResync || !$0.needsResync } + narrowPaths
            _ = try restore(looked, in: state, isFirstTime: false)
            followUnderlay(in: state)
            health.set(Component(.setting, "netlink"), nil)
        } catch {
            log.warning("cannot read the network's state", item: "netlink", "\(error)")
            health.set(
                Component(.setting, "netlink"),
                Problem(
                    .degraded, "the kernel's interfaces and routes can't be read: \(error)",
                    remedy:
                        "what is taken away meanwhile does not come back; it is tried again every "
                        + "\(resyncInterval)"
                ))
        }
    }

    /// Follows the kernel until the task is cancelled; once for each `NodeNetwork`.
    public func run() async {
        let (bursts, burst) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let changes = monitor.changes
        await withDiscardingTaskGroup { group in
            group.addTask {
                while !Task.isCancelled {
                    await self.reconcile(isResync: true)
                    try? await Task.sleep(for: self.resyncInterval)
                }
            }
            group.addTask {
                for await _ in changes { burst.yield() }
                if !Task.isCancelled { await self.tellMonitorEnded() }
            }
            for await _ in bursts {
                reconcile(isResync: false)
                try? await Task.sleep(for: NodeNetwork.pauseBetweenPasses)
            }
            group.cancelAll()
        }
    }

    private func tellMonitorEnded() {
        log.warning(
            "no more notifications of network changes", item: "netlink",
            "changes are seen every \(resyncInterval)")
        health.set(
            Component(.setting, "netlink notifications"),
            Problem(
                .degraded,
                "the kernel tells no more of changes: what is taken away comes back after "
                    + "\(resyncInterval) only",
                remedy: "restart twilld"))
    }

    /// Restores what differs. Gives the first failure of an essential item.
    private func restore(
        _ items: [any DesiredItem], in initialState: NetworkState, isFirstTime: Bool
    ) throws -> (any Error)? {
        var state = initialState
        var firstFailure: (any Error)?
        for item in items {
            do {
                guard let deviation = try item.deviation(in: state) else {
                    log.settled(item: item.name)
                    health.set(item.component, nil)
                    continue
                }
                try item.restore(in: state, using: socket)
                health.set(item.component, nil)
                if !isFirstTime { log.notice("restored", item: item.name, deviation) }
                // The next items build on this one.
                state = try NetworkState(from: socket)
            } catch let error as DeviceMissingError {
                if !isFirstTime { tellDeviceMissing(error) }
                firstFailure = firstFailure ?? error
            } catch {
                log.warning("cannot restore", item: item.name, "\(error)")
                health.set(item.component, problem(of: item, error))
                if item.isEssential { firstFailure = firstFailure ?? error }
            }
        }
        return firstFailure
    }

    private func problem(of item: any DesiredItem, _ error: any Error) -> Problem {
        if let setting = error as? SystemSettingError {
            return Problem(item.effect, setting.cause, remedy: setting.remedy)
        }
        return Problem(
            item.effect, "\(item.name) cannot be made as it must be: \(error)",
            remedy: "it is tried again every \(resyncInterval)")
    }

    private func tellDeviceMissing(_ error: DeviceMissingError) {
        guard missingDevice != error.interfaceName else { return }
        missingDevice = error.interfaceName
        log.warning("device lost", item: error.interfaceName, "\(error)")
        continuation.yield(.deviceLost(error.interfaceName))
    }

    private func chooseUnderlay(in state: NetworkState) throws -> Underlay {
        // A kernel that knows no route refuses: then there is none to go by.
        let route = options.reachableAddress.flatMap { try? socket.route(to: .v4($0)) }
        return try Underlay(choosing: options, in: state, routeToReachable: route)
    }

    private func followUnderlay(in state: NetworkState) {
        guard let underlay else { return }
        do {
            let chosen = try chooseUnderlay(in: state)
            guard chosen != underlay || underlayProblem != nil else { return }
            underlayProblem = nil
            self.underlay = chosen
            continuation.yield(.underlayChanged(chosen))
        } catch {
            let problem = "\(error)"
            guard problem != underlayProblem else { return }
            underlayProblem = problem
            continuation.yield(.underlayLost(problem))
        }
    }
}
