import Addresses
import Health
import Netlink

/// One thing that must be so on this node: an address, a route, a rule set, a setting. The reconciler compares it
/// with what the kernel says. An item that is no more than this is looked at and told; one that twill makes so is a
/// `KeptItem`, and one that twill takes away again is an `OwnedItem`.
///
/// The calls may block for milliseconds (netlink, files, a child process): `NodeNetwork` makes them on a thread of
/// its own, one at a time.
public protocol DesiredItem: Sendable {
    /// What log lines call it, the same for as long as it is the same thing: `route 10.66.0.0/16 dev flannel0`.
    var name: String { get }

    /// What of the node's health it is: where it cannot be made so, that is told of this component.
    var component: Component { get }

    /// Whether the daemon cannot do its work without it. What is not essential is logged where it fails.
    var isEssential: Bool { get }

    /// What it does to pods where it is not so.
    var effect: Problem.Effect { get }

    /// Whether netlink says nothing of its changes, and looking at it costs milliseconds: looked at by the resync
    /// alone.
    var needsResync: Bool { get }

    /// Says how the machine differs from what is wanted.
    ///
    /// - Returns: nil where it does not differ.
    /// - Throws: what keeps it from being looked at; `ItemProblem` where it is somebody else's to put right.
    func deviation(in state: NetworkState) throws -> String?
}

/// An item that the reconciler makes so. What it makes ends with its device, or with the machine, or is for the next
/// start: its type says which.
public protocol KeptItem: DesiredItem {
    /// Makes it so. Called after `deviation` said that something differs, with the same state.
    func update(in state: NetworkState, using socket: RouteSocket) throws
}

/// An item that outlives the tunnel device and is taken away when it is no longer wanted.
public protocol OwnedItem: KeptItem {
    /// Takes it away, whatever of it is there. Where it throws, it is called again.
    func delete(using socket: RouteSocket) throws
}

/// A desired route of the main table, or several: the reconciler reads and watches those routes that touch one.
package protocol RouteItem: KeptItem {
    /// Where they lead; one prefix may stand for all that lie in it.
    var destinations: [IPPrefix] { get }

    /// Whether a route is one that is wanted. Every other one that carries twill's number is taken away.
    func isWanted(_ route: Route, in state: NetworkState) -> Bool
}

/// The device that leads to the peers: the reconciler watches its routes, and knows a device made anew by its number.
package protocol DeviceItem: KeptItem {
    /// The device's name.
    var interfaceName: String { get }
}

/// Desired entries of a device's neighbour and forwarding tables, which are read where there is such an item.
package protocol NeighborItem: KeptItem {
    /// The device's name.
    var interfaceName: String { get }
}

extension DesiredItem {
    /// The daemon needs an item that does not say otherwise.
    public var isEssential: Bool { true }

    /// An essential item cuts pods off where it is not so; another one degrades the node.
    public var effect: Problem.Effect { isEssential ? .cutOff : .degraded }

    /// Changes of an item that does not say otherwise are told by netlink, or seen for little.
    public var needsResync: Bool { false }
}

/// The device that an item belongs to is not there.
public struct DeviceMissingError: Error, Hashable, CustomStringConvertible {
    /// The device's name.
    public let interfaceName: String

    /// Names the device.
    package init(interfaceName: String) { self.interfaceName = interfaceName }

    /// The message to the operator.
    public var description: String { "there is no device \(interfaceName): it was deleted, or not made yet" }
}

/// What is wrong with an item, in the words that the operator reads. An item throws it where it is not for twill to
/// put right, or where an error alone would not say enough; nothing but the problem is then told.
package struct ItemProblem: Error, Hashable, CustomStringConvertible {
    /// What is told.
    package let problem: Problem
    /// Whether the kernel has no such thing, so that a daemon that begins does not wait for it.
    package let needsAnotherKernel: Bool
    /// The message to the operator.
    package var description: String { problem.sentence }

    /// Tells a problem as it stands.
    package init(_ problem: Problem, needsAnotherKernel: Bool = false) {
        self.problem = problem
        self.needsAnotherKernel = needsAnotherKernel
    }
}

/// A machine setting that is not as the node needs it; the description says what to do.
public struct SystemSettingError: Error, Hashable, CustomStringConvertible {
    /// What is not as it should be.
    public let cause: String
    /// What to do about it.
    public let remedy: String
    /// The message to the operator.
    public var description: String { "\(cause); \(remedy)" }
}
