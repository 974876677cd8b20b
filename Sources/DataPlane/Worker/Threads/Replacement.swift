// How it works. One data plane follows another within the process, and no packet is lost or passes another. The new one
// has its threads, memory and rings before the old one is told anything. Then the old one ceases, the new one begins on
// the same TUN queues and sockets, and the old one ends; between the two, what comes waits in the kernel's queues.
//
// Where the port or the address is another one, the new sockets are open before the old one ceases, and the old sockets
// are received from as well, for as long as peers may send there. Where the number of workers is another one, flows and
// datagrams come to other queues and sockets from some moment on: the old workers empty theirs after that moment, and
// before the new ones begin. From one worker to several and from several to one that keeps the order of each flow, since
// all that comes later is in queues that nobody reads yet; from several to several it goes by way of one.

import Addresses
import Devices
import Glibc

extension DataPlane {
    /// Lets another data plane, made for `configuration`, follow this one, which has ended then.
    ///
    /// - Parameters:
    ///   - configuration: what the new one is made for; the TUN device's name is the same.
    ///   - keepsFormerSockets: whether what comes to sockets that the node had before is still taken in.
    ///   - resting: called when this one's workers have come to rest, before the new one's begin: what goes past them rests from
    ///     then on.
    ///   - publish: publishes the routes to the new one, before it begins.
    /// - Returns: the new one. Where it could be had in part only (fewer workers, say), it is for another configuration.
    /// - Throws: `DataPlaneError` where there can be none; then this one goes on.
    public func replaced(
        by configuration: DataPlaneConfiguration, keepsFormerSockets: Bool = true,
        resting: () -> Void = {}, publish: (DataPlane) -> Void
    ) throws(DataPlaneError) -> DataPlane {
        var current = self
        // The port of before may be the one that is wanted again.
        if underlay != configuration.underlay, channels?.hasFormerSockets == true {
            current = try replacedDirectly(by: self.configuration, false, resting, publish)
        }
        for step in steps(to: configuration) {
            do throws(DataPlaneError) {
                current = try current.replacedDirectly(by: step, keepsFormerSockets, resting, publish)
            } catch {
                // One worker carries what several did, more slowly; there is no way back to those.
                guard current !== self else { throw error }
                return current
            }
        }
        return current
    }

    /// The configurations on the way to one: each changes either the port or the number of workers. Where one of several
    /// workers sends from the port that is wanted, there is one alone first, which does not.
    private func steps(to configuration: DataPlaneConfiguration) -> [DataPlaneConfiguration] {
        let wanted = configuration.tuning.workerCount
        if underlay != configuration.underlay,
            channels?.sendingPorts.contains(configuration.underlay.port) == true
        {
            var single = self.configuration
            single.tuning.workers = .fixed(1)
            var moved = configuration
            moved.tuning.workers = .fixed(1)
            return wanted > 1 ? [single, moved, configuration] : [single, configuration]
        }
        func with(workers: Int) -> DataPlaneConfiguration {
            var step = configuration
            step.tuning.workers = .fixed(workers)
            return step
        }
        guard wanted != workerCount else { return [configuration] }
        let first = underlay == configuration.underlay ? [] : [with(workers: workerCount)]
        return first + (min(wanted, workerCount) > 1 ? [with(workers: 1)] : []) + [configuration]
    }

    private func replacedDirectly(
        by configuration: DataPlaneConfiguration, _ keepsFormerSockets: Bool, _ resting: () -> Void,
        _ publish: (DataPlane) -> Void
    ) throws(DataPlaneError) -> DataPlane {
        guard let channels else {
            throw .resource("replace a data plane that has ended", errorNumber: EBADF)
        }
        let successor = try DataPlane(configuration)
        var change = ChannelChange(channels)
        do throws(DataPlaneError) {
            try successor.prepare()
            publish(successor)
            try change.open(configuration, workers: successor.workerCount)
            try hand(to: successor, &change, keepsFormerSockets, resting)
        } catch {
            change.undo()
            successor.stop()
            throw error
        }
        return successor
    }

