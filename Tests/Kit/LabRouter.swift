import Glibc
import NetworkNamespaces

/// A router between a node and the lab's wire. The node keeps its address and knows nothing of it: the router answers ARP
/// for the others (proxy_arp).
public final class LabRouter: Sendable {
    /// The router's namespace, with `near` towards the wire and `far` towards the node.
    public let namespace: NetworkNamespace.Lease
    private let address: String

    fileprivate init(namespace: NetworkNamespace.Lease, address: String) {
        self.namespace = namespace
        self.address = address
    }

    /// Lets packets of so many bytes at most pass to the node, and from it.
    public func setMTU(_ toNode: Int, fromNode: Int? = nil) async throws {
        let command =
            "ip route replace \(address)/32 dev far mtu \(toNode)"
            + " && ip route replace 172.20.32.0/24 dev near mtu \(fromNode ?? toNode)"
        try await namespace.run { try execute(command) }
    }

    /// Sends no ICMP any more: what is too large is lost in silence.
    public func filterICMP() async throws {
        try await namespace.run { try execute("iptables -w -A OUTPUT -p icmp -j DROP") }
    }

    /// Lets nothing through any more, or again.
    public func setPassing(_ passes: Bool) async throws {
        try await namespace.run { try execute("sysctl -qw net.ipv4.ip_forward=\(passes ? 1 : 0)") }
    }
}

extension Lab {
    /// Puts a router between the wire and node `number`. It passes all that the wire passes until it is told otherwise.
    public func addRouter(before number: Int) async throws -> LabRouter {
        let router = try await NetworkNamespace.make()
        let path = try await router.path
        let address = self[number].address
        try await wire.run {
            try execute(
                """
                ip link set node\(number) nomaster && ip link set node\(number) netns \(path) name far && \
                ip link add router\(number) type veth peer name near netns \(path) && \
                ip link set router\(number) master wire up
                """)
        }
        try await router.run {
            try execute(
                """
                ip addr add 172.20.32.24\(number)/32 dev near && ip link set near up && ip link set far up && \
                ip route add 172.20.32.0/24 dev near && ip route add \(address)/32 dev far && \
                sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.near.proxy_arp=1 net.ipv4.conf.far.proxy_arp=1 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.near.rp_filter=0 net.ipv4.conf.far.rp_filter=0
                """)
        }
        return LabRouter(namespace: router, address: address)
    }
}
