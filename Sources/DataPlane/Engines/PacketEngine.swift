// How it works. An engine moves bytes between the kernel and buffers that were allocated at the start; it knows
// nothing of packets. The worker queues operations (reads from the TUN device, sends, writes to the TUN device),
// gives buffers for datagrams to be received into, and calls `enter` once a round; then it takes the completions.
// Every buffer and message has one owner at any time: the worker, or, from the call that queues an operation to
// the completion that names it, the engine.

import CLinux
import Glibc

/// What an operation was, told by its completion.
public enum OperationKind: UInt8, Sendable {
    /// A read from the TUN device into a tunnel buffer; `index` is the buffer.
    case read
    /// A received datagram (or several, coalesced by the kernel); `index` is the datagram buffer.
    case receive
    /// A send; `index` is the message.
    case send
    /// A write to the TUN device; `index` is what the worker named it.
    case write
    /// The control side asked for a round.
    case wake
}

/// The end of one operation. What `index` names is the worker's again.
@frozen
public struct Completion: Sendable {
    /// What ended.
    public var kind: OperationKind
    /// Which buffer, message or write it was.
    public var index: Int
    /// Bytes moved, or a negated error number.
    public var result: Int

    /// Makes a completion.
    @inlinable @inline(__always)
    public init(kind: OperationKind, index: Int, result: Int) {
        self.kind = kind
        self.index = index
        self.result = result
    }
}

/// The system calls of the data plane, in batches: io_uring, plain calls, or a simulated kernel in tests.
///
/// Operations take effect in the order in which they were queued, sends and writes without waiting: where the
/// kernel has no room, the completion says `-EAGAIN`. Reads complete in the order of the packets.
public protocol PacketEngine: ~Copyable {
    /// How many operations can still be queued before `enter` must be called.
    var queueSpace: Int { get }

    /// Queues a read from the TUN device.
    ///
    /// - Parameters:
    ///   - buffer: a tunnel buffer, the engine's until its completion.
    ///   - parked: whether the read waits for a packet; else it completes with `-EAGAIN` where none is there. At
    ///     most one read may be parked at a time.
    mutating func read(into buffer: Int, parked: Bool)

    /// Gives a datagram buffer to be received into, the engine's until a completion names it.
    mutating func provide(_ buffer: Int)

    /// Queues the send of a message in the engine's memory, the engine's until its completion.
    mutating func send(_ message: Int)

    /// Queues a write of gathered memory to the TUN device; `vectors` and what they point to are the engine's until
    /// the completion that names `index`.
    mutating func write(_ index: Int, _ vectors: UnsafeMutablePointer<iovec>, count: Int)

    /// Carries out what was queued and collects completions.
    ///
    /// - Parameters:
    ///   - completions: how many must be there before the call returns, what was queued included; 0 waits for
    ///     nothing. A signal may end the wait early.
    ///   - timeoutMicroseconds: how long to wait at most; negative: no limit.
    /// - Returns: 0, or a negated error number that leaves the engine unable to go on.
    mutating func enter(waitingFor completions: Int, timeoutMicroseconds: Int) -> Int32

    /// Takes the next completion; nil where none is left.
    mutating func nextCompletion() -> Completion?

    /// Ends every operation and lets go of all descriptors; the engine is not used any more after this.
    mutating func close()

    /// Nanoseconds of a clock that never goes back: the worker knows no other, so that tests decide what time it is.
    var nowNanoseconds: Int { get }

    /// Lets other programs that are ready to run have this thread's processor first.
    mutating func yieldProcessor()

    /// How many system calls the engine has made.
    var systemCalls: Int { get }
    /// How often completions were held back by the kernel because their ring was full.
    var overflows: Int { get }
    /// How often the standing receive operation ended and was queued again.
    var receiveRearms: Int { get }
}

/// The memory that an engine and its worker share, allocated before the first packet and freed after the last.
///
/// Buffer strides are odd multiples of a cache line (64 bytes), so that the headers of neighbouring buffers do not
/// compete for the same sets of the first-level cache.
public struct PacketMemory {
    /// Where a packet read from the TUN device lies: 10 bytes of virtio header at 6, the packet at 16.
    public static let virtioHeaderOffset = 6
    /// See `virtioHeaderOffset`.
    public static let tunnelPacketOffset = 16
    /// 16 + 65,535 bytes, up to the next odd number of cache lines: 1,025 × 64.
    public static let tunnelBufferStride = 65_600
    /// Bytes of a tunnel buffer that a read may fill: the virtio header and the largest IP packet.
    public static let tunnelReadLength = 10 + 65_535

    /// Before each datagram: `io_uring_recvmsg_out` (16 bytes), source address (16), control message (24).
    public static let datagramPayloadOffset = 56

