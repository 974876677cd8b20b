import Addresses
import Backends
import Processes
import Devices
import Forwarding
import Glibc
import Health
import Host
import Leases
import Logging
import Node
import Telemetry
import Worker

// The data plane's life: made where there is none that fits, and waited for where another process has its port or
// device.
extension Daemon {
    /// How long a taken port and a taken device are waited for within the first pass, and how often the port is
    /// tried: the kernel takes down the ring of a process that was killed within some milliseconds, on a busy machine
    /// within a second. What this process closed itself is free at once. Who has the port for longer is named.
    private static let portPatience = Duration.seconds(1)
    private static let devicePatienceMilliseconds = 2000
    private static let portPause = Duration.milliseconds(2)

    /// The data plane that carries the packets; nil where the network's backend leaves that to the kernel. Where another
    /// one is needed, it follows the one that there is without a break.
    func dataPlane(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, _ places: [BackendPlace],
        _ routes: ForwardingRoutes
    ) async throws -> DataPlane? {
        guard let place = places.first else { return nil }
        let backend = configuration.backend
        let tunnel = tunnel(configuration, places, mtu: routes.mtu)
        guard type(of: backend).hasDataPlane else {
            await closeDataPlane()
            if let port = stage.heldPort { health.forget(port) }
            stage.heldPort = nil
            observation.update(tunnel)
            return nil
        }
        let settings = DataPlaneConfiguration(
            tunnelName: options.tunnel.interfaceName,
            underlay: Endpoint(
                address: place.underlayAddress, port: options.tunnel.port ?? backend.port),
            mtu: routes.mtu, tunnelAddress: lease.subnet.ipv4?.address,
            tunnelAddressIPv6: lease.subnet.ipv6?.address,
            acceptsAnySource: options.tunnel.acceptsAnySource, tuning: options.tuning)
        // Nobody else touches it now. Where it is handed over, this daemon ends in here.
        while isHandingOver || isReplacing { try await Task.sleep(for: .milliseconds(5)) }
        if let current = stage.dataPlane, !deviceIsLost,
            current.configuration.tunnelName == settings.tunnelName
        {
            if current.isMade(for: settings), current.carries(mtu: routes.mtu) {
                observation.update(tunnel)
                return current
            }
            if let following = try await replacement(of: current, by: settings, routes) {
                observation.update(tunnel)
                return following
            }
        }
        await closeDataPlane()
        deviceIsLost = false
        let made = try await openDataPlane(settings)
        // While the device was waited for, the daemon may have been told to stop.
        guard !isStopping else {
            await onThread { made.stop() }
            throw CancellationError()
        }
        take(made)
        observation.update(made)
        observation.update(tunnel)
        if let refusal = made.uringRefusal {
            logger.warning(
                .uringForbidden, metadata: ["detail": "\(refusal)"])
        }
        logger.notice(.dataPlaneStarted, metadata: words(for: made, mtu: routes.mtu))
        return made
    }

    private func take(_ made: DataPlane) {
        hasHadDataPlane = true
        stage.dataPlane = made
        if let port = stage.heldPort { health.forget(port) }
        stage.heldPort = nil
        stage.fallbacks = FallbackWatch()
        // Whatever ends this process, the kernel keeps the device: packets to pods are dropped then, and take no other way.
        made.tunnel?.setPersistent(true)
    }

    private func words(for made: DataPlane, mtu: Int) -> Logger.Metadata {
        [
            "engine": "\(made.engine.rawValue)", "interface": "\(made.configuration.tunnelName)",
            "bound": "\(made.underlay)", "mtu": "\(mtu)", "workers": "\(made.workerCount)",
            "udp_segments": "\(made.underlayOffloads.segmentLimit)",
        ]
    }

