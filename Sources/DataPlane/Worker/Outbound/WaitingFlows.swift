// How it works. Packets that a round leaves for the next wait in a queue: behind a bulk flow's super-packets, some
// for milliseconds. A packet may be prioritized over the queue if nothing of its own flow is in it: then it passes
// packets of other flows, and none of its own. It is, if its flow is a sparse one, a request or its answer, say: one
// that had no large super-packet lately. (A bulk flow's odd small packet gains nothing before those of other bulk
// flows.) So what needs to be known of each flow is how many of its packets wait, and when it last was bulk.

import Engines
import PacketHeaders

/// Which flows have packets that wait, and which are sparse. Flows are told apart by a hash: two that collide wait
/// for each other.
struct WaitingFlows: ~Copyable {
    private struct Place {
        /// Packets, or runs of datagrams received together, that wait.
        var waiting: Int32 = 0
        /// When bulk was last seen, in units of 2^20 nanoseconds.
        var bulkTime: UInt32 = 0
    }

    /// Places that flows are spread over: beside 16 bulk flows, 1 of 64 others is taken for one. 8 KiB.
    private static let placeCount = 1024

    private let places: UnsafeMutablePointer<Place>
    /// Waiting packets whose flow is not known (fragments, say): while there are some nothing is prioritized, as it
    /// could be of the same flow.
    private var hidden = 0

    init() {
        places = .allocate(capacity: WaitingFlows.placeCount)
        places.initialize(repeating: Place(), count: WaitingFlows.placeCount)
    }

    deinit { places.deallocate() }

    @inline(__always)
    private static func time(_ nanoseconds: Int) -> UInt32 { UInt32(truncatingIfNeeded: nanoseconds >> 20) }

    /// Whether something of a flow waits, or may: of what does not tell its flow nobody knows.
    @inline(__always)
    func waits(_ flow: UInt32?) -> Bool {
        guard hidden == 0, let flow else { return hidden > 0 }
        return places[Int(flow) & (WaitingFlows.placeCount &- 1)].waiting > 0
    }

    /// Whether a packet of a flow (`PacketFlow.number`) may be prioritized: the flow is sparse, and none of it waits.
    @inline(__always)
    func mayBePrioritized(_ flow: UInt32?, atNanoseconds now: Int) -> Bool {
        guard hidden == 0, let flow else { return false }
        let place = places[Int(flow) & (WaitingFlows.placeCount &- 1)]
        return place.waiting == 0
            && WaitingFlows.time(now) &- place.bulkTime
                > WaitingFlows.time(WorkerLimits.sparseAfterNanoseconds)
    }

    /// Whether all of some datagrams received together may be prioritized.
    @inline(__always)
    func mayBePrioritized(_ datagrams: ReceivedDatagrams, atNanoseconds now: Int) -> Bool {
        var offset = 0
        while offset < datagrams.length {
            let (flow, end) = WaitingFlows.run(of: datagrams, from: offset)
            guard mayBePrioritized(flow, atNanoseconds: now) else { return false }
            offset = end
        }
        return true
    }

    /// Counts a packet, or a run, of a flow that begins to wait.
    ///
    /// - Parameter bytes: its bytes; many are bulk.
    @inline(__always)
    mutating func add(_ flow: UInt32?, bytes: Int, atNanoseconds now: Int) {
        guard let flow else { return hidden &+= 1 }
        let place = Int(flow) & (WaitingFlows.placeCount &- 1)
        places[place].waiting &+= 1
        if bytes >= WorkerLimits.bulkBytes { places[place].bulkTime = WaitingFlows.time(now) }
    }

    /// Counts one that waits no more.
    @inline(__always)
    mutating func remove(_ flow: UInt32?) {
        guard let flow else {
            assert(hidden > 0, "no packet of an unknown flow waits")
            return hidden &-= 1
        }
        let place = Int(flow) & (WaitingFlows.placeCount &- 1)
        assert(places[place].waiting > 0, "no packet of the flow waits")
        places[place].waiting &-= 1
    }

    /// The same for datagrams received together: those of one flow in a row are a run.
    @inline(__always)
    mutating func add(_ datagrams: ReceivedDatagrams, atNanoseconds now: Int) {
        var offset = 0
        while offset < datagrams.length {
            let (flow, end) = WaitingFlows.run(of: datagrams, from: offset)
            add(flow, bytes: end &- offset, atNanoseconds: now)
            offset = end
        }
    }

    /// See `add`.
    @inline(__always)
    mutating func remove(_ datagrams: ReceivedDatagrams) {
        var offset = 0
        while offset < datagrams.length {
            let (flow, end) = WaitingFlows.run(of: datagrams, from: offset)
            remove(flow)
            offset = end
        }
    }

    /// The flow of the datagram at an offset, and where the last one of that flow in a row ends.
    @inline(__always)
    private static func run(of datagrams: ReceivedDatagrams, from start: Int) -> (flow: UInt32?, end: Int) {
        let flow = self.flow(of: datagrams, at: start)
        let first = datagrams.payload + start
        var end = min(start &+ datagrams.segmentBytes, datagrams.length)
        while end < datagrams.length {
            let next = min(end &+ datagrams.segmentBytes, datagrams.length)
            guard
                PacketFlow.isShared(by: first, datagrams.payload + end, length: next &- end)
                    || self.flow(of: datagrams, at: end) == flow
            else { break }
            end = next
        }
        return (flow, end)
    }

    @inline(__always)
    private static func flow(of datagrams: ReceivedDatagrams, at offset: Int) -> UInt32? {
        PacketFlow.number(
            of: datagrams.payload + offset, length: min(datagrams.segmentBytes, datagrams.length &- offset))
    }
}
