// How it works. The data plane opens the TUN device and the sockets, then starts one thread for each worker, pinned
// to a CPU where that was asked for (WorkerThread.swift). Each thread allocates its own memory (so that it lies on
// its own NUMA node), makes its ring and reports whether that worked; one that it worked for forwards from then on.
// The two sides share three things: the forwarding publication, the counters, and an eventfd for each worker that
// asks it for a round.

import Addresses
import Counters
import Devices
import Engines
import Forwarding
import Glibc
import KernelForwarding
import KernelPrograms
import Synchronization

/// The part of the daemon that moves packets.
public final class DataPlane: Sendable {
    /// The TUN device.
    public let tunnel: TunnelDevice
    /// What the underlay sockets can do.
    public let underlayOffloads: UnderlayOffloads
    /// The sockets' receive buffer in bytes, as granted.
    public let receiveBufferBytes: Int

    /// The engine in use: `uring` or `mmsg`.
    public let engine: EngineChoice
    /// Why io_uring is not used although nobody said so; nil where it is.
    public let uringRefusal: UringError?

    /// Whether datagrams go to workers by where they come from; false where the kernel spreads them by a
    /// hash.
    public let steersDatagrams: Bool
    /// Whether packets go to workers by their flow; false where the kernel takes the queue that the flow last
    /// used.
    public let steersPackets: Bool
    /// What forwards small packets of sparse flows past the workers; nil where it is off or refused. It forwards nothing
    /// before the control side has attached its programs.
    public let kernelPath: KernelForwarder?
    /// Why there is none; nil where there is one, or nobody wants it.
    public let kernelPathRefusal: KernelProgramError?
    /// The underlay address and port that datagrams come to.
    public var underlay: Endpoint { configuration.underlay }
    /// How it was asked to work.
    public var tuning: Tuning { configuration.tuning }
    /// The number of workers.
    public var workerCount: Int { sockets.receivers.count }

    let configuration: DataPlaneConfiguration
    let limits: WorkerLimits
    let publication: ForwardingPublication
    /// Who forwards by the routes that are published: the workers, by their snapshot.
    private let subscribers: [any ForwardingSubscriber]
    let sockets: WorkerSockets
    let wakes: WakeDescriptors
    let blocks: [CounterBlock]
    let peerBlocks: [PeerCounterBlock]
    let hellos: HelloThread
    let records: [WorkerRecords]
    private let peerSlots = Mutex(PeerSlots())
    let stopping = Atomic<Bool>(false)
    private let threads = Mutex<[pthread_t]>([])
    /// Whether the descriptors are closed; locked for as long as `stop` takes, and while a worker is woken.
    private let closed = Mutex(false)
    let failure = Atomic<Int32>(0)
    /// What the kernel counts for the sockets and the device, as of the last look; the block's one writer holds the
    /// lock.
    private let kernelDrops: Mutex<KernelDrops>
    private let kernelBlock: CounterBlock
    /// What the kernel path has counted; the block's one writer holds the lock.
    private let kernelPathBlock: Mutex<CounterBlock>

