import Addresses
import Health
import Netlink
import Reconciler

/// The bridge that pods are on has an address of this node's subnet, or somebody is told: after a change of the subnet it
/// keeps the old one, and the plugin that makes it refuses every new pod. Another program made it, and it is not twill's
/// to take away without being told (`twilld cleanup --cni`).
public struct PodBridge: DesiredItem {
    private let subnet: IPv4Prefix
    private let bridgeName: @Sendable () -> String

    /// Looks at a bridge.
    ///
    /// - Parameters:
    ///   - subnet: this node's.
    ///   - bridgeName: the bridge's name, asked for with each look.
    public init(subnet: IPv4Prefix, bridgeName: @escaping @Sendable () -> String) {
        self.subnet = subnet
        self.bridgeName = bridgeName
    }

    /// What log lines call it.
    public var name: String { "bridge of the pods" }
    /// The bridge.
    public var component: Component { Component(.podNetwork, "bridge") }
    /// The overlay works without it.
    public var isEssential: Bool { false }

    /// Throws the problem where the bridge has an address that is not of the subnet.
    public func deviation(in state: NetworkState) throws -> String? {
        guard let stale = Standing(bridgeName(), in: state), !stale.isOf(subnet) else { return nil }
        throw ItemProblem(stale.problem(subnet: subnet))
    }

    /// How a bridge stands.
    struct Standing {
        let name: String
        /// Its IPv4 addresses, each with the length of its prefix.
        let addresses: [(address: IPv4Address, length: Int)]
        /// How many interfaces are attached to it: the other end of each is a pod's.
        let podCount: Int

        /// Nil where there is no such interface, or it has no IPv4 address.
        init?(_ name: String, in state: NetworkState) {
            guard let link = state.link(named: name) else { return nil }
            let addresses = state.addresses.compactMap { entry -> (IPv4Address, Int)? in
                guard entry.interfaceIndex == link.index, let address = entry.address.v4 else { return nil }
                return (address, entry.prefixLength)
            }
            guard !addresses.isEmpty else { return nil }
            self.name = name
            self.addresses = addresses
            podCount = state.links.count { $0.masterIndex == link.index }
        }

        /// Whether all of its addresses are of a node's subnet: the plugin takes no other beside.
        func isOf(_ subnet: IPv4Prefix) -> Bool { addresses.allSatisfy { subnet.contains($0.address) } }

        /// `10.244.0.1/24`, several with commas.
        var addressText: String {
            addresses.map { "\($0.address)/\($0.length)" }.joined(separator: ", ")
        }

        /// `3 pods are`, `1 pod is`, as far as the interfaces tell.
        var podText: String { podCount == 1 ? "1 pod is" : "\(podCount) pods are" }

        /// What is told where it is not of `subnet`, in the words of twill's plugin. Pods on it have addresses that
        /// lead to this node no more.
        func problem(subnet: IPv4Prefix) -> Problem {
            let hasNone = !addresses.contains { subnet.contains($0.address) }
            let cutsOff = hasNone && podCount > 0
            let pods =
                cutsOff
                ? "\(podText) on it, which no other node reaches, and new pods here get no network"
                : "new pods here get no network"
            let restart =
                podCount > 0
                ? ", then delete this node's pods, so that they are made anew (kubectl delete pod)" : ""
            return Problem(
                cutsOff ? .cutOff : .degraded,
                "\(name) has the address \(addressText), which is outside of this node's subnet \(subnet): \(pods)",
                remedy: "run on the node: twilld cleanup --cni (or: ip link delete \(name))\(restart)")
        }
    }
}

extension PodBridge {
    /// What `twilld cleanup --cni` did.
    public enum Removal: Sendable, Hashable {
        /// There is no such bridge.
        case missing
        /// All its addresses are of this node's subnet: nothing is wrong with it, and it stays.
        case inUse(addresses: String)
        /// It is gone.
        case removed(addresses: String, podCount: Int)
    }

    /// Takes away a bridge that has an address outside of this node's subnet, or none, whatever is attached to it.
    ///
    /// - Parameters:
    ///   - name: of the bridge.
    ///   - subnet: this node's of IPv4; nil where none is known, and so none is in use.
    ///   - ipv6Subnet: the same for IPv6, which decides where the bridge has no IPv4 address.
    /// - Throws: `NetlinkError`, where the kernel refuses.
    public static func remove(
        _ name: String, unlessOf subnet: IPv4Prefix?, _ ipv6Subnet: IPv6Prefix? = nil
    ) throws(NetlinkError) -> Removal {
        let socket = try RouteSocket()
        let state = NetworkState(links: try socket.links(), addresses: try socket.addresses())
        guard let link = state.link(named: name) else { return .missing }
        let standing = Standing(name, in: state)
        if let standing, let subnet, standing.isOf(subnet) {
            return .inUse(addresses: standing.addressText)
        }
        if standing == nil, let ipv6Subnet {
            let own = state.addresses.filter { $0.interfaceIndex == link.index }.compactMap(\.address.v6)
                .filter { !$0.isLinkLocal }
            if !own.isEmpty, own.allSatisfy(ipv6Subnet.contains) {
                return .inUse(addresses: own.map(\.description).joined(separator: ", "))
            }
        }
        try socket.deleteLink(index: link.index)
        return .removed(
            addresses: standing?.addressText ?? "no address",
            podCount: state.links.count { $0.masterIndex == link.index })
    }
}
