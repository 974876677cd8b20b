// The kernel that the worker runs against in these tests: a TUN device and a UDP socket made of arrays, with faults
// drawn from a seed. It keeps the promises of `PacketEngine` (order, ownership) and uses its liberties: completions come
// late, calls return early, sends and writes fail. What is sent or written is read when the operation *ends*, so
// memory that the worker touches too early shows as corrupt bytes; and it traps where a buffer has two owners.

import CLinux
import Engines
import Glibc

/// What happened in a simulated kernel, shared between the engine inside a worker and the test outside.
final class SimulatedKernel {
    struct Datagrams {
        var source: UInt32
        var port: UInt16
        var segmentBytes: Int
        var payload: [UInt8]
    }

    struct Sent {
        var address: UInt32
        var port: UInt16
        var payload: [UInt8]
        /// How many segments the send had that it was one of.
        var segmentCount: Int
    }

    var generator: SeededGenerator
    /// Frames that the TUN device holds for the worker: virtio header and packet.
    var tunnelQueue: [[UInt8]] = []
    var socketQueue: [Datagrams] = []
    var sent: [Sent] = []
    var written: [[UInt8]] = []
    var lostInSend = 0
    var lostInWrite = 0
    var sendFailures = 0
    /// Errors that wait on the socket: each is told to the next send, which does nothing else (`sk_err`).
    var pendingErrors: [Int32] = []
    /// Messages whose last send failed: they are lost if they fail again.
    var failedMessages: Set<Int> = []
    /// What the next reads end with, each once.
    var readErrors: [Int32] = []
    /// Reads that ended.
    var readsEnded = 0

    /// Percent of operations that end later than in the enter that carried them.
    var lateness = 0
    /// Percent of sends, and the errors that they end with.
    var sendFailurePercent = 0
    var sendErrors: [Int32] = [EAGAIN, ENOBUFS, EHOSTUNREACH, EPERM]
    /// Whether a send of several segments fails with EIO, as on a path without checksum offload.
    var refusesSegmentation = false
    /// A segment larger than this fails with EMSGSIZE (alone) or EINVAL (segmented).
    var pathLimit = 65_507
    var writeFailurePercent = 0
    /// Whether a merged write fails with EINVAL whose last packet is shorter, as in Linux 6.6.44.
    var refusesShortTails = false
    /// Whether every merged write does.
    var refusesMergedWrites = false
    var writeErrors: [Int32] = [EIO, EAGAIN, EINVAL]
    /// Percent of enters that take only some of what was queued, as the kernel does when it is short of memory.
    var reluctance = 0
    /// What the TUN device answers reads with while it is set.
    var readError: Int32 = 0
    var sleeps = 0
    /// Waits that nothing would have ended although packets were there: a worker gone deaf.
    var stalls = 0
    var enters = 0

    init(seed: UInt64) { generator = SeededGenerator(seed: seed) }
}

struct SimulatedEngine: PacketEngine, ~Copyable {
    private enum Owner { case worker, engine }
    private struct Operation {
        var kind: OperationKind
        var index: Int
        var parked = false
        var vectors: UnsafeMutablePointer<iovec>?
        var count = 0
        var late = false
    }

    let kernel: SimulatedKernel
    let memory: PacketMemory
    let entries: Int
    private var queued: [Operation] = []
    private var pending: [Operation] = []
    private var provided: [Int] = []
    private var completions: [Completion] = []
    private var bufferOwners: [Owner]
    private var messageOwners: [Owner]
    private var datagramOwners: [Owner]
    private(set) var systemCalls = 0
    let overflows = 0
    let receiveRearms = 0

    init(kernel: SimulatedKernel, memory: PacketMemory, entries: Int) {
        self.entries = entries
        self.kernel = kernel
        self.memory = memory
        bufferOwners = [Owner](repeating: .worker, count: memory.tunnelBufferCount)
        messageOwners = [Owner](repeating: .worker, count: memory.messageCount)
        datagramOwners = [Owner](repeating: .worker, count: memory.datagramBufferCount)
    }

    var queueSpace: Int { entries - queued.count }

    mutating func read(into buffer: Int, parked: Bool) {
        precondition(bufferOwners[buffer] == .worker, "tunnel buffer \(buffer) has two owners")
        precondition(!parked || !pending.contains { $0.parked }, "two reads are parked")
        bufferOwners[buffer] = .engine
        queued.append(Operation(kind: .read, index: buffer, parked: parked))
    }

