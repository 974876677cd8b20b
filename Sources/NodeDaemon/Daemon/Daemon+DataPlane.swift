import Addresses
import Backends
import Processes
import Devices
import Glibc
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
    private static let portPatienceMilliseconds = 1000
    private static let devicePatienceMilliseconds = 2000
    private static let portPauseMilliseconds = 20

    /// The data plane that carries the packets; nil where the network's backend leaves that to the kernel.
    func dataPlane(
        _ configuration: NetworkConfiguration, _ lease: OwnLease, _ place: BackendPlace
    ) async throws -> DataPlane? {
        let mtu = place.mtu
        let backend = configuration.backend
        var tunnel = NodeStatus.Tunnel(
            interface: options.tunnel.interfaceName, network: configuration.networkText, mtu: mtu)
        tunnel.backend = type(of: backend).typeName
        guard type(of: backend).hasDataPlane else {
            await closeDataPlane()
            if let port = stage.heldPort { health.forget(port) }
            stage.heldPort = nil
            tunnel.interface = backend.interfaceName(in: place)
            observation.update(tunnel)
            return nil
        }
        let key = DataPlaneKey(
            underlay: Endpoint(
                address: place.underlayAddress, port: options.tunnel.port ?? backend.port),
            subnet: lease.subnet)
        if let current = stage.dataPlane, stage.dataPlaneKey == key, !deviceIsLost, current.carries(mtu: mtu)
        {
            observation.update(tunnel)
            return current
        }
        await closeDataPlane()
        deviceIsLost = false
        let settings = DataPlaneConfiguration(
            tunnelName: options.tunnel.interfaceName, underlay: key.underlay, mtu: mtu,
            tunnelAddress: lease.subnet.ipv4?.address, tunnelAddressIPv6: lease.subnet.ipv6?.address,
            acceptsAnySource: options.tunnel.acceptsAnySource, tuning: options.tuning)
        let made = try await openDataPlane(settings)
        // While the device was waited for, the daemon may have been told to stop.
        guard !isStopping else {
            await onThread { made.stop() }
            throw CancellationError()
        }
        hasHadDataPlane = true
        stage.dataPlane = made
        stage.dataPlaneKey = key
        if let port = stage.heldPort { health.forget(port) }
        stage.heldPort = nil
        stage.fallbacks = FallbackWatch()
        observation.update(made)
        observation.update(tunnel)
        if let refusal = made.uringRefusal {
            logger.warning(
                .uringForbidden, metadata: ["detail": "\(refusal)"])
        }
        if let refusal = made.kernelPathRefusal {
            logger.notice(.kernelPathRefused, metadata: ["detail": "\(refusal)"])
        }
        logger.notice(
            .dataPlaneStarted,
            metadata: [
                "engine": "\(made.engine.rawValue)",
                "interface": "\(settings.tunnelName)", "bound": "\(key.underlay)", "mtu": "\(mtu)",
                "workers": "\(made.workerCount)",
                "udp_segments": "\(made.underlayOffloads.segmentLimit)",
            ])
        return made
    }

    /// Opens the device and the sockets. At the start both can be held for a while by a process that was killed: the
    /// kernel takes its ring down late.
    ///
    /// - Throws: `PortTaken` where another process has the port.
    private func openDataPlane(_ settings: DataPlaneConfiguration) async throws -> DataPlane {
        let logger = logger
        let isFirst = !hasHadDataPlane
        var waited = 0
        while true {
            do throws(DataPlaneError) {
                return try await onThread { () throws(DataPlaneError) -> DataPlane in
                    let patience = isFirst ? Daemon.devicePatienceMilliseconds : 0
                    let dataPlane = try DataPlane(settings, patienceMilliseconds: patience) {
                        logger.notice(
                            .waitingForTunnelDevice,
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
                guard isFirst, waited < Daemon.portPatienceMilliseconds, stage.heldPort == nil else {
                    throw await portTaken(settings.underlay)
                }
                try? await Task.sleep(for: .milliseconds(Daemon.portPauseMilliseconds))
                waited += Daemon.portPauseMilliseconds
            }
        }
    }

    func closeDataPlane() async {
        guard let dataPlane = stage.dataPlane else { return }
        await closeKernelPath()
        stage.dataPlane = nil
        stage.dataPlaneKey = nil
        observation.update(nil as DataPlane?)
        observation.update(nil as NodeStatus.Tunnel?)
        await onThread { dataPlane.stop() }
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
