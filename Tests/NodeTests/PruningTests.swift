import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Node

/// What carries twill's number and nobody wants goes, by the real kernel.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PruningTests {
    private static let settings = TunnelSettings(
        interfaceName: "flannel0", address: .v4(IPv4Address("10.66.28.0")!),
        network: .v4(IPv4Prefix("10.66.0.0/16")!),
        mtu: 1472, overhead: 28, transmitQueueLength: 1000)

    /// An underlay, this node's tunnel device, and that of another twilld with what it made.
    private func namespace() async throws -> NetworkNamespace.Lease {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add 198.51.100.2/24 dev node-u0 && \
                sysctl -q -w net.ipv4.ip_forward=1 && ip tuntap add dev flannel0 mode tun && \
                ip tuntap add dev other0 mode tun && ip link set other0 up && ip link set flannel0 up && \
                ip route add 10.5.0.0/16 dev other0 proto 116 && ip route add blackhole 10.5.3.0/24 proto 116
                """)
            let socket = try RouteSocket()
            let other = try #require(try socket.link(named: "other0")).index
            try socket.addAddress(
                InterfaceAddress(
                    interfaceIndex: other, address: IPAddress("10.5.3.0")!, prefixLength: 32,
                    origin: Route.twillOrigin))
        }
        return namespace
    }

    private static let leftovers = """
        ip route add blackhole 10.66.99.0/24 metric 4294967295 proto 116 && \
        ip route add blackhole 10.9.1.0/24 proto 116 && \
        ip route add 10.66.7.0/24 dev flannel0 mtu 1300 proto 116 && \
        ip route add 10.77.0.0/16 via 198.51.100.9 proto 116 && \
        ip route add 10.78.0.0/16 dev node-u0 table 52 proto 116 && \
        ip route add 10.79.0.0/16 via 198.51.100.9 proto 117 && \
        ip rule add from 10.1.0.0/16 to 10.66.0.0/16 iif node-u0 fwmark 1/3 lookup 52 priority 99 protocol 116 && \
        ip rule add not to 10.66.0.0/16 lookup 300 priority 98 protocol 116 && \
        ip rule add to 10.66.0.0/16 lookup 53 priority 97 protocol 117
        """

    /// What carries the number in the end, and nothing else does; what others made is there.
    private static func expectOnlyWhatIsWanted() throws {
        let routes = try execute("ip route show table all proto 116").split(separator: "\n").map {
            $0.split(separator: " ").prefix(3).joined(separator: " ")
        }
        #expect(
            routes.sorted() == [
                "10.5.0.0/16 dev other0", "10.66.0.0/16 dev flannel0", "blackhole 10.5.3.0/24",
            ])
        #expect(try execute("ip route show 10.79.0.0/16").contains("proto 117"))
        let rules = try execute("ip rule show")
        #expect(!rules.contains("proto 116") && rules.contains("lookup 53 proto 117"))
        let addresses = try RouteSocket().addresses().filter { $0.origin == Route.twillOrigin }
        #expect(addresses.map { "\($0.address)" }.sorted() == ["10.5.3.0", "10.66.28.0"])
    }

    private static func addAddress() throws {
        let socket = try RouteSocket()
        let index = try #require(try socket.link(named: "node-u0")).index
        try socket.addAddress(
            InterfaceAddress(
                interfaceIndex: index, address: IPAddress("10.66.28.0")!, prefixLength: 32,
                origin: Route.twillOrigin))
    }

    @Test func whatAFormerRunLeftIsPrunedAtTheStart() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try execute(Self.leftovers)
            try Self.addAddress()
            return try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        // Before it is known what is wanted, it stays for whoever wants it.
        await network.reconcile()
        #expect(try await namespace.run { try execute("ip route show 10.66.99.0/24") } != "")
        try await network.setDesired(Self.settings.desiredItems)
        try await namespace.run { try Self.expectOnlyWhatIsWanted() }
    }

    @Test func whatComesLaterIsPrunedByNotification() async throws {
        let namespace = try await namespace()
        // An interval that never ends within the test.
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .seconds(3600), health: NodeHealth(),
                logger: quietLogger)
        }
        try await network.setDesired(Self.settings.desiredItems)
        let running = Task { await network.run() }
        defer { running.cancel() }
        func isPruned() async throws -> Bool {
            try await namespace.run {
                try execute("ip route show table all proto 116").split(separator: "\n").count == 3
                    && !execute("ip rule show").contains("proto 116")
                    && RouteSocket().addresses().filter { $0.origin == Route.twillOrigin }.count == 2
            }
        }
        for command in Self.leftovers.split(separator: "&& \\\n") {
            try await namespace.run { try execute(String(command)) }
            while try await !isPruned() { try await Task.sleep(for: .milliseconds(20)) }
        }
        try await namespace.run { try Self.addAddress() }
        while try await !isPruned() { try await Task.sleep(for: .milliseconds(20)) }
        try await namespace.run { try Self.expectOnlyWhatIsWanted() }
        #expect(network.itemStatuses.all.allSatisfy { $0.state == .good })
        running.cancel()
        await running.value
    }

    /// Without twill's number, a route that is otherwise the same would outlive the interest in it.
    @Test func aRouteOfAnEarlierReleaseBecomesOurs() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try execute(
                "ip route add 10.66.0.0/16 dev flannel0 && "
                    + "ip route add blackhole 10.66.28.0/24 metric 4294967295")
            return try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        let blackhole = BlackholeRoute(subnet: .v4(IPv4Prefix("10.66.28.0/24")!))
        try await network.setDesired(Self.settings.desiredItems + [blackhole])
        let (overlay, hole) = try await namespace.run {
            (try execute("ip route show 10.66.0.0/16"), try execute("ip route show 10.66.28.0/24"))
        }
        #expect(overlay.hasPrefix("10.66.0.0/16 dev flannel0 proto 116 scope link"))
        #expect(hole.hasPrefix("blackhole 10.66.28.0/24 proto 116"))
    }
}
