// How it works. One ring for one worker thread, which alone submits and reaps (SINGLE_ISSUER, DEFER_TASKRUN). The TUN
// queue, the sockets (one to receive from, one to send on) and the wake-up eventfd are registered files, the tunnel
// buffers one registered buffer.
//
// - Reads from the TUN device are READ_FIXED with RWF_NOWAIT: a burst of them in one submission drains the device's
//   queue without a wait, in order. One more may be pending: it has no RWF_NOWAIT, so the kernel arms a poll and the
//   packet that arrives completes it.
// - Receives are one multishot RECVMSG over a provided buffer ring. It ends when buffers run out (ENOBUFS)
//   and is queued again as soon as there are some.
// - Sends and writes do not wait (MSG_DONTWAIT, RWF_NOWAIT): they run to their end inside the submission, in the
//   order in which they were queued, and cannot pass each other.
//
// Ceasing: the pending read and the receives are cancelled by their names, and what they had taken by then completes as
// ever; what comes later stays in the kernel's queues.
//
// Closing: cancel everything, reap until the kernel has ended every operation, unregister the files, then let the
// ring go. What an operation still uses (a TUN queue that it waits on, a socket) the kernel would keep open until it
// takes the ring down, some milliseconds after the process closed it.

import CLiburing
import CLinux
import Glibc

/// Why a ring could not be made.
public struct UringError: Error, CustomStringConvertible, Equatable {
    /// What was tried.
    public let action: String
    /// The kernel's error number.
    public let errorNumber: Int32

    /// What happened and what to do about it.
    public var description: String {
        let advice: String =
            switch errorNumber {
            case EPERM, EACCES:
                "; io_uring is forbidden here: see /proc/sys/kernel/io_uring_disabled and the container's seccomp profile"
            case ENOSYS:
                "; this kernel is built without io_uring, or the container's seccomp profile hides it"
            case EINVAL: "; twill's ring needs Linux 6.1 or later"
            case ENOMEM: "; raise the memlock limit (LimitMEMLOCK= in the unit file) or grant CAP_IPC_LOCK"
            default: ""
            }
        return "io_uring: cannot \(action): \(String(cString: strerror(errorNumber)))\(advice)"
    }
}

/// The engine over io_uring.
public struct UringEngine: PacketEngine, ~Copyable {
    private static let tunnelFile: Int32 = 0
    private static let socketFile: Int32 = 1
    private static let wakeFile: Int32 = 2
    private static let senderFile: Int32 = 3
    private static let formerSocketFile: Int32 = 4
    /// The places of two receives among completions: from the socket, and from the former one.
    private static let currentReceive = 0
    private static let formerReceive = 1
    private static let receiveGroup: UInt16 = 0
    /// How long the kernel's thread looks for submissions before it sleeps.
    private static let submissionPollingIdleMilliseconds: UInt32 = 10

    private let ring: UnsafeMutablePointer<io_uring>
    private let bufferRing: UnsafeMutablePointer<io_uring_buf_ring>
    private let memory: PacketMemory
    private let receiveTemplate: UnsafeMutablePointer<msghdr>
    private let wakeValue: UnsafeMutablePointer<UInt64>
    private let tunnelBuffersAreRegistered: Bool
    private var providedBuffers = 0
    private var receiveIsArmed = false
    private var hasFormerSocket = false
    private var formerReceiveIsArmed = false
    private var wakeIsArmed = false
    /// The buffer of the pending read, or -1.
    private var pendingBuffer = -1
    private var isCeasing = false
    /// Operations that were queued and have not ended, the multishot receive and the wake-up among them.
    private var pendingCount = 0
    private var completionsReady: UInt32 = 0
    private var completionsTaken: UInt32 = 0
    private var isOpen = true

    /// `io_uring_enter` calls.
    public private(set) var systemCalls = 0
    /// Enters that found the overflow flag of the submission ring set.
    public private(set) var overflows = 0
    /// Multishot receives queued, the first included.
    public private(set) var receiveRearms = 0

    /// The machine's monotonic clock.
    @inlinable @inline(__always)
    public var nowNanoseconds: Int { MachineClock.nanoseconds }

    /// Yields the machine's processor.
    @inlinable @inline(__always)
    public mutating func yieldProcessor() { MachineClock.yieldProcessor() }

    /// Whether reads go into registered buffers; false where locked memory was refused, which costs a few percent.
    public var usesRegisteredBuffers: Bool { tunnelBuffersAreRegistered }

