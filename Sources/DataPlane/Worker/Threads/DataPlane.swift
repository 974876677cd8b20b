// long: one class, whose locks are private to it: what is open, what is published and what of the kernel path is loaded belong together.
// How it works. A data plane comes to be in two steps. First it prepares all that can be made twice: one thread for each
// worker, pinned to a CPU where that was asked for (WorkerThread.swift), which allocates its own memory (so that it lies
// on its own NUMA node) and makes its ring. Then it begins on channels, the TUN queues and sockets, which are opened for
// it or come from another data plane (WorkerChannels.swift); from then on it forwards. One that is followed by another
// ceases: its workers take nothing in any more, send and write out all they hold, and rest, until they are told to go on
// (the other one could not begin) or to end (it did). Replacement.swift has how one follows another in one process.
// The two sides share three things: the forwarding publication, the counters, and an eventfd for each worker that
// asks it for a round.

import Addresses
import Counters
import Devices
import Engines
import Forwarding
import Glibc
public import Hello
import KernelForwarding
import KernelPrograms
import Synchronization

/// The part of the daemon that moves packets.
public final class DataPlane: Sendable {
    /// The engine in use: `uring` or `mmsg`.
    public let engine: EngineChoice
    /// Why io_uring is not used although nobody said so; nil where it is.
    public let uringRefusal: UringError?
    /// What forwards small packets of sparse flows past the workers; nil where it is off or refused, or before it is loaded
    /// (`loadKernelPath`). It forwards nothing before the control side has attached its programs.
    public var kernelPath: KernelForwarder? { loadedKernelPath.withLock { $0.forwarder } }
    /// Why there is none; nil where there is one, or nobody wants it.
    public var kernelPathRefusal: KernelProgramError? { loadedKernelPath.withLock { $0.refusal } }
    /// Whether one is wanted that is not loaded yet.
    public var awaitsKernelPath: Bool { loadedKernelPath.withLock { $0.isAwaited } }
    /// How it was asked to work.
    public var tuning: Tuning { configuration.tuning }
    /// The number of workers.
    public let workerCount: Int
    /// What it is made for.
    public let configuration: DataPlaneConfiguration

    let limits: WorkerLimits
    let publication: ForwardingPublication
    /// What the kernel path's programs and the workers tell each other; nil where there can be no kernel path.
    let kernelPathMemory: KernelPathMemory?
    private let loadedKernelPath: Mutex<LoadedKernelPath>
    let wakes: WakeDescriptors
    let orders: WorkerOrders
    let states: WorkerStates
    let timeSlices = TimeSlices()
    let untouchedMemory = UntouchedMemory()
    let blocks: [CounterBlock]
    let peerBlocks: [PeerCounterBlock]
    let hellos: HelloThread
    let records: [WorkerRecords]
    private let published = Mutex(Published())
    private let threads = Mutex<[Int: pthread_t]>([:])
    /// What is open, from `begin` to the end; locked while a worker is woken.
    private let open = Mutex(Open())
    /// Locked for as long as the end takes.
    private let ending = Mutex(())
    /// What the kernel counts for the sockets and the device, as of the last look; the block's one writer holds the
    /// lock.
    private let kernelDrops = Mutex<KernelDrops?>(nil)
    private let kernelBlock: CounterBlock
    /// What those before it have counted.
    private let carried = Mutex(DataPlaneTotals())
    /// What the kernel path has counted; the block's one writer holds the lock.
    private let kernelPathBlock: Mutex<CounterBlock>

    private struct LoadedKernelPath {
        var isAwaited: Bool
        var forwarder: KernelForwarder?
        var refusal: KernelProgramError?
    }

    /// What was published last, with the slots of the peers' counters.
    private struct Published {
        var slots = PeerSlots()
        var routes: ForwardingRoutes?
    }

    /// What is open.
    private struct Open {
        var channels: WorkerChannels?
        var steersPackets = true
        var steersDatagrams = true
        /// The descriptors of the wakes are closed.
        var isOver = false
    }

