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
    private struct Peer {
        var queue = ReadQueue()
        /// When the next packet may leave, nanoseconds of the engine's clock.
        var nextNanoseconds = 0
    }

    private let links: ReadLinks
    private let peers: UnsafeMutablePointer<Peer>
    /// How many packets wait.
    private(set) var count = 0

    /// Room for as many packets as there are tunnel buffers.
    init(capacity: Int) {
        links = ReadLinks(capacity: capacity)
        peers = .allocate(capacity: WorkerLimits.pacedPeers)
        peers.initialize(repeating: Peer(), count: WorkerLimits.pacedPeers)
    }

    deinit { peers.deallocate() }

    /// The place of the peer at an underlay address, the same in every snapshot.
    @inline(__always)
    static func place(of endpoint: Endpoint) -> Int {
        let bits: UInt64 =
            switch endpoint.address {
            case .v4(let address): UInt64(address.bits)
            case .v6(let address): address.high ^ address.low
            }
        return Int(truncatingIfNeeded: (bits &* 0x9E37_79B9_7F4A_7C15) >> 32) & (WorkerLimits.pacedPeers &- 1)
    }

    /// Whether nothing waits for a peer.
    @inline(__always)
    func isEmpty(_ peer: Int) -> Bool { peers[peer].queue.count == 0 }

    /// Puts a packet at the end of a peer's queue.
    @inline(__always)
    mutating func append(_ read: WaitingRead, for peer: Int) {
        links.append(read, to: &peers[peer].queue)
        count &+= 1
    }

    /// The first packet that waits for a peer; the caller makes sure that there is one.
    @inline(__always)
    func first(of peer: Int) -> WaitingRead { links.first(of: peers[peer].queue) }

    /// Takes it, whatever the pause.
    @inline(__always)
    mutating func removeFirst(of peer: Int) -> WaitingRead {
        count &-= 1
        return links.removeFirst(of: &peers[peer].queue)
    }

    /// Takes a packet whose pause is over; nil where there is none. Its own datagrams are the next one's pause.
    mutating func removeDue(atNanoseconds now: Int) -> WaitingRead? {
        var peer = 0
        while peer < WorkerLimits.pacedPeers {
            if peers[peer].queue.count > 0, peers[peer].nextNanoseconds <= now {
                let read = removeFirst(of: peer)
                // A pause that was overslept counts as kept, but for one packet's length, so that a late wake-up does not
                // slow the peer down.
                let pause = Int(read.segments) &* WorkerLimits.pacedDatagramNanoseconds
                peers[peer].nextNanoseconds = max(peers[peer].nextNanoseconds, now &- pause) &+ pause
                return read
            }
            peer &+= 1
        }
        return nil
    }

    /// Microseconds until the next packet may leave, rounded up, 0 for at once; `Int.max` where none waits.
    func microsecondsUntilDue(atNanoseconds now: Int) -> Int {
        guard count > 0 else { return .max }
        var earliest = Int.max
        var peer = 0
        while peer < WorkerLimits.pacedPeers {
            if peers[peer].queue.count > 0 { earliest = min(earliest, peers[peer].nextNanoseconds) }
            peer &+= 1
        }
        return earliest <= now ? 0 : (earliest &- now &+ 999) / 1000
    }
}
