import Addresses
import Netlink

/// The kernel's interfaces, addresses and routes at one moment.
public struct NetworkState: Sendable, Hashable {
    /// All interfaces.
    public var links: [Link]
    /// All addresses of both families.
    public var addresses: [InterfaceAddress]
    /// All routes of both families, the `local` table's left out.
    public var routes: [Route]

    /// Makes a state.
    public init(links: [Link] = [], addresses: [InterfaceAddress] = [], routes: [Route] = []) {
        self.links = links
        self.addresses = addresses
        self.routes = routes
    }
}

/// One thing that this node wants to be so: an address, a route, a rule set. `NodeNetwork` compares it with what
/// the kernel says and restores it whenever they differ.
public protocol DesiredItem: Sendable {
    /// What log lines call it: `route 10.66.0.0/16 dev flannel0`.
    var name: String { get }
    /// Says how the machine differs from what is wanted; nil where it does not.
    func deviation(in state: NetworkState) throws -> String?
    /// Makes it so.
    func restore(in state: NetworkState, using socket: RouteSocket) throws
}

/// The tunnel device as it shall be.
public struct TunnelSettings: Sendable, Hashable {
    /// The device's name; the data plane makes the device.
    public var interfaceName: String
    /// The device's only address, given as a /32: the lease's network address.
    public var address: IPv4Address
    /// The overlay, routed to the device.
    public var network: IPv4Prefix
    /// The device's MTU in bytes.
    public var mtu: Int
    /// The device's transmit queue length in packets.
    public var transmitQueueLength: Int

    /// Makes settings.
    public init(
        interfaceName: String, address: IPv4Address, network: IPv4Prefix, mtu: Int, transmitQueueLength: Int
    ) {
        self.interfaceName = interfaceName
        self.address = address
        self.network = network
        self.mtu = mtu
        self.transmitQueueLength = transmitQueueLength
    }

    /// The items that keep the device so, in the order in which they can be made: link, system settings,
    /// address, overlay route.
    public var desiredItems: [any DesiredItem] { fatalError("skeleton") }
}

/// Drops what is for this node's subnet and has no more precise route (`--ip-blackhole-route`), so that packets
/// for a pod that is gone do not leave by the default route.
public struct BlackholeRoute: Sendable, Hashable {
    /// This node's subnet.
    public var subnet: IPv4Prefix
    /// Makes an item.
    public init(subnet: IPv4Prefix) { self.subnet = subnet }
}
