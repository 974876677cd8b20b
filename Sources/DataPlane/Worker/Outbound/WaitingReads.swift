// How it works. What is read from the TUN device and cannot be forwarded in the same round waits. It is one queue for
// each source (a pod's address), and the sources are served in turn by deficit round robin (Shreedhar and Varghese,
// 1995): a source's turn brings it the work of a usual super-packet, and a super-packet of many small segments, which
// is as much work as many usual ones, takes as many turns. So whoever sends much, or in many flows, waits for itself.
// With one source it is one queue, first in, first out. All packets of a flow have one source, so they keep their
// order.

import CLinux
import PacketHeaders
import Offload

/// The packets read from the TUN device that wait to be forwarded.
///
/// Sources are told apart by a hash of the inner source address: two that collide take their turns together.
struct WaitingReads: ~Copyable {
    private struct Source {
        var queue = ReadQueue()
        /// Segments that it may still send in its turn.
        var deficit: Int32 = WaitingReads.turn
    }

    private static var turn: Int32 { Int32(truncatingIfNeeded: WorkerLimits.superPacketSegments) }

    private let links: ReadLinks
    private let sources: UnsafeMutablePointer<Source>
    /// The sources with something waiting, the one whose turn it is first: a ring.
    private let turns: UnsafeMutablePointer<UInt8>
    private var firstTurn = 0
    private var turnCount = 0
    private(set) var count = 0
    private let capacity: Int
    /// Segments of the reads with more of them than usual.
    private var smallSegments = 0

    /// Room for as many packets as there are tunnel buffers.
    init(capacity: Int) {
        self.capacity = capacity
        links = ReadLinks(capacity: capacity)
        sources = .allocate(capacity: WorkerLimits.waitingSources)
        sources.initialize(repeating: Source(), count: WorkerLimits.waitingSources)
        turns = .allocate(capacity: WorkerLimits.waitingSources)
        turns.initialize(repeating: 0, count: WorkerLimits.waitingSources)
    }

    deinit {
        sources.deallocate()
        turns.deallocate()
    }

    /// How many datagrams a packet will be sent as, at most; 1 where it will be refused for asking for too many.
    @inline(__always)
    static func segments(of header: virtio_net_hdr, length: Int) -> Int {
        let size = Int(header.gso_size)
        guard header.gso_type != 0, size > 0 else { return 1 }
        let count = (max(length, 1) &+ size &- 1) / size
        return count <= SuperPacketLimits.streamSegments ? count : 1
    }

    /// The place of a packet's source.
    @inline(__always)
    static func source(of packet: UnsafeMutableRawPointer, length: Int) -> Int {
        guard length >= 20 else { return 0 }
        var address = UInt64(packet.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
        if packet.byte(0) >> 4 == 6, length >= 24 {
            address =
                packet.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
                ^ packet.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
        }
        let hash = address &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: hash >> 58)
    }

    /// Whether a packet of so many segments may wait: always, unless they are more than usual, and others such wait
    /// already.
    @inline(__always)
    func hasRoom(forSegments segments: Int) -> Bool {
        segments <= WorkerLimits.superPacketSegments
            || smallSegments &+ segments <= WorkerLimits.waitingSmallSegments
    }

    /// Puts a packet at the end of its source's queue.
    @inline(__always)
    mutating func append(_ read: WaitingRead, from source: Int) {
        assert(count < capacity && source < WorkerLimits.waitingSources)
        if sources[source].queue.count == 0 {
            sources[source].deficit = WaitingReads.turn
            turns[(firstTurn &+ turnCount) & (WorkerLimits.waitingSources &- 1)] = UInt8(
                truncatingIfNeeded: source)
            turnCount &+= 1
        }
        links.append(read, to: &sources[source].queue)
        count &+= 1
        if read.segments > WaitingReads.turn { smallSegments &+= Int(read.segments) }
    }

    /// Takes the next one; the caller makes sure that there is one.
    @inline(__always)
    mutating func removeFirst() -> WaitingRead {
        assert(count > 0 && turnCount > 0, "nothing waits")
        var source = Int(turns[firstTurn])
        while true {
            let needed = links.first(of: sources[source].queue).segments
            if turnCount == 1 || sources[source].deficit >= needed { break }
            // Its turn is over; in the next one it has what it did not use, and as much again.
            sources[source].deficit &+= WaitingReads.turn
            endTurn(of: source)
            source = Int(turns[firstTurn])
        }
        let read = links.removeFirst(of: &sources[source].queue)
        sources[source].deficit = max(0, sources[source].deficit &- read.segments)
        count &-= 1
        if read.segments > WaitingReads.turn { smallSegments &-= Int(read.segments) }
        assert(sources[source].queue.count >= 0 && smallSegments >= 0)
        assert(
            count > 0 || (turnCount == 1 && sources[source].queue.count == 0),
            "a source is served that has nothing"
        )
        if sources[source].queue.count == 0 {
            firstTurn = (firstTurn &+ 1) & (WorkerLimits.waitingSources &- 1)
            turnCount &-= 1
        }
        return read
    }

    /// Puts the source whose turn it is behind the others.
    @inline(__always)
    private mutating func endTurn(of source: Int) {
        turns[(firstTurn &+ turnCount) & (WorkerLimits.waitingSources &- 1)] = UInt8(
            truncatingIfNeeded: source)
        firstTurn = (firstTurn &+ 1) & (WorkerLimits.waitingSources &- 1)
    }
}
