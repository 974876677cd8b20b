import Tunnel

/// Which engine makes the system calls.
public enum EngineChoice: String, Sendable, CaseIterable {
    /// io_uring, or plain calls where the kernel or the container forbids it.
    case automatic = "auto"
    /// io_uring, or no start.
    case uring
    /// epoll, recvmmsg, sendmmsg, readv, writev.
    case mmsg
}

/// What can be tuned. The defaults are right for a node that nobody tunes; docs/tuning.md says what each trades.
public struct Tuning: Sendable, Equatable {
    /// Which engine makes the system calls.
    public var engine = EngineChoice.automatic
    /// Worker threads, each with a queue of the TUN device, a socket and a ring.
    public var workerCount = 1
    /// The CPUs to pin workers to, in turn; empty: not pinned.
    public var cpus: [Int] = []
    /// Send and receive buffer of each socket, bytes: 8 MiB hold 120 super-packets, or 6 ms at 10 Gbit/s.
    public var socketBufferBytes = 8 << 20
    /// What to let the kernel hand over unfinished.
    public var tunnelOffloads = TunnelOffloads.all
    /// Whether one send carries many datagrams (`UDP_SEGMENT`).
    public var usesSegmentation = true
    /// Whether one receive brings many (`UDP_GRO`).
    public var usesCoalescing = true
    /// Whether packet buffers lie in huge pages.
    public var usesHugePages = false
    /// Microseconds to poll before sleeping; 0: never.
    public var busyPollMicroseconds = 0

    /// The defaults.
    public init() {}

    func cpu(ofWorker index: Int) -> Int? { cpus.isEmpty ? nil : cpus[index % cpus.count] }
}