    mutating func provide(_ buffer: Int) {
        precondition(datagramOwners[buffer] == .worker, "datagram buffer \(buffer) has two owners")
        datagramOwners[buffer] = .engine
        // The kernel may write into it at once.
        memset(memory.datagramBuffer(buffer), 0xEE, memory.datagramBufferStride)
        provided.append(buffer)
    }

    mutating func send(_ message: Int) {
        precondition(messageOwners[message] == .worker, "message \(message) has two owners")
        messageOwners[message] = .engine
        queued.append(Operation(kind: .send, index: message))
    }

    mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int) {
        queued.append(Operation(kind: .write, index: index, vectors: vectors, count: count))
    }

    mutating func enter(waitingFor wanted: Int, timeoutMicroseconds: Int) -> Int32 {
        kernel.enters += 1
        systemCalls += 1
        precondition(queued.count <= entries, "more was queued than the queue holds")
        let taken =
            kernel.generator.chance(kernel.reluctance)
            ? Int.random(in: 0...queued.count, using: &kernel.generator) : queued.count
        pending += queued[..<taken]
        queued.removeFirst(taken)
        var waiting: [Operation] = []
        // Sends and writes end in order: once one is late, those behind it are too.
        var lateKinds: Set<OperationKind> = []
        for operation in pending {
            if operation.kind != .read,
                lateKinds.contains(operation.kind) || kernel.generator.chance(kernel.lateness)
            {
                lateKinds.insert(operation.kind)
                waiting.append(operation)
                continue
            }
            switch operation.kind {
            case .send: endSend(operation.index)
            case .write: endWrite(operation)
            case .read:
                if !endRead(operation) { waiting.append(operation) }
            case .receive, .wake: break
            }
        }
        pending = waiting
        receive()
        if completions.count < wanted {
            kernel.sleeps += 1
            let somethingIsLate = pending.contains { !$0.parked } || !queued.isEmpty
            let packetsAreThere =
                !kernel.socketQueue.isEmpty || (!kernel.tunnelQueue.isEmpty && kernel.readError == 0)
            if packetsAreThere, !somethingIsLate, timeoutMicroseconds < 0 { kernel.stalls += 1 }
        }
        return 0
    }

    private mutating func complete(_ kind: OperationKind, _ index: Int, _ result: Int) {
        completions.append(Completion(kind: kind, index: index, result: result))
    }

    private mutating func endRead(_ operation: Operation) -> Bool {
        if !kernel.readErrors.isEmpty {
            bufferOwners[operation.index] = .worker
            complete(.read, operation.index, -Int(kernel.readErrors.removeFirst()))
            return true
        }
        if kernel.readError != 0 {
            kernel.readsEnded += 1
            bufferOwners[operation.index] = .worker
            complete(.read, operation.index, -Int(kernel.readError))
            return true
        }
        guard !kernel.tunnelQueue.isEmpty else {
            if operation.parked { return false }
            bufferOwners[operation.index] = .worker
            complete(.read, operation.index, -Int(EAGAIN))
            return true
        }
        let frame = kernel.tunnelQueue.removeFirst()
        let target = memory.tunnelBuffer(operation.index) + PacketMemory.virtioHeaderOffset
        frame.withUnsafeBytes { target.copyMemory(from: $0.baseAddress!, byteCount: frame.count) }
        bufferOwners[operation.index] = .worker
        complete(.read, operation.index, frame.count)
        return true
    }

    private func gather(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for index in 0..<count {
            bytes += UnsafeRawBufferPointer(start: vectors[index].iov_base, count: vectors[index].iov_len)
        }
        return bytes
    }

    private mutating func endSend(_ message: Int) {
        let header = memory.messages[message]
        let name = header.msg_name.assumingMemoryBound(to: sockaddr_in.self).pointee
        let payload = gather(header.msg_iov, Int(header.msg_iovlen))
        precondition(payload.count <= 65_507, "a send of \(payload.count) bytes")
        var segmentBytes = payload.count
        if let control = header.msg_control {
            segmentBytes = Int((control + 16).loadUnaligned(as: UInt16.self))
            precondition((payload.count + segmentBytes - 1) / segmentBytes <= 128, "over 128 segments")
        }
        let count = max((payload.count + segmentBytes - 1) / segmentBytes, 1)
        messageOwners[message] = .worker
        var error: Int32 = 0
        if count > 1, kernel.refusesSegmentation { error = EIO }
        if segmentBytes > kernel.pathLimit { error = count > 1 ? EINVAL : EMSGSIZE }
        let isRefused = error != 0
        if !kernel.pendingErrors.isEmpty {
            error = kernel.pendingErrors.removeFirst()
        } else if error == 0, kernel.generator.chance(kernel.sendFailurePercent) {
            error = kernel.sendErrors.randomElement(using: &kernel.generator)!
        }
        if error != 0 {
            kernel.sendFailures += 1
            let isFull = [EAGAIN, ENOBUFS].contains(error)
            let failedBefore = kernel.failedMessages.remove(message) != nil
            if isFull || failedBefore {
                if !isRefused { kernel.lostInSend += count }
            } else {
                kernel.failedMessages.insert(message)
            }
            return complete(.send, message, -Int(error))
        }
        kernel.failedMessages.remove(message)
        for index in 0..<count {
            let segment = payload[index * segmentBytes..<min((index + 1) * segmentBytes, payload.count)]
            kernel.sent.append(
                SimulatedKernel.Sent(
                    address: UInt32(bigEndian: name.sin_addr.s_addr), port: UInt16(bigEndian: name.sin_port),
                    payload: Array(segment), segmentCount: count))
        }
        complete(.send, message, payload.count)
    }

    private mutating func endWrite(_ operation: Operation) {
        let frame = gather(operation.vectors!, operation.count)
        if frame[1] != 0 {
            let (size, headerBytes) = (Int(frame[4]) | Int(frame[5]) << 8, Int(frame[2]) | Int(frame[3]) << 8)
            let isUneven = (frame.count - 10 - headerBytes) % size != 0
            if kernel.refusesMergedWrites || (kernel.refusesShortTails && isUneven) {
                return complete(.write, operation.index, -Int(EINVAL))
            }
        }
        if kernel.generator.chance(kernel.writeFailurePercent) {
            kernel.lostInWrite += 1
            let error = kernel.writeErrors.randomElement(using: &kernel.generator)!
            return complete(.write, operation.index, -Int(error))
        }
        kernel.written.append(frame)
        complete(.write, operation.index, frame.count)
    }

    private mutating func receive() {
        while !kernel.socketQueue.isEmpty, !provided.isEmpty {
            let datagrams = kernel.socketQueue.removeFirst()
            let index = provided.removeFirst()
            let buffer = memory.datagramBuffer(index)
            let room = memory.datagramBufferStride - PacketMemory.datagramPayloadOffset
            let kept = min(datagrams.payload.count, room)
            memset(buffer, 0, PacketMemory.datagramPayloadOffset)
            buffer.storeBytes(of: 16, as: UInt32.self)
            buffer.storeBytes(of: UInt32(kept), toByteOffset: 8, as: UInt32.self)
            buffer.storeBytes(
                of: kept < datagrams.payload.count ? UInt32(MSG_TRUNC) : 0, toByteOffset: 12, as: UInt32.self)
            buffer.storeBytes(of: datagrams.port.bigEndian, toByteOffset: 18, as: UInt16.self)
            buffer.storeBytes(of: datagrams.source.bigEndian, toByteOffset: 20, as: UInt32.self)
            if datagrams.segmentBytes > 0 {
                buffer.storeBytes(of: 24, toByteOffset: 4, as: UInt32.self)
                buffer.storeBytes(of: 20, toByteOffset: 32, as: UInt64.self)
                buffer.storeBytes(of: Int32(IPPROTO_UDP), toByteOffset: 40, as: Int32.self)
                buffer.storeBytes(of: Int32(UDP_GRO), toByteOffset: 44, as: Int32.self)
                buffer.storeBytes(of: Int32(datagrams.segmentBytes), toByteOffset: 48, as: Int32.self)
            }
            datagrams.payload.withUnsafeBytes {
                (buffer + PacketMemory.datagramPayloadOffset).copyMemory(
                    from: $0.baseAddress!, byteCount: kept)
            }
            datagramOwners[index] = .worker
            complete(.receive, index, PacketMemory.datagramPayloadOffset + kept)
        }
    }

    mutating func nextCompletion() -> Completion? {
        guard !completions.isEmpty else { return nil }
        return completions.removeFirst()
    }

    mutating func close() {}

    /// Whether nothing is under way but a parked read.
    var isIdle: Bool { queued.allSatisfy(\.parked) && pending.allSatisfy(\.parked) && completions.isEmpty }
}