    /// The tunnel buffers, `tunnelBufferStride` apart.
    public let tunnelBuffers: UnsafeMutableRawPointer
    /// How many tunnel buffers there are.
    public let tunnelBufferCount: Int
    /// The datagram buffers, `datagramBufferStride` apart.
    public let datagramBuffers: UnsafeMutableRawPointer
    /// How many datagram buffers there are, a power of two.
    public let datagramBufferCount: Int
    /// Bytes from one datagram buffer to the next: `datagramPayloadOffset`, and what it holds, up to the next odd
    /// number of cache lines.
    public let datagramBufferStride: Int
    /// What is sent: the worker fills a message before it queues its send.
    public let messages: UnsafeMutablePointer<msghdr>
    /// How many messages there are.
    public let messageCount: Int

    let mappedBytes: Int

    /// Allocates all buffers in one mapping, touched, so that no page fault comes later.
    ///
    /// - Parameters:
    ///   - datagramBytes: bytes of datagrams that each datagram buffer holds at least.
    ///   - hugePages: whether to ask for transparent huge pages.
    /// - Returns: nil where the kernel has no memory.
    public init?(
        tunnelBufferCount: Int, datagramBufferCount: Int, datagramBytes: Int = 65_507, messageCount: Int,
        hugePages: Bool
    ) {
        precondition(datagramBufferCount & (datagramBufferCount - 1) == 0)
        datagramBufferStride = ((PacketMemory.datagramPayloadOffset + datagramBytes + 63) / 64 | 1) * 64
        let tunnelBytes = (tunnelBufferCount * PacketMemory.tunnelBufferStride + 4095) & ~4095
        let datagramBytes = (datagramBufferCount * datagramBufferStride + 4095) & ~4095
        mappedBytes = tunnelBytes + datagramBytes
        guard let base = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            base != MAP_FAILED
        else { return nil }
        if hugePages { madvise(base, mappedBytes, MADV_HUGEPAGE) }
        // The thread that touches a page first decides its NUMA node; the caller is pinned where that matters.
        memset(base, 0, mappedBytes)
        tunnelBuffers = base
        datagramBuffers = base + tunnelBytes
        self.tunnelBufferCount = tunnelBufferCount
        self.datagramBufferCount = datagramBufferCount
        self.messageCount = messageCount
        messages = .allocate(capacity: messageCount)
        messages.initialize(repeating: msghdr(), count: messageCount)
    }

    /// Frees everything; no engine or worker may use the memory any more.
    public func deallocate() {
        munmap(tunnelBuffers, mappedBytes)
        messages.deallocate()
    }

    /// The first byte of a tunnel buffer.
    @inlinable @inline(__always)
    public func tunnelBuffer(_ index: Int) -> UnsafeMutableRawPointer {
        tunnelBuffers + index &* PacketMemory.tunnelBufferStride
    }

    /// The first byte of a datagram buffer.
    @inlinable @inline(__always)
    public func datagramBuffer(_ index: Int) -> UnsafeMutableRawPointer {
        datagramBuffers + index &* datagramBufferStride
    }
}

/// What one receive brought, read from a datagram buffer: one datagram, or several of equal size.
@frozen
public struct ReceivedDatagrams {
    /// The first datagram's first byte.
    public let payload: UnsafeMutableRawPointer
    /// Bytes of all datagrams together.
    public let length: Int
    /// Bytes of each datagram but the last, which may be shorter; equal to `length` where there is one.
    public let segmentBytes: Int
    /// The sender's IPv4 address, host byte order.
    public let sourceBits: UInt32
    /// Whether the kernel cut something off.
    public let isTruncated: Bool

    /// How many datagrams; 0 where they have no bytes.
    @inlinable @inline(__always)
    public var count: Int { segmentBytes > 0 ? (length &+ segmentBytes &- 1) / segmentBytes : 0 }

    /// Reads the layout that every engine leaves (`io_uring_recvmsg_out`, Linux 6.0): four 32-bit words (name length,
    /// control length, payload length, flags), the address, the control message, the payload.
    @inlinable @inline(__always)
    public init(_ buffer: UnsafeMutableRawPointer) {
        let controlLength = Int(buffer.load(fromByteOffset: 4, as: UInt32.self))
        length = Int(buffer.load(fromByteOffset: 8, as: UInt32.self))
        isTruncated = buffer.load(fromByteOffset: 12, as: UInt32.self) & UInt32(MSG_TRUNC) != 0
        sourceBits = UInt32(bigEndian: buffer.load(fromByteOffset: 20, as: UInt32.self))
        let segment = Int(twill_read_coalesce_control(buffer + 32, controlLength))
        segmentBytes = segment > 0 ? segment : length
        payload = buffer + PacketMemory.datagramPayloadOffset
    }
}