    /// Works out what follows from the configuration; nothing runs yet.
    ///
    /// - Parameter configuration: the device's name, the address to bind, the routes' rules and the tuning.
    /// - Throws: `DataPlaneError` where the tuning does not go together.
    public init(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) {
        let tuning = configuration.tuning
        let workers = tuning.workerCount
        limits = try DataPlane.limits(configuration)
        uringRefusal = tuning.engine == .automatic ? UringProbe.refusal() : nil
        engine = tuning.engine == .mmsg || uringRefusal != nil ? .mmsg : .uring
        guard let orders = WorkerOrders(count: workers), let states = WorkerStates(count: workers) else {
            throw .resource("make an eventfd", errorNumber: errno)
        }
        wakes = try WakeDescriptors.open(count: workers)
        hellos = try HelloThread(workers: workers)
        self.configuration = configuration
        self.orders = orders
        self.states = states
        workerCount = workers
        publication = ForwardingPublication(workers: workers)
        let (memory, loaded) = DataPlane.awaitedKernelPath(configuration)
        kernelPathMemory = memory
        loadedKernelPath = Mutex(loaded)
        blocks = (0..<workers).map { _ in CounterBlock.allocate() }
        peerBlocks = (0..<workers).map { _ in PeerCounterBlock.allocate() }
        records = (0..<workers).map { _ in WorkerRecords.allocate() }
        kernelBlock = CounterBlock.allocate()
        kernelPathBlock = Mutex(CounterBlock.allocate())
    }

