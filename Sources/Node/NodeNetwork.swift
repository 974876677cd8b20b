import Addresses
import Logging
import Netlink

/// What happened on this machine's network that the daemon has to act upon.
public enum NodeEvent: Sendable, Hashable {
    /// The interface, its address, the advertised address or the MTU is another now.
    case underlayChanged(Underlay)
    /// No interface fits the options any more; the text says why. The last underlay stays in use.
    case underlayLost(String)
    /// The tunnel device is gone: somebody deleted it.
    case deviceLost(String)
}

/// This machine's network as the daemon wants it: chooses the underlay, and keeps desired items so by netlink
/// notifications and a slow resync. Its sockets belong to the network namespace in which it was made.
public actor NodeNetwork {
    /// What the daemon has to act upon; for one reader.
    public nonisolated let events: AsyncStream<NodeEvent>

    /// Opens the netlink sockets. `resyncInterval`: how often everything is compared without a notification.
    public init(options: UnderlayOptions, resyncInterval: Duration = .seconds(30), logger: Logger) throws {
        fatalError("skeleton")
    }

    /// Chooses the underlay from what the kernel says now, and follows it from here on.
    public func chooseUnderlay() throws -> Underlay { fatalError("skeleton") }

    /// Replaces all desired items and makes them so in their order. Throws the first failure; the items are
    /// kept all the same and tried again by `run`.
    public func setDesired(_ items: [any DesiredItem]) async throws { fatalError("skeleton") }

    /// Restores what differs, once.
    public func reconcile() async { fatalError("skeleton") }

    /// Follows the kernel until the task is cancelled.
    public func run() async { fatalError("skeleton") }
}
