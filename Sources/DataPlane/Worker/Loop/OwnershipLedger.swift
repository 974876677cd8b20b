/// Who owns each of some numbered things: buffers, messages, write slots.
///
/// In debug builds, and in the fuzzer's, each change of hands names the owner before, and a wrong one traps: a buffer
/// that is given away twice, a message that is sent while it is filled. In release builds a ledger is empty and its
/// calls are nothing.
struct OwnershipLedger<Owner: RawRepresentable<UInt8>>: ~Copyable {
    #if DEBUG || FUZZING
        /// The owner of each thing, and how many each owner has: raw values.
        private let owners: UnsafeMutablePointer<UInt8>
        private let counts: UnsafeMutablePointer<Int>
        private let count: Int
        private static var ownerLimit: Int { 8 }
        private let name: StaticString
    #endif

    /// Notes that one owner has all of `count` things.
    ///
    /// - Parameter name: what one of them is called where a trap tells of it.
    init(_ name: StaticString, count: Int, owner: Owner) {
        #if DEBUG || FUZZING
            self.name = name
            self.count = count
            owners = .allocate(capacity: max(count, 1))
            owners.initialize(repeating: owner.rawValue, count: count)
            counts = .allocate(capacity: Self.ownerLimit)
            counts.initialize(repeating: 0, count: Self.ownerLimit)
            counts[Int(owner.rawValue)] = count
        #endif
    }

    deinit {
        #if DEBUG || FUZZING
            owners.deallocate()
            counts.deallocate()
        #endif
    }

    /// Notes that a thing goes from the owner that it must have to another.
    @inline(__always)
    func pass(_ index: Int, from giver: Owner, to taker: Owner) {
        #if DEBUG || FUZZING
            precondition(index >= 0 && index < count, "there is no \(name) \(index)")
            precondition(
                owners[index] == giver.rawValue,
                "\(name) \(index) is \(text(owners[index])), not \(giver), and becomes \(taker)")
            owners[index] = taker.rawValue
            counts[Int(giver.rawValue)] -= 1
            counts[Int(taker.rawValue)] += 1
        #endif
    }

    #if DEBUG || FUZZING
        private func text(_ owner: UInt8) -> String { Owner(rawValue: owner).map { "\($0)" } ?? "nobody's" }
    #endif

    /// Traps where an owner has another number of things than `expected`.
    @inline(__always)
    func expectCount(_ expected: Int, of owner: Owner) {
        #if DEBUG || FUZZING
            let found = counts[Int(owner.rawValue)]
            precondition(found == expected, "\(expected) of \(name) are counted \(owner), and \(found) are")
        #endif
    }
}

/// Who has a tunnel buffer.
enum TunnelBufferOwner: UInt8 {
    /// The free list.
    case free
    /// The engine, for a read.
    case reading
    /// The worker: it was read into and waits, or is being forwarded.
    case worker
    /// One message or several, that gather from it.
    case messages
}

/// Who has a message.
enum MessageOwner: UInt8 {
    /// The free list.
    case free
    /// The worker, which fills it or has just got it back.
    case worker
    /// The list of open messages: more packets may join.
    case open
    /// The list of closed batches that are to be sent.
    case sealed
    /// The engine, for a send.
    case sending
    /// The sends of its segments one by one, which gather from its memory.
    case replays
}

/// Who has a datagram buffer.
enum DatagramBufferOwner: UInt8 {
    /// The engine, to receive into.
    case engine
    /// The worker, which has just got it.
    case worker
    /// The queue of received buffers.
    case queue
    /// The coalescer's slots, which point into it.
    case coalescer
}

/// Who has a slot of the coalescer, or one of an ICMP error.
enum WriteSlotOwner: UInt8 {
    /// The worker.
    case worker
    /// The engine, for a write.
    case writing
}
