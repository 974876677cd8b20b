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

/// What an engine moves bytes between. All of it is its caller's to close, after the engine's `close`.
public struct EngineChannels: Sendable {
    /// One queue of the TUN device.
    public var tunnel: Int32
    /// The UDP socket to receive from.
    public var socket: Int32
    /// The UDP socket to send on, which may be the same.
    public var sender: Int32
    /// The socket that was received from before, on a port that peers may still send to; -1 where there is none.
    public var formerSocket: Int32

    /// Names them.
    public init(tunnel: Int32, socket: Int32, sender: Int32, formerSocket: Int32 = -1) {
        self.tunnel = tunnel
        self.socket = socket
        self.sender = sender
        self.formerSocket = formerSocket
    }

    /// Those that are there.
    var descriptors: [Int32] { [tunnel, socket, sender, formerSocket].filter { $0 >= 0 } }
}

/// The system calls of the data plane, in batches: io_uring, plain calls, or a simulated kernel in tests.
///
/// Operations take effect in the order in which they were queued, sends and writes without waiting: where the
/// kernel has no room, the completion says `-EAGAIN`. Reads complete in the order of the packets.
public protocol PacketEngine: ~Copyable {
    /// How many operations can still be queued before `enter` must be called.
    var queueSpace: Int { get }

    /// Takes the descriptors that an engine lacked, which was made before they were there; to be called once, and
    /// before anything is queued.
    ///
    /// - Returns: 0, or a negated error number; then the engine has none of them.
    mutating func attach(_ channels: EngineChannels) -> Int32

    /// Takes nothing in from here on, so that what comes waits in the kernel, for whoever reads there next: no read may
    /// be queued any more, a pending one ends with a packet or `-ECANCELED`, and receiving ends behind the datagrams
    /// that it has taken already. All of that within a few calls of `enter`. Sends and writes go on as ever.
    mutating func cease()

    /// Whether that has come about: no packet and no datagram can come any more.
    var hasCeased: Bool { get }

    /// Takes in again, as before `cease`.
    mutating func resume()

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

    /// Carries out what was queued and collects completions; to be called once those of the last call are taken.
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
