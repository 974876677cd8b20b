// How it works. One worker is one thread, one engine (ring), one TUN queue, one socket to receive from and one to
// send on (ADR 6). It lives in rounds:
//
//   1. queue what the last round prepared: sends, writes, then reads from the TUN device;
//   2. enter the kernel once; the sends and writes run to their end in there;
//   3. take the completions: sends and writes give their buffers back; packets read are forwarded (Outbound.swift);
//      received datagrams are checked and coalesced (Inbound.swift). Super-packets and received bundles wait in a
//      queue; packets of sparse flows have priority over it, as in FQ-CoDel (RFC 8290; WaitingFlows.swift, ADR 9).
//
// How much is read in a round adapts to the traffic (ReadBurst.swift). Sparse: one read is pending and the multishot
// receive is armed, and the enter sleeps until either brings something; its wait counts the queued sends and writes
// in, so that a packet that comes alone costs one system call. Dense: bursts of reads that do not wait, doubling
// while they all bring packets, up to 64 (16 while super-packets come, as each takes fifty times as long; both can be
// tuned). After a packet was prioritized, rounds are short for a while: each takes in all that has come, and forwards
// one super-packet each way (four, after one that went by the kernel path); then the thread yields the processor to
// whoever else wants it (Yielding.swift). When a dense time ends, it yields once before it sleeps (ADR 8); not while
// the socket may hold more than there were buffers for (ADR 111).
//
// Order: packets are read in order, appended to messages in order, and a message is sealed before a later one to the
// same peer is opened; sealed messages are sent in order. So packets of one flow, which have one peer, keep theirs.
// What is prioritized has nothing of its flow in the queue. What goes past the worker by the kernel path waits for the worker's
// word that everything of its flow is through (Passage.swift, ADR 101). In the other direction the coalescer keeps the order
// (Offload/Coalescer.swift).
//
// Ownership of a buffer: free list → engine (read, receive) → worker (completion) → message or coalescer slot →
// engine (send, write) → free list. Debug builds hold each step to it (OwnershipLedger.swift).

import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import Hello
import PacketHeaders
import Offload
import Synchronization

/// What a worker is told at its start and keeps.
public struct WorkerSettings: Sendable {
    /// The TUN device's address: the source of ICMP errors; nil where the network has no IPv4.
    public var tunnelAddress: IPv4Address?
    /// The same for IPv6; nil where the network has none.
    public var tunnelAddressIPv6: IPv6Address?
    /// Whether inner sources outside the peer's subnet are let in.
    public var acceptsAnySource: Bool
    /// Datagrams of one send: 1 where segmentation is off, else 64 or 128.
    public var segmentLimit: Int
    /// What is coalesced for the TUN device.
    public var coalesces: MergedKinds
    /// Microseconds to poll before sleeping; 0: never.
    public var busyPollMicroseconds: Int
    /// Microseconds to wait for more under load; 0: never.
    public var minimumWaitMicroseconds: Int

    /// Whether the device has an address of a family, for ICMP errors to come from.
    func hasAddress(isIPv4: Bool) -> Bool { isIPv4 ? tunnelAddress != nil : tunnelAddressIPv6 != nil }

    /// Makes settings.
    public init(
        tunnelAddress: IPv4Address?, tunnelAddressIPv6: IPv6Address? = nil,
        acceptsAnySource: Bool = false,
        segmentLimit: Int, coalesces: MergedKinds, busyPollMicroseconds: Int = 0,
        minimumWaitMicroseconds: Int = 0
    ) {
        self.tunnelAddress = tunnelAddress
        self.tunnelAddressIPv6 = tunnelAddressIPv6
        self.acceptsAnySource = acceptsAnySource
        self.segmentLimit = segmentLimit
        self.coalesces = coalesces
        self.busyPollMicroseconds = busyPollMicroseconds
        self.minimumWaitMicroseconds = minimumWaitMicroseconds
    }
}

/// The loop that forwards packets, generic over what carries out its system calls.
public struct Worker<Engine: PacketEngine & ~Copyable>: ~Copyable {
    var engine: Engine
    let memory: PacketMemory
    let limits: WorkerLimits
    private(set) var settings: WorkerSettings
    let counters: CounterBlock
    let peerCounters: PeerCounterBlock
    let records: WorkerRecords
    let reader: ForwardingReader
    let hellos: HelloInbox?
    private let kernelPathTraffic: KernelPathTraffic?
    /// What is through, of what was read and of what was received.
    var outboundPassage: Passage
    var inboundPassage: Passage
    /// Whether there was a round for what is through since packets last came.
    private var hasSettled = false

