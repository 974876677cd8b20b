import Synchronization

/// What was carried to and from one peer.
public struct PeerCounts: Sendable, Equatable {
    /// Inner packets sent.
    public var packetsSent: UInt64 = 0
    /// Bytes of those.
    public var bytesSent: UInt64 = 0
    /// Inner packets received and let in.
    public var packetsReceived: UInt64 = 0
    /// Bytes of those.
    public var bytesReceived: UInt64 = 0
    /// When the last of those came, nanoseconds of the monotonic clock; 0: never.
    public var lastReceivedNanoseconds: UInt64 = 0

    /// Nothing carried.
    public init() {}

    /// What two workers carried together.
    public mutating func add(_ other: PeerCounts) {
        packetsSent &+= other.packetsSent
        bytesSent &+= other.bytesSent
        packetsReceived &+= other.packetsReceived
        bytesReceived &+= other.bytesReceived
        lastReceivedNanoseconds = max(lastReceivedNanoseconds, other.lastReceivedNanoseconds)
    }

    /// What was carried since `earlier`.
    public func since(_ earlier: PeerCounts) -> PeerCounts {
        var difference = self
        difference.packetsSent &-= earlier.packetsSent
        difference.bytesSent &-= earlier.bytesSent
        difference.packetsReceived &-= earlier.packetsReceived
        difference.bytesReceived &-= earlier.bytesReceived
        if lastReceivedNanoseconds == earlier.lastReceivedNanoseconds {
            difference.lastReceivedNanoseconds = 0
        }
        return difference
    }
}

/// The counters of one worker for each peer: written by that worker's thread alone, read by anybody at any time.
///
/// A peer has a slot, its number given by the control side; those that found none left share the last. A block is
/// a reference, as `CounterBlock` is, and counts the same way.
@frozen
public struct PeerCounterBlock: @unchecked Sendable {
    @usableFromInline let cells: UnsafeMutablePointer<Atomic<UInt64>>

    /// Peers with a slot of their own: 4,097 slots of one cache line are 257 KiB for each worker.
    public static let peerLimit = 4096
    /// The slot that all others share.
    public static let sharedSlot = UInt16(peerLimit)

    // One cache line for each slot: five cells, and three that stay empty.
    @inlinable @inline(__always)
    static var stride: Int { 8 }

    static var cellCount: Int { (peerLimit + 1) * stride }

    /// Makes a block of zeros.
    public static func allocate() -> PeerCounterBlock {
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: cellCount * MemoryLayout<Atomic<UInt64>>.stride, alignment: 64)
        let cells = memory.bindMemory(to: Atomic<UInt64>.self, capacity: cellCount)
        for index in 0..<cellCount { (cells + index).initialize(to: Atomic(0)) }
        return PeerCounterBlock(cells: cells)
    }

    @usableFromInline
    init(cells: UnsafeMutablePointer<Atomic<UInt64>>) { self.cells = cells }

    /// Frees the memory; neither the writer nor a reader may use the block any more.
    public func deallocate() {
        cells.deinitialize(count: PeerCounterBlock.cellCount)
        UnsafeMutableRawPointer(cells).deallocate()
    }

    /// Counts what was sent to the peer of a slot. For the block's one writer.
    @inlinable @inline(__always)
    public func addSent(_ slot: UInt16, packets: Int, bytes: Int) {
        let first = Int(slot) &* PeerCounterBlock.stride
        addToCell(first, packets)
        addToCell(first &+ 1, bytes)
    }

    /// Counts what came from the peer of a slot. For the block's one writer.
    ///
    /// - Parameters:
    ///   - slot: the peer's.
    ///   - packets: inner packets.
    ///   - bytes: inner bytes.
    ///   - time: nanoseconds of the monotonic clock.
    @inlinable @inline(__always)
    public func addReceived(_ slot: UInt16, packets: Int, bytes: Int, atNanoseconds time: Int) {
        let first = Int(slot) &* PeerCounterBlock.stride
        addToCell(first &+ 2, packets)
        addToCell(first &+ 3, bytes)
        cells[first &+ 4].store(UInt64(truncatingIfNeeded: time), ordering: .relaxed)
    }

    @inlinable @inline(__always)
    func addToCell(_ index: Int, _ amount: Int) {
        let value = cells[index].load(ordering: .relaxed)
        cells[index].store(value &+ UInt64(truncatingIfNeeded: amount), ordering: .relaxed)
    }

    /// What a slot counts now.
    public subscript(_ slot: UInt16) -> PeerCounts {
        let first = Int(slot) * PeerCounterBlock.stride
        var counts = PeerCounts()
        counts.packetsSent = cells[first].load(ordering: .relaxed)
        counts.bytesSent = cells[first + 1].load(ordering: .relaxed)
        counts.packetsReceived = cells[first + 2].load(ordering: .relaxed)
        counts.bytesReceived = cells[first + 3].load(ordering: .relaxed)
        counts.lastReceivedNanoseconds = cells[first + 4].load(ordering: .relaxed)
        return counts
    }
}
