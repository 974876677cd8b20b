// How it works. The engine for kernels and containers where io_uring is forbidden: the same operations, carried out
// by plain system calls inside `enter`. Queued sends go out by sendmmsg, writes by writev, reads by read on a
// non-blocking descriptor, receives by recvmmsg into all provided buffers; each leaves a completion. Where nothing
// was done and the worker wants to wait, epoll waits for the TUN device (while a read is pending), the receiving
// socket (while there are buffers) and the wake-up. Datagram buffers get the layout that io_uring's multishot receive
// writes.

import CLinux
import Glibc

/// Why the plain engine could not be made.
public struct MmsgError: Error, CustomStringConvertible, Equatable {
    /// What was tried.
    public let action: String
    /// The kernel's error number.
    public let errorNumber: Int32

    /// What happened.
    public var description: String { "mmsg: cannot \(action): \(String(cString: strerror(errorNumber)))" }
}

/// The engine over epoll, recvmmsg, sendmmsg, read and writev.
public struct MmsgEngine: PacketEngine, ~Copyable {
    private static let tunnelMark: UInt64 = 0
    private static let socketMark: UInt64 = 1
    private static let wakeMark: UInt64 = 2
    private static let formerSocketMark: UInt64 = 3

    private struct Write {
        var index: Int
        var vectors: UnsafeMutablePointer<iovec>
        var count: Int
    }

    private let memory: PacketMemory
    private var tunnel: Int32 = -1
    private var socket: Int32 = -1
    private var sender: Int32 = -1
    private var formerSocket: Int32 = -1
    private let wake: Int32
    private let poll: Int32
    private let capacity: Int
    private let sends: UnsafeMutablePointer<Int32>
    private var sendCount = 0
    private let sendHeaders: UnsafeMutablePointer<twill_batch_message>
    private let writes: UnsafeMutablePointer<Write>
    private var writeCount = 0
    private let reads: UnsafeMutablePointer<Int32>
    private var readCount = 0
    private var pendingBuffer: Int32 = -1
    private let provided: UnsafeMutablePointer<Int32>
    private var providedCount = 0
    private let receiveHeaders: UnsafeMutablePointer<twill_batch_message>
    private let receiveVectors: UnsafeMutablePointer<iovec>
    private let completions: UnsafeMutablePointer<Completion>
    private var completionCount = 0
    private var completionsTaken = 0
    private var tunnelMayBeReadable = true
    private var socketMayBeReadable = true
    private var formerSocketMayBeReadable = true
    private var isCeasing = false
    private var tunnelIsWatched = false
    private var isOpen = true

    /// All calls, those of epoll included.
    public private(set) var systemCalls = 0
    /// How often completions were held back: never, as their memory is sized for all that can be queued.
    public var overflows: Int { 0 }
    /// How often a multishot receive ended: never, as there is none.
    public var receiveRearms: Int { 0 }

    /// The machine's monotonic clock.
    @inlinable @inline(__always)
    public var nowNanoseconds: Int { MachineClock.nanoseconds }

    /// Yields the machine's processor.
    @inlinable @inline(__always)
    public mutating func yieldProcessor() { MachineClock.yieldProcessor() }

    /// Makes the engine, without anything to move bytes between (`attach`).
    ///
    /// - Parameters:
    ///   - memory: the buffers, which the engine does not own.
    ///   - wake: an eventfd that ends a wait.
    ///   - entries: the operations of one round at most.
    /// - Throws: `MmsgError` with the call that failed and the kernel's error number.
    public init(
        memory: PacketMemory, wake: Int32, entries: Int
    ) throws(MmsgError) {
        let poll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard poll >= 0 else { throw MmsgError(action: "make an epoll descriptor", errorNumber: errno) }
        var event = epoll_event(events: EPOLLIN.rawValue, data: epoll_data_t(u64: MmsgEngine.wakeMark))
        let isNonBlocking = fcntl(wake, F_SETFL, fcntl(wake, F_GETFL) | O_NONBLOCK) == 0
        guard isNonBlocking, epoll_ctl(poll, EPOLL_CTL_ADD, wake, &event) == 0 else {
            let error = MmsgError(action: "watch a descriptor", errorNumber: errno)
            Glibc.close(poll)
            throw error
        }
        self.memory = memory
        self.wake = wake
        self.poll = poll
        capacity = entries
        sends = .allocate(capacity: entries)
        sends.initialize(repeating: 0, count: entries)
        sendHeaders = .allocate(capacity: entries)
        sendHeaders.initialize(repeating: twill_batch_message(), count: entries)
        writes = .allocate(capacity: entries)
        reads = .allocate(capacity: entries)
        reads.initialize(repeating: 0, count: entries)
        let buffers = memory.datagramBufferCount
        provided = .allocate(capacity: buffers)
        provided.initialize(repeating: 0, count: buffers)
        receiveHeaders = .allocate(capacity: buffers)
        receiveHeaders.initialize(repeating: twill_batch_message(), count: buffers)
        receiveVectors = .allocate(capacity: buffers)
        receiveVectors.initialize(repeating: iovec(), count: buffers)
        // All that was queued, a pending read, all receives, a wake-up.
        completions = .allocate(capacity: entries + 1 + buffers + 1)
    }

