// The engine of the simulated kernel. It keeps the promises of `PacketEngine` (order, ownership) and uses its
// liberties: completions come late, calls return early, every operation may fail. What is sent or written is read
// when the operation *ends*, so memory that the worker touches too early shows as corrupt bytes. It traps where a
// buffer has two owners, where memory is given away that an operation still reads, where a slot or message is used
// twice at once, and where the worker waits for more than can ever come.

import Addresses
import CLinux
import Engines
import Glibc

struct SimulatedEngine: PacketEngine, ~Copyable {
    private enum Owner { case worker, engine }
    private struct Operation {
        var kind: OperationKind
        var index: Int
        var isPending = false
        var vectors: UnsafeMutablePointer<iovec>?
        var count = 0
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
    /// Writes that have not ended.
    private var slotsInUse: Set<Int> = []
    /// Vectors of sends and writes under way that point into each buffer.
    private var bufferReaders: [Int]
    private var datagramReaders: [Int]
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
        bufferReaders = [Int](repeating: 0, count: memory.tunnelBufferCount)
        datagramReaders = [Int](repeating: 0, count: memory.datagramBufferCount)
    }

    // MARK: Time

    var nowNanoseconds: Int {
        kernel.nowNanoseconds += kernel.nanosecondsPerLook
        return kernel.nowNanoseconds
    }

    mutating func yieldProcessor() {
        kernel.yields += 1
        kernel.nowNanoseconds += kernel.nanosecondsPerYield
    }

    // MARK: Queueing

    var queueSpace: Int { entries - queued.count }

    private mutating func queue(_ operation: Operation) {
        precondition(queued.count < entries, "more is queued than the queue holds")
        queued.append(operation)
    }

    mutating func read(into buffer: Int, isPending: Bool) {
        precondition(!isCeasing, "a read is queued after the end of all reading")
        precondition(bufferOwners[buffer] == .worker, "tunnel buffer \(buffer) has two owners")
        precondition(bufferReaders[buffer] == 0, "tunnel buffer \(buffer) is read into while it is sent from")
        precondition(
            !isPending || !(pending + queued).contains { $0.isPending }, "two reads are pending")
        bufferOwners[buffer] = .engine
        queue(Operation(kind: .read, index: buffer, isPending: isPending))
    }

    mutating func provide(_ buffer: Int) {
        precondition(datagramOwners[buffer] == .worker, "datagram buffer \(buffer) has two owners")
        precondition(
            datagramReaders[buffer] == 0, "datagram buffer \(buffer) is provided while it is written from")
        datagramOwners[buffer] = .engine
        // The kernel may write into it at once.
        memset(memory.datagramBuffer(buffer), 0xEE, memory.datagramBufferStride)
        provided.append(buffer)
    }

    mutating func send(_ message: Int) {
        precondition(messageOwners[message] == .worker, "message \(message) has two owners")
        messageOwners[message] = .engine
        let header = memory.messages[message]
        precondition(header.msg_iovlen > 0, "message \(message) has nothing to send")
        note(header.msg_iov, Int(header.msg_iovlen), by: 1)
        queue(Operation(kind: .send, index: message))
    }

    mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int) {
        precondition(slotsInUse.insert(index).inserted, "write \(index) is queued twice")
        note(vectors, count, by: 1)
        queue(Operation(kind: .write, index: index, vectors: vectors, count: count))
    }

    /// Counts an operation's vectors at the buffers that they point into, which the worker must own.
    private mutating func note(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int, by amount: Int) {
        for vector in UnsafeBufferPointer(start: vectors, count: count) where vector.iov_len > 0 {
            let offset = vector.iov_base - memory.tunnelBuffers
            let buffer = offset / PacketMemory.tunnelBufferStride
            let place = vector.iov_base - memory.datagramBuffers
            let datagram = place / memory.datagramBufferStride
            if offset >= 0, buffer < memory.tunnelBufferCount {
                precondition(
                    bufferOwners[buffer] == .worker, "tunnel buffer \(buffer) is sent while read into")
                precondition(
                    offset + vector.iov_len <= (buffer + 1) * PacketMemory.tunnelBufferStride,
                    "a vector ends outside of tunnel buffer \(buffer)")
                bufferReaders[buffer] += amount
            } else if place >= 0, datagram < memory.datagramBufferCount {
                precondition(
                    datagramOwners[datagram] == .worker,
                    "datagram buffer \(datagram) is written while provided")
                precondition(
                    place + vector.iov_len <= (datagram + 1) * memory.datagramBufferStride,
                    "a vector ends outside of datagram buffer \(datagram)")
                datagramReaders[datagram] += amount
            }
        }
    }

    // MARK: Nothing more is taken in

    private var isCeasing = false

    mutating func attach(_ channels: EngineChannels) -> Int32 { 0 }

    mutating func cease() { isCeasing = true }

    var hasCeased: Bool { isCeasing && !(pending + queued).contains { $0.kind == .read } }

    mutating func resume() { isCeasing = false }

    /// Ends a read that is cancelled, unless it is late.
    private mutating func endCancelled(_ operation: Operation) -> Bool {
        guard isCeasing, operation.isPending, !kernel.generator.chance(kernel.lateness) else { return false }
        return endRead(operation, result: -Int(ECANCELED))
    }

    // MARK: The kernel's turn

    mutating func enter(waitingFor wanted: Int, timeoutMicroseconds: Int) -> Int32 {
        kernel.enters += 1
        systemCalls += 1
        kernel.nowNanoseconds += kernel.nanosecondsPerEnter
        if kernel.enterError != 0 { return -kernel.enterError }
        precondition(
            timeoutMicroseconds >= 0 || wanted <= queued.count + pending.count + provided.count,
            "the worker waits for \(wanted), more than can come")
        let taken =
            kernel.generator.chance(kernel.reluctance)
            ? Int.random(in: 0...queued.count, using: &kernel.generator) : queued.count
        pending += queued[..<taken]
        queued.removeFirst(taken)
        carryOutPending()
        receive()
        if kernel.isWoken {
            kernel.isWoken = false
            complete(.wake, 0, 8)
        }
        if wanted > 0 { kernel.waits.append((wanted, timeoutMicroseconds)) }
        if completions.count < wanted { wait(timeoutMicroseconds: timeoutMicroseconds) }
        return 0
    }

    private mutating func carryOutPending() {
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
            case .read: if !endCancelled(operation), !endRead(operation) { waiting.append(operation) }
            case .receive, .wake: break
            }
        }
        pending = waiting
    }

    private func wait(timeoutMicroseconds: Int) {
        kernel.sleeps += 1
        let somethingIsLate = pending.contains { !$0.isPending } || !queued.isEmpty
        let packetsAreThere =
            !kernel.socketQueue.isEmpty || (!kernel.tunnelQueue.isEmpty && kernel.readError == 0)
        if packetsAreThere, !somethingIsLate, timeoutMicroseconds < 0 { kernel.stalls += 1 }
        kernel.nowNanoseconds +=
            timeoutMicroseconds < 0 ? kernel.nanosecondsPerIdleWait : timeoutMicroseconds * 1000
    }

    private mutating func complete(_ kind: OperationKind, _ index: Int, _ result: Int) {
        completions.append(Completion(kind: kind, index: index, result: result))
    }

    private mutating func endRead(_ operation: Operation) -> Bool {
        if !kernel.readErrors.isEmpty {
            return endRead(operation, result: -Int(kernel.readErrors.removeFirst()))
        }
        if kernel.readError != 0 {
            kernel.failedReads.append(kernel.nowNanoseconds)
            return endRead(operation, result: -Int(kernel.readError))
        }
        if kernel.fails(kernel.readFailurePercent) {
            return endRead(operation, result: kernel.readFailures.randomElement(using: &kernel.generator)!)
        }
        guard !kernel.tunnelQueue.isEmpty else {
            return operation.isPending ? false : endRead(operation, result: -Int(EAGAIN))
        }
        let frame = kernel.tunnelQueue.removeFirst()
        let target = memory.tunnelBuffer(operation.index) + PacketMemory.virtioHeaderOffset
        frame.withUnsafeBytes { target.copyMemory(from: $0.baseAddress!, byteCount: frame.count) }
        return endRead(operation, result: frame.count)
    }

    private mutating func endRead(_ operation: Operation, result: Int) -> Bool {
        precondition(
            bufferOwners[operation.index] == .engine, "tunnel buffer \(operation.index) was not read into")
        bufferOwners[operation.index] = .worker
        complete(.read, operation.index, result)
        return true
    }

    private func gather(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for index in 0..<count {
            bytes += UnsafeRawBufferPointer(start: vectors[index].iov_base, count: vectors[index].iov_len)
        }
        return bytes
    }

    /// The endpoint of a socket's name, which the kernel takes at its exact length alone.
    private static func endpoint(_ name: UnsafeMutableRawPointer, length: Int) -> Endpoint {
        guard let address = IPAddress(socketName: name) else { preconditionFailure("a name of no family") }
        let expected = address.v4 != nil ? SocketName.bytesIPv4 : SocketName.bytesIPv6
        precondition(length == expected, "a name of \(length) bytes")
        let port = name.load(fromByteOffset: 2, as: UInt16.self)
        return Endpoint(address: address, port: UInt16(bigEndian: port))
    }

    /// Why a send of `count` segments of `segmentBytes` fails; 0 where it does not.
    private func sendError(of count: Int, _ segmentBytes: Int) -> (error: Int32, isRefused: Bool) {
        var error: Int32 = 0
        if count > 1, kernel.refusesSegmentation { error = kernel.segmentationError }
        if segmentBytes > kernel.pathLimit { error = count > 1 ? EINVAL : EMSGSIZE }
        let isRefused = error != 0
        if !kernel.pendingErrors.isEmpty {
            error = kernel.pendingErrors.removeFirst()
        } else if error == 0, kernel.generator.chance(kernel.sendFailurePercent) {
            error = kernel.sendErrors.randomElement(using: &kernel.generator)!
        }
        return (error, isRefused)
    }

    private mutating func endSend(_ message: Int) {
        precondition(messageOwners[message] == .engine, "message \(message) was not sent")
        let header = memory.messages[message]
        note(header.msg_iov, Int(header.msg_iovlen), by: -1)
        let endpoint = SimulatedEngine.endpoint(header.msg_name, length: Int(header.msg_namelen))
        let payload = gather(header.msg_iov, Int(header.msg_iovlen))
        precondition(payload.count <= 65_507, "a send of \(payload.count) bytes")
        var segmentBytes = payload.count
        if let control = header.msg_control {
            segmentBytes = Int((control + 16).loadUnaligned(as: UInt16.self))
            precondition((payload.count + segmentBytes - 1) / segmentBytes <= 128, "over 128 segments")
        }
        let count = max((payload.count + segmentBytes - 1) / segmentBytes, 1)
        messageOwners[message] = .worker
        let (error, isRefused) = sendError(of: count, segmentBytes)
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
                SimulatedKernel.Sent(endpoint: endpoint, payload: Array(segment), segmentCount: count))
        }
        complete(.send, message, payload.count)
    }

    private mutating func endWrite(_ operation: Operation) {
        precondition(slotsInUse.remove(operation.index) != nil, "write \(operation.index) was not queued")
        note(operation.vectors!, operation.count, by: -1)
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
        while !isCeasing, !kernel.socketQueue.isEmpty, !provided.isEmpty {
            let index = provided.removeFirst()
            precondition(datagramOwners[index] == .engine, "datagram buffer \(index) was not provided")
            datagramOwners[index] = .worker
            if kernel.fails(kernel.receiveFailurePercent) {
                kernel.receiveFailures += 1
                complete(.receive, index, kernel.receiveResults.randomElement(using: &kernel.generator)!)
                continue
            }
            let kept = fill(memory.datagramBuffer(index), with: kernel.socketQueue.removeFirst())
            complete(.receive, index, PacketMemory.datagramPayloadOffset + kept)
        }
    }

    /// Writes datagrams into a buffer as recvmsg does; returns how many of their bytes it has room for.
    private func fill(_ buffer: UnsafeMutableRawPointer, with datagrams: SimulatedKernel.Datagrams) -> Int {
        let room = memory.datagramBufferStride - PacketMemory.datagramPayloadOffset
        let kept = min(datagrams.payload.count, room)
        memset(buffer, 0, PacketMemory.datagramPayloadOffset)
        let nameBytes = datagrams.source.writeSocketName(to: buffer + PacketMemory.nameOffset)
        buffer.storeBytes(of: UInt32(nameBytes), as: UInt32.self)
        buffer.storeBytes(of: UInt32(kept), toByteOffset: 8, as: UInt32.self)
        buffer.storeBytes(
            of: kept < datagrams.payload.count ? UInt32(MSG_TRUNC) : 0, toByteOffset: 12, as: UInt32.self)
        if datagrams.segmentBytes > 0 {
            buffer.storeBytes(of: 24, toByteOffset: 4, as: UInt32.self)
            let control = buffer + PacketMemory.controlOffset
            control.storeBytes(of: 20, as: UInt64.self)
            control.storeBytes(of: Int32(IPPROTO_UDP), toByteOffset: 8, as: Int32.self)
            control.storeBytes(of: Int32(UDP_GRO), toByteOffset: 12, as: Int32.self)
            control.storeBytes(of: Int32(datagrams.segmentBytes), toByteOffset: 16, as: Int32.self)
        }
        datagrams.payload.withUnsafeBytes {
            (buffer + PacketMemory.datagramPayloadOffset).copyMemory(from: $0.baseAddress!, byteCount: kept)
        }
        return kept
    }

    mutating func nextCompletion() -> Completion? {
        guard !completions.isEmpty else { return nil }
        return completions.removeFirst()
    }

    mutating func close() {}

    /// Whether nothing is under way but a pending read.
    var isIdle: Bool {
        queued.allSatisfy(\.isPending) && pending.allSatisfy(\.isPending) && completions.isEmpty
    }
}
