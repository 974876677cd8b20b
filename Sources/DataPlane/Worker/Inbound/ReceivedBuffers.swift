// How it works. A datagram buffer is the engine's until something was received into it. Then it waits in a queue, in
// order of arrival, until the coalescer has room for its datagrams; then it is held while the coalescer's slots point
// into it, until all writes of a round have ended; then it is the engine's again.

/// The datagram buffers that are not the engine's.
struct ReceivedBuffers: ~Copyable {
    /// The queue: a ring of as many places as there are buffers, a power of two.
    private let ring: UnsafeMutablePointer<Int32>
    private let capacity: Int
    private var head = 0
    /// Buffers that wait.
    private(set) var waitingCount = 0
    private let held: UnsafeMutablePointer<Int32>
    /// Buffers that the coalescer's slots point into.
    private(set) var heldCount = 0
    /// When buffers that are not the engine's were filled.
    var generations: BufferGenerations
    private let ledger: OwnershipLedger<DatagramBufferOwner>

    /// Room for as many buffers as there are, all of them the engine's.
    ///
    /// - Parameter capacity: a power of two.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0)
        self.capacity = capacity
        generations = BufferGenerations(capacity: capacity)
        ring = .allocate(capacity: capacity)
        ring.initialize(repeating: 0, count: capacity)
        held = .allocate(capacity: capacity)
        held.initialize(repeating: 0, count: capacity)
        ledger = OwnershipLedger("datagram buffer", count: capacity, owner: .engine)
    }

    deinit {
        ring.deallocate()
        held.deallocate()
    }

    /// Buffers that the kernel may fill.
    @inline(__always)
    var engineCount: Int { capacity &- waitingCount &- heldCount }

    /// Whether the coalescer holds every buffer, so that nothing can be received until its writes have ended.
    @inline(__always)
    var isAllHeld: Bool { heldCount == capacity }

    /// Notes that the engine gave a buffer to the worker.
    @inline(__always)
    mutating func noteReceive(into buffer: Int) {
        ledger.pass(buffer, from: .engine, to: .worker)
        generations.noteFilled(buffer)
    }

    /// Notes that the worker gives a buffer to the engine.
    @inline(__always)
    mutating func noteProvide(_ buffer: Int) {
        ledger.pass(buffer, from: .worker, to: .engine)
        generations.noteFree(buffer)
    }

    /// Puts a buffer at the end of the queue.
    @inline(__always)
    mutating func append(_ buffer: Int) {
        assert(waitingCount < capacity, "the queue of received buffers has no room")
        ledger.pass(buffer, from: .worker, to: .queue)
        ring[(head &+ waitingCount) & (capacity &- 1)] = Int32(truncatingIfNeeded: buffer)
        waitingCount &+= 1
    }

    /// The buffer that has waited longest; the caller makes sure that there is one.
    @inline(__always)
    var first: Int { Int(ring[head]) }

    /// Takes that one from the queue.
    @inline(__always)
    mutating func removeFirst() {
        assert(waitingCount > 0, "nothing waits")
        ledger.pass(first, from: .queue, to: .worker)
        head = (head &+ 1) & (capacity &- 1)
        waitingCount &-= 1
    }

    /// Keeps a buffer for the coalescer.
    @inline(__always)
    mutating func hold(_ buffer: Int) {
        ledger.pass(buffer, from: .worker, to: .coalescer)
        held[heldCount] = Int32(truncatingIfNeeded: buffer)
        heldCount &+= 1
    }

    /// Takes a buffer back that the coalescer needs no more; nil after the last.
    @inline(__always)
    mutating func takeHeld() -> Int? {
        guard heldCount > 0 else { return nil }
        heldCount &-= 1
        let buffer = Int(held[heldCount])
        ledger.pass(buffer, from: .coalescer, to: .worker)
        return buffer
    }

    /// Traps in debug builds where the counts are not those of the buffers.
    @inline(__always)
    func checkCounts() {
        ledger.expectCount(waitingCount, of: .queue)
        ledger.expectCount(heldCount, of: .coalescer)
        ledger.expectCount(0, of: .worker)
    }
}