    /// Opens a device and sockets, and forwards from then on.
    ///
    /// - Parameters:
    ///   - configuration: the device's name, the address to bind, the routes' rules and the tuning.
    ///   - patienceMilliseconds: how long to wait for the TUN name where another process holds it.
    ///   - busy: called once where it has to wait.
    /// - Throws: `DataPlaneError`; then nothing is open.
    public static func started(
        _ configuration: DataPlaneConfiguration, patienceMilliseconds: Int = 0, busy: () -> Void = {}
    ) throws(DataPlaneError) -> DataPlane {
        // First what may be refused for reasons that somebody else has to mend, which is tried often.
        let channels = try WorkerChannels.open(
            configuration, patienceMilliseconds: patienceMilliseconds, busy: busy)
        let dataPlane: DataPlane
        do throws(DataPlaneError) {
            dataPlane = try DataPlane(configuration)
        } catch {
            channels.close()
            throw error
        }
        do throws(DataPlaneError) {
            try dataPlane.prepare(packetsWait: true)
            try dataPlane.begin(on: channels)
        } catch {
            dataPlane.stop()
            channels.close()
            throw error
        }
        return dataPlane
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

    /// Whether there is to be a kernel path. It lets nobody in by another source than the sending peer's.
    private static func wantsKernelPath(_ configuration: DataPlaneConfiguration) -> Bool {
        configuration.tuning.kernelPath == .automatic && !configuration.acceptsAnySource
    }

    /// What the workers share with a kernel path, where there is to be one, and how that stands.
    private static func awaitedKernelPath(
        _ configuration: DataPlaneConfiguration
    ) -> (KernelPathMemory?, LoadedKernelPath) {
        guard wantsKernelPath(configuration) else { return (nil, LoadedKernelPath(isAwaited: false)) }
        do throws(KernelProgramError) {
            return (try KernelPathMemory(), LoadedKernelPath(isAwaited: true))
        } catch {
            return (nil, LoadedKernelPath(isAwaited: false, refusal: error))
        }
    }

    /// Loads the kernel path, where one is wanted that is not loaded yet. The kernel looks through the programs for some 0.15 s of a
    /// CPU; so it is no part of the start, and nobody's end waits for it: packets go by the workers meanwhile.
    public func loadKernelPath() {
        guard awaitsKernelPath, let kernelPathMemory, let channels else { return }
        let loaded: LoadedKernelPath
        do throws(KernelProgramError) {
            guard workerCount == 1 || (steersPackets && steersDatagrams) else {
                throw KernelProgramError(
                    "tell which worker's a packet is", errorNumber: EOPNOTSUPP,
                    words: "the kernel spreads packets over the workers by itself")
            }
            let forwarder = try KernelForwarder(
                underlay: configuration.underlay, former: channels.formerUnderlay,
                packetLimitBytes: configuration.tuning.kernelPathBytes, mtu: configuration.mtu,
                workers: workerCount, memory: kernelPathMemory)
            loaded = LoadedKernelPath(isAwaited: false, forwarder: forwarder)
        } catch {
            loaded = LoadedKernelPath(isAwaited: false, refusal: error)
        }
        ending.withLock { _ in
            guard awaitsKernelPath, !open.withLock({ $0.isOver }) else { return }
            published.withLock { published in
                loadedKernelPath.withLock { $0 = loaded }
                if let routes = published.routes { loaded.forwarder?.publish(routes) }
            }
        }
    }

    /// Starts the thread that asks peers whether they take what the kernel path sends, where that is loaded. Without it this node asks
    /// nobody, and answers nobody. It has the calling thread's weight on its CPU.
    public func startHellos() {
        ending.withLock { _ in
            guard let kernelPath, let channels, !open.withLock({ $0.isOver }) else { return }
            try? hellos.start(telling: kernelPath, on: channels.sockets.helloSender)
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

    // MARK: A life

    /// Starts the workers' threads; returns once all of them have their memory and their ring.
    ///
    /// - Parameter packetsWait: whether nobody forwards meanwhile: then memory is given when it is first used.
    /// - Throws: `DataPlaneError` where the kernel gives no thread, or a worker cannot make its engine; then none
    ///   runs.
    public func prepare(packetsWait: Bool = false) throws(DataPlaneError) {
        do throws(DataPlaneError) {
            for index in 0..<workerCount { try startThread(index, packetsWait: packetsWait) }
            // Found out now, while nobody waits.
            _ = UnderlaySocket.segmentLimit
            try states.wait { $0 == .prepared }
        } catch {
            stop()
            throw error
        }
    }

    private func startThread(_ index: Int, packetsWait: Bool) throws(DataPlaneError) {
        let context = Unmanaged.passRetained(
            WorkerThread(dataPlane: self, index: index, packetsWait: packetsWait))
        var thread = pthread_t()
        states.note(.preparing, of: index)
        let result = pthread_create(
            &thread, nil,
            { argument in
                let worker = Unmanaged<WorkerThread>.fromOpaque(argument!).takeRetainedValue()
                worker.dataPlane.run(worker.index, packetsWait: worker.packetsWait)
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            context.release()
            states.note(.ended, of: index)
            throw .resource("start a worker thread", errorNumber: result)
        }
        threads.withLock { $0[index] = thread }
    }

    /// Forwards from here on, by what was published last: `attach`, `run`, and then `continueCounting`.
    ///
    /// - Throws: as `attach` does.
    public func begin(
        on channels: WorkerChannels, continuing totals: DataPlaneTotals = DataPlaneTotals()
    ) throws(DataPlaneError) {
        try attach(channels)
        run()
        continueCounting(from: totals)
    }

    /// Takes channels, on which it forwards from `run` on.
    ///
    /// - Parameter channels: what it reads from, sends and writes on, its own to close from here on.
    /// - Throws: `DataPlaneError` where a worker cannot take them; then the threads have ended, and the channels are
    ///   still the caller's.
    public func attach(_ channels: WorkerChannels) throws(DataPlaneError) {
        precondition(channels.workerCount == workerCount)
        let steered = channels.steer(among: workerCount)
        open.withLock {
            $0.channels = channels
            $0.steersPackets = steered.packets
            $0.steersDatagrams = steered.datagrams
        }
        orders.give(.attach, to: 0..<workerCount)
        do throws(DataPlaneError) {
            try states.wait { $0 == .attached }
        } catch {
            open.withLock { $0.channels = nil }
            stop()
            throw error
        }
    }

    /// Forwards from here on.
    public func run() {
        orders.give(.run, to: 0..<workerCount)
    }

    /// Counts on from what those before it have counted. Apart from `attach`, since packets wait for that and not for this.
    ///
    /// - Parameter totals: theirs; of the kernel, what they have seen of the very channels that are attached.
    public func continueCounting(from totals: DataPlaneTotals) {
        guard let channels else { return }
        let drops = KernelDrops(channels, seen: totals.kernel)
        carried.withLock { $0 = totals }
        kernelDrops.withLock { $0 = drops }
    }

    /// Takes nothing in from here on, and returns once the workers have sent and written out all they held: what comes
    /// waits in the channels.
    ///
    /// - Parameters:
    ///   - workers: which of them; nil: all.
    ///   - isEmptying: whether they first go on until they found their queue and socket empty once, or have gone round
    ///     very often.
    /// - Returns: whether they have. Where one has not in time, all go on as before.
    public func cease(_ workers: Range<Int>? = nil, emptying isEmptying: Bool = false) -> Bool {
        let workers = workers ?? 0..<workerCount
        timeSlices.shorten()
        orders.give(isEmptying ? .empty : .cease, to: workers)
        wakeWorkers()
        if states.wait(
            forMilliseconds: DataPlane.ceasingMilliseconds, of: workers, { $0 == .parked || $0 == .ended })
        {
            return true
        }
        resume()
        return false
    }

    /// How long a worker may take until it holds nothing: it takes some rounds, but the thread may wait for its CPU.
    private static let ceasingMilliseconds = 1000

    /// Goes on after `cease`.
    public func resume() {
        orders.give(.run, to: 0..<workerCount)
        wakeWorkers()
    }

    /// Looks after what only time brings about, and what could wait; to be called once a second.
    public func look() {
        timeSlices.look()
        untouchedMemory.touch()
    }

    /// Whether all that waited for the workers when they began, went on, or were last asked to catch up, is sent and written:
    /// each has found its queue and its sockets empty since, and held nothing after that.
    public var hasCaughtUp: Bool { (0..<workerCount).allSatisfy { !orders.isBehind($0) } }

    /// Asks the workers to catch up with what waits for them now; `hasCaughtUp` says when they have. Returns at once.
    public func catchUp() {
        for worker in 0..<workerCount { orders.askToCatchUp(worker) }
        wakeWorkers()
    }

    /// Ends after `cease`, and leaves the channels open: they belong to whoever has begun on them.
    public func end() {
        open.withLock { $0.channels = nil }
        stop()
    }

    /// Ends the workers and closes the sockets and the TUN device, which is gone when this returns unless it is
    /// persistent. Takes some milliseconds; may be called again.
    ///
    /// - Parameter isOrderly: whether what the workers hold is sent and written before.
    public func stop(isOrderly: Bool = false) {
        if isOrderly { _ = cease() }
        ending.withLock { _ in
            guard !open.withLock({ $0.isOver }) else { return }
            kernelPath?.stop()
            orders.give(.end, to: 0..<workerCount)
            wakes.signal()
            hellos.stop()
            let running = threads.withLock { threads in
                defer { threads = [:] }
                return threads
            }
            for thread in running.values { pthread_join(thread, nil) }
            let channels = open.withLock { open in
                defer { open.channels = nil }
                open.isOver = true
                return open.channels
            }
            channels?.close()
            wakes.close()
        }
    }

    /// Takes over what the channels have become since it began: nobody else's are among them any more.
    func note(_ channels: WorkerChannels) { open.withLock { $0.channels = channels } }

    /// Starts the thread of a worker again that ended by itself; the others go on.
    ///
    /// - Throws: `DataPlaneError` where the kernel gives no thread.
    public func restart(worker index: Int) throws(DataPlaneError) {
        guard states.isEnded(index), let former = threads.withLock({ $0.removeValue(forKey: index) }) else {
            return
        }
        pthread_join(former, nil)
        try startThread(index, packetsWait: true)
    }

    /// What ended by itself: the worker, and the error number.
    public var failures: [(worker: Int, errorNumber: Int32)] { states.failures }

    // MARK: What it is like

    /// What is open; nil before `begin` and after the end. The descriptors are the data plane's to close.
    public var channels: WorkerChannels? { open.withLock { $0.channels } }
    /// The TUN device; nil as `channels` is.
    public var tunnel: TunnelDevice? { channels?.tunnel }
    /// What the underlay sockets can do.
    public var underlayOffloads: UnderlayOffloads {
        channels?.sockets.receivers[0].offloads
            ?? UnderlayOffloads(segmentation: false, coalescing: false, segmentLimit: 1)
    }
    /// The sockets' receive buffer in bytes, as granted.
    public var receiveBufferBytes: Int { channels?.sockets.receivers[0].receiveBufferBytes ?? 0 }
    /// Whether datagrams go to workers by where they come from; false where the kernel spreads them by a
    /// hash.
    public var steersDatagrams: Bool { open.withLock { $0.steersDatagrams } }
    /// Whether packets go to workers by their flow; false where the kernel takes the queue that the flow last
    /// used.
    public var steersPackets: Bool { open.withLock { $0.steersPackets } }
    /// The underlay address and port that datagrams come to.
    public var underlay: Endpoint { configuration.underlay }

    /// Whether it is what one for this configuration would be. The MTU may be another one: it is published.
    public func isMade(for configuration: DataPlaneConfiguration) -> Bool {
        func comparable(_ configuration: DataPlaneConfiguration) -> DataPlaneConfiguration {
            var configuration = configuration
            configuration.mtu = 0
            configuration.tuning.workers = .fixed(configuration.tuning.workerCount)
            // The control side's alone.
            configuration.tuning.queueLength = 1
            return configuration
        }
        return comparable(self.configuration) == comparable(configuration)
    }

    /// Whether routes with this MTU, bytes, may be published: a receive buffer holds a packet of that size.
    public func carries(mtu: Int) -> Bool { configuration.tuning.receiveBufferBytes >= mtu }

    /// Replaces the forwarding routes: each worker uses the new ones from its next round on. Returns at once.
    ///
    /// - Returns: how many peers were left out by the subscriber that holds the fewest.
    @discardableResult
    public func publish(_ routes: ForwardingRoutes) -> Int {
        let leftOut = published.withLock { published in
            var routes = routes
            published.slots.assign(to: &routes.peers, counts: counts(ofSlot:))
            published.routes = routes
            let subscribers: [any ForwardingSubscriber] =
                [publication, hellos] + [kernelPath].compactMap { $0 }
            return subscribers.map { $0.publish(routes) }.max() ?? 0
        }
        wakeWorkers()
        return leftOut
    }

    // MARK: What is counted

    /// What the workers have counted, and those of the data planes before this one, and what the kernel has dropped before
    /// it came to them. Some system calls.
    public func counters() -> CounterTotals {
        lookAtKernelDrops()
        let before = carried.withLock { $0.counters }
        return kernelPathBlock.withLock { block in
            kernelPath?.count(into: block)
            return CounterTotals(blocks + [kernelBlock, block, hellos.counters], beside: before)
        }
    }

    private func lookAtKernelDrops() {
        open.withLock { open in
            guard let channels = open.channels else { return }
            kernelDrops.withLock {
                $0?.look(at: channels.sockets.receivers, channels.tunnel)
                guard let drops = $0 else { return }
                kernelBlock.set(.dropInboundSocketFull, Int(truncatingIfNeeded: drops.socketsDropped))
                kernelBlock.set(.dropOutboundQueueFull, Int(truncatingIfNeeded: drops.queueDropped))
            }
        }
    }

    /// All that was counted, for whoever follows.
    public func totals() -> DataPlaneTotals {
        DataPlaneTotals(
            counters: counters().carried, peers: countersOfPeers(),
            kernel: kernelDrops.withLock { $0?.seen ?? KernelDrops.Seen() })
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
        open.withLock { open in
            guard let sockets = open.channels?.sockets else { return [] }
            return UnderlaySocket.intruders(
                on: configuration.underlay, beside: sockets.descriptors + sockets.former)
        }
    }

    /// Asks each worker for a round: what it sent and wrote last is counted then, and its buffers come free.
    public func settle() { wakeWorkers() }

    /// What was carried to and from each peer.
    public func countersOfPeers() -> PeerTotals {
        let before = carried.withLock { $0.peers }
        return published.withLock { $0.slots.totals(counts: counts(ofSlot:)) }.continuing(before)
    }

    /// How soon each peer answers hellos, and how many; of those that answer at all, since this data plane was made.
    public func answeredHellos() -> [Endpoint: AnsweredHellos] { hellos.answered }

    private func counts(ofSlot slot: UInt16) -> PeerCounts {
        var sum = PeerCounts()
        for block in peerBlocks { sum.add(block[slot]) }
        if let kernelPath { sum.add(kernelPath.counts(ofSlot: slot)) }
        return sum
    }

    /// What each worker has counted, in the workers' order, since this data plane was made.
    public func countersOfWorkers() -> [CounterTotals] { blocks.map { CounterTotals([$0]) } }

    /// Wakes each worker once, which it counts (`Counter.wakes`): whether it still goes round. Returns at
    /// once.
    public func wake() { wakeWorkers() }

    private func wakeWorkers() {
        open.withLock { open in
            guard !open.isOver else { return }
            wakes.signal()
        }
    }
}
