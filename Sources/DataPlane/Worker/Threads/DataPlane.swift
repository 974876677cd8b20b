// How it works. The data plane opens the TUN device and the sockets, then starts one pinned thread for each worker.
// Each thread allocates its own memory (so that it lies on its own NUMA node), makes its ring and tells whether that
// worked; no packet moves before all have. From there on the two sides share three things: the forwarding
// publication, the counters, and an eventfd for each worker that asks it for a round.

import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import Offload
import Synchronization
import Devices

/// What the data plane needs to know at its start.
public struct DataPlaneConfiguration: Sendable {
    /// The TUN device's name, at most 15 bytes.
    public var tunnelName: String
    /// The underlay address and UDP port to bind.
    public var underlay: Endpoint
    /// The TUN device's MTU at first, bytes; the control side sets it on the device, and may publish others.
    public var mtu: Int
    /// The TUN device's own address: the first of this node's subnet.
    public var tunnelAddress: IPv4Address
    /// The same for IPv6; nil where the network has none.
    public var tunnelAddressIPv6: IPv6Address?
    /// Whether inner sources outside the peer's subnet are let in.
    public var acceptsAnySource: Bool
    /// How it is tuned.
    public var tuning: Tuning

    /// Makes a configuration.
    public init(
        tunnelName: String, underlay: Endpoint, mtu: Int, tunnelAddress: IPv4Address,
        tunnelAddressIPv6: IPv6Address? = nil, acceptsAnySource: Bool = false, tuning: Tuning = Tuning()
    ) {
        self.tunnelName = tunnelName
        self.underlay = underlay
        self.mtu = mtu
        self.tunnelAddress = tunnelAddress
        self.tunnelAddressIPv6 = tunnelAddressIPv6
        self.acceptsAnySource = acceptsAnySource
        self.tuning = tuning
    }
}

/// Why the data plane could not be started.
public enum DataPlaneError: Error, CustomStringConvertible {
    /// The TUN device.
    case tunnel(TunnelError)
    /// A socket.
    case socket(UnderlaySocketError)
    /// The engine: what happened, and the kernel's error number.
    case engine(String, errorNumber: Int32)
    /// How it is tuned.
    case tuning(TuningError)
    /// Memory, a thread, an eventfd: what was tried, and the kernel's error number.
    case resource(String, errorNumber: Int32)

