import Synchronization

/// What the kernel path's programs and the packet threads tell each other: a reference to their memory, which whoever made it
/// keeps for as long as it is read.
public struct KernelPathTraffic: @unchecked Sendable {
    /// The two ways of packets.
    public enum Way: Int, Sendable {
        /// From the TUN device to the underlay.
        case out
        /// From the underlay to the TUN device.
        case `in`
    }

    /// Workers that have passages at most.
    public static let workerLimit = 64

    private let time: UnsafePointer<Atomic<UInt64>>
    private let passages: UnsafeMutableRawPointer?

    /// Refers to memory.
    ///
    /// - Parameters:
    ///   - memory: 8 bytes, aligned to 8, in host byte order.
    ///   - passages: those of all workers out, and then those in; nil: nobody counts what is left to the workers.
    public init(_ memory: UnsafeRawPointer, passages: UnsafeMutableRawPointer? = nil) {
        time = memory.assumingMemoryBound(to: Atomic<UInt64>.self)
        self.passages = passages
    }

    /// When a packet last went by the kernel path that somebody waits for, which is any but a bare acknowledgement: nanoseconds
    /// of the monotonic clock, up to 1 ms late; 0 for never.
    @inline(__always)
    public var lastAwaitedNanoseconds: Int {
        Int(truncatingIfNeeded: time.pointee.load(ordering: .relaxed))
    }

    /// The way through a worker; nil where nobody counts.
    public func passage(_ way: Way, ofWorker worker: Int) -> KernelPathPassage? {
        guard let passages, (0..<KernelPathTraffic.workerLimit).contains(worker) else { return nil }
        let first =
            passages + way.rawValue * KernelPathTraffic.workerLimit * KernelPathPassage.byteCount
        return KernelPathPassage(first + worker * KernelPathPassage.byteCount, first: first)
    }
}
