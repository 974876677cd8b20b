// How it works. A program is attached as a filter of traffic control, behind those of others, so that they see what they saw
// before; what it does not take goes on to whoever comes behind. The filter outlives this process: packets that go past it
// go on for as long as the kernel path's table is valid, which are seconds, and then everything is left to the ring. The next
// start finds filters by their names, here and on other interfaces, and puts its own into their place, between two packets,
// or takes them away. (A link, TCX, would end with this process, and keeps its end waiting for the kernel: ADR 89.)

import Health
import KernelPrograms
import Netlink
import Reconciler
import Synchronization

/// A program that stands in the way of an interface's packets, by the interface's name: attached anew where the interface
/// is replaced by another, or somebody took the program away.
public final class AttachedProgram: OwnedItem, Sendable {
    /// Where the filter stands among others': behind those that say where they stand, mostly at 1, and those that the
    /// kernel finds a place for, from 49152 on.
    static let priority: UInt16 = 65_000

    private struct State {
        /// The filter that holds the program, as it was put there.
        var filter: TrafficFilter?
        /// Asks after the filter.
        var socket: RouteSocket?
    }

    /// What log lines call it: `kernel path from eth0`.
    public let name: String
    /// The data plane's way in, or out.
    public let component: Component
    /// The daemon carries everything without it.
    public let isEssential = false

    /// What `tc` calls a program of a direction, by which the next start knows it: several daemons share an interface, and
    /// each has a tunnel device of its own.
    static func programName(_ direction: PacketDirection, tunnelName: String) -> String {
        "twill_\(direction == .ingress ? "inbound" : "outbound")_\(tunnelName)"
    }

    private var programName: String { AttachedProgram.programName(direction, tunnelName: tunnelName) }
    private let direction: PacketDirection
    private let program: KernelProgram
    private let tunnelName: String
    private let interfaceName: String
    private let changed: @Sendable (Int32?) -> Void
    private let state = Mutex(State())

    /// Wants a program attached.
    ///
    /// - Parameters:
    ///   - program: which; whoever loaded it keeps it for as long as this is.
    ///   - tunnelName: the TUN device of the daemon that it belongs to.
    ///   - interfaceName: where.
    ///   - direction: in the way of which of its packets.
    ///   - changed: is told the interface's number when it was attached, and nil when it is no longer.
    public init(
        _ program: KernelProgram, ofTunnel tunnelName: String, to interfaceName: String,
        _ direction: PacketDirection, changed: @escaping @Sendable (Int32?) -> Void
    ) {
        self.program = program
        self.tunnelName = tunnelName
        self.interfaceName = interfaceName
        self.direction = direction
        self.changed = changed
        self.name = "kernel path \(direction == .ingress ? "from" : "to") \(interfaceName)"
        component = Component(.dataPlane, "kernel path \(direction == .ingress ? "in" : "out")")
    }

    /// Whether it is attached.
    public var isAttached: Bool { state.withLock { $0.filter != nil } }

    private var hook: TrafficFilter.Hook { direction == .ingress ? .ingress : .egress }

    /// Looks whether the program stands at the interface that has the name now.
    ///
    /// - Throws: `NetlinkError` where the kernel does not tell of its filters.
    public func deviation(in kernel: NetworkState) throws -> String? {
        guard let index = kernel.link(named: interfaceName)?.index else {
            // The interface is somebody else's to bring back, and told of by whoever needs it more.
            forget()
            return nil
        }
        let isAttached = try state.withLock { state throws in
            guard let filter = state.filter, filter.interfaceIndex == index else { return false }
            return try state.socket?.trafficFilters(ofInterface: index, hook).contains(filter) ?? false
        }
        if !isAttached { forget() }
        return isAttached ? nil : "not attached"
    }

    /// What somebody else took away is gone; the next look finds it out.
    private func forget() {
        let wasAttached = state.withLock { state in
            defer { state = State() }
            return state.filter != nil
        }
        if wasAttached { changed(nil) }
    }

    /// Attaches the program, in the place of the one that a former daemon left, or else in one of its own.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses it.
    public func update(in kernel: NetworkState, using socket: RouteSocket) throws {
        guard let index = kernel.link(named: interfaceName)?.index else { return }
        let others = try socket.trafficFilters(ofInterface: index, hook)
            .filter { $0.priority == AttachedProgram.priority }
        let taken = Set(others.map(\.handle))
        let handle =
            others.first { $0.name == programName }?.handle
            ?? (1...UInt32(clamping: taken.count + 1)).first { !taken.contains($0) } ?? 1
        let filter = TrafficFilter(
            interfaceIndex: index, hook: hook, priority: AttachedProgram.priority, handle: handle,
            name: programName, programIdentifier: program.identifier)
        try socket.replaceTrafficFilter(filter, program: program.descriptor)
        state.withLock { $0 = State(filter: filter, socket: socket) }
        changed(index)
        try AttachedProgram.removeFilters(
            [direction], ofTunnel: tunnelName, on: kernel.links, except: index, using: socket)
    }

    /// Takes the program away, unless another daemon's has its place already.
    ///
    /// - Throws: `NetlinkError` where the kernel does not let the filter go.
    public func delete(using socket: RouteSocket) throws {
        if let filter = state.withLock({ $0.filter }),
            try socket.trafficFilters(ofInterface: filter.interfaceIndex, hook).contains(filter)
        {
            try socket.deleteTrafficFilter(filter)
        }
        forget()
    }

    /// Takes away the filters that carry the names of a tunnel's programs, whichever daemon left them.
    ///
    /// - Parameters:
    ///   - directions: those whose filters are meant.
    ///   - tunnelName: the TUN device that they belong to.
    ///   - links: where to look.
    ///   - kept: the number of an interface whose filters stay.
    ///   - socket: asks the kernel.
    /// - Returns: what was taken away, for people: `twill_inbound on eth0`.
    /// - Throws: `NetlinkError` where the kernel refuses one.
    @discardableResult
    public static func removeFilters(
        _ directions: [PacketDirection] = PacketDirection.allCases, ofTunnel tunnelName: String,
        on links: [Link], except kept: Int32?, using socket: RouteSocket
    ) throws(NetlinkError) -> [String] {
        let names = directions.map { programName($0, tunnelName: tunnelName) }
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
