import Host
import Netlink
import Reconciler
import TrafficControl
import Worker

// The kernel path's life: its programs are kept attached beside the device and the routes, and go on only while the daemon
// looks after them.
extension Daemon {
    /// What the reconciler is to keep for the kernel path of a data plane; nothing where it has none.
    func kernelPathItems(of dataPlane: DataPlane?) async -> [any DesiredItem] {
        if let dataPlane, dataPlane.awaitsKernelPath {
            loadKernelPath(of: dataPlane)
            // What stood is another data plane's, and goes.
            stage.kernelPath = nil
            observation.update(nil as AttachedKernelPath?)
            return programPlaces()
        }
        if let refusal = dataPlane?.kernelPathRefusal, !hasToldKernelPathRefusal {
            hasToldKernelPathRefusal = true
            logger.notice(.kernelPathRefused, metadata: ["detail": "\(refusal)"])
        }
        guard let dataPlane, let forwarder = dataPlane.kernelPath else {
            stage.kernelPath = nil
            observation.update(nil as AttachedKernelPath?)
            await removeLeftPrograms()
            return []
        }
        let place = AttachedKernelPath.Place(
            underlay: underlay.interfaceName, address: dataPlane.configuration.underlay.address,
            tunnel: options.tunnel.interfaceName)
        if let current = stage.kernelPath, current.forwarder === forwarder, current.place == place {
            return programPlaces() + current.attachments
        }
        let made = AttachedKernelPath(
            forwarder, at: place,
            packetThreads: PacketThreads(
                catchUp: { [weak dataPlane] in dataPlane?.catchUp() },
                haveCaughtUp: { [weak dataPlane] in dataPlane?.hasCaughtUp ?? false }))
        stage.kernelPath = made
        observation.update(made)
        return programPlaces() + made.attachments
    }

    /// Where the programs are to stand, while they are not there yet as well.
    private func programPlaces() -> [any DesiredItem] {
        let interfaceNames = [underlay.interfaceName, options.tunnel.interfaceName]
        if stage.programPlaces.map(\.interfaceName) != interfaceNames {
            stage.programPlaces = interfaceNames.map { ProgramPlace(at: $0) }
        }
        return stage.programPlaces
    }

    /// Has the kernel look through the programs, which takes it some 0.15 s of a CPU: beside all else, and after the packet threads.
    /// On a CPU that was full already, a thread that took its share for that long lost the packets of a third of a second.
    /// Another pass attaches them.
    private func loadKernelPath(of dataPlane: DataPlane) {
        guard stage.loadsKernelPath !== dataPlane else { return }
        stage.loadsKernelPath = dataPlane
        Task {
            await onThreadThatGivesWay("kernel-path") { dataPlane.loadKernelPath() }
            // A thread has the weight of the one that starts it.
            await onThread { dataPlane.startHellos() }
            askForPass()
        }
    }

    /// Takes away the programs that a daemon which was killed has left, where none of this one's come into their place. They
    /// take nothing any more after some seconds; what can't be taken away now is found by the next start, or `twilld cleanup`.
    private func removeLeftPrograms() async {
        guard !hasRemovedLeftPrograms else { return }
        hasRemovedLeftPrograms = true
        let tunnelName = options.tunnel.interfaceName
        await onThread {
            guard let socket = try? RouteSocket(), let links = try? socket.links() else { return }
            _ = try? AttachedProgram.removeFilters(
                ofTunnel: tunnelName, on: links, except: nil, using: socket)
        }
    }

    /// Says that the table is still looked after, and looks whether it may begin where it rests; to be called once a second.
    func refreshKernelPath() async {
        guard let path = stage.kernelPath else { return }
        path.forwarder.refresh()
        // A worker that sleeps notes what it has sent and written last when it is woken.
        if path.waitsForPacketThreads || path.forwarder.waitsForWorkers { stage.dataPlane?.settle() }
        if path.isToBeLookedAt { await lookAtKernelPath() }
    }

    /// Looks whether the kernel path may go on as it is.
    func lookAtKernelPath() async {
        guard let path = stage.kernelPath, !isHandingOver, !isReplacing else { return }
        await onThread { path.look() }
    }

    /// Leaves the programs where they are, for the next start: small packets of sparse flows go on until then, or until what the
    /// programs know is good no longer.
    func leaveKernelPath() {
        guard let path = stage.kernelPath else { return }
        stage.kernelPath = nil
        observation.update(nil as AttachedKernelPath?)
        path.forwarder.leave()
    }

    /// Takes the programs away before their data plane ends.
    func closeKernelPath() async {
        guard let path = stage.kernelPath else { return }
        stage.kernelPath = nil
        observation.update(nil as AttachedKernelPath?)
        await onThread { path.detach() }
    }
}
