import Synchronization

/// When a packet last went by the kernel path that somebody waits for, which is any but a bare acknowledgement: a time that
/// the kernel's programs write. A reference to their memory, which whoever made it keeps for as long as it is read.
public struct KernelPathTraffic: @unchecked Sendable {
    private let time: UnsafePointer<Atomic<UInt64>>

    /// Refers to memory.
    ///
    /// - Parameter memory: 8 bytes, aligned to 8, in host byte order.
    public init(_ memory: UnsafeRawPointer) {
        time = memory.assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    /// Nanoseconds of the monotonic clock, up to 1 ms late; 0 for never.
    @inline(__always)
    public var lastAwaitedNanoseconds: Int {
        Int(truncatingIfNeeded: time.pointee.load(ordering: .relaxed))
    }
}
