import Addresses

/// What the hello between nodes (R) tells the kernel path (L), and asks of it. Any thread; none of the calls waits for anything but one system call.
public protocol KernelPathPeers: Sendable {
    /// Whether this node takes kernel-path datagrams in now: programs attached, table fresh. Hellos say so.
    var receives: Bool { get }
    /// The peer at this endpoint may be sent kernel-path datagrams for so long from now; again to prolong. At most 60 s are granted at once.
    func allow(_ endpoint: Endpoint, forMilliseconds duration: Int)
    /// It may not (any longer).
    func disallow(_ endpoint: Endpoint)
}