    var snapshot: ForwardingSnapshot
    /// Of the snapshot of the last round, which may be freed by now.
    private var snapshotGeneration: UInt64
    var messages: OutboundMessages
    var coalescer: Coalescer
    var replies: ErrorReplies
    var segmentLimit: Int

    /// Datagram buffers that were received into.
    var received: ReceivedBuffers
    /// The flows of the datagrams that wait in those.
    var arrivalFlows = WaitingFlows()
    /// Writes of the coalescer's slots that have not ended.
    var writesPending = 0
    let writeOwners: OwnershipLedger<WriteSlotOwner>
    /// Packets read that wait to be forwarded, and their flows.
    var waitingReads: WaitingReads
    var waitingFlows = WaitingFlows()
    /// Packets read that wait for the pause of a peer which takes no bursts, and their flows.
    var pacedReads: PacedReads
    var pacedFlows = WaitingFlows()
    /// Until when rounds are short, nanoseconds of the engine's clock.
    var shortRoundsUntilNanoseconds = 0
    var roundIsShort = false
    var standingQueue = StandingQueue()
    private var yielding = Yielding()
    var burst = ReadBurst()
    /// What this round has done; until the next one begins, what the last one did.
    var work = RoundWork()
    private var polling = Polling()
    /// While the TUN device answers reads with errors, reads rest until this time; 0 while it does not.
    var readsRestUntilNanoseconds = 0
    /// Operations queued since the last enter that will complete within it.
    var queuedInline = 0
    /// When this round's work began, nanoseconds of the engine's clock; 0 while that is not known.
    var workBeganNanoseconds = 0
    /// Operations that can be queued when none is.
    let queueCapacity: Int
    var failedSegmentations = 0
    var segmentationRest = OffloadRest()
    var mergingRest = OffloadRest()
    /// Slots whose merged write was refused, and whose packets are being written one by one.
    var separationsUnderWay = 0
    var refusedShortTails = 0
    var refusedEvenWrites = 0
    /// Whether nothing more is to be taken in (Ceasing.swift).
    var isCeasing = false
    /// Whether rounds do not wait for what comes.
    var isEmptying = false
    /// What it writes before it reads it, and has no pages of yet.
    var pagesGivenLater: [MemoryPages] {
        messages.pagesGivenLater + [MemoryPages(coalescer.memoryGivenLater)]
    }
    /// Whether somebody captures packets, as of this round.
    private var isCaptureWanted = false
    @inline(__always) var isCapturing: Bool { keepsRecords && isCaptureWanted }
    var outboundTimer = WayTimer()
    var inboundTimer = WayTimer()
    #if TWILL_EXTRA_COPY
        /// Where the copy goes that nobody needs.
        let extraCopy = UnsafeMutableRawPointer.allocate(byteCount: 65_536, alignment: 64)
    #endif

    /// Makes a worker.
    ///
    /// - Parameters:
    ///   - engine: made over the same `memory`; the worker owns it, and ends it in `close`.
    ///   - memory: allocated with the counts of `limits`; stays until after the worker's end.
    ///   - limits: all counts of buffers, messages and rounds.
    ///   - settings: what it is told and keeps.
    ///   - counters: the worker is their one writer.
    ///   - peerCounters: the worker is their one writer.
    ///   - records: the worker is their one writer.
    ///   - reader: of the publication that the control side replaces snapshots in.
    ///   - hellos: takes the hellos that come; nil where nobody answers any.
    ///   - kernelPathTraffic: of the kernel path beside it; nil where there is none.
    ///   - index: which of the workers it is, as the kernel path counts them.
    public init(
        engine: consuming Engine, memory: PacketMemory, limits: WorkerLimits, settings: WorkerSettings,
        counters: CounterBlock, peerCounters: PeerCounterBlock, records: WorkerRecords,
        reader: ForwardingReader, hellos: HelloInbox? = nil, kernelPathTraffic: KernelPathTraffic? = nil,
        index: Int = 0
    ) {
        self.engine = engine
        self.memory = memory
        self.records = records
        self.limits = limits
        self.settings = settings
        self.counters = counters
        self.peerCounters = peerCounters
        self.reader = reader
        self.hellos = hellos
        self.kernelPathTraffic = kernelPathTraffic
        outboundPassage = Passage(kernelPathTraffic?.passage(.out, ofWorker: index))
        inboundPassage = Passage(kernelPathTraffic?.passage(.in, ofWorker: index))
        superPacketBatch = limits.superPacketBatch
        snapshot = reader.load()
        snapshotGeneration = snapshot.generation
        messages = OutboundMessages(memory)
        coalescer = Coalescer(slotLimit: limits.writeSlots, merges: settings.coalesces)
        waitingReads = WaitingReads(capacity: memory.tunnelBufferCount)
        pacedReads = PacedReads(capacity: memory.tunnelBufferCount)
        replies = ErrorReplies()
        segmentLimit = settings.segmentLimit
        received = ReceivedBuffers(capacity: memory.datagramBufferCount)
        writeOwners = OwnershipLedger("write slot", count: limits.writeSlots, owner: .worker)
        queueCapacity = self.engine.queueSpace
        counters.set(.ringSubmissionCapacity, queueCapacity)
        counters.set(.receiveBuffers, memory.datagramBufferCount)
        for buffer in 0..<memory.datagramBufferCount { self.engine.provide(buffer) }
    }