    /// Lets a data plane for other settings follow the one that there is.
    ///
    /// - Returns: the new one; the one that there is, where the new one can't be had now, which is told and tried again;
    ///   nil where it can be had only when the other one has ended.
    /// - Throws: `PortTaken` where another process has the port.
    private func replacement(
        of current: DataPlane, by settings: DataPlaneConfiguration, _ routes: ForwardingRoutes
    ) async throws -> DataPlane? {
        let component = Component(.dataPlane, "new settings")
        do throws(DataPlaneError) {
            let following = try await following(current, by: settings, routes)
            guard stage.dataPlane === current, !isStopping else {
                await onThread { following.stop() }
                throw .resource("replace the data plane", errorNumber: ECANCELED)
            }
            take(following)
            health.forget(component)
            observation.update(following, continuing: true)
            stage.stored = nil
            // The kernel path's programs are the new one's.
            stage.desired = nil
            logger.notice(.dataPlaneReplaced, metadata: words(for: following, mtu: routes.mtu))
            // It came half the way.
            if !following.isMade(for: settings) { askForPass(afterSeconds: Daemon.heldPauseSeconds) }
            return following
        } catch .unsteerable(let errorNumber) {
            logger.warning(
                .dataPlaneNotReplaced,
                metadata: [
                    "detail": "\(DataPlaneError.unsteerable(errorNumber: errorNumber).description)",
                    "action": "it ends first, and packets are lost meanwhile",
                ])
            return nil
        } catch {
            if case .socket(let socketError) = error, socketError.errorNumber == EADDRINUSE {
                throw await portTaken(settings.underlay)
            }
            let pause = retryPause
            retryPause = min(retryPause * 2, Daemon.retryPauseSeconds.limit)
            logger.error(
                .dataPlaneNotReplaced,
                metadata: ["detail": "\(error.description)", "retry_seconds": "\(pause)"])
            health.set(
                component,
                Problem(
                    .degraded, "packets are carried by the old settings: \(error.description)",
                    remedy: "it is tried again every \(pause) s or sooner"))
            askForPass(afterSeconds: pause)
            return current
        }
    }

    /// Lets one data plane follow another. The kernel path of the one goes on until its packet threads have ceased: what it sent
    /// last has a few milliseconds before it is followed by anything of the other's, which has a kernel path of its own.
    private func following(
        _ current: DataPlane, by settings: DataPlaneConfiguration, keepsFormerSockets: Bool = true,
        _ routes: ForwardingRoutes
    ) async throws(DataPlaneError) -> DataPlane {
        isReplacing = true
        defer { isReplacing = false }
        let kernelPath = stage.kernelPath
        if current.underlay != settings.underlay {
            // What the service manager has of a port of before, or of one that a worker sends from, would keep that taken.
            stage.stored = nil
            await onThread { [store] in store.clear() }
        }
        do throws(DataPlaneError) {
            return try await onThread { () throws(DataPlaneError) in
                try current.replaced(
                    by: settings, keepsFormerSockets: keepsFormerSockets, resting: { kernelPath?.rest() }
                ) { $0.publish(routes) }
            }
        } catch {
            stage.kernelPath?.rest()
            throw error
        }
    }

    /// Takes nothing in any more on the port that the node had before, once that has lasted long enough; to be called once a
    /// second. What it inherited of a port of before counts from when it was first seen.
    func lookAtFormerPort() async {
        let dataPlane = stage.dataPlane
        let port = dataPlane?.channels?.hasFormerSockets == true ? dataPlane?.underlay : nil
        let isDue = stage.formerPort.isOver(besides: port, at: .now)
        guard isDue, let dataPlane, let routes = stage.routes, !isStopping, !isHandingOver, !isReplacing
        else {
            return
        }
        let following = try? await following(
            dataPlane, by: dataPlane.configuration, keepsFormerSockets: false, routes)
        guard let following else { return }
        guard stage.dataPlane === dataPlane else { return await onThread { following.stop() } }
        take(following)
        observation.update(following, continuing: true)
        stage.stored = nil
        stage.desired = nil
        logger.notice(.formerPortClosed, metadata: ["bound": "\(following.underlay)"])
        askForPass()
    }