    /// Makes the ring, which the calling thread alone may use from here on, without anything to move bytes between
    /// (`attach`).
    ///
    /// - Parameters:
    ///   - memory: stays allocated until after `close`.
    ///   - wake: an eventfd that ends a wait.
    ///   - entries: submission ring entries, a power of two; the completion ring has four times as many.
    ///   - usesSubmissionPolling: whether a kernel thread takes submissions, without a system call (SQPOLL).
    /// - Throws: `UringError` where the kernel has no such ring, or not the memory for it.
    public init(
        memory: PacketMemory, wake: Int32, entries: Int,
        usesSubmissionPolling: Bool = false
    ) throws(UringError) {
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        ring.initialize(to: io_uring())
        var parameters = io_uring_params()
        parameters.flags = twill_setup_flags(usesSubmissionPolling ? 1 : 0)
        parameters.sq_thread_idle = UringEngine.submissionPollingIdleMilliseconds
        parameters.cq_entries = UInt32(clamping: entries * 4)
        let made = io_uring_queue_init_params(UInt32(clamping: entries), ring, &parameters)
        guard made == 0 else {
            ring.deallocate()
            throw UringError(action: "make a ring of \(entries) entries", errorNumber: -made)
        }
        var failure: UringError?
        let files = [-1, -1, wake, -1, -1]
        let registered = io_uring_register_files(ring, files, UInt32(truncatingIfNeeded: files.count))
        if registered != 0 { failure = UringError(action: "register files", errorNumber: -registered) }
        let buffers = twill_make_buffer_ring(
            ring, UInt32(truncatingIfNeeded: memory.datagramBufferCount), Int32(UringEngine.receiveGroup))
        if buffers == nil, failure == nil {
            failure = UringError(action: "register a buffer ring", errorNumber: errno)
        }
        guard failure == nil, let buffers else {
            if let buffers {
                twill_free_buffer_ring(buffers, UInt32(truncatingIfNeeded: memory.datagramBufferCount))
            }
            io_uring_queue_exit(ring)
            ring.deallocate()
            throw failure ?? UringError(action: "register a buffer ring", errorNumber: ENOMEM)
        }
        // Registered buffers are locked memory; where the limit is too low, plain reads do.
        var vector = iovec(
            iov_base: memory.tunnelBuffers,
            iov_len: memory.tunnelBufferCount * PacketMemory.tunnelBufferStride)
        tunnelBuffersAreRegistered = io_uring_register_buffers(ring, &vector, 1) == 0

        self.ring = ring
        self.memory = memory
        bufferRing = buffers
        receiveTemplate = .allocate(capacity: 1)
        receiveTemplate.initialize(to: msghdr())
        receiveTemplate.pointee.msg_namelen = socklen_t(truncatingIfNeeded: PacketMemory.nameRoom)
        receiveTemplate.pointee.msg_controllen = Int(TWILL_COALESCE_CONTROL_BYTES)
        wakeValue = .allocate(capacity: 1)
        wakeValue.initialize(to: 0)
        // Saves a file look-up in each enter; nothing is lost without it.
        _ = io_uring_register_ring_fd(ring)
    }

    /// Registers the descriptors. Where a descriptor was another engine's, which had set it non-blocking, it blocks again:
    /// the pending read waits for a packet only where it does.
    public mutating func attach(_ channels: EngineChannels) -> Int32 {
        for descriptor in channels.descriptors {
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
        }
        let places = [
            (UringEngine.tunnelFile, channels.tunnel), (UringEngine.socketFile, channels.socket),
            (UringEngine.senderFile, channels.sender), (UringEngine.formerSocketFile, channels.formerSocket),
        ]
        for (place, descriptor) in places {
            var descriptor = descriptor
            let updated = io_uring_register_files_update(ring, UInt32(bitPattern: place), &descriptor, 1)
            guard updated < 0 else { continue }
            var nothing: Int32 = -1
            for (place, _) in places {
                _ = io_uring_register_files_update(ring, UInt32(bitPattern: place), &nothing, 1)
            }
            return updated
        }
        hasFormerSocket = channels.formerSocket >= 0
        return 0
    }

    /// Cancels the pending read and the receives.
    public mutating func cease() {
        isCeasing = true
        if pendingBuffer >= 0 { cancel(UringEngine.token(.read, pendingBuffer)) }
        if receiveIsArmed { cancel(UringEngine.token(.receive, UringEngine.currentReceive)) }
        if formerReceiveIsArmed { cancel(UringEngine.token(.receive, UringEngine.formerReceive)) }
    }

    private mutating func cancel(_ token: UInt64) {
        if twill_sq_space(ring) == 0 { _ = twill_enter(ring, 0, nil) }
        guard let entry = twill_next_sqe(ring) else { return }
        io_uring_prep_cancel64(entry, token, 0)
        io_uring_sqe_set_data64(entry, UringEngine.cancelToken)
    }