    #if TWILL_EXTRA_COPY
        deinit { extraCopy.deallocate() }
    #endif

    /// Gives the worker what it forwards between, and what follows from that; before its first round, and once.
    ///
    /// - Returns: 0, or the negated error number where the engine can't take the channels.
    mutating func attach(_ channels: EngineChannels, _ settings: WorkerSettings) -> Int32 {
        self.settings = settings
        segmentLimit = settings.segmentLimit
        coalescer.setAcceptedKinds(settings.coalesces)
        return engine.attach(channels)
    }

    /// Ends every operation and closes the engine; the worker is not used any more after this.
    public mutating func close() { engine.close() }

    /// One round. Returns 0, or the negated error number that leaves the engine unable to go on.
    public mutating func round() -> Int32 {
        if !isCeasing { queueReads() }
        counters.set(.ringSubmissions, queueCapacity &- engine.queueSpace)
        let systemCallsBefore = engine.systemCalls
        let receivable = min(received.engineCount, WorkerLimits.receivesAtOnce)
        let result = enter()
        guard result == 0 else { return result }
        counters.add(.enters, engine.systemCalls &- systemCallsBefore)
        if roundIsShort { yieldWhereDue() }

        if workBeganNanoseconds == 0 { workBeganNanoseconds = engine.nowNanoseconds }
        chooseRoundLength()
        let hasNewSnapshot = takeSnapshot()
        resumeSegmentation()
        resumeMerging()
        work = RoundWork()
        queuedInline = 0
        isCaptureWanted = records.copies.isWanted
        if hasNewSnapshot, pacedReads.count > 0 { forwardUnpaced() }
        outboundPassage.beginRound()
        inboundPassage.beginRound()
        let completions = takeCompletions()
        work.socketMayHoldMore = receivable > 0 && work.receives >= receivable
        comparePassages()
        forwardWaiting()
        if pacedReads.count > 0 { forwardPaced() }
        workOffArrivals()
        counters.record(.readBatch, work.reads)
        if settings.busyPollMicroseconds > 0 { adaptPolling() }
        // A burst that came full is followed by another at once, and so is one that left some waiting: what was
        // opened in it may grow until then, but not longer, so that a packet to a quiet peer does not wait for the
        // busy ones.
        let anotherBurstFollows = waitingReads.count > 0 || burst.cameFull(reads: work.reads)
        messages.sealAll(openedBefore: anotherBurstFollows ? messages.round : .max)
        messages.round &+= 1
        adaptBurst()

        queueSends()
        queueWrites()
        if work.reads &+ work.receives > 0 { hasSettled = false }
        outboundPassage.endRound(messages.generations)
        inboundPassage.endRound(received.generations)
        recordRound(completions: completions)
        checkCounts()
        return 0
    }

    /// Traps in debug builds where what is counted is not what is there, after a round.
    @inline(__always)
    private func checkCounts() {
        assert(engine.queueSpace >= 0 && engine.queueSpace <= queueCapacity, "more is queued than fits")
        assert(writesPending <= coalescer.slotCount && coalescer.slotCount <= limits.writeSlots)
        assert(writesPending > 0 || separationsUnderWay == 0, "packets of no write are separated")
        writeOwners.expectCount(writesPending, of: .writing)
        received.checkCounts()
        messages.checkCounts(waiting: waitingReads.count &+ pacedReads.count)
        replies.checkCounts()
    }

    /// Takes the snapshot of this round. Where it is a new one, peers have other places in it, so what is open under
    /// the places of the last one is sent as it is.
    ///
    /// - Returns: whether it is a new one.
    @inline(__always)
    private mutating func takeSnapshot() -> Bool {
        snapshot = reader.load()
        guard snapshot.generation != snapshotGeneration else { return false }
        snapshotGeneration = snapshot.generation
        messages.sealAll(openedBefore: .max)
        return true
    }

