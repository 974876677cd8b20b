import Addresses
import Glibc

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

    /// Where the sender's name lies in a datagram buffer: behind `io_uring_recvmsg_out`, 16 bytes.
    public static let nameOffset = 16
    /// Bytes of room for it: `SocketName.room`, a name of either family.
    public static let nameRoom = 32
    /// Where the control message lies, 24 bytes.
    public static let controlOffset = 48
    /// Where the first datagram lies.
    public static let datagramPayloadOffset = 72

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

    /// Allocates all buffers in one mapping, touched, so that no page fault comes later; or, where packets wait for it already,
    /// untouched: the kernel then gives a page when something is first written there, or for `touch`. (What the engine
    /// registers it touches all the same.)
    ///
    /// - Parameters:
    ///   - tunnelBufferCount: how many tunnel buffers, of a super-packet each.
    ///   - datagramBufferCount: how many datagram buffers, a power of two.
    ///   - datagramBytes: bytes of datagrams that each datagram buffer holds at least.
    ///   - messageCount: how many messages, each with room for its vectors and headers.
    ///   - hugePages: whether to ask for transparent huge pages.
    ///   - isTouched: whether all pages are there when this returns.
    /// - Returns: nil where the kernel has no memory.
    public init?(
        tunnelBufferCount: Int, datagramBufferCount: Int, datagramBytes: Int = 65_507, messageCount: Int,
        hugePages: Bool, isTouched: Bool = true
    ) {
        precondition(datagramBufferCount & (datagramBufferCount - 1) == 0)
        precondition(PacketMemory.nameRoom == SocketName.room)
        datagramBufferStride = ((PacketMemory.datagramPayloadOffset + datagramBytes + 63) / 64 | 1) * 64
        let tunnelBytes = (tunnelBufferCount * PacketMemory.tunnelBufferStride + 4095) & ~4095
        let datagramBytes = (datagramBufferCount * datagramBufferStride + 4095) & ~4095
        mappedBytes = tunnelBytes + datagramBytes
        guard let base = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            base != MAP_FAILED
        else { return nil }
        if hugePages { madvise(base, mappedBytes, MADV_HUGEPAGE) }
        tunnelBuffers = base
        datagramBuffers = base + tunnelBytes
        self.tunnelBufferCount = tunnelBufferCount
        self.datagramBufferCount = datagramBufferCount
        self.messageCount = messageCount
        messages = .allocate(capacity: messageCount)
        messages.initialize(repeating: msghdr(), count: messageCount)
        if isTouched { touch() }
    }

    /// All of it but the messages.
    public var pages: MemoryPages {
        MemoryPages(UnsafeRawBufferPointer(start: tunnelBuffers, count: mappedBytes))
    }

    /// Lets the kernel give all pages that are not there yet.
    public func touch() { pages.touch() }

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