    private func hand(
        to successor: DataPlane, _ change: inout ChannelChange, _ keepsFormerSockets: Bool,
        _ resting: () -> Void
    ) throws(DataPlaneError) {
        guard cease(for: change, successor.workerCount) else {
            throw .resource("bring the packet threads to rest", errorNumber: EBUSY)
        }
        resting()
        do throws(DataPlaneError) {
            try change.complete(successor.configuration, keepsFormerSockets)
            var totals = totals()
            // Other sockets count from their own beginning.
            if change.isOfOtherSockets { totals.kernel.sockets = [] }
            try successor.begin(on: change.channels, continuing: totals)
        } catch {
            change.undo()
            resume()
            throw error
        }
        end()
        change.finish()
        successor.note(change.channels)
    }

    /// Brings the workers to rest, each when nothing is left that must go before what others will read.
    private func cease(for change: ChannelChange, _ workers: Int) -> Bool {
        if workers > workerCount {
            letCatchUp(0..<workerCount)
            change.steer(among: workers)
            usleep(DataPlane.steeringMicroseconds)
            return cease(emptying: true)
        }
        if workers < workerCount {
            letCatchUp(1..<workerCount)
            // The first worker's queue gets the others' flows: it is not read before those are through.
            guard cease(0..<1) else { return false }
            change.steer(among: workers)
            change.retire(behind: workers)
            usleep(DataPlane.steeringMicroseconds)
            return cease(1..<workerCount, emptying: true)
        }
        return cease()
    }

    /// Waits until workers that are about to empty their queues have once done so while all still forward: where packets come faster than they
    /// go, tens of thousands stand in a socket, and the flows that nobody reads meanwhile would wait for all of them.
    private func letCatchUp(_ workers: Range<Int>) {
        timeSlices.shorten()
        catchUp()
        for _ in 0..<DataPlane.catchingUpMilliseconds where workers.contains(where: orders.isBehind) {
            usleep(1000)
        }
    }

    /// How long that may take; who is too busy for it goes on with what waits.
    private static let catchingUpMilliseconds = 2000
    /// How long a packet may be on its way to the queue that was chosen for it: the kernel chooses and puts it there
    /// within one turn of a CPU, which does not sleep in between.
    private static let steeringMicroseconds: UInt32 = 1000
}

/// How the channels of one data plane become those of the next. Nothing that the former one needs is closed before the
/// next one has begun.
private struct ChannelChange {
    private let before: WorkerChannels
    /// Those of the next.
    private(set) var channels: WorkerChannels
    /// Whether the sockets are others, for another port or address.
    private(set) var isOfOtherSockets = false
    private var isUndone = false

    init(_ channels: WorkerChannels) {
        before = channels
        self.channels = channels
    }

    /// Opens what there is not yet, beside what there is.
    mutating func open(_ configuration: DataPlaneConfiguration, workers: Int) throws(DataPlaneError) {
        if workers > before.workerCount {
            channels = try before.growing(to: workers, tuning: configuration.tuning)
        } else if configuration.underlay != before.underlay {
            channels = try before.opening(configuration)
            isOfOtherSockets = true
        }
    }

    /// Lets flows and datagrams go to the first workers alone.
    func steer(among workers: Int) { _ = channels.steer(among: workers) }

    /// Lets nothing more come to the sockets of workers that there will be no more.
    func retire(behind workers: Int) { channels.retire(behind: workers) }

    /// Leaves out the workers that there are no more, whose queues are empty, and tunes what is left.
    mutating func complete(
        _ configuration: DataPlaneConfiguration, _ keepsFormerSockets: Bool
    ) throws(DataPlaneError) {
        let workers = configuration.tuning.workerCount
        if workers < before.workerCount { channels = channels.narrowed(to: workers) }
        if isOfOtherSockets { channels = channels.following(before) }
        if !keepsFormerSockets { channels = channels.forgettingFormer() }
        channels = try channels.tuned(configuration)
    }

    /// Closes what was opened, unless that was done before.
    mutating func undo() {
        guard !isUndone else { return }
        isUndone = true
        _ = before.steer(among: before.workerCount)
        channels.closeAll(except: before)
    }

    /// Closes what nobody needs any more.
    mutating func finish() { channels.closeRest(of: before) }
}
