import Backends
import Counters
import Glibc
import Health
import Host
import Leases
import Node
import Logging
import Worker

// What looks after the node between the passes: the loops' heartbeats, the packet threads, what time alone
// brings about.
extension Daemon {
    /// How often the open descriptors are counted and the kernel path's conditions looked at.
    private static let descriptorSeconds = 5

    /// Does something that makes a loop show itself, again and again.
    func askForHeartbeats(_ body: @Sendable () async -> Void) async throws {
        while true {
            await body()
            try await Task.sleep(for: Heartbeats.interval)
        }
    }

    /// Lets the passes and the packet threads show themselves. A packet thread counts each time that it was woken:
    /// what it counted since the last time is its sign of life.
    func wakeLoops() {
        wakePasses()
        guard let dataPlane = stage.dataPlane else {
            wakesSeen = []
            return heartbeats.forget(.packetWorkers)
        }
        let wakes = dataPlane.countersOfWorkers().map { $0[.wakes] }
        if wakes.count != wakesSeen.count || !zip(wakes, wakesSeen).contains(where: { $0 == $1 }) {
            heartbeats.stamp(.packetWorkers)
        }
        wakesSeen = wakes
        dataPlane.wake()
    }

    /// Looks after the packet threads, which can tell nobody what they meet, and after what only time tells.
    func watchOver(_ node: NodeNetwork) async throws {
        var tooLarge = TooLargeWatch()
        var traffic = PathTrafficChanges()
        var seconds = 0
        var dropped = DroppedPacketLog()
        while true {
            try await Task.sleep(for: .seconds(1))
            seconds = (seconds + 1) % Daemon.descriptorSeconds
            await refreshKernelPath()
            let counters = stage.dataPlane?.counters()
            let now = ContinuousClock.now
            if tooLarge.grew(to: counters?[.dropOutboundTooLarge] ?? 0, at: now) { await node.checkPaths() }
            health.set(
                Component(.underlay, "MTU"), tooLarge.problem(interface: underlay.interfaceName, at: now))
            if let counters { reportFallbacks(in: counters) }
            if logger.logLevel <= .debug { log(&dropped, at: now) }
            if let totals = observation.sampleTraffic() {
                await node.noteTraffic(traffic.news(in: totals))
            }
            await observation.lookForLosses { await onThread { ProcessorTimes.now() } }
            await lookAtDataPlane()
            await lookAtFormerPort()
            await storeDescriptors()
            await tellWhetherItStands()
            health.set(
                Component(.lease, "expiry"),
                TableProblems.expiry(
                    of: table.ownLease, margin: options.lease.renewalMargin, now: .now))
            if seconds == 0 {
                await lookAtKernelPath()
                let open = await onThread { DescriptorLimit.open }
                health.set(
                    Component(.limit, "open files"),
                    DescriptorLimit.problem(open: open, limit: DescriptorLimit.current))
            }
        }
    }

    /// Looks whether the packet threads still run and whether the port is theirs alone.
    private func lookAtDataPlane() async {
        guard let dataPlane = stage.dataPlane, !isHandingOver, !isReplacing else { return }
        await onThread { dataPlane.look() }
        var watch = dataPlaneWatch
        let ended = await watch.look(at: dataPlane)
        dataPlaneWatch = watch
        for (worker, errorNumber) in dataPlane.failures where ended.contains(worker) {
            logger.critical(
                .dataPlaneEnded,
                metadata: [
                    "thread": "\(worker)", "detail": "\(systemWords(errorNumber))",
                    "action": "starting it again",
                ])
            guard stage.dataPlane === dataPlane else { return }
            await onThread { try? dataPlane.restart(worker: worker) }
        }
    }

    /// Debug lines (-v 1) for packets that were dropped.
    private func log(_ dropped: inout DroppedPacketLog, at now: ContinuousClock.Instant) {
        guard let dataPlane = stage.dataPlane else { return }
        let counters = dataPlane.counters()
        for line in dropped.lines(counters, at: now, last: { dataPlane.lastDropped($0).first }) {
            logger.debug(.packetDropped, metadata: line.mapValues { .string($0) })
        }
    }

    private func reportFallbacks(in counters: CounterTotals) {
        for fallback in stage.fallbacks.news(in: counters) {
            logger.warning(
                .fallbackTaken,
                metadata: [
                    "fallback": "\(fallback.name)", "underlay": "\(underlay.interfaceName)",
                    "interface": "\(options.tunnel.interfaceName)", "detail": "\(fallback.meaning)",
                ])
        }
    }

    /// What is wrong with other nodes' entries as this node's options have it.
    func updateTableProblems() {
        health.set(
            Component(.peer, "limit"),
            TableProblems.tooMany(peers: table.peers.count, isCluster: options.origin.isCluster))
        guard let configuration = table.configuration else { return }
        // The kernel's own backends have one port for all nodes.
        let ownPort = type(of: configuration.backend).hasDataPlane ? options.tunnel.port : nil
        health.set(
            Component(.port, "of this node alone"),
            TableProblems.ownPort(
                ownPort, networkPort: configuration.backend.port, table.peers))
    }

    /// Debug lines (-v 1) for what changed in a table.
    func logChanges(from old: PeerTable, to new: PeerTable) {
        let (before, after) = (Set(old.peers), Set(new.peers))
        for peer in after.subtracting(before).sorted(by: { $0.subnet < $1.subnet }) {
            logger.debug(
                .peerAdded, metadata: ["subnet": "\(peer.subnet)", "endpoint": "\(peer.endpoint)"])
        }
        for peer in before.subtracting(after).sorted(by: { $0.subnet < $1.subnet }) {
            logger.debug(
                .peerRemoved, metadata: ["subnet": "\(peer.subnet)", "endpoint": "\(peer.endpoint)"])
        }
        if old.ownLease != new.ownLease, let lease = new.ownLease {
            logger.debug(
                .ownLeaseChanged,
                metadata: [
                    "subnet": "\(lease.subnet)", "endpoint": "\(lease.endpoint)",
                    "reservation": "\(lease.isReservation)",
                ])
        }
    }
}
