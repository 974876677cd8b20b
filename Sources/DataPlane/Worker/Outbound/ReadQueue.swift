/// A packet read from the TUN device that waits to be forwarded.
struct WaitingRead {
    var buffer: Int32
    /// Bytes that were read.
    var length: Int32
    /// Datagrams that it will be sent as.
    var segments: Int32
    var flow: UInt32?
}

/// A queue of such packets, first in, first out; `ReadLinks` has what stands in it.
struct ReadQueue {
    fileprivate var first: Int32 = 0
    fileprivate var last: Int32 = 0
    fileprivate(set) var count: Int32 = 0
}

/// The packets of any number of queues, each at the number of the tunnel buffer that it lies in, so that one block of
/// memory is room for all of them.
struct ReadLinks: ~Copyable {
    private struct Link {
        var read: WaitingRead
        /// The buffer of the queue's next packet; meaningless in its last.
        var next: Int32
    }

    private let links: UnsafeMutablePointer<Link>

    /// Room for as many packets as there are tunnel buffers.
    init(capacity: Int) {
        links = .allocate(capacity: capacity)
        links.initialize(
            repeating: Link(read: WaitingRead(buffer: 0, length: 0, segments: 0, flow: nil), next: 0),
            count: capacity)
    }

    deinit { links.deallocate() }

    /// The first packet of a queue; the caller makes sure that there is one.
    @inline(__always)
    func first(of queue: ReadQueue) -> WaitingRead { links[Int(queue.first)].read }

    /// Puts a packet at the end of a queue.
    @inline(__always)
    func append(_ read: WaitingRead, to queue: inout ReadQueue) {
        links[Int(read.buffer)] = Link(read: read, next: 0)
        if queue.count == 0 {
            queue.first = read.buffer
        } else {
            links[Int(queue.last)].next = read.buffer
        }
        queue.last = read.buffer
        queue.count &+= 1
    }

    /// Takes the first packet of a queue; the caller makes sure that there is one.
    @inline(__always)
    func removeFirst(of queue: inout ReadQueue) -> WaitingRead {
        let link = links[Int(queue.first)]
        queue.first = link.next
        queue.count &-= 1
        return link.read
    }
}