    /// Watches the descriptors, and sets them non-blocking.
    public mutating func attach(_ channels: EngineChannels) -> Int32 {
        let watched: [(Int32, UInt64, UInt32)] = [
            (channels.tunnel, MmsgEngine.tunnelMark, 0),
            (channels.socket, MmsgEngine.socketMark, EPOLLIN.rawValue),
            (channels.formerSocket, MmsgEngine.formerSocketMark, EPOLLIN.rawValue),
        ]
        for (descriptor, mark, events) in watched where descriptor >= 0 {
            var event = epoll_event(events: events, data: epoll_data_t(u64: mark))
            guard epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event) == 0 else {
                let code = errno
                for (descriptor, _, _) in watched where descriptor >= 0 {
                    epoll_ctl(poll, EPOLL_CTL_DEL, descriptor, nil)
                }
                return -code
            }
        }
        (tunnel, socket, sender) = (channels.tunnel, channels.socket, channels.sender)
        formerSocket = channels.formerSocket
        setNonBlocking()
        return 0
    }

    private func setNonBlocking() {
        for descriptor in [tunnel, socket, sender, formerSocket] where descriptor >= 0 {
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        }
    }

    /// Reads and receives nothing from here on.
    public mutating func cease() { isCeasing = true }

    /// Whether the pending read has been given back.
    public var hasCeased: Bool { isCeasing && pendingBuffer < 0 }

    /// Reads and receives again. An engine that had the descriptors meanwhile may have made them blocking.
    public mutating func resume() {
        isCeasing = false
        setNonBlocking()
        (tunnelMayBeReadable, socketMayBeReadable, formerSocketMayBeReadable) = (true, true, true)
    }

    deinit {
        precondition(!isOpen, "an engine is closed before it ends")
        sends.deallocate()
        sendHeaders.deallocate()
        writes.deallocate()
        reads.deallocate()
        provided.deallocate()
        receiveHeaders.deallocate()
        receiveVectors.deallocate()
        completions.deallocate()
    }

    /// Closes the epoll descriptor.
    public mutating func close() {
        Glibc.close(poll)
        isOpen = false
    }

    /// Of `entries`, those not queued yet.
    public var queueSpace: Int { capacity &- sendCount &- writeCount &- readCount }

    /// Queues a read; a pending one is tried in each `enter` until it brings something.
    public mutating func read(into buffer: Int, isPending: Bool) {
        if isPending {
            pendingBuffer = Int32(truncatingIfNeeded: buffer)
        } else {
            reads[readCount] = Int32(truncatingIfNeeded: buffer)
            readCount &+= 1
        }
    }

    /// Adds a buffer to those that the next recvmmsg fills.
    public mutating func provide(_ buffer: Int) {
        provided[providedCount] = Int32(truncatingIfNeeded: buffer)
        providedCount &+= 1
    }

    /// Queues a message for sendmmsg.
    public mutating func send(_ message: Int) {
        sends[sendCount] = Int32(truncatingIfNeeded: message)
        sendHeaders[sendCount].header = memory.messages[message]
        sendCount &+= 1
    }

    /// Queues a writev.
    public mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int) {
        (writes + writeCount).initialize(to: Write(index: index, vectors: vectors, count: count))
        writeCount &+= 1
    }

    private mutating func complete(_ kind: OperationKind, _ index: Int32, _ result: Int) {
        (completions + completionCount).initialize(
            to: Completion(kind: kind, index: Int(index), result: result))
        completionCount &+= 1
    }

    /// Makes the system calls for everything that was queued, then for what is readable, and waits where asked to.
    public mutating func enter(waitingFor wanted: Int, timeoutMicroseconds: Int) -> Int32 {
        completionCount = 0
        completionsTaken = 0
        carryOutSends()
        carryOutWrites()
        carryOutReads()
        if isCeasing {
            if pendingBuffer >= 0 { complete(.read, pendingBuffer, -Int(ECANCELED)) }
            pendingBuffer = -1
            return 0
        }
        if !socketMayBeReadable || !tunnelMayBeReadable || (formerSocket >= 0 && !formerSocketMayBeReadable) {
            // What was dry is looked at again without waiting, so that one busy side does not hide the other.
            let error = wait(timeoutMilliseconds: 0)
            if error != 0 { return error }
        }
        receive()
        readPending()
        while completionCount < wanted {
            let error = wait(
                timeoutMilliseconds: timeoutMicroseconds < 0
                    ? -1 : Int32(clamping: (timeoutMicroseconds &+ 999) / 1000))
            if error == -EINTR { break }
            if error != 0 { return error }
            receive()
            readPending()
            if timeoutMicroseconds >= 0 { break }
        }
        return 0
    }

    private mutating func carryOutSends() {
        var done = 0
        while done < sendCount {
            systemCalls &+= 1
            let count = twill_send_batch(
                sender, sendHeaders + done, UInt32(truncatingIfNeeded: sendCount &- done))
            if count < 0 {
                // The first of them failed; those behind it are tried on their own.
                if errno == EINTR { continue }
                complete(.send, sends[done], -Int(errno))
                done &+= 1
                continue
            }
            var index = 0
            while index < Int(count) {
                complete(.send, sends[done], Int(sendHeaders[done].length))
                done &+= 1
                index &+= 1
            }
        }
        sendCount = 0
    }

    private mutating func carryOutWrites() {
        var index = 0
        while index < writeCount {
            systemCalls &+= 1
            let result = writev(tunnel, writes[index].vectors, Int32(truncatingIfNeeded: writes[index].count))
            complete(
                .write, Int32(truncatingIfNeeded: writes[index].index), result < 0 ? -Int(errno) : result)
            index &+= 1
        }
        writeCount = 0
    }

    @inline(__always)
    private mutating func readTunnel(_ buffer: Int32) -> Int {
        systemCalls &+= 1
        let result = Glibc.read(
            tunnel, memory.tunnelBuffer(Int(buffer)) + PacketMemory.virtioHeaderOffset,
            PacketMemory.tunnelReadLength)
        guard result < 0 else { return result }
        if errno == EAGAIN { tunnelMayBeReadable = false }
        return -Int(errno)
    }

    private mutating func carryOutReads() {
        var index = 0
        tunnelMayBeReadable = tunnelMayBeReadable || readCount > 0
        while index < readCount {
            let result = tunnelMayBeReadable ? readTunnel(reads[index]) : -Int(EAGAIN)
            complete(.read, reads[index], result)
            index &+= 1
        }
        readCount = 0
    }

    private mutating func readPending() {
        guard pendingBuffer >= 0, tunnelMayBeReadable else { return }
        let result = readTunnel(pendingBuffer)
        guard result != -Int(EAGAIN), result != -Int(EINTR) else { return }
        complete(.read, pendingBuffer, result)
        pendingBuffer = -1
    }

    private mutating func receive() {
        // The former socket first: what a peer sent there it sent before.
        if formerSocket >= 0, formerSocketMayBeReadable {
            formerSocketMayBeReadable = receive(from: formerSocket)
        }
        if socketMayBeReadable { socketMayBeReadable = receive(from: socket) }
    }

    /// Fills the provided buffers. Returns whether the socket may have more.
    private mutating func receive(from socket: Int32) -> Bool {
        guard providedCount > 0 else { return true }
        var index = 0
        while index < providedCount {
            let buffer = memory.datagramBuffer(Int(provided[index]))
            receiveVectors[index] = iovec(
                iov_base: buffer + PacketMemory.datagramPayloadOffset,
                iov_len: memory.datagramBufferStride &- PacketMemory.datagramPayloadOffset)
            receiveHeaders[index].header = msghdr(
                msg_name: buffer + PacketMemory.nameOffset,
                msg_namelen: socklen_t(truncatingIfNeeded: PacketMemory.nameRoom),
                msg_iov: receiveVectors + index, msg_iovlen: 1,
                msg_control: buffer + PacketMemory.controlOffset,
                msg_controllen: Int(TWILL_COALESCE_CONTROL_BYTES), msg_flags: 0)
            index &+= 1
        }
        systemCalls &+= 1
        var count = Int(
            twill_receive_batch(socket, receiveHeaders, UInt32(truncatingIfNeeded: providedCount)))
        if count < 0, errno != EAGAIN {
            // An error that waited on the socket (an ICMP message left it there) says nothing about the datagrams
            // behind it, and is gone once it was told.
            systemCalls &+= 1
            count = Int(
                twill_receive_batch(socket, receiveHeaders, UInt32(truncatingIfNeeded: providedCount)))
        }
        guard count > 0 else { return false }
        let mayHaveMore = count == providedCount
        index = 0
        while index < count {
            let buffer = memory.datagramBuffer(Int(provided[index]))
            let header = receiveHeaders[index]
            buffer.storeBytes(of: UInt32(truncatingIfNeeded: header.header.msg_namelen), as: UInt32.self)
            buffer.storeBytes(
                of: UInt32(truncatingIfNeeded: header.header.msg_controllen), toByteOffset: 4, as: UInt32.self
            )
            buffer.storeBytes(of: header.length, toByteOffset: 8, as: UInt32.self)
            buffer.storeBytes(
                of: UInt32(truncatingIfNeeded: header.header.msg_flags), toByteOffset: 12, as: UInt32.self)
            complete(.receive, provided[index], PacketMemory.datagramPayloadOffset &+ Int(header.length))
            index &+= 1
        }
        providedCount &-= count
        index = 0
        while index < providedCount {
            provided[index] = provided[index &+ count]
            index &+= 1
        }
        return mayHaveMore
    }

    /// Waits for readiness and notes it. Returns 0 or a negated error number.
    private mutating func wait(timeoutMilliseconds: Int32) -> Int32 {
        // The TUN device is watched only while somebody wants to read from it, or epoll would not sleep.
        let wantsTunnel = pendingBuffer >= 0
        if wantsTunnel != tunnelIsWatched {
            var event = epoll_event(
                events: wantsTunnel ? EPOLLIN.rawValue : 0, data: epoll_data_t(u64: MmsgEngine.tunnelMark))
            systemCalls &+= 1
            epoll_ctl(poll, EPOLL_CTL_MOD, tunnel, &event)
            tunnelIsWatched = wantsTunnel
        }
        var events = (epoll_event(), epoll_event(), epoll_event(), epoll_event())
        systemCalls &+= 1
        let count = withUnsafeMutableBytes(of: &events) {
            epoll_wait(poll, $0.assumingMemoryBound(to: epoll_event.self).baseAddress, 4, timeoutMilliseconds)
        }
        if count < 0 { return -errno }
        note(events.0, if: count > 0)
        note(events.1, if: count > 1)
        note(events.2, if: count > 2)
        note(events.3, if: count > 3)
        return 0
    }

    @inline(__always)
    private mutating func note(_ event: epoll_event, if isThere: Bool) {
        guard isThere else { return }
        switch event.data.u64 {
        case MmsgEngine.tunnelMark: tunnelMayBeReadable = true
        case MmsgEngine.socketMark: socketMayBeReadable = true
        case MmsgEngine.formerSocketMark: formerSocketMayBeReadable = true
        default:
            var value: UInt64 = 0
            systemCalls &+= 1
            Glibc.read(wake, &value, 8)
            complete(.wake, 0, 8)
        }
    }

    /// Takes the next completion, in the order in which the calls were made.
    public mutating func nextCompletion() -> Completion? {
        guard completionsTaken < completionCount else { return nil }
        completionsTaken &+= 1
        return completions[completionsTaken &- 1]
    }
}
