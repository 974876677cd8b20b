import Addresses
import Health
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Backends
@testable import Firewall
@testable import Node

/// What the backends want of the kernel for IPv6, made, restored and taken away by the real one.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct IPv6BackendTests {
    private let health = NodeHealth()
    private static let alias = "twilld /run/flannel/subnet.env"

    /// An underlay `node-u0` (fd20::2/64, default route) of IPv6 alone, and what `commands` make there.
    private func node(
        _ commands: String = "true"
    ) async throws -> (NetworkNamespace.Lease, NodeNetwork, BackendPlace) {
        let namespace = try await NetworkNamespace.make()
        let network = try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add fd20::2/64 dev node-u0 nodad && \
                ip route add default via fd20::1 && sysctl -q -w net.ipv6.conf.all.forwarding=1 && \
                { \(commands); }
                """)
            return try NodeNetwork(
                options: UnderlayOptions(), alias: Self.alias, resyncInterval: .seconds(3600),
                routePatience: .zero, health: health, logger: quietLogger)
        }
        let chosen = try await network.chooseUnderlay()
        #expect(chosen.interfaceName == "node-u0" && chosen.address == nil)
        #expect(chosen.ipv6Address == IPv6Address("fd20::2"))
        #expect(await network.setOverlay([.v6(IPv6Prefix("fd00:66::/48")!)]))
        let address = try #require(chosen.address(.ipv6))
        let place = BackendPlace(
            network: try prefix("fd00:66::/48"), subnet: try prefix("fd00:66:0:1c::/64"),
            tunnelName: "flannel0", alias: Self.alias, underlayName: "node-u0",
            underlayIndex: chosen.interfaceIndex, underlayAddress: address, publicAddress: address, mtu: 1430,
            queueLength: 1000)
        return (namespace, network, place)
    }

    private func prefix(_ text: String) throws -> IPPrefix { .v6(try #require(IPv6Prefix(text))) }

    private func peer(_ number: Int, at address: String, _ mac: String? = nil) throws -> BackendPeer {
        let data = try mac.map {
            VXLANData(networkIdentifier: 1, hardwareAddress: try #require(HardwareAddress($0)))
        }
        return BackendPeer(
            subnet: try prefix("fd00:66:0:\(number)::/64"), address: try #require(IPAddress(address)),
            announced: data.map { BackendAnnouncement($0) })
    }

    private func wait(for text: String, in namespace: NetworkNamespace.Lease, _ command: String) async throws
    {
        // While a device is made anew, commands that name it fail.
        while try await !namespace.run({ try execute("\(command) || true") }).contains(text) {
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    private func said(_ namespace: NetworkNamespace.Lease, _ command: String) async throws -> String {
        try await namespace.run { try execute(command) }
    }

    @Test func hostGatewayHasARouteToEachPeer() async throws {
        let (namespace, network, place) = try await node(
            // A route of flanneld's to a peer, and one of an earlier run's to a node that is gone.
            "ip route add fd00:66:0:3::/64 via fd20::77 && ip route add fd00:66:0:9::/64 via fd20::9 proto 116"
        )
        let backend = HostGatewayBackend()
        let peers = [try peer(3, at: "fd20::3"), try peer(4, at: "fd20::4"), try peer(5, at: "fd21::5")]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        let routes = try await said(namespace, "ip -6 route show root fd00:66::/48")
        #expect(routes.contains("fd00:66:0:3::/64 via fd20::3 dev node-u0 proto 116"))
        #expect(routes.contains("fd00:66:0:4::/64 via fd20::4 dev node-u0 proto 116"))
        #expect(!routes.contains("fd20::77") && !routes.contains("fd00:66:0:9::"))
        #expect(health.problems.count == 1)
        #expect(health.problems.first?.cause.contains("fd00:66:0:5::/64 at fd21::5") == true)

        let running = Task { await network.run() }
        defer { running.cancel() }
        for command in [
            "ip -6 route del fd00:66:0:3::/64", "ip -6 route replace fd00:66:0:4::/64 via fd20::99",
            "ip link set node-u0 down && ip link set node-u0 up && ip addr replace fd20::2/64 dev node-u0 nodad",
        ] {
            try await namespace.run { try execute(command) }
            for number in [3, 4] {
                try await wait(
                    for: "fd00:66:0:\(number)::/64 via fd20::\(number) dev node-u0", in: namespace,
                    "ip -6 route")
            }
        }
        try await network.setDesired([])
        #expect(try await said(namespace, "ip -6 route show root fd00:66::/48") == "")
    }

    @Test func vxlanHasADeviceOfItsOwn() async throws {
        let (namespace, network, place) = try await node(
            // As some distributions and container hosts have it.
            "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1")
        let backend = VXLANBackend()
        let macs = ["02:58:00:00:00:03", "02:58:00:00:00:04"]
        let peers = [try peer(3, at: "fd20::3", macs[0]), try peer(4, at: "fd21::4", macs[1])]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(health.problems.isEmpty, "\(health.problems)")
        func expectAll() async throws {
            for (number, address, mac) in [(3, "fd20::3", macs[0]), (4, "fd21::4", macs[1])] {
                try await wait(
                    for: "fd00:66:0:\(number):: lladdr \(mac) PERMANENT", in: namespace,
                    "ip -6 neigh show dev flannel-v6.1")
                try await wait(
                    for: "\(mac) dst \(address) self permanent", in: namespace,
                    "bridge fdb show dev flannel-v6.1")
                try await wait(
                    for: "fd00:66:0:\(number)::/64 via fd00:66:0:\(number):: dev flannel-v6.1 proto 116",
                    in: namespace, "ip -6 route")
            }
            for word in [
                "vxlan id 1 local fd20::2 dev node-u0", "dstport 8472 nolearning", "mtu 1430", ",UP",
                "link/ether \(backend.hardwareAddress(of: place.subnet))",
                "inet6 fd00:66:0:1c::/128 scope global",
            ] { try await wait(for: word, in: namespace, "ip -d address show flannel-v6.1") }
        }
        try await expectAll()
        #expect(
            try await !said(namespace, "ip -o address show dev flannel-v6.1 scope global").contains(
                "tentative"))

        let running = Task { await network.run() }
        defer { running.cancel() }
        for command in [
            "ip -6 neigh del fd00:66:0:3:: dev flannel-v6.1",
            "bridge fdb del \(macs[1]) dev flannel-v6.1 self", "ip -6 route del fd00:66:0:3::/64",
            "ip -6 addr del fd00:66:0:1c::/128 dev flannel-v6.1", "ip link set flannel-v6.1 down",
            "ip link del flannel-v6.1",
        ] {
            try await namespace.run { try execute(command) }
            try await expectAll()
        }
        try await network.setDesired([])
        #expect(try await !said(namespace, "ip link; ip -6 route").contains("flannel"))
    }

    @Test func theTunnelDeviceHasItsAddressAndRoute() async throws {
        let (namespace, network, place) = try await node(
            "ip tuntap add dev flannel0 mode tun && ip -6 route add fd00:66::/48 dev node-u0")
        let items = UDPBackend().desiredItems(in: place, peers: []) + [BlackholeRoute(subnet: place.subnet)]
        try await network.setDesired(items)
        #expect(health.problems.isEmpty, "\(health.problems)")
        func expectAll() async throws {
            try await wait(
                for: "fd00:66::/48 dev flannel0 proto 116 metric 1024", in: namespace, "ip -6 route")
            try await wait(
                for: "blackhole fd00:66:0:1c::/64 dev lo proto 116 metric 4294967295", in: namespace,
                "ip -6 route")
            try await wait(
                for: "inet6 fd00:66:0:1c::/128", in: namespace, "ip address show flannel0")
        }
        try await expectAll()
        #expect(try await !said(namespace, "ip -6 route").contains("fd00:66::/48 dev node-u0"))
        let running = Task { await network.run() }
        defer { running.cancel() }
        for command in [
            "ip -6 route del fd00:66::/48", "ip -6 addr del fd00:66:0:1c::/128 dev flannel0",
            "ip -6 route del blackhole fd00:66:0:1c::/64", "ip link set flannel0 down",
        ] {
            try await namespace.run { try execute(command) }
            try await expectAll()
        }
        try await network.setDesired([])
        // Its address goes with the device.
        #expect(try await !said(namespace, "ip -6 route").contains("proto 116"))
    }

    @Test(arguments: [PacketFilter.iptables, .nftables])
    func rulesAreMadeForIPv6(filter: PacketFilter) async throws {
        let (namespace, network, place) = try await node()
        let settings = PacketFilterSettings(network: place.network, subnet: place.subnet, masquerades: true)
        let rules = PacketFilterRules(
            settings, preferring: filter, interfaceName: "flannel0", beside: PacketFilterEffects())
        try await network.setDesired([rules])
        #expect(health.problems.isEmpty, "\(health.problems)")
        let look =
            filter == .iptables ? "ip6tables -w -t nat -S" : "nft list table ip6 flannel-ipv6"
        let masquerade =
            filter == .iptables
            ? "-s fd00:66::/48 ! -d ff00::/8" : "ip6 saddr fd00:66::/48 ip6 daddr != ff00::/8 masquerade"
        #expect(try await said(namespace, look).contains(masquerade))
        await network.reconcile()
        #expect(health.problems.isEmpty, "\(health.problems)")
        try await namespace.run {
            try execute(
                filter == .iptables
                    ? "ip6tables -w -t nat -F FLANNEL-POSTRTG" : "nft delete table ip6 flannel-ipv6")
        }
        await network.reconcile()
        #expect(try await said(namespace, look).contains(masquerade))
        try await network.setDesired([])
        #expect(try await !said(namespace, "ip6tables -w -t nat -S; nft list tables").contains("annel"))
    }

    @Test func aMachineThatIsNoRouterIsNamed() async throws {
        let (_, network, place) = try await node("sysctl -q -w net.ipv6.conf.all.forwarding=0")
        try await network.setDesired(HostGatewayBackend().desiredItems(in: place, peers: []))
        #expect(
            health.problems.contains {
                $0.effect == .cutOff && $0.remedy.contains("net.ipv6.conf.all.forwarding=1")
            })
    }
}