    /// Whether the kernel has ended the pending read and the receives.
    public var hasCeased: Bool {
        isCeasing && pendingBuffer < 0 && !receiveIsArmed && !formerReceiveIsArmed
    }

    /// Arms the receives again, with the next `enter`.
    public mutating func resume() { isCeasing = false }

    deinit {
        precondition(!isOpen, "an engine is closed before it ends")
        twill_free_buffer_ring(bufferRing, UInt32(truncatingIfNeeded: memory.datagramBufferCount))
        ring.deallocate()
        receiveTemplate.deallocate()
        wakeValue.deallocate()
    }

    /// Cancels everything, reaps until every operation has ended, unregisters the files and lets the ring go: when
    /// this returns, the kernel holds none of the descriptors any more.
    public mutating func close() {
        while nextCompletion() != nil {}
        var tries = 0
        while twill_sq_space(ring) == 0, tries < UringEngine.closingTries {
            _ = twill_enter(ring, 0, nil)
            tries &+= 1
        }
        if let entry = twill_next_sqe(ring) {
            twill_prepare_cancel_all(entry)
            io_uring_sqe_set_data64(entry, UringEngine.cancelToken)
        }
        while pendingCount > 0, tries < UringEngine.closingTries {
            var wait = __kernel_timespec(tv_sec: 0, tv_nsec: 10_000_000)
            _ = twill_enter(ring, 1, &wait)
            completionsReady = twill_cqes_ready(ring)
            completionsTaken = 0
            while nextCompletion() != nil {}
            tries &+= 1
        }
        io_uring_unregister_files(ring)
        io_uring_unregister_buffers(ring)
        io_uring_queue_exit(ring)
        isOpen = false
    }

    /// Waits of 10 ms each for what was cancelled. All of it ends within the first; a bound, in case it does not.
    private static let closingTries = 100
    /// The token of the cancellation itself, which no kind has.
    private static let cancelToken: UInt64 = 0xFF << 32

    private static func token(_ kind: OperationKind, _ index: Int) -> UInt64 {
        UInt64(kind.rawValue) << 32 | UInt64(UInt32(truncatingIfNeeded: index))
    }

    /// Free submission entries, less two that are kept for the multishot receive and the wake-up.
    public var queueSpace: Int {
        Int(twill_sq_space(ring)) - 2
    }

    /// Queues a READ_FIXED, with RWF_NOWAIT unless it is to stay pending.
    public mutating func read(into buffer: Int, isPending: Bool) {
        let entry = nextEntry()
        let target = memory.tunnelBuffer(buffer) + PacketMemory.virtioHeaderOffset
        if tunnelBuffersAreRegistered {
            io_uring_prep_read_fixed(
                entry, UringEngine.tunnelFile, target,
                UInt32(truncatingIfNeeded: PacketMemory.tunnelReadLength), 0, 0)
        } else {
            io_uring_prep_read(
                entry, UringEngine.tunnelFile, target,
                UInt32(truncatingIfNeeded: PacketMemory.tunnelReadLength), 0)
        }
        if isPending { pendingBuffer = buffer } else { twill_set_no_wait(entry) }
        entry.pointee.flags = UInt8(TWILL_SQE_FIXED_FILE)
        io_uring_sqe_set_data64(entry, UringEngine.token(.read, buffer))
    }

    /// Puts a buffer into the provided buffer ring.
    public mutating func provide(_ buffer: Int) {
        twill_provide_buffer(
            bufferRing, UInt32(truncatingIfNeeded: memory.datagramBufferCount), memory.datagramBuffer(buffer),
            UInt32(truncatingIfNeeded: memory.datagramBufferStride), UInt16(truncatingIfNeeded: buffer))
        providedBuffers &+= 1
    }

    /// Queues a SENDMSG with MSG_DONTWAIT.
    public mutating func send(_ message: Int) {
        let entry = nextEntry()
        io_uring_prep_sendmsg(
            entry, UringEngine.senderFile, memory.messages + message, UInt32(MSG_DONTWAIT))
        entry.pointee.flags = UInt8(TWILL_SQE_FIXED_FILE)
        io_uring_sqe_set_data64(entry, UringEngine.token(.send, message))
    }

