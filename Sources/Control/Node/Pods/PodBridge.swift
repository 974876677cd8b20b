import Addresses
import Health
import Netlink
import Reconciler

/// The bridge that pods are on has an address of this node's subnet, or somebody is told: after a change of the subnet it
/// keeps the old one. With IPv4 the plugin that makes it then refuses every new pod; with IPv6, of which an interface has as
/// many addresses as one likes, it adds the new one, and the old one goes on to take packets. Another program made the bridge,
/// and it is not twill's to take away without being told (`twilld cleanup --cni`).
public struct PodBridge: DesiredItem {
    private let pods: PodPrefix
    private let bridgeName: @Sendable () -> String

    /// Looks at a bridge by one family.
    ///
    /// - Parameters:
    ///   - pods: where this node's pods are.
    ///   - bridgeName: the bridge's name, asked for with each look.
    public init(pods: PodPrefix, bridgeName: @escaping @Sendable () -> String) {
        self.pods = pods
        self.bridgeName = bridgeName
    }

    /// What log lines call it.
    public var name: String { "bridge of the pods\(pods.family.suffix)" }
    /// The bridge.
    public var component: Component { Component(.podNetwork, "bridge\(pods.family.suffix)") }
    /// The overlay works without it.
    public var isEssential: Bool { false }

    /// Throws the problem where the bridge has an address that is not of the subnet.
    public func deviation(in state: NetworkState) throws -> String? {
        guard let bridge = Standing(bridgeName(), pods, in: state), !bridge.isInOrder else { return nil }
        throw ItemProblem(bridge.problem)
    }

    /// How a bridge stands by one family.
    struct Standing {
        let name: String
        private let pods: PodPrefix
        /// Its addresses, each with the length of its prefix; of IPv6 without those of the link alone.
        private let addresses: [IPPrefixedAddress]
        /// How many interfaces are attached to it: the other end of each is a pod's.
        private let podCount: Int

        /// Nil where there is no such interface, or it has no address of the family.
        init?(_ name: String, _ pods: PodPrefix, in state: NetworkState) {
            guard let link = state.link(named: name) else { return nil }
            let addresses = IPPrefixedAddress.all(of: link, in: state).filter {
                $0.address.addressFamily == pods.family
            }
            guard !addresses.isEmpty else { return nil }
            self.name = name
            self.pods = pods
            self.addresses = addresses
            podCount = state.links.count { $0.masterIndex == link.index }
        }

        private var hasOwn: Bool { addresses.contains { pods.subnet.contains($0.address) } }

        /// The addresses that should not be there. IPv6's may be anybody's, but for one of the overlay that is not of this
        /// node's subnet.
        private var stale: [IPPrefixedAddress] {
            let hasOwn = hasOwn
            return addresses.filter { entry in
                !pods.subnet.contains(entry.address)
                    && (pods.family == .ipv4 || !hasOwn || pods.network.contains(entry.address))
            }
        }

        /// Whether nothing is wrong with it.
        var isInOrder: Bool { stale.isEmpty }

        /// `3 pods are`, `1 pod is`, as far as the interfaces tell.
        private var podText: String { podCount == 1 ? "1 pod is" : "\(podCount) pods are" }

        /// What is told where it is not in order, in the words of twill's plugin. Pods on it have addresses that lead to
        /// this node no more.
        var problem: Problem {
            let shown = pods.family == .ipv4 ? addresses : stale
            let names = shown.map(\.description).joined(separator: ", ")
            let place =
                "\(name) has the address \(names), which is outside of this node's subnet \(pods.subnet)"
            if hasOwn, pods.family == .ipv6 {
                let commands = shown.map { "ip -6 address del \($0) dev \(name)" }.joined(separator: "; ")
                return Problem(
                    .degraded,
                    "\(place): pods that have addresses beside it are reached by no other node, and packets for the "
                        + "node that has them now stay on the bridge",
                    remedy:
                        "run: \(commands); then delete those pods, so that they are made anew (kubectl delete pod)"
                )
            }
            let cutsOff = !hasOwn && podCount > 0
            let outcome =
                pods.family == .ipv4
                ? "new pods here get no network" : "packets for the node that has it now stay on the bridge"
            let cause = cutsOff ? "\(podText) on it, which no other node reaches, and \(outcome)" : outcome
            let restart =
                podCount > 0
                ? ", then delete this node's pods, so that they are made anew (kubectl delete pod)" : ""
            return Problem(
                cutsOff ? .cutOff : .degraded, "\(place): \(cause)",
                remedy: "run on the node: twilld cleanup --cni (or: ip link delete \(name))\(restart)")
        }
    }
}

/// Where a node's pods are, by one family.
public struct PodPrefix: Sendable, Hashable {
    /// The overlay.
    public var network: IPPrefix
    /// The node's own part of it.
    public var subnet: IPPrefix

    /// Of what family both are.
    public var family: AddressFamily { subnet.addressFamily }

    /// Names the prefixes, which are of one family.
    public init(network: IPPrefix, subnet: IPPrefix) {
        self.network = network
        self.subnet = subnet
    }
}

/// An interface's address with the length of its prefix.
private struct IPPrefixedAddress: CustomStringConvertible {
    let address: IPAddress
    let length: Int

    /// `10.244.0.1/24`.
    var description: String { "\(address)/\(length)" }

    /// Those of an interface, but for IPv6's of the link alone.
    static func all(of link: Link, in state: NetworkState) -> [IPPrefixedAddress] {
        state.addresses.filter { $0.interfaceIndex == link.index && $0.address.v6?.isLinkLocal != true }
            .map { IPPrefixedAddress(address: $0.address, length: $0.prefixLength) }
    }
}

extension PodBridge {
    /// What `twilld cleanup --cni` did.
    public enum Removal: Sendable, Hashable {
        /// There is no such bridge.
        case missing
        /// All its addresses are of this node's subnets: nothing is wrong with it, and it stays.
        case inUse(addresses: String)
        /// It is gone.
        case removed(addresses: String, podCount: Int)
    }

    /// Takes away a bridge that has an address outside of this node's subnets, or none, whatever is attached to it.
    ///
    /// - Parameters:
    ///   - name: of the bridge.
    ///   - pods: where this node's pods are, for each family that is known; of none, no bridge is in use.
    /// - Throws: `NetlinkError`, where the kernel refuses.
    public static func remove(_ name: String, unlessOf pods: [PodPrefix]) throws(NetlinkError) -> Removal {
        let socket = try RouteSocket()
        let state = NetworkState(links: try socket.links(), addresses: try socket.addresses())
        guard let link = state.link(named: name) else { return .missing }
        let standings = pods.compactMap { Standing(name, $0, in: state) }
        let addresses = IPPrefixedAddress.all(of: link, in: state).map(\.description).joined(separator: ", ")
        if !standings.isEmpty, standings.allSatisfy(\.isInOrder) { return .inUse(addresses: addresses) }
        try socket.deleteLink(index: link.index)
        return .removed(
            addresses: addresses.isEmpty ? "no address" : addresses,
            podCount: state.links.count { $0.masterIndex == link.index })
    }
}