    /// Opens the device and the sockets. At the start both can be held for a while by a process that was killed: the
    /// kernel takes its ring down late.
    ///
    /// - Throws: `PortTaken` where another process has the port.
    private func openDataPlane(_ settings: DataPlaneConfiguration) async throws -> DataPlane {
        let logger = logger
        let isFirst = !hasHadDataPlane
        // By the clock: each attempt takes its own time.
        let limit = ContinuousClock.now + Daemon.portPatience
        while true {
            do throws(DataPlaneError) {
                return try await onThread { () throws(DataPlaneError) -> DataPlane in
                    let patience = isFirst ? Daemon.devicePatienceMilliseconds : 0
                    return try DataPlane.started(settings, patienceMilliseconds: patience) {
                        logger.notice(
                            .waitingForTunnelDevice,
                            metadata: [
                                "interface": "\(settings.tunnelName)",
                                "detail":
                                    "its name is held by another process, or by one that has just ended",
                            ])
                    }
                }
            } catch {
                if case .tunnel(let tunnelError) = error, tunnelError.errorNumber == EBUSY {
                    let holder = await onThread {
                        RunningProcess.holder(ofTunnel: settings.tunnelName)?.description
                    }
                    throw ExitFailure(.temporary, error.description + (holder.map { ": \($0)" } ?? ""))
                }
                guard case .socket(let socketError) = error, socketError.errorNumber == EADDRINUSE,
                    !isStopping
                else {
                    throw error
                }
                // What was waited for already is not waited for again with each pass.
                guard isFirst, ContinuousClock.now < limit, stage.heldPort == nil else {
                    throw await portTaken(settings.underlay)
                }
                try? await Task.sleep(for: Daemon.portPause)
            }
        }
    }

    /// What pods' packets leave by, as it is told.
    private func tunnel(
        _ configuration: NetworkConfiguration, _ places: [BackendPlace], mtu: Int
    ) -> NodeStatus.Tunnel {
        let backend = configuration.backend
        let isOfKernel = !type(of: backend).hasDataPlane
        var tunnel = NodeStatus.Tunnel(
            interface: isOfKernel
                ? places.first.map(backend.interfaceName) ?? "" : options.tunnel.interfaceName,
            network: configuration.networkText, mtu: mtu)
        tunnel.backend = type(of: backend).typeName
        if type(of: backend).hasEndpointOfEachFamily, let place = places.dropFirst().first {
            tunnel.ipv6 = NodeStatus.Tunnel.IPv6Way(
                interface: backend.interfaceName(in: place), underlayAddress: "\(place.underlayAddress)",
                mtu: place.mtu)
        }
        return tunnel
    }

    func closeDataPlane() async {
        guard let dataPlane = stage.dataPlane else { return }
        await closeKernelPath()
        stage.dataPlane = nil
        stage.stored = nil
        observation.update(nil as DataPlane?)
        observation.update(nil as NodeStatus.Tunnel?)
        let store = store
        await onThread {
            store.clear()
            dataPlane.tunnel?.setPersistent(false)
            dataPlane.stop()
        }
    }

    /// Ends the data plane at the daemon's end, and leaves of it what the next start needs.
    func leaveDataPlane() async {
        guard let dataPlane = stage.dataPlane, !isHandingOver else { return }
        let isKept = options.succession.stop == .keep
        if isKept { leaveKernelPath() } else { await closeKernelPath() }
        observation.update(nil as DataPlane?)
        observation.update(nil as NodeStatus.Tunnel?)
        let (store, routes, narrow) = (store, stage.routes, node.knownPaths.narrow)
        let owner = handOverNode
        stage.dataPlane = nil
        await onThread {
            _ = dataPlane.cease()
            if store.isUsed, let routes, let channels = dataPlane.channels {
                store.store(
                    HandOverState(of: dataPlane, channels, routes: routes, node: owner, pathMTUs: narrow))
            }
            dataPlane.tunnel?.setPersistent(isKept)
            dataPlane.stop()
        }
    }

    private func portTaken(_ endpoint: Endpoint) async -> PortTaken {
        let holder = await onThread { RunningProcess.holder(of: endpoint, .udp)?.description }
        if stage.heldPort == nil {
            logger.warning(
                .waitingForPort,
                metadata: [
                    "bound": "\(endpoint)", "detail": "held by \(holder ?? "a process that can't be found")",
                ])
        }
        return PortTaken(endpoint: endpoint, holder: holder)
    }
}
