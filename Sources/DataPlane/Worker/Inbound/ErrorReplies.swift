// How it works. ICMP errors to pods are written to the TUN device from a few slots of their own (10 bytes of zero
// virtio header, then the message); errors to senders behind a peer go out as messages. Both are limited by one token
// bucket, so that a flood of packets to nowhere costs no more than itself.

import CLinux
import Engines
import PacketHeaders

/// Slots for ICMP errors on their way to the TUN device, and the rate limit of all errors.
struct ErrorReplies: ~Copyable {
    private static let slotBytes = 10 + ICMPError.messageLimit
    private let slots: UnsafeMutableRawPointer
    let vectors: UnsafeMutablePointer<iovec>
    private let free: UnsafeMutablePointer<Int32>
    private var freeCount = WorkerLimits.errorReplies
    private var tokens = WorkerLimits.errorBurst
    private var lastRefillMilliseconds = 0
    private let owners: OwnershipLedger<WriteSlotOwner>

    init() {
        let count = WorkerLimits.errorReplies
        owners = OwnershipLedger("slot of an ICMP error", count: count, owner: .worker)
        slots = .allocate(byteCount: count * ErrorReplies.slotBytes, alignment: 64)
        slots.initializeMemory(as: UInt8.self, repeating: 0, count: count * ErrorReplies.slotBytes)
        vectors = .allocate(capacity: count)
        free = .allocate(capacity: count)
        for index in 0..<count {
            (vectors + index).initialize(
                to: iovec(iov_base: slots + index * ErrorReplies.slotBytes, iov_len: 0))
            (free + index).initialize(to: Int32(truncatingIfNeeded: index))
        }
    }

    deinit {
        slots.deallocate()
        vectors.deallocate()
        free.deallocate()
    }

    /// Takes one token of the rate limit.
    ///
    /// - Parameter now: nanoseconds of the worker's clock.
    /// - Returns: whether there was one.
    mutating func admit(atNanoseconds now: Int) -> Bool {
        let milliseconds = now / 1_000_000
        let refill = (milliseconds - lastRefillMilliseconds) * WorkerLimits.errorsPerSecond / 1000
        if refill > 0 {
            tokens = min(tokens + refill, WorkerLimits.errorBurst)
            lastRefillMilliseconds = milliseconds
        }
        guard tokens > 0 else { return false }
        tokens -= 1
        return true
    }

    /// Takes a free slot, the writer of the message its owner until `release`; nil where none is free.
    mutating func take() -> Int? {
        guard freeCount > 0 else { return nil }
        freeCount -= 1
        let slot = Int(free[freeCount])
        owners.pass(slot, from: .worker, to: .writing)
        return slot
    }

    /// Where the message of a slot begins: room for `ICMPError.messageLimit` bytes.
    func message(_ slot: Int) -> UnsafeMutableRawPointer {
        slots + slot * ErrorReplies.slotBytes + 10
    }

    /// Sets the message's length.
    func setLength(_ length: Int, of slot: Int) { vectors[slot].iov_len = 10 + length }

    /// Frees a slot whose write has ended.
    mutating func release(_ slot: Int) {
        owners.pass(slot, from: .writing, to: .worker)
        free[freeCount] = Int32(truncatingIfNeeded: slot)
        freeCount += 1
    }

    /// Whether none is being written.
    var isUnused: Bool { freeCount == WorkerLimits.errorReplies }

    /// Traps in debug builds where the count is not that of the free slots.
    @inline(__always)
    func checkCounts() { owners.expectCount(freeCount, of: .worker) }
}
