import Addresses

/// What the nodes' hello to one another tells the kernel path, and asks of it. Any thread may call; none of the calls
/// waits for more than a system call or two.
public protocol KernelPathPeers: Sendable {
    /// Whether this node takes datagrams in by the kernel path now. A hello says so to others.
    var receives: Bool { get }

    /// Lets the peer at an endpoint be sent datagrams by the kernel path; called again, prolongs that.
    ///
    /// - Parameters:
    ///   - endpoint: the peer's, as it is published.
    ///   - duration: milliseconds from now, 60,000 at most.
    func allow(_ endpoint: Endpoint, forMilliseconds duration: Int)

    /// Ends that at once.
    ///
    /// - Parameter endpoint: the peer's, as it is published.
    func disallow(_ endpoint: Endpoint)
}
