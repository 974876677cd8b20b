import CLinux
import Glibc
import Host
import Synchronization

/// A change that the kernel told of.
public enum NetworkChange: Sendable, Hashable {
    /// An interface is new or changed.
    case link(Link)
    /// An interface is gone.
    case linkRemoved(Link)
    /// An address is new or changed.
    case address(InterfaceAddress)
    /// An address is gone.
    case addressRemoved(InterfaceAddress)
    /// A route is new or changed.
    case route(Route)
    /// A route is gone. The kernel does not tell of routes that go because their interface goes down.
    case routeRemoved(Route)
    /// A rule is new or gone.
    case rule(RoutingRule)
    /// A next-hop object or group is new, changed or gone: routes that use it may lead elsewhere.
    case nextHop
    /// An entry of a neighbour or forwarding table of the interface is new, changed or gone. Which one is not said: of a
    /// neighbour that somebody deletes, the kernel tells no hardware address (`neigh_fill_info`).
    case neighbor(ofInterface: Int32)
    /// Changes were lost, the kernel's or the reader's queue being full: read everything again.
    case unknown

    /// Decodes a notification; nil for one that is about something else.
    init?(_ message: Message) {
        let change: NetworkChange?
        switch message.type {
        case .newLink: change = Link(message).map { .link($0) }
        case .deleteLink: change = Link(message).map { .linkRemoved($0) }
        case .newAddress: change = InterfaceAddress(message).map { .address($0) }
        case .deleteAddress: change = InterfaceAddress(message).map { .addressRemoved($0) }
        case .newRoute: change = Route(message).map { .route($0) }
        case .deleteRoute: change = Route(message).map { .routeRemoved($0) }
        case .newRule, .deleteRule: change = RoutingRule(message).map { .rule($0) }
        case .newNextHop, .deleteNextHop: change = .nextHop
        case .newNeighbor, .deleteNeighbor:
            change = message.payload.number(at: 4, as: Int32.self).map { .neighbor(ofInterface: $0) }
        default: change = nil
        }
        guard let change else { return nil }
        self = change
    }
}

/// Tells of changes to the interfaces, addresses, routes and rules of the network namespace in which it was made.
///
/// A thread of its own waits for the kernel; it ends, and the stream with it, when the monitor or the stream's
/// reader goes away.
public final class RouteMonitor: Sendable {
    /// How many changes wait for the reader; of more, the oldest are lost and `NetworkChange.unknown` follows.
    public static let queueLimit = 256

    /// The changes, for one reader. Ends where the socket fails, after an `unknown`.
    public let changes: AsyncStream<NetworkChange>

    private let wake: Wake
    private let interest: Interest

    /// Tells from here on of those routes alone that are of `interest`; before, of all.
    public func watch(_ interest: RouteInterest) { self.interest.value.withLock { $0 = interest } }

    /// Starts to listen, in the network namespace of the calling thread: every change from here on is told.
    ///
    /// - Throws: `NetlinkError` where the kernel gives no socket or no thread.
    public convenience init() throws(NetlinkError) {
        try self.init(
            groups: [
                RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE,
            ],
            optionalGroups: [RTNLGRP_NEXTHOP])
    }

    /// Starts to listen to changes of neighbour and forwarding tables alone, of all interfaces: every node and pod on a
    /// link that is new or gone is one. For whoever keeps entries of such a table.
    ///
    /// - Throws: `NetlinkError` where the kernel gives no socket or no thread.
    public static func ofNeighbors() throws(NetlinkError) -> RouteMonitor {
        try RouteMonitor(groups: [RTNLGRP_NEIGH], optionalGroups: [])
    }

    private init(
        groups: [rtnetlink_groups], optionalGroups: [rtnetlink_groups]
    ) throws(NetlinkError) {
        let operation = "listen to network changes"
        let socket = try NetlinkDescriptor(
            groups: groups.map(\.rawValue), optionalGroups: optionalGroups.map(\.rawValue),
            operation: operation)
        let wake = try Wake(operation: operation)
        let (changes, continuation) = AsyncStream.makeStream(
            of: NetworkChange.self, bufferingPolicy: .bufferingNewest(RouteMonitor.queueLimit))
        continuation.onTermination = { _ in wake.signal() }
        self.changes = changes
        self.wake = wake
        interest = Interest()
        try Listener.start(
            socket: socket, wake: wake, interest: interest, continuation: continuation, operation: operation)
    }

    deinit { wake.signal() }
}

/// An eventfd that tells the listener's thread to end.
private final class Wake: Sendable {
    let descriptor: Int32

    init(operation: String) throws(NetlinkError) {
        descriptor = eventfd(0, Int32(EFD_CLOEXEC))
        guard descriptor >= 0 else { throw NetlinkError(operation: operation, code: errno) }
    }

    deinit { close(descriptor) }

    func signal() { eventfd_write(descriptor, 1) }
}

/// What the listener passes on, which may change while it listens.
private final class Interest: Sendable {
    /// nil: every route.
    let value = Mutex<RouteInterest?>(nil)
}

/// What the listener's thread owns.
private final class Listener {
    private let socket: NetlinkDescriptor
    private let wake: Wake
    private let interest: Interest
    private let continuation: AsyncStream<NetworkChange>.Continuation

    private init(
        socket: consuming NetlinkDescriptor, wake: Wake, interest: Interest,
        continuation: AsyncStream<NetworkChange>.Continuation
    ) {
        self.socket = socket
        self.wake = wake
        self.interest = interest
        self.continuation = continuation
    }

    /// Starts the thread.
    static func start(
        socket: consuming NetlinkDescriptor, wake: Wake, interest: Interest,
        continuation: AsyncStream<NetworkChange>.Continuation, operation: String
    ) throws(NetlinkError) {
        let listener = Listener(socket: socket, wake: wake, interest: interest, continuation: continuation)
        do throws(SystemError) {
            try SystemThread.start("netlink") { listener.run() }
        } catch {
            throw NetlinkError(operation: operation, code: error.code)
        }
    }

    private func run() {
        while true {
            var waits = [
                pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0),
                pollfd(fd: wake.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&waits, nfds_t(bitPattern: waits.count), -1) >= 0 else {
                if errno == EINTR { continue }
                break
            }
            if waits.last?.revents != 0 { break }
            do {
                let interest = interest.value.withLock { $0 }
                let messages = Message.all(
                    in: try socket.receive(operation: "read network changes"), interest: interest)
                guard let messages else {
                    tell(.unknown)
                    continue
                }
                messages.lazy.compactMap { NetworkChange($0) }.forEach(tell)
            } catch {
                tell(.unknown)
                // ENOBUFS: the kernel dropped notifications because this thread was late. EMSGSIZE: one was too
                // large. ETIMEDOUT: what there was to read came from another process. The socket still works.
                guard [ENOBUFS, EMSGSIZE, ETIMEDOUT].contains(error.code) else { break }
            }
        }
        continuation.finish()
    }

    private func tell(_ change: NetworkChange) {
        if case .dropped = continuation.yield(change) { continuation.yield(.unknown) }
    }
}
