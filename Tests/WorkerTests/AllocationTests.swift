import CAllocationCount
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// An engine that costs nothing itself: every read brings the same frame, every provided buffer the same datagrams.
struct EndlessEngine: PacketEngine, ~Copyable {
    let memory: PacketMemory
    let frames: UnsafeMutableRawBufferPointer
    let frameBytes: [Int]
    let datagrams: UnsafeMutableRawBufferPointer
    let completions: UnsafeMutablePointer<Completion>
    var count = 0
    var taken = 0
    var nextFrame = 0
    let provided: UnsafeMutablePointer<Int>
    var providedCount = 0
    var systemCalls = 0
    let overflows = 0
    let receiveRearms = 0
    var nowNanoseconds = 1_000_000_000

    static let capacity = 4096

    init(memory: PacketMemory, frames source: [[UInt8]], datagrams buffer: [UInt8]) {
        self.memory = memory
        frames = .allocate(byteCount: source.count * 2048, alignment: 16)
        for (index, frame) in source.enumerated() {
            UnsafeMutableRawBufferPointer(rebasing: frames[(index * 2048)...]).copyBytes(from: frame)
        }
        frameBytes = source.map(\.count)
        datagrams = .allocate(byteCount: buffer.count, alignment: 16)
        datagrams.copyBytes(from: buffer)
        completions = .allocate(capacity: EndlessEngine.capacity)
        completions.initialize(
            repeating: Completion(kind: .wake, index: 0, result: 0), count: EndlessEngine.capacity)
        provided = .allocate(capacity: memory.datagramBufferCount)
        provided.initialize(repeating: 0, count: memory.datagramBufferCount)
    }

    deinit {
        frames.deallocate()
        datagrams.deallocate()
        completions.deallocate()
        provided.deallocate()
    }

    var queueSpace: Int { 1024 }

    private mutating func complete(_ kind: OperationKind, _ index: Int, _ result: Int) {
        completions[count] = Completion(kind: kind, index: index, result: result)
        count += 1
    }

    mutating func read(into buffer: Int, isPending: Bool) {
        let length = frameBytes[nextFrame]
        (memory.tunnelBuffer(buffer) + PacketMemory.virtioHeaderOffset).copyMemory(
            from: frames.baseAddress! + nextFrame * 2048, byteCount: length)
        nextFrame = (nextFrame + 1) % frameBytes.count
        complete(.read, buffer, length)
    }

    mutating func provide(_ buffer: Int) {
        provided[providedCount] = buffer
        providedCount += 1
    }

    mutating func send(_ message: Int) { complete(.send, message, 1) }

    mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int) {
        complete(.write, index, 1)
    }

    mutating func enter(waitingFor completions: Int, timeoutMicroseconds: Int) -> Int32 {
        nowNanoseconds += 100_000
        while providedCount > 0 {
            providedCount -= 1
            let buffer = provided[providedCount]
            memory.datagramBuffer(buffer).copyMemory(from: datagrams.baseAddress!, byteCount: datagrams.count)
            complete(.receive, buffer, datagrams.count)
        }
        return 0
    }

    mutating func nextCompletion() -> Completion? {
        guard taken < count else {
            (taken, count) = (0, 0)
            return nil
        }
        taken += 1
        return completions[taken - 1]
    }

    mutating func yieldProcessor() { nowNanoseconds += 10_000 }

    mutating func attach(_ channels: EngineChannels) -> Int32 { 0 }
    mutating func cease() {}
    var hasCeased: Bool { false }
    mutating func resume() {}

    mutating func close() {}
}

@Suite struct AllocationTests {
    @Test func countingSeesAnAllocation() {
        allocation_count_begin()
        let array = [Int](unsafeUninitializedCapacity: 100) { $1 = Int(getpid()) & 1 }
        let count = allocation_count_end()
        #expect(count >= 1 && array.count < 2)
    }

    /// A million packets each way, sparse and dense, of many sizes, to peers, to nowhere, malformed; captured or not.
    @Test(arguments: [false, true]) func aMillionPacketsCostNoAllocation(isCaptured: Bool) {
        let limits = try! WorkerLimits(Tuning())
        let memory = PacketMemory(limits, hugePages: false)!
        let counters = CounterBlock.allocate()
        let peerCounters = PeerCounterBlock.allocate()
        let records = WorkerRecords.allocate()
        if isCaptured { records.copies.set(CaptureFilter()) }
        let publication = ForwardingPublication(workers: 1)
        publication.publish(Bench.routes())
        let header = [UInt8](repeating: 0, count: 10)
        var frames: [[UInt8]] = []
        for index in 0..<64 {
            let node = index % 16 == 15 ? 200 : 2 + index / 8 % 4
            let size = index % 8 == 7 ? 1000 : 64
            frames.append(
                header
                    + Packets.udp(pod(1), pod(node), payload: [UInt8](repeating: UInt8(index), count: size)))
        }
        frames.append(header + [0x45, 0, 0, 0])
        var datagrams = [UInt8](repeating: 0, count: PacketMemory.datagramPayloadOffset)
        var payload: [UInt8] = []
        for index in 0..<30 {
            payload += Packets.udp(
                pod(3), pod(1), identification: UInt16(index), payload: [UInt8](repeating: 1, count: 100))
        }
        payload += Packets.udp(pod(3), pod(9), payload: [UInt8](repeating: 1, count: 100))
        func put(_ value: UInt32, _ offset: Int) {
            withUnsafeBytes(of: value) { datagrams.replaceSubrange(offset..<offset + 4, with: $0) }
        }
        put(16, 0)
        put(24, 4)
        put(UInt32(payload.count), 8)
        put(UInt32(AF_INET), PacketMemory.nameOffset)
        put(Bench.underlay(3).networkBytes, PacketMemory.nameOffset + 4)
        put(20, PacketMemory.controlOffset)
        put(UInt32(IPPROTO_UDP), PacketMemory.controlOffset + 8)
        put(UInt32(UDP_GRO), PacketMemory.controlOffset + 12)
        put(128, PacketMemory.controlOffset + 16)
        var worker = Worker(
            engine: EndlessEngine(memory: memory, frames: frames, datagrams: datagrams + payload),
            memory: memory,
            limits: limits,
            settings: WorkerSettings(
                tunnelAddress: pod(1, 0), segmentLimit: 64, coalesces: .all),
            counters: counters, peerCounters: peerCounters, records: records, reader: publication.reader(0))
        for _ in 0..<10 { #expect(worker.round() == 0) }

        allocation_count_begin()
        var failed: Int32 = 0
        while counters[.packetsSent] < 1_000_000 || counters[.packetsDelivered] < 1_000_000, failed == 0 {
            failed = worker.round()
        }
        let allocations = allocation_count_end()
        #expect(failed == 0)
        #expect(allocations == 0)
        #expect(counters[.dropOutboundNoRoute] > 0 && counters[.dropOutboundMalformedTooShort] > 0)
        #expect(counters[.dropInboundDestination] > 0 && counters[.superPacketsWritten] > 0)
        #expect(records.drops[.dropInboundDestination].count == DropRecords.recordsOfReason)
        #expect(isCaptured == (records.copies.missed > 0))
        worker.close()
        memory.deallocate()
        counters.deallocate()
        peerCounters.deallocate()
        records.deallocate()
    }
}
