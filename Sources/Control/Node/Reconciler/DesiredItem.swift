import Addresses
import Health
import Netlink

/// One thing that this node wants to be so: an address, a route, a rule set. `NodeNetwork` compares it with what
/// the kernel says, and restores it whenever they differ.
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

    /// What it does to pods where it cannot be made so.
    var effect: Problem.Effect { get }

    /// Whether netlink says nothing of its changes, and looking at it costs milliseconds: looked at by the resync
    /// alone.
    var needsResync: Bool { get }

    /// Says how the machine differs from what is wanted; nil where it does not.
    func deviation(in state: NetworkState) throws -> String?

    /// Makes it so. Called after `deviation` said that something differs, with the same state.
    func restore(in state: NetworkState, using socket: RouteSocket) throws

    /// Takes it away. Called when it is no longer wanted; where it throws, it is called again. What goes with its device
    /// does nothing here.
    func withdraw(using socket: RouteSocket) throws
}

/// A desired route of the main table: `NodeNetwork` reads and watches those routes that touch one.
protocol RouteItem: DesiredItem {
    /// Where it leads.
    var destination: IPv4Prefix { get }
}

extension DesiredItem {
    /// Yes.
    public var isEssential: Bool { true }

    /// An essential item cuts pods off where it is not so; another one degrades the node.
    public var effect: Problem.Effect { isEssential ? .cutOff : .degraded }

    /// No.
    public var needsResync: Bool { false }
}

/// The device that an item belongs to is not there.
public struct DeviceMissingError: Error, Hashable, CustomStringConvertible {
    /// The device's name.
    public let interfaceName: String
    /// The message to the operator.
    public var description: String { "there is no device \(interfaceName): it was deleted, or not made yet" }
}

/// What is wrong with an item, in the words that the operator reads. An item throws it where it is not for twill to put
/// right, or where an error alone would not say enough; nothing but the problem is then told.
struct ItemProblem: Error, Hashable, CustomStringConvertible {
    /// What is told.
    let problem: Problem
    /// The message to the operator.
    var description: String { problem.sentence }

    init(_ problem: Problem) { self.problem = problem }
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
