// How it works. flanneld's receiving socket has the kernel's default buffer, 208 KiB, which holds some 90 datagrams, and
// the daemon takes one at a time. A super-packet is 44 datagrams at once; a few in a row are more than the buffer holds,
// and what does not fit is lost and sent again. So what goes to such a peer is spread over time (ADR 16): each
// super-packet is followed by a pause for its datagrams. What waits meanwhile waits here, in a queue for each peer, so
// that nobody who sends to another peer waits for it.

import Addresses

/// The packets read from the TUN device that wait for the pause of a peer which takes no bursts.
///
/// Peers are told apart by a hash of the underlay address: two that collide share their pace.
struct PacedReads: ~Copyable {
    private struct Queue {
        var first: Int32 = 0
        var last: Int32 = 0
        var count: Int32 = 0
        /// When the next packet may leave, nanoseconds of the engine's clock.
        var nextNanoseconds = 0
    }

    private struct Waiting {
        var read: WaitingReads.Read
        /// The buffer of the queue's next read; meaningless in its last.
        var next: Int32
    }

    /// At the number of the tunnel buffer that a read lies in.
    private let waiting: UnsafeMutablePointer<Waiting>
    private let queues: UnsafeMutablePointer<Queue>
    /// How many packets wait.
    private(set) var count = 0

    /// Room for as many packets as there are tunnel buffers.
    init(capacity: Int) {
        waiting = .allocate(capacity: capacity)
        waiting.initialize(
            repeating: Waiting(
                read: WaitingReads.Read(buffer: 0, length: 0, segments: 0, flow: nil), next: 0),
            count: capacity)
        queues = .allocate(capacity: WorkerLimits.pacedPeers)
        queues.initialize(repeating: Queue(), count: WorkerLimits.pacedPeers)
    }

    deinit {
        waiting.deallocate()
        queues.deallocate()
    }

    /// The queue of the peer at an underlay address, the same in every snapshot.
    @inline(__always)
    static func queue(of endpoint: Endpoint) -> Int {
        let bits: UInt64 =
            switch endpoint.address {
            case .v4(let address): UInt64(address.bits)
            case .v6(let address): address.high ^ address.low
            }
        return Int(truncatingIfNeeded: bits &* 0x9E37_79B9_7F4A_7C15 >> 32) & (WorkerLimits.pacedPeers &- 1)
    }

    /// Whether nothing waits in a queue.
    @inline(__always)
    func isEmpty(_ queue: Int) -> Bool { queues[queue].count == 0 }

    /// Puts a packet at the end of a queue.
    @inline(__always)
    mutating func append(_ read: WaitingReads.Read, to queue: Int) {
        waiting[Int(read.buffer)] = Waiting(read: read, next: 0)
        if queues[queue].count == 0 {
            queues[queue].first = read.buffer
        } else {
            waiting[Int(queues[queue].last)].next = read.buffer
        }
        queues[queue].last = read.buffer
        queues[queue].count &+= 1
        count &+= 1
    }

    /// Takes a packet whose pause is over; nil where there is none. Its own datagrams are the next one's pause.
    mutating func removeDue(atNanoseconds now: Int) -> WaitingReads.Read? {
        var queue = 0
        while queue < WorkerLimits.pacedPeers {
            if queues[queue].count > 0, queues[queue].nextNanoseconds <= now {
                let entry = waiting[Int(queues[queue].first)]
                queues[queue].first = entry.next
                queues[queue].count &-= 1
                count &-= 1
                // A pause that was overslept counts as kept, but for one packet's length, so that a late wake-up does not
                // slow the peer down.
                let pause = Int(entry.read.segments) &* WorkerLimits.pacedDatagramNanoseconds
                queues[queue].nextNanoseconds = max(queues[queue].nextNanoseconds, now &- pause) &+ pause
                return entry.read
            }
            queue &+= 1
        }
        return nil
    }

    /// Microseconds until the next packet may leave, rounded up, 0 for at once; `Int.max` where none waits.
    func microsecondsUntilDue(atNanoseconds now: Int) -> Int {
        guard count > 0 else { return .max }
        var earliest = Int.max
        var queue = 0
        while queue < WorkerLimits.pacedPeers {
            if queues[queue].count > 0 { earliest = min(earliest, queues[queue].nextNanoseconds) }
            queue &+= 1
        }
        return earliest <= now ? 0 : (earliest &- now &+ 999) / 1000
    }
}