    /// Super-packets, or received buffers, that this round forwards each way.
    private(set) var superPacketBatch: Int

    /// Rounds are short while somebody waits for a packet: one that passes others in here, or one that goes past this
    /// worker, by the kernel path. That one needs nothing but the processor, so it need not be offered as often.
    @inline(__always)
    private mutating func chooseRoundLength() {
        if workBeganNanoseconds < shortRoundsUntilNanoseconds {
            roundIsShort = true
            superPacketBatch = WorkerLimits.shortRoundSuperPackets
        } else if let kernelPathTraffic,
            workBeganNanoseconds &- kernelPathTraffic.lastAwaitedNanoseconds
                < WorkerLimits.sparseAfterNanoseconds
        {
            roundIsShort = true
            superPacketBatch = min(WorkerLimits.superPacketsBesideKernelPath, limits.superPacketBatch)
        } else {
            roundIsShort = false
            superPacketBatch = limits.superPacketBatch
        }
    }

    /// Notes that a packet was sent before others that wait. Unless it is a mere acknowledgement, somebody may wait
    /// for it: the next rounds are short.
    @inline(__always)
    mutating func notePrioritized(_ packet: UnsafeMutableRawPointer, length: Int) {
        guard !PacketFlow.isBareAcknowledgement(packet, length: length) else { return }
        shortRoundsUntilNanoseconds = workBeganNanoseconds &+ WorkerLimits.sparseAfterNanoseconds
    }

    private mutating func queueReads() {
        burst.beginRound()
        if readsRestUntilNanoseconds != 0 {
            guard engine.nowNanoseconds >= readsRestUntilNanoseconds else { return }
            readsRestUntilNanoseconds = 0
        }
        if burst.size == 1 {
            guard !burst.hasPendingRead, messages.freeBufferCount > 0, engine.queueSpace > 0 else { return }
            let buffer = messages.takeBuffer()
            burst.notePending(buffer)
            engine.read(into: buffer, isPending: true)
            return
        }
        // One buffer stays free for the read that will be pending when the burst is over.
        let spare = burst.hasPendingRead ? 0 : 1
        let count = min(burst.size, messages.freeBufferCount &- spare, engine.queueSpace)
        while burst.asked < count {
            engine.read(into: messages.takeBuffer(), isPending: false)
            burst.noteAsked()
        }
        queuedInline &+= burst.asked
    }

    private mutating func enter() -> Int32 {
        let somethingWaits =
            burst.size > 1 || waitingReads.count > 0 || received.waitingCount > 0 || messages.sealedCount > 0
            || (coalescer.slotCount > 0 && writesPending == 0) || work.socketMayHoldMore
        if isCeasing { return enterCeasing(somethingWaits: somethingWaits) }
        if isEmptying { return engine.enter(waitingFor: 0, timeoutMicroseconds: -1) }
        guard !somethingWaits else { return engine.enter(waitingFor: 0, timeoutMicroseconds: -1) }
        if pacedReads.count > 0 {
            let pause = pacedReads.microsecondsUntilDue(atNanoseconds: engine.nowNanoseconds)
            workBeganNanoseconds = 0
            return engine.enter(waitingFor: queuedInline &+ 1, timeoutMicroseconds: pause)
        }
        if settings.busyPollMicroseconds > 0, polling.isDue(atNanoseconds: engine.nowNanoseconds) {
            // Whoever else wants this CPU goes first: on a machine short of them, polling must not cost throughput.
            counters.add(.busyPolls)
            engine.yieldProcessor()
            return engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
        }
        if work.isLoadOfSmallPackets, settings.minimumWaitMicroseconds == 0 {
            // More will follow soon. Where another program wants this CPU it runs now, and whoever sends meanwhile
            // need not wake this thread; where none does, this costs one look (ADR 8). An empty round ends the load.
            counters.add(.yields)
            engine.yieldProcessor()
            return engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
        }
        if !hasSettled, outboundPassage.isWanted || inboundPassage.isWanted {
            // A flow could go past this worker if it knew that what was just queued is sent and written: that it does after one
            // call which does not wait for what comes.
            hasSettled = true
            return engine.enter(waitingFor: queuedInline, timeoutMicroseconds: -1)
        }
        counters.add(.sleeps)
        workBeganNanoseconds = 0
        // While the writes hold every buffer no receive can be armed: nothing may come after them to wait for.
        let arrival = received.isAllHeld ? 0 : 1
        if readsRestUntilNanoseconds != 0 {
            return engine.enter(
                waitingFor: queuedInline &+ arrival, timeoutMicroseconds: WorkerRest.microseconds)
        }
        if settings.minimumWaitMicroseconds > 0, work.isLoad, arrival > 0 {
            return engine.enter(
                waitingFor: queuedInline &+ limits.gatheredCompletions,
                timeoutMicroseconds: settings.minimumWaitMicroseconds)
        }
        return engine.enter(waitingFor: queuedInline &+ arrival, timeoutMicroseconds: -1)
    }

