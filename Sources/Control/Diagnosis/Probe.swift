public import Addresses

/// One small question to another node, in one packet.
public struct Probe: Sendable, Hashable {
    /// What is asked.
    public enum Way: Sendable, Hashable {
        /// An echo request over the underlay, to the host that carries the peer: is it there?
        case host
        /// An empty datagram to the peer's UDP port: does the host refuse it, because nothing listens? A daemon that
        /// listens does not answer, and counts it as too short.
        case port
        /// An echo request through the tunnel, to the peer's tunnel address: there and back.
        case tunnel
        /// A datagram through the tunnel to a port that nobody listens on. The answer is an ICMP error, which is small,
        /// so that this one asks for the size of the way there alone.
        case tunnelThere
        /// An echo request through the tunnel, of a size that goes past the daemons.
        case kernelPath
    }

    /// Tells it from the others of an examination.
    public var number: UInt16
    /// What is asked.
    public var way: Way
    /// Where it goes; the port matters to `.port` alone, and is in host byte order.
    public var destination: Endpoint
    /// Bytes of the IP packet, header included. It is not fragmented.
    public var size: Int

    /// Makes a probe.
    public init(number: UInt16, way: Way, destination: Endpoint, size: Int) {
        self.number = number
        self.way = way
        self.destination = destination
        self.size = size
    }
}

/// What came of a probe.
public struct ProbeEvent: Sendable, Hashable {
    /// What came.
    public enum Outcome: Sendable, Hashable {
        /// The answer that was asked for.
        case answered
        /// An ICMP error "destination unreachable" (RFC 792): its code, and who sent it.
        case unreachable(code: UInt8, from: IPAddress)
        /// A router, or this machine, says that it is too large to pass.
        case tooLarge
        /// This machine's kernel did not send it: what it said, in words.
        case notSent(String)
    }

    /// The probe's number.
    public var number: UInt16
    /// What came of it.
    public var outcome: Outcome
    /// When it came.
    public var instant: ContinuousClock.Instant

    /// Makes an event.
    public init(number: UInt16, outcome: Outcome, instant: ContinuousClock.Instant) {
        self.number = number
        self.outcome = outcome
        self.instant = instant
    }
}

/// Sends probes and tells what comes of them: the kernel's sockets, or a simulated network.
public protocol ProbeNetwork {
    /// The time.
    var now: ContinuousClock.Instant { get }

    /// Sends a probe; what keeps it from being sent is an event.
    mutating func send(_ probe: Probe)

    /// Waits for what comes, until `deadline` at the longest.
    ///
    /// - Returns: what has come, as soon as anything has; nothing at the deadline.
    mutating func events(until deadline: ContinuousClock.Instant) -> [ProbeEvent]
}