    /// Opens the TUN device and the sockets.
    ///
    /// - Parameters:
    ///   - configuration: the device's name, the address to bind, the routes' rules and the tuning.
    ///   - patienceMilliseconds: how long to wait for the TUN name where another process holds it: the kernel takes
    ///     down the ring of one that was killed some time after its end.
    ///   - busy: called once where it has to wait.
    public init(
        _ configuration: DataPlaneConfiguration, patienceMilliseconds: Int = 0, busy: () -> Void = {}
    ) throws(DataPlaneError) {
        let tuning = configuration.tuning
        let workers = tuning.workerCount
        limits = try DataPlane.limits(configuration)
        uringRefusal = tuning.engine == .automatic ? UringProbe.refusal() : nil
        engine = tuning.engine == .mmsg || uringRefusal != nil ? .mmsg : .uring
        do throws(UnderlaySocketError) {
            sockets = try WorkerSockets.open(at: configuration.underlay, workers: workers, tuning: tuning)
        } catch {
            throw .socket(error)
        }
        do throws(DataPlaneError) {
            wakes = try WakeDescriptors.open(count: workers)
        } catch {
            sockets.close()
            throw error
        }
        do throws(DataPlaneError) {
            hellos = try HelloThread(workers: workers, socket: sockets.helloSender)
        } catch {
            sockets.close()
            wakes.close()
            throw error
        }
        do throws(TunnelError) {
            tunnel = try TunnelDevice.open(
                name: configuration.tunnelName, queueCount: workers, offloads: tuning.tunnelOffloads,
                patienceMilliseconds: patienceMilliseconds, busy: busy)
        } catch {
            sockets.close()
            wakes.close()
            throw .tunnel(error)
        }
        self.configuration = configuration
        if workers > 1 {
            steersDatagrams = UnderlaySocket.steer(
                sockets.receivers, of: configuration.underlay.address.addressFamily)
            steersPackets = tunnel.steerFlows()
        } else {
            steersDatagrams = true
            steersPackets = true
        }
        underlayOffloads = sockets.receivers[0].offloads
        receiveBufferBytes = sockets.receivers[0].receiveBufferBytes
        publication = ForwardingPublication(workers: workers)
        (kernelPath, kernelPathRefusal) = DataPlane.kernelPath(configuration)
        subscribers = [publication, hellos] + [kernelPath].compactMap { $0 }
        blocks = (0..<workers).map { _ in CounterBlock.allocate() }
        peerBlocks = (0..<workers).map { _ in PeerCounterBlock.allocate() }
        records = (0..<workers).map { _ in WorkerRecords.allocate() }
        kernelBlock = CounterBlock.allocate()
        kernelPathBlock = Mutex(CounterBlock.allocate())
        kernelDrops = Mutex(
            KernelDrops(sockets: sockets.receivers.count, queueDropped: tunnel.droppedPackets()))
    }

    /// What follows from how it is tuned, and from the MTU.
    private static func limits(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) -> WorkerLimits
    {
        do throws(TuningError) {
            let limits = try WorkerLimits(configuration.tuning)
            guard limits.datagramBufferBytes >= configuration.mtu else {
                throw .lessThanMTU(
                    receiveBufferBytes: limits.datagramBufferBytes, mtu: configuration.mtu)
            }
            return limits
        } catch {
            throw .tuning(error)
        }
    }

    /// The kernel path where it is wanted, can be and may be, or why it is not. It lets nobody in by another source than
    /// the sending peer's, and knows an underlay of IPv4 alone.
    private static func kernelPath(
        _ configuration: DataPlaneConfiguration
    ) -> (KernelForwarder?, KernelProgramError?) {
        guard configuration.tuning.kernelPath == .automatic, !configuration.acceptsAnySource,
            case .v4(let address) = configuration.underlay.address
        else { return (nil, nil) }
        do throws(KernelProgramError) {
            try KernelForwarder.probe()
            return (
                try KernelForwarder(
                    underlay: (address, configuration.underlay.port),
                    packetLimitBytes: configuration.tuning.kernelPathBytes, mtu: configuration.mtu), nil
            )
        } catch {
            return (nil, error)
        }
    }

    deinit {
        precondition(threads.withLock { $0.isEmpty }, "the data plane is stopped before it ends")
        for block in blocks { block.deallocate() }
        kernelBlock.deallocate()
        kernelPathBlock.withLock { $0.deallocate() }
        for block in peerBlocks { block.deallocate() }
        for record in records { record.deallocate() }
    }

    /// Starts the workers' threads; returns once all of them are ready to forward.
    ///
    /// - Throws: `DataPlaneError` where the kernel gives no thread, or a worker cannot make its engine; then none
    ///   runs.
    public func start() throws(DataPlaneError) {
        guard let start = WorkerStart(count: workerCount) else {
            let code = errno
            stop()
            throw .resource("make an eventfd", errorNumber: code)
        }
        for index in 0..<workerCount {
            let context = Unmanaged.passRetained(WorkerThread(dataPlane: self, index: index, start: start))
            var thread = pthread_t()
            let result = pthread_create(
                &thread, nil,
                { argument in
                    let worker = Unmanaged<WorkerThread>.fromOpaque(argument!).takeRetainedValue()
                    worker.dataPlane.run(worker.index, worker.start)
                    return nil
                }, context.toOpaque())
            guard result == 0 else {
                context.release()
                stop()
                throw .resource("start a worker thread", errorNumber: result)
            }
            threads.withLock { $0.append(thread) }
        }
        if let error = start.wait() {
            stop()
            throw error
        }
        do throws(DataPlaneError) {
            if let kernelPath { try hellos.start(telling: kernelPath) }
        } catch {
            stop()
            throw error
        }
    }