    /// Lets others run, now that what was prioritized has left. Their time is not this round's.
    private mutating func yieldWhereDue() {
        let began = engine.nowNanoseconds
        guard yielding.isDue(atNanoseconds: began) else { return }
        counters.add(.yields)
        engine.yieldProcessor()
        let ended = engine.nowNanoseconds
        yielding.note(beganNanoseconds: began, endedNanoseconds: ended)
        if workBeganNanoseconds != 0 { workBeganNanoseconds &+= ended &- began }
    }

    private mutating func takeCompletions() -> Int {
        var count = 0
        while let completion = engine.nextCompletion() {
            count &+= 1
            switch completion.kind {
            case .read: readEnded(completion.index, result: completion.result)
            case .receive: receiveEnded(completion.index, result: completion.result)
            case .send: sendEnded(completion.index, result: completion.result)
            case .write: writeEnded(completion.index, result: completion.result)
            case .wake: counters.add(.wakes)
            }
        }
        counters.add(.completions, count)
        counters.set(.completionOverflows, engine.overflows)
        counters.set(.receiveRearms, engine.receiveRearms)
        return count
    }

    /// One clock read ends this round's time and begins the next one's, whose system call counts to it where it does
    /// not wait. Rounds that brought nothing are not counted.
    private mutating func recordRound(completions: Int) {
        counters.set(.ringCompletions, completions)
        counters.set(.receiveBuffersFree, received.engineCount)
        guard completions > 0 else {
            workBeganNanoseconds = 0
            return
        }
        let now = engine.nowNanoseconds
        counters.record(.roundTime, now &- workBeganNanoseconds)
        workBeganNanoseconds = now
    }

    private mutating func adaptBurst() {
        burst.adapt(toReads: work.reads, limit: limits.readBurst)
        // In a short round all that has come is read, so that what may be prioritized is seen. Else no more than the
        // round forwards: what is sent soon after it was read is still in the cache. Nor where super-packets have
        // very many segments: then most of what stands in the device's queue is to go at once
        // (`waitingSmallSegments`).
        let isUsual = work.segments <= work.superPackets &* WorkerLimits.superPacketSegments
        if work.superPackets > 0, !roundIsShort, isUsual { burst.bound(to: limits.superPacketBatch) }
    }

    private mutating func adaptPolling() {
        guard work.reads &+ work.datagrams > 0 else { return }
        polling.note(
            isLoad: work.isLoad, duration: settings.busyPollMicroseconds &* 1000,
            atNanoseconds: engine.nowNanoseconds)
    }

    /// Gives a datagram buffer to the engine, to receive into.
    @inline(__always)
    mutating func provide(_ buffer: Int) {
        if inboundTimer.timesWay(of: buffer) {
            inboundTimer.noteArrived(atNanoseconds: engine.nowNanoseconds, .inboundWriteTime, counters)
        }
        received.noteProvide(buffer)
        engine.provide(buffer)
    }

    @inline(__always)
    private mutating func readEnded(_ buffer: Int, result: Int) {
        burst.noteEnd(of: buffer)
        messages.noteRead(into: buffer)
        guard result > 0 else {
            messages.giveBackBuffer(buffer)
            if result == -Int(EINVAL) {
                outboundPassage.take(1)
                // The kernel has no virtio header for a packet (tun_put_user, drivers/net/tun.c), and dropped it: one
                // packet's fault, which says nothing of those behind it.
                counters.add(.dropOutboundError)
                return
            }
            if result != -Int(EAGAIN), result != -Int(EINTR), result != -Int(ECANCELED) {
                readsRestUntilNanoseconds = workBeganNanoseconds &+ WorkerRest.microseconds &* 1000
            }
            return
        }
        work.reads &+= 1
        outboundPassage.take(1)
        readArrived(buffer, length: result)
    }
}

/// How long the worker leaves a TUN device alone whose reads fail.
enum WorkerRest {
    static let microseconds = 20_000
}
