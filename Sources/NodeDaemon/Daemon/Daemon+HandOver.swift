import Addresses
import Forwarding
import Glibc
import Host
import Logging
import Worker

// What of this daemon goes to another process: by hand-over while it runs, and by systemd's store when it has ended.
extension Daemon {
    /// What was stored last for the next process.
    struct StoredDescriptors {
        var dataPlane: ObjectIdentifier
        var routes: ForwardingRoutes
        var time: ContinuousClock.Instant
    }

    /// How often what was counted is stored anew: the most that is missing of the totals after SIGKILL.
    private static let storeInterval = Duration.seconds(10)

    /// Whose node this is.
    var handOverNode: HandOverState.Node {
        HandOverState.Node(
            subnetFile: options.lease.subnetFile, stateDirectory: options.lease.stateDirectory,
            identity: identity.map { "\($0)" })
    }

    /// Hands over to whoever asks on a connection.
    ///
    /// - Returns: whether it has: then this daemon has no data plane any more, and is to end.
    func handOver(to successor: Successor) async -> Bool {
        do throws(HandOverFailure) {
            let release = try await onThread { () throws(HandOverFailure) in try successor.question() }
            guard let dataPlane = stage.dataPlane, let routes = stage.routes, stage.isReady, !isStopping,
                !isHandingOver, !isReplacing, let channels = dataPlane.channels
            else {
                await onThread { successor.refuse("it is not set up, or hands over or changes just now") }
                return false
            }
            let offer = HandOverState(
                of: dataPlane, channels, routes: routes, node: handOverNode, pathMTUs: node.knownPaths.narrow)
            let (since, readBefore) = (ContinuousClock.now, dataPlane.counters()[.tunnelReads])
            try await onThread { () throws(HandOverFailure) in try successor.offer(offer) }
            guard stage.dataPlane === dataPlane, !isStopping, !isReplacing else {
                await onThread { successor.refuse("it makes its data plane anew") }
                return false
            }
            isHandingOver = true
            let patience = Successor.takingMilliseconds(
                queueLength: options.tuning.queueLength,
                packets: dataPlane.counters()[.tunnelReads] &- readBefore, in: ContinuousClock.now - since,
                comesAgain: failedHandOver.map { ContinuousClock.now - $0 < Successor.comesAgainWithin }
                    ?? false)
            try await give(dataPlane, channels, to: successor, withinMilliseconds: patience)
            await closeKernelPath()
            stage.dataPlane = nil
            logger.notice(.handedOver, metadata: ["to": "\(release)"])
            return true
        } catch {
            if isHandingOver {
                isHandingOver = false
                failedHandOver = .now
                stage.kernelPath?.rest()
                askForPass()
            }
            logger.warning(
                .handOverFailed, metadata: ["detail": "\(error)", "action": "this daemon goes on"])
            return false
        }
    }

    /// Brings the workers to rest, gives what they had, and ends them once it is taken; lets them go on where it is not.
    private func give(
        _ dataPlane: DataPlane, _ channels: WorkerChannels, to successor: Successor,
        withinMilliseconds patience: Int32
    ) async throws(HandOverFailure) {
        let (routes, owner, narrow) = (
            stage.routes ?? ForwardingRoutes(), handOverNode, node.knownPaths.narrow
        )
        let kernelPath = stage.kernelPath
        try await onThread { () throws(HandOverFailure) in
            guard dataPlane.cease() else { throw HandOverFailure("its packet threads do not come to rest") }
            kernelPath?.rest()
            do throws(HandOverFailure) {
                try successor.give(
                    {
                        HandOverState(
                            of: dataPlane, channels, routes: routes, node: owner, pathMTUs: narrow)
                    }, channels.named, withinMilliseconds: patience)
            } catch {
                dataPlane.resume()
                throw error
            }
            // The device and the port are the other's: only copies of the descriptors are closed here.
            dataPlane.stop()
        }
    }

    /// Stores what the next process needs with systemd, where that is not done, or what is stored is old.
    func storeDescriptors() async {
        guard notification.isHeard, stage.isReady, !isHandingOver, let dataPlane = stage.dataPlane,
            let routes = stage.routes, let channels = dataPlane.channels
        else { return }
        let stored = stage.stored
        let isSame = stored?.dataPlane == ObjectIdentifier(dataPlane)
        let now = ContinuousClock.now
        if let stored, isSame, stored.routes == routes, now - stored.time < Daemon.storeInterval { return }
        stage.stored = StoredDescriptors(dataPlane: ObjectIdentifier(dataPlane), routes: routes, time: now)
        let (store, owner, narrow) = (store, handOverNode, node.knownPaths.narrow)
        await onThread {
            let state = HandOverState(
                of: dataPlane, channels, routes: routes, node: owner, pathMTUs: narrow)
            if isSame { store.store(state) } else { store.store(channels.named, state) }
        }
    }
}
