import Health
import Netlink
import Reconciler
import Synchronization

/// That an interface has lists of programs (`clsact`): there before any program is, and for good, since others' programs go with
/// them.
///
/// To give an interface such lists stops its queues for a moment (`qdisc_graft`, net/sched/sch_api.c, Linux 6.18), in which what
/// is sent there is lost: so a node gets them before it is ready, and not when its programs are.
public final class ProgramPlace: KeptItem, Sendable {
    /// What log lines call it: `place of the kernel path at eth0`.
    public let name: String
    /// The data plane's way past the packet threads.
    public let component = Component(.dataPlane, "place of the kernel path")
    /// The daemon carries everything without it.
    public let isEssential = false
    /// Where.
    public let interfaceName: String
    /// The number of the interface that has got them.
    private let made = Mutex<Int32?>(nil)

    /// Wants lists at an interface.
    public init(at interfaceName: String) {
        self.interfaceName = interfaceName
        name = "place of the kernel path at \(interfaceName)"
    }

    /// Looks whether the interface that has the name now got its lists. Whoever attaches a program makes them anew where somebody took
    /// them away.
    public func deviation(in kernel: NetworkState) -> String? {
        guard let index = kernel.link(named: interfaceName)?.index else { return nil }
        return made.withLock { $0 } == index ? nil : "it has no lists of programs"
    }

    /// Gives the interface lists, where it has none.
    ///
    /// - Throws: `NetlinkError` where the kernel refuses them.
    public func update(in kernel: NetworkState, using socket: RouteSocket) throws {
        guard let index = kernel.link(named: interfaceName)?.index else { return }
        try socket.addTrafficLists(toInterface: index)
        made.withLock { $0 = index }
    }
}