    /// Whether routes with this MTU, bytes, may be published: a receive buffer holds a packet of that size.
    public func carries(mtu: Int) -> Bool { configuration.tuning.receiveBufferBytes >= mtu }

    /// Replaces the forwarding routes: each worker uses the new ones from its next round on. Returns at once.
    ///
    /// - Returns: how many peers were left out by the subscriber that holds the fewest.
    @discardableResult
    public func publish(_ routes: ForwardingRoutes) -> Int {
        let leftOut = peerSlots.withLock { slots in
            var routes = routes
            slots.assign(to: &routes.peers, counts: counts(ofSlot:))
            return subscribers.map { $0.publish(routes) }.max() ?? 0
        }
        wakeWorkers()
        return leftOut
    }

    /// Ends the workers and closes the sockets and the TUN device, which is gone when this returns. Takes some
    /// milliseconds; may be called again.
    public func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        closed.withLock { isClosed in
            guard !isClosed else { return }
            isClosed = true
            kernelPath?.stop()
            wakes.signal()
            hellos.stop()
            let running = threads.withLock { threads in
                defer { threads = [] }
                return threads
            }
            for thread in running { pthread_join(thread, nil) }
            sockets.close()
            tunnel.close()
            wakes.close()
        }
    }

    /// What the workers have counted, and what the kernel has dropped before it came to them. Some system calls.
    public func counters() -> CounterTotals {
        closed.withLock { isClosed in
            guard !isClosed else { return }
            kernelDrops.withLock {
                $0.look(at: sockets.receivers, tunnel)
                kernelBlock.set(.dropInboundSocketFull, Int(truncatingIfNeeded: $0.socketsDropped))
                kernelBlock.set(.dropOutboundQueueFull, Int(truncatingIfNeeded: $0.queueDropped))
            }
        }
        return kernelPathBlock.withLock { block in
            kernelPath?.count(into: block)
            return CounterTotals(blocks + [kernelBlock, block, hellos.counters])
        }
    }

    /// The last packets that were dropped for a reason, of all workers, the newest first; `DropRecords.recordsOfReason`
    /// at most.
    public func lastDropped(_ reason: Counter) -> [DroppedPacket] {
        Array(
            records.flatMap { $0.drops[reason] }.sorted { $0.nanoseconds > $1.nanoseconds }
                .prefix(DropRecords.recordsOfReason))
    }

    /// Begins to copy packets for a capture, or with nil ends that.
    public func capture(_ filter: CaptureFilter?) { for record in records { record.copies.set(filter) } }

    /// Takes what was copied since the last call, in the order of time. One reader.
    public func takeCopies() -> [PacketCopy] {
        var copies: [PacketCopy] = []
        for record in records { record.copies.drain { copies.append($0) } }
        return records.count == 1 ? copies : copies.sorted { $0.nanoseconds < $1.nanoseconds }
    }

    /// How many packets were to be copied and found no room, since the data plane was started.
    public var missedCopies: UInt64 { records.reduce(0) { $0 &+ $1.copies.missed } }

    /// Others' sockets on the port, which take datagrams that are for this node. Reads files of /proc.
    public func intruders() -> [PortIntruder] {
        closed.withLock { isClosed in
            isClosed ? [] : UnderlaySocket.intruders(on: configuration.underlay, beside: sockets.descriptors)
        }
    }

    /// Asks each worker for a round: what it sent and wrote last is counted then, and its buffers come free.
    public func settle() { wakeWorkers() }

    /// What was carried to and from each peer.
    public func countersOfPeers() -> PeerTotals {
        peerSlots.withLock { $0.totals(counts: counts(ofSlot:)) }
    }

    private func counts(ofSlot slot: UInt16) -> PeerCounts {
        var sum = PeerCounts()
        for block in peerBlocks { sum.add(block[slot]) }
        if let kernelPath { sum.add(kernelPath.counts(ofSlot: slot)) }
        return sum
    }

    /// What each worker has counted, in the workers' order.
    public func countersOfWorkers() -> [CounterTotals] { blocks.map { CounterTotals([$0]) } }

    /// The error number that made a worker end by itself; 0 while all is well.
    public var failureErrorNumber: Int32 { failure.load(ordering: .acquiring) }

    /// Wakes each worker once, which it counts (`Counter.wakes`): whether it still goes round. Returns at
    /// once.
    public func wake() { wakeWorkers() }

    private func wakeWorkers() {
        closed.withLock { isClosed in
            guard !isClosed else { return }
            wakes.signal()
        }
    }
}
