import Synchronization

/// One way through one worker, as the worker and the kernel path's programs see it. A program counts each packet that it leaves
/// to the worker, and numbers it: its ticket. The worker says up to which ticket everything is through: sent, written or lost.
/// What belongs to a later one of the same flow goes past the worker then, and passes nothing.
///
/// A reference to their memory, which whoever made it keeps for as long as it is used.
public struct KernelPathPassage: @unchecked Sendable {
    /// Bytes of a passage: `kernel_passage` of CKernelForwarding, in host byte order.
    public static let byteCount = 192

    /// Where its numbers are, as the programs have them; a test compares.
    public enum Offset {
        /// Packets that were left to the worker.
        public static let entered = 0
        /// The last ticket of the way, in the first worker's passage.
        public static let tickets = 8
        /// A ticket that somebody waits for.
        public static let wanted = 64
        /// Up to which ticket everything is through.
        public static let through = 128
        /// How many packets had been left to it then.
        public static let enteredThrough = 136
        /// How many of them are accounted for.
        public static let accounted = 144
    }

    private let memory: UnsafeMutableRawPointer
    private let first: UnsafeMutableRawPointer

    /// Refers to memory.
    ///
    /// - Parameters:
    ///   - memory: the worker's passage, `byteCount` bytes, aligned to 8.
    ///   - first: the first worker's on the same way.
    public init(_ memory: UnsafeMutableRawPointer, first: UnsafeMutableRawPointer) {
        self.memory = memory
        self.first = first
    }

    @inline(__always)
    private func number(_ offset: Int) -> UnsafePointer<Atomic<UInt64>> {
        UnsafePointer((memory + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
    }

    /// The last ticket that was given on this way, to a packet for any worker. Whoever reads `entered` after it finds all
    /// packets with this ticket or an earlier one counted.
    @inline(__always)
    public var lastTicket: UInt64 {
        (first + Offset.tickets).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .load(ordering: .sequentiallyConsistent)
    }

    /// How many packets were left to this worker.
    @inline(__always)
    public var entered: UInt64 { number(Offset.entered).pointee.load(ordering: .sequentiallyConsistent) }

    /// A ticket that a flow waits for which could go past the worker.
    @inline(__always)
    public var wanted: UInt64 { number(Offset.wanted).pointee.load(ordering: .relaxed) }

    /// Up to which ticket everything is through, as it was published last.
    @inline(__always)
    public var through: UInt64 { number(Offset.through).pointee.load(ordering: .relaxed) }

    /// How many packets the worker has taken, or found to be lost, for a thread that goes on in its place.
    public var accounted: UInt64 { number(Offset.accounted).pointee.load(ordering: .relaxed) }

    /// Says that everything is through that had been left to the worker at some moment.
    ///
    /// - Parameters:
    ///   - ticket: the last ticket then, read before the count.
    ///   - count: how many packets had been left to the worker.
    @inline(__always)
    public func publish(through ticket: UInt64, entered count: UInt64) {
        number(Offset.through).pointee.store(ticket, ordering: .releasing)
        number(Offset.enteredThrough).pointee.store(count, ordering: .releasing)
    }

    /// Keeps what is accounted for.
    @inline(__always)
    public func keep(accounted count: UInt64) {
        number(Offset.accounted).pointee.store(count, ordering: .relaxed)
    }
}
