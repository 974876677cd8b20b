// How it works. A pass goes through the items in their order: `update` where one differs from what the kernel says.
// What is no longer wanted and outlives its device is taken away (`delete`), again and again until it is gone. And
// what carries twill's number and is nobody's is taken away too (`prune`), whoever left it. Each item's status keeps
// the last error, how often it was tried again, and since when.

import Addresses
import Glibc
import Health
import Logging
import Netlink

/// Brings the kernel to what is wanted. Belongs to one thread, which it makes wait for the kernel and for child
/// processes.
package final class Reconciler {
    /// How often at least everything with twill's number is listed, for what no notification told of.
    private static let pruneInterval = Duration.seconds(60)

    /// What a pass came to.
    package struct Outcome {
        /// The first failure of an essential item.
        package var failure: (any Error)?
        /// The tunnel device is not there.
        package var missingDevice: DeviceMissingError?
        /// Whether routes may be others than before.
        package var hasChangedRoutes = false
    }

    /// Where a pass reads what it changed.
    package typealias StateReading = (_ hasChangedRoutes: Bool) throws -> NetworkState

    private let socket: RouteSocket
    private let health: NodeHealth
    private var log: RepeatLimitedLog
    private var restores = RepeatedRestores()
    private var unwanted: [any OwnedItem] = []
    /// The names of those that were wanted before the last replacement, and are as they were.
    private var kept: Set<String> = []
    /// The devices' numbers by their names, as they were seen last.
    private var deviceIndexes: [String: Int32] = [:]
    /// What the devices are called that this daemon makes, in this run or an earlier one.
    private let alias: String?
    private var nextPrune = ContinuousClock.now
    /// What could not be pruned, as the last time left it.
    private var leftoverNames: Set<String> = []

    /// What is wanted, in the order in which it can be made.
    package private(set) var items: [any DesiredItem] = []

    /// How all items stand.
    package let statuses = ItemStatuses()

    /// How often everything is tried again; for the sentences that say so.
    package var resyncInterval: Duration

    /// Wants nothing yet.
    package init(
        socket: RouteSocket, health: NodeHealth, logger: Logger, resyncInterval: Duration,
        alias: String? = nil
    ) {
        self.socket = socket
        self.alias = alias
        self.health = health
        self.resyncInterval = resyncInterval
        log = RepeatLimitedLog(logger: logger)
    }

    /// Takes new items; what of the former ones is no longer wanted is taken away by `deleteUnwanted`.
    ///
    /// - Parameters:
    ///   - items: the new ones.
    ///   - isAddition: whether those of the former ones that are among them are as they were: what differs of those has been
    ///     changed by somebody else, and is restored.
    package func replace(with items: [any DesiredItem], isAddition: Bool = false) {
        let wanted = Set(items.map(\.name))
        kept = isAddition ? wanted.intersection(self.items.map(\.name)) : []
        unwanted += self.items.compactMap { $0 as? any OwnedItem }.filter { !wanted.contains($0.name) }
        // What is wanted again is not taken away.
        unwanted.removeAll { wanted.contains($0.name) }
        for item in self.items where !(item is any OwnedItem) && !wanted.contains(item.name) {
            health.forget(item.component)
        }
        self.items = items
        statuses.keep(only: wanted)
        nextPrune = .now
    }

    /// The names of the devices that lead to the peers.
    package var deviceNames: [String] { items.compactMap { ($0 as? any DeviceItem)?.interfaceName } }

    /// The names of the devices whose neighbour and forwarding tables are kept.
    package var neighborDeviceNames: [String] {
        items.compactMap { ($0 as? any NeighborItem)?.interfaceName }
    }

    /// The destinations of the routes that are wanted.
    package var destinations: Set<IPPrefix> {
        Set(items.flatMap { ($0 as? any RouteItem)?.destinations ?? [] })
    }

    // MARK: Update

    /// Goes through items and makes those so that are not.
    ///
    /// - Parameters:
    ///   - initialState: the state to begin with.
    ///   - isResync: whether those too are looked at whose changes nobody tells of.
    ///   - isAsked: whether they are made for the first time, and not restored.
    ///   - read: reads the state again; told whether routes may have changed.
    /// - Returns: the first failure of an essential item, and whether the tunnel device is missing. An item's failure
    ///   is no error of this call: it is told to health, kept in the item's status, and tried again.
    /// - Throws: what `read` throws.
    package func update(
        in initialState: NetworkState, isResync: Bool, isFirstTime isAsked: Bool, _ read: StateReading
    ) throws -> Outcome {
        var state = initialState
        var outcome = Outcome()
        // A device that was made anew has nothing yet: making that so is no restoring, and nobody took it away.
        let areDevicesNew = takeDeviceIndexes(in: state)
        for item in items where isResync || !item.needsResync {
            do {
                let isFirstTime = areDevicesNew || isAsked && !kept.contains(item.name)
                if let deviation = try update(item, in: state, isFirstTime: isFirstTime) {
                    if !isFirstTime { restores.note(item.name, deviation, now: .now) }
                    let changesRoutes = item.component.kind != .setting && !item.needsResync
                    outcome.hasChangedRoutes = outcome.hasChangedRoutes || changesRoutes
                    // The next items build on this one.
                    state = try read(changesRoutes)
                }
                health.set(item.component, restores.problem(of: item.name, now: .now))
                statuses.set(item.name, .good)
            } catch {
                note(error, of: item, &outcome)
            }
        }
        return outcome
    }

    /// - Returns: in what the item differed before; nil where it did not.
    private func update(
        _ item: any DesiredItem, in state: NetworkState, isFirstTime: Bool
    ) throws -> String? {
        guard let deviation = try item.deviation(in: state) else {
            log.settled(item: item.name)
            return nil
        }
        guard let item = item as? any KeptItem else {
            throw ItemProblem(Problem(item.effect, "\(item.name): \(deviation)", remedy: ""))
        }
        try item.update(in: state, using: socket)
        if isFirstTime {
            log.debug(.itemSet, item: item.name, deviation)
        } else {
            log.notice(.restored, item: item.name, deviation)
        }
        return deviation
    }

    private func note(_ error: any Error, of item: any DesiredItem, _ outcome: inout Outcome) {
        statuses.set(item.name, .failing, error: "\(error)")
        if let error = error as? DeviceMissingError {
            outcome.missingDevice = error
            outcome.failure = outcome.failure ?? error
            return
        }
        if let told = error as? ItemProblem {
            health.set(item.component, told.problem)
        } else {
            log.warning(.cannotRestore, item: item.name, "\(error)")
            health.set(item.component, problem(of: item, error))
        }
        if item.isEssential { outcome.failure = outcome.failure ?? error }
    }

    /// Takes note of the devices' numbers.
    ///
    /// - Returns: whether one is another than before.
    private func takeDeviceIndexes(in state: NetworkState) -> Bool {
        var isAnother = false
        for name in deviceNames {
            guard let index = state.link(named: name)?.index, index != deviceIndexes[name] else { continue }
            deviceIndexes[name] = index
            isAnother = true
        }
        return isAnother
    }

    private func problem(of item: any DesiredItem, _ error: any Error) -> Problem {
        if let setting = error as? SystemSettingError {
            return Problem(item.effect, setting.cause, remedy: setting.remedy)
        }
        return Problem(
            item.effect, "\(item.name) cannot be made as it must be: \(error)",
            remedy: "it is tried again every \(resyncInterval)")
    }

    // MARK: Delete

    /// Takes away what is no longer wanted; what cannot be is tried again with the next call.
    ///
    /// - Returns: whether there was any.
    package func deleteUnwanted() -> Bool {
        guard !unwanted.isEmpty else { return false }
        let leaving = unwanted
        unwanted = []
        for item in leaving {
            do {
                try item.delete(using: socket)
                log.debug(.itemWithdrawn, item: item.name, "it is no longer wanted")
                health.forget(item.component)
                statuses.forget(item.name)
            } catch {
                log.warning(.cannotWithdraw, item: item.name, "\(error)")
                health.set(item.component, unwantedProblem(item.name, error))
                statuses.set(item.name, .leaving, error: "\(error)")
                unwanted.append(item)
            }
        }
        return true
    }

    private func unwantedProblem(_ name: String, _ error: any Error) -> Problem {
        Problem(
            .degraded, "\(name) is no longer wanted and cannot be taken away: \(error)",
            remedy: "it is tried again every \(resyncInterval)")
    }

    // MARK: Prune

    /// Whether a route with twill's number is an item's.
    package func isWanted(_ route: Route, in state: NetworkState) -> Bool {
        items.contains { ($0 as? any RouteItem)?.isWanted(route, in: state) == true }
    }

    /// Takes note of a change that the kernel told of, after which something may be there that nobody wants.
    package func noteForPruning(_ change: NetworkChange) {
        let isReason =
            switch change {
            case .route(let route): route.origin == Route.twillOrigin
            case .rule(let rule): rule.origin == Route.twillOrigin
            case .address(let address):
                address.origin == Route.twillOrigin
                    && !deviceIndexes.values.contains(address.interfaceIndex)
            case .link(let link):
                link.alias != nil && link.alias == alias && !deviceNames.contains(link.name)
            case .unknown: true
            default: false
            }
        if isReason { nextPrune = .now }
    }

    /// Takes away what carries twill's number and nobody wants, where something may be there that does.
    ///
    /// - Parameters:
    ///   - state: the kernel's state.
    ///   - hasOtherDaemon: whether another twilld runs on this machine; asked where it makes a difference.
    ///   - isWantedBesides: whether a route is somebody's who is no item of this reconciler.
    /// - Returns: whether routes may be others than before.
    /// - Throws: `NetlinkError` where the kernel does not list what there is.
    package func prune(
        in state: NetworkState, besideOther hasOtherDaemon: () -> Bool,
        where isWantedBesides: (Route) -> Bool
    ) throws -> Bool {
        // Before it is known what is wanted, what a former daemon left is left: it is for the next lease.
        guard !items.isEmpty, nextPrune <= .now else { return false }
        nextPrune = .now + Reconciler.pruneInterval
        let leftovers = Pruning(state: state, devices: deviceNames, alias: alias).leftovers(
            among: try socket.routes(ofOrigin: Route.twillOrigin), try socket.rules(),
            besideOther: hasOtherDaemon
        ) { isWanted($0, in: state) || isWantedBesides($0) }
        var failed: Set<String> = []
        for leftover in leftovers {
            let name = leftover.name(in: state)
            do throws(NetlinkError) {
                try leftover.delete(using: socket)
                log.notice(.pruned, item: name, "it has twill's number, and nothing here wants it")
            } catch {
                // Somebody else took it away.
                if [ESRCH, ENOENT, EADDRNOTAVAIL, ENODEV].contains(error.code) { continue }
                failed.insert(name)
                log.warning(.cannotWithdraw, item: name, "\(error)")
                health.set(Component(.route, name), unwantedProblem(name, error))
                statuses.set(name, .leaving, error: "\(error)")
                nextPrune = .now + resyncInterval
            }
        }
        for name in leftoverNames.subtracting(failed) {
            health.forget(Component(.route, name))
            statuses.forget(name)
        }
        leftoverNames = failed
        return !leftovers.isEmpty
    }
}