    /// Queues a WRITEV with RWF_NOWAIT.
    public mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int) {
        let entry = nextEntry()
        io_uring_prep_writev(entry, UringEngine.tunnelFile, vectors, UInt32(truncatingIfNeeded: count), 0)
        twill_set_no_wait(entry)
        entry.pointee.flags = UInt8(TWILL_SQE_FIXED_FILE)
        io_uring_sqe_set_data64(entry, UringEngine.token(.write, index))
    }

    /// An entry for one more operation; the caller makes sure by `queueSpace` that there is one.
    @inline(__always)
    private mutating func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        pendingCount &+= 1
        return twill_next_sqe(ring).unsafelyUnwrapped
    }

    private mutating func armReceive(_ place: Int, from file: Int32) {
        let entry = nextEntry()
        io_uring_prep_recvmsg_multishot(entry, file, receiveTemplate, 0)
        entry.pointee.flags = UInt8(TWILL_SQE_FIXED_FILE | TWILL_SQE_BUFFER_SELECT)
        twill_set_buffer_group(entry, UringEngine.receiveGroup)
        io_uring_sqe_set_data64(entry, UringEngine.token(.receive, place))
        receiveRearms &+= 1
    }

    private mutating func armReceiveAndWake() {
        if providedBuffers > 0, !isCeasing {
            // The former socket first: what a peer sent there it sent before.
            if hasFormerSocket, !formerReceiveIsArmed, twill_sq_space(ring) > 2 {
                armReceive(UringEngine.formerReceive, from: UringEngine.formerSocketFile)
                formerReceiveIsArmed = true
            }
            if !receiveIsArmed {
                armReceive(UringEngine.currentReceive, from: UringEngine.socketFile)
                receiveIsArmed = true
            }
        }
        if !wakeIsArmed {
            let entry = nextEntry()
            io_uring_prep_read(entry, UringEngine.wakeFile, wakeValue, 8, 0)
            entry.pointee.flags = UInt8(TWILL_SQE_FIXED_FILE)
            io_uring_sqe_set_data64(entry, UringEngine.token(.wake, 0))
            wakeIsArmed = true
        }
    }

    /// Submits everything with one system call, and waits there where asked to.
    public mutating func enter(waitingFor completions: Int, timeoutMicroseconds: Int) -> Int32 {
        assert(completionsTaken == completionsReady, "completions of the last call were not taken")
        armReceiveAndWake()
        if twill_cq_overflowed(ring) != 0 { overflows &+= 1 }
        systemCalls &+= 1
        let result: Int32
        let wait = UInt32(truncatingIfNeeded: completions)
        if completions == 0 || timeoutMicroseconds < 0 {
            result = twill_enter(ring, wait, nil)
        } else {
            var timeout = __kernel_timespec(
                tv_sec: Int64(timeoutMicroseconds / 1_000_000),
                tv_nsec: Int64(timeoutMicroseconds % 1_000_000) * 1000)
            result = twill_enter(ring, wait, &timeout)
        }
        completionsReady = twill_cqes_ready(ring)
        completionsTaken = 0
        switch result {
        // EBUSY, EAGAIN: the kernel is short of memory or room; what it did not take stays queued.
        case -EINTR, -ETIME, -EBUSY, -EAGAIN: return 0
        default: return result < 0 ? result : 0
        }
    }

    /// Takes the next completion entry; those of the cancellation and of ended receives are passed over.
    public mutating func nextCompletion() -> Completion? {
        while completionsTaken < completionsReady {
            let entry = twill_cqe(ring, completionsTaken).unsafelyUnwrapped
            let token = entry.pointee.user_data
            let result = Int(entry.pointee.res)
            let flags = entry.pointee.flags
            completionsTaken &+= 1
            if completionsTaken == completionsReady {
                twill_cqes_seen(ring, completionsReady)
                completionsReady = 0
                completionsTaken = 0
            }
            let index = Int(UInt32(truncatingIfNeeded: token))
            if flags & UInt32(TWILL_CQE_MORE) == 0, token != UringEngine.cancelToken { pendingCount &-= 1 }
            switch OperationKind(rawValue: UInt8(truncatingIfNeeded: token >> 32)) {
            case .receive:
                if flags & UInt32(TWILL_CQE_MORE) == 0 {
                    if index == UringEngine.formerReceive {
                        formerReceiveIsArmed = false
                    } else {
                        receiveIsArmed = false
                    }
                }
                guard flags & UInt32(TWILL_CQE_BUFFER) != 0 else { continue }
                providedBuffers &-= 1
                return Completion(
                    kind: .receive, index: Int(flags >> UInt32(TWILL_CQE_BUFFER_SHIFT)), result: result)
            case .wake:
                wakeIsArmed = false
                return Completion(kind: .wake, index: 0, result: result)
            case .read:
                if index == pendingBuffer { pendingBuffer = -1 }
                return Completion(kind: .read, index: index, result: result)
            case .send: return Completion(kind: .send, index: index, result: result)
            case .write: return Completion(kind: .write, index: index, result: result)
            case nil: continue
            }
        }
        return nil
    }
}
