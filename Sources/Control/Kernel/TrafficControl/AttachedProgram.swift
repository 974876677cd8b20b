// How it works. A program is attached by a link where the kernel has such (TCX, Linux 6.6), and else as a filter of traffic
// control. The link goes with this process; a filter stays, and does no harm: the kernel path's table expires within
// seconds, and then everything is left to the ring. The next start finds filters by their names, here and on other
// interfaces, and puts its own into their place or takes them away. Either way our program runs behind those of others, so
// that they see what they saw before; and what it does not take goes on to whoever comes behind.

import Health
import KernelPrograms
import Netlink
import Reconciler
import Synchronization

/// A program that stands in the way of an interface's packets, by the interface's name: attached anew where the interface
/// is replaced by another, or somebody took the program away.
public final class AttachedProgram: OwnedItem, Sendable {
    /// The way in which a program is attached.
    public enum Attachment: String, Sendable {
        /// By a link.
        case link = "tcx"
        /// As a filter.
        case filter = "clsact"
    }

    /// Where the filter stands among others': behind those that say where they stand, mostly at 1, and those that the
    /// kernel finds a place for, from 49152 on.
    static let priority: UInt16 = 65_000
    static let handle: UInt32 = 1

    private struct State {
        var attachment: Attachment?
        var interfaceIndex: Int32?
        var link: KernelLink?
        /// Asks after a filter.
        var socket: RouteSocket?
    }

    public let name: String
    public let component: Component
    /// The daemon carries everything without it.
    public let isEssential = false

    /// What `tc` calls a program of a direction, by which the next start knows it.
    static func programName(_ direction: PacketDirection) -> String {
        direction == .ingress ? "twill_inbound" : "twill_outbound"
    }

    private var programName: String { AttachedProgram.programName(direction) }
    private let direction: PacketDirection
    private let program: KernelProgram
    private let interfaceName: String
    private let mayUseLinks: Bool
    private let changed: @Sendable (Int32?) -> Void
    private let state = Mutex(State())

    /// Wants a program attached.
    ///
    /// - Parameters:
    ///   - program: which; whoever loaded it keeps it for as long as this is.
    ///   - interfaceName: where.
    ///   - direction: in the way of which of its packets.
    ///   - mayUseLinks: whether it is attached by a link where the kernel has such.
    ///   - changed: is told the interface's number when it was attached, and nil when it is no longer.
    public init(
        _ program: KernelProgram, to interfaceName: String, _ direction: PacketDirection,
        mayUseLinks: Bool = true, changed: @escaping @Sendable (Int32?) -> Void
    ) {
        self.program = program
        self.interfaceName = interfaceName
        self.direction = direction
        self.mayUseLinks = mayUseLinks
        self.changed = changed
        self.name = "kernel path \(direction == .ingress ? "from" : "to") \(interfaceName)"
        component = Component(.dataPlane, "kernel path \(direction == .ingress ? "in" : "out")")
    }

    deinit { state.withLock { $0.link?.close() } }

    /// How it is attached; nil where it is not.
    public var attachment: Attachment? { state.withLock { $0.attachment } }

    private func filter(on index: Int32) -> TrafficFilter {
        TrafficFilter(
            interfaceIndex: index, hook: direction == .ingress ? .ingress : .egress,
            priority: AttachedProgram.priority, handle: AttachedProgram.handle, name: programName)
    }

    public func deviation(in kernel: NetworkState) throws -> String? {
        guard let index = kernel.link(named: interfaceName)?.index else {
            // The interface is somebody else's to bring back, and told of by whoever needs it more.
            forget()
            return nil
        }
        let isAttached = try state.withLock { state throws in
            guard state.interfaceIndex == index else { return false }
            if let link = state.link { return link.interfaceIndex == UInt32(bitPattern: index) }
            return try state.socket.map { try present(on: index, using: $0)?.name == programName } ?? false
        }
        if !isAttached { forget() }
        return isAttached ? nil : "not attached"
    }

    /// What somebody else took away is gone; the next look finds it out.
    private func forget() {
        let wasAttached = state.withLock { state in
            defer { state = State() }
            state.link?.close()
            return state.interfaceIndex != nil
        }
        if wasAttached { changed(nil) }
    }

    public func update(in kernel: NetworkState, using socket: RouteSocket) throws {
        guard let index = kernel.link(named: interfaceName)?.index else { return }
        let isLinked = mayUseLinks && attachByLink(to: index)
        if !isLinked {
            if let other = try present(on: index, using: socket), other.name != programName {
                throw ItemProblem(
                    Problem(
                        .degraded,
                        "\(name): another program (\(other.name ?? "without a name")) has the place of twill's, "
                            + "priority \(AttachedProgram.priority)",
                        remedy: "take it away (tc filter del dev \(interfaceName) \(direction) pref "
                            + "\(AttachedProgram.priority)), or give --kernel-path=off"))
            }
            try socket.replaceTrafficFilter(filter(on: index), program: program.descriptor)
            state.withLock { $0 = State(attachment: .filter, interfaceIndex: index, socket: socket) }
        }
        changed(index)
        try AttachedProgram.removeFilters(
            [direction], on: kernel.links, except: isLinked ? nil : index, using: socket)
    }

    /// What stands in the place of our filter.
    private func present(on index: Int32, using socket: RouteSocket) throws(NetlinkError) -> TrafficFilter? {
        let wanted = filter(on: index)
        return try socket.trafficFilters(ofInterface: index, wanted.hook).first {
            $0.priority == wanted.priority && $0.handle == wanted.handle
        }
    }

    /// - Returns: whether this kernel has such links.
    private func attachByLink(to index: Int32) -> Bool {
        do throws(KernelProgramError) {
            let link = try KernelLink.make(
                program, interfaceIndex: UInt32(bitPattern: index), direction)
            state.withLock { $0 = State(attachment: .link, interfaceIndex: index, link: link) }
            return true
        } catch {
            return false
        }
    }

    public func delete(using socket: RouteSocket) throws {
        let before = state.withLock { $0 }
        if before.attachment == .filter, let index = before.interfaceIndex {
            try socket.deleteTrafficFilter(filter(on: index))
        }
        forget()
    }

    /// Takes away the filters that carry twill's names, whichever daemon left them.
    ///
    /// - Parameters:
    ///   - directions: those whose filters are meant.
    ///   - links: where to look.
    ///   - kept: the number of an interface whose filters stay.
    ///   - socket: asks the kernel.
    /// - Returns: what was taken away, for people: `twill_inbound on eth0`.
    /// - Throws: `NetlinkError` where the kernel refuses one.
    @discardableResult
    public static func removeFilters(
        _ directions: [PacketDirection] = PacketDirection.allCases, on links: [Link], except kept: Int32?,
        using socket: RouteSocket
    ) throws(NetlinkError) -> [String] {
        let names = directions.map(programName)
        var removed: [String] = []
        for link in links where link.index != kept {
            for hook in TrafficFilter.Hook.allCases {
                for filter in try socket.trafficFilters(ofInterface: link.index, hook)
                where names.contains(filter.name ?? "") {
                    try socket.deleteTrafficFilter(filter)
                    removed.append("program \(filter.name ?? "") on \(link.name)")
                }
            }
        }
        return removed
    }
}