    /// What happened, to what, and what to do about it.
    public var description: String {
        switch self {
        case .tunnel(let error): error.description
        case .socket(let error): error.description
        case .engine(let text, _): text
        case .tuning(let error): error.description
        case .resource(let action, let errorNumber):
            "cannot \(action): \(String(cString: strerror(errorNumber)))"
        }
    }
}

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
    /// The underlay address and port that datagrams come to.
    public var underlay: Endpoint { configuration.underlay }
    /// The number of workers.
    public var workerCount: Int { sockets.count }

    private let configuration: DataPlaneConfiguration
    private let limits: WorkerLimits
    private let publication: ForwardingPublication
    /// Who forwards by the routes that are published: the workers, by their snapshot.
    private let subscribers: [any ForwardingSubscriber]
    private let sockets: [UnderlaySocket]
    /// What each worker sends on: the first from the network's port, the others from ports of their own.
    private let senders: [Int32]
    private let wakes: [Int32]
    private let blocks: [CounterBlock]
    private let peerBlocks: [PeerCounterBlock]
    private let peerSlots = Mutex(PeerSlots())
    private let stopping = Atomic<Bool>(false)
    private let threads = Mutex<[pthread_t]>([])
    /// Whether the descriptors are closed; locked for as long as `stop` takes, and while a worker is woken.
    private let closed = Mutex(false)
    private let failure = Atomic<Int32>(0)
    /// What the kernel counts for the sockets and the device, as of the last look; the block's one writer holds the lock.
    private let kernelDrops: Mutex<KernelDrops>
    private let kernelBlock: CounterBlock

    /// Opens the TUN device and the sockets.
    ///
    /// - Parameters:
    ///   - patienceMilliseconds: how long to wait for the TUN name where another process holds it: the kernel takes down
    ///     the ring of one that was killed some time after its end.
    ///   - busy: called once where it has to wait.
    public init(
        _ configuration: DataPlaneConfiguration, patienceMilliseconds: Int = 0, busy: () -> Void = {}
    ) throws(DataPlaneError) {
        let tuning = configuration.tuning
        let workers = tuning.workerCount
        do throws(TuningError) {
            limits = try WorkerLimits(tuning)
            guard tuning.receiveBufferBytes >= configuration.mtu else {
                throw .lessThanMTU(receiveBufferBytes: tuning.receiveBufferBytes, mtu: configuration.mtu)
            }
        } catch {
            throw .tuning(error)
        }
        uringRefusal = tuning.engine == .automatic ? UringProbe.refusal() : nil
        engine = tuning.engine == .mmsg || uringRefusal != nil ? .mmsg : .uring
        var sockets: [UnderlaySocket] = []
        var wakes: [Int32] = []
        var senders: [Int32] = []
        func closeAll() {
            for socket in sockets { socket.close() }
            for sender in senders where sender != sockets.first?.descriptor { Glibc.close(sender) }
            for wake in wakes { Glibc.close(wake) }
        }
        do throws(UnderlaySocketError) {
            for _ in 0..<workers {
                sockets.append(
                    try UnderlaySocket.open(
                        configuration.underlay, beside: sockets.first,
                        bufferBytes: tuning.socketBufferBytes,
                        segmentation: tuning.usesSegmentation, coalescing: tuning.usesCoalescing))
            }
            senders.append(
                UnderlaySocket.openSender(
                    sharingPortOf: sockets[0], at: configuration.underlay,
                    bufferBytes: tuning.socketBufferBytes) ?? sockets[0].descriptor)
            // While these were opened, a process of the same user could have joined them.
            try UnderlaySocket.refuseIntruders(
                on: configuration.underlay, beside: sockets.map(\.descriptor) + senders)
            for place in 1..<workers {
                senders.append(
                    try UnderlaySocket.openSender(
                        beside: configuration.underlay, place: place, bufferBytes: tuning.socketBufferBytes))
            }
        } catch {
            closeAll()
            throw .socket(error)
        }
        for _ in 0..<workers {
            let wake = eventfd(0, Int32(EFD_CLOEXEC))
            guard wake >= 0 else {
                let code = errno
                closeAll()
                throw .resource("make an eventfd", errorNumber: code)
            }
            wakes.append(wake)
        }
        do throws(TunnelError) {
            tunnel = try TunnelDevice.open(
                name: configuration.tunnelName, queueCount: workers, offloads: tuning.tunnelOffloads,
                patienceMilliseconds: patienceMilliseconds, busy: busy)
        } catch {
            closeAll()
            throw .tunnel(error)
        }
        self.configuration = configuration
        self.sockets = sockets
        self.senders = senders
        self.wakes = wakes
        if workers > 1 {
            steersDatagrams = UnderlaySocket.steer(sockets)
            steersPackets = tunnel.steerFlows()
        } else {
            steersDatagrams = true
            steersPackets = true
        }
        underlayOffloads = sockets[0].offloads
        receiveBufferBytes = sockets[0].receiveBufferBytes
        publication = ForwardingPublication(workers: workers)
        subscribers = [publication]
        blocks = (0..<workers).map { _ in CounterBlock.allocate() }
        peerBlocks = (0..<workers).map { _ in PeerCounterBlock.allocate() }
        kernelBlock = CounterBlock.allocate()
        kernelDrops = Mutex(KernelDrops(sockets: sockets.count, queueDropped: tunnel.droppedPackets()))
    }

    deinit {
        precondition(threads.withLock { $0.isEmpty }, "the data plane is stopped before it ends")
        for block in blocks { block.deallocate() }
        kernelBlock.deallocate()
        for block in peerBlocks { block.deallocate() }
    }

    /// Starts the workers' threads; returns once all of them are ready to forward.
    public func start() throws(DataPlaneError) {
        guard let start = WorkerStart(count: sockets.count) else {
            let code = errno
            stop()
            throw .resource("make an eventfd", errorNumber: code)
        }
        for index in 0..<sockets.count {
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
            for wake in wakes { eventfd_write(wake, 1) }
            let running = threads.withLock { threads in
                defer { threads = [] }
                return threads
            }
            for thread in running { pthread_join(thread, nil) }
            for socket in sockets { socket.close() }
            for sender in senders where sender != sockets.first?.descriptor { Glibc.close(sender) }
            tunnel.close()
            for wake in wakes { Glibc.close(wake) }
        }
    }

    /// What the workers have counted, and what the kernel has dropped before it came to them. Some system calls.
    public func counters() -> CounterTotals {
        closed.withLock { isClosed in
            guard !isClosed else { return }
            kernelDrops.withLock {
                $0.look(at: sockets, tunnel)
                kernelBlock.set(.dropInboundSocketFull, Int(truncatingIfNeeded: $0.socketsDropped))
                kernelBlock.set(.dropOutboundQueueFull, Int(truncatingIfNeeded: $0.queueDropped))
            }
        }
        return CounterTotals(blocks + [kernelBlock])
    }

    /// Others' sockets on the port, which take datagrams that are for this node. Reads files of /proc.
    public func intruders() -> [PortIntruder] {
        closed.withLock { isClosed in
            isClosed
                ? []
                : UnderlaySocket.intruders(
                    on: configuration.underlay, beside: sockets.map(\.descriptor) + senders)
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
            for wake in wakes { eventfd_write(wake, 1) }
        }
    }

    // MARK: On the worker's thread

    fileprivate func run(_ index: Int, _ start: WorkerStart) {
        let tuning = configuration.tuning
        // What `top -H` and perf show; it would inherit the name of the thread that starts it.
        twill_name_thread("worker \(index)")
        if let cpu = tuning.cpu(ofWorker: index) {
            let result = twill_pin_thread(Int32(clamping: cpu))
            guard result == 0 else {
                return start.ready(
                    .resource("pin worker \(index) to CPU \(cpu) (see --cpus)", errorNumber: result))
            }
        }
        guard let memory = PacketMemory(limits, hugePages: tuning.usesHugePages) else {
            return start.ready(.resource("allocate packet buffers", errorNumber: ENOMEM))
        }
        if index == 0 { countStartFallbacks() }
        let offloads = sockets[index].offloads
        let settings = WorkerSettings(
            tunnelAddress: configuration.tunnelAddress,
            tunnelAddressIPv6: configuration.tunnelAddressIPv6,
            acceptsAnySource: configuration.acceptsAnySource,
            segmentLimit: offloads.segmentation ? offloads.segmentLimit : 1,
            coalesces: mergedKinds, busyPollMicroseconds: tuning.busyPollMicroseconds,
            minimumWaitMicroseconds: tuning.minimumWaitMicroseconds)
        let (tunnel, socket, sender, wake) = (
            tunnel.queues[index].descriptor, sockets[index].descriptor, senders[index], wakes[index]
        )
        switch engine {
        case .mmsg:
            do throws(MmsgError) {
                let engine = try MmsgEngine(
                    memory: memory, tunnel: tunnel, socket: socket, sender: sender, wake: wake,
                    entries: limits.ringEntries)
                start.ready(nil)
                loop(engine, memory, settings, index)
            } catch { start.ready(.engine(error.description, errorNumber: error.errorNumber)) }
        case .uring, .automatic:
            do throws(UringError) {
                let engine = try UringEngine(
                    memory: memory, tunnel: tunnel, socket: socket, sender: sender, wake: wake,
                    entries: limits.ringEntries, usesSubmissionPolling: tuning.usesSubmissionPolling)
                if !engine.usesRegisteredBuffers { blocks[index].add(.lockedMemoryFallbacks) }
                start.ready(nil)
                loop(engine, memory, settings, index)
            } catch {
                let advice = "; or give --engine=auto, which goes on with plain system calls"
                start.ready(.engine(error.description + advice, errorNumber: error.errorNumber))
            }
        }
        memory.deallocate()
    }

    /// Counts what was asked for and refused; on the first worker's thread, whose counters tell.
    private func countStartFallbacks() {
        let refused = configuration.tuning.tunnelOffloads.subtracting(tunnel.offloads)
        let fallbacks: [(Counter, Bool)] = [
            (
                .receiveCoalescingFallbacks,
                configuration.tuning.usesCoalescing && !underlayOffloads.coalescing
            ),
            (.segmentationFallbacks, configuration.tuning.usesSegmentation && !underlayOffloads.segmentation),
            (.tunnelStreamFallbacks, !refused.isDisjoint(with: [.tcp4, .tcp6, .tcpECN])),
            (.tunnelDatagramFallbacks, !refused.isDisjoint(with: .udp)),
            (.datagramSteeringFallbacks, !steersDatagrams), (.packetSteeringFallbacks, !steersPackets),
            (.sendingSocketFallbacks, senders[0] == sockets[0].descriptor),
        ]
        for (counter, isTaken) in fallbacks where isTaken { blocks[0].add(counter) }
    }

    /// What the TUN device may be given merged: what it would also give.
    private var mergedKinds: MergedKinds {
        var kinds: MergedKinds = []
        if tunnel.offloads.contains(.tcp4) { kinds.insert(.tcpOverIPv4) }
        if tunnel.offloads.contains(.tcp6) { kinds.insert(.tcpOverIPv6) }
        if tunnel.offloads.contains(.udp) { kinds.insert(.udp) }
        return kinds
    }

    private func loop<Engine: PacketEngine & ~Copyable>(
        _ engine: consuming Engine, _ memory: PacketMemory, _ settings: WorkerSettings, _ index: Int
    ) {
        var worker = Worker(
            engine: engine, memory: memory, limits: limits, settings: settings, counters: blocks[index],
            peerCounters: peerBlocks[index], reader: publication.reader(index))
        while !stopping.load(ordering: .relaxed) {
            let result = worker.round()
            if result != 0 {
                failure.store(-result, ordering: .releasing)
                break
            }
        }
        worker.close()
    }
}

/// What a worker's thread is given.
private final class WorkerThread: Sendable {
    let dataPlane: DataPlane
    let index: Int
    let start: WorkerStart

    init(dataPlane: DataPlane, index: Int, start: WorkerStart) {
        self.dataPlane = dataPlane
        self.index = index
        self.start = start
    }
}

/// Where the threads tell that they are ready, and the starter waits for all of them: an eventfd counts them.
private final class WorkerStart: Sendable {
    private let count: Int
    private let answers: Int32
    private let error = Mutex<DataPlaneError?>(nil)

    /// Nil where the kernel has no more descriptors; `errno` says which limit.
    init?(count: Int) {
        self.count = count
        answers = eventfd(0, Int32(EFD_CLOEXEC | EFD_SEMAPHORE))
        if answers < 0 { return nil }
    }

    deinit { if answers >= 0 { Glibc.close(answers) } }

    func ready(_ failure: DataPlaneError?) {
        error.withLock { if $0 == nil { $0 = failure } }
        eventfd_write(answers, 1)
    }

    func wait() -> DataPlaneError? {
        var answered = 0
        while answered < count {
            var value: eventfd_t = 0
            if eventfd_read(answers, &value) == 0 { answered += 1 }
        }
        return error.withLock { $0 }
    }
}
