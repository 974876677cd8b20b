// How it works. An engine moves bytes between the kernel and buffers that were allocated at the start; it knows
// nothing of packets. The worker queues operations (reads from the TUN device, sends, writes to the TUN device),
// gives buffers for datagrams to be received into, and calls `enter` once a round; then it takes the completions.
// Every buffer and message has one owner at any time: the worker, or, from the call that queues an operation to
// the completion that names it, the engine.

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
    ///   - isPending: whether the read stays pending until a packet comes; else it completes with `-EAGAIN` where
    ///     none is there. At most one read may be pending at a time.
    mutating func read(into buffer: Int, isPending: Bool)

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
    /// How often the multishot receive ended and was queued again.
    var receiveRearms: Int { get }
}
