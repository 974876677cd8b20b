import Addresses
import Glibc
import Health
import Host
import Netlink
import NetworkNamespaces
import Reconciler
import Synchronization
import Testing

@testable import Node

/// Paths that become narrower, with real routers and their real ICMP, where the peer answers no probe: behind `flannel0`
/// there is nobody.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PathTests {
    private func until(_ isSo: () async throws -> Bool) async throws {
        for _ in 0..<500 {
            if try await isSo() { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        Issue.record("it did not come")
    }

    /// The addresses of a node, a router and two peers behind it, and what the way is called by each family.
    struct Way: Sendable, CustomTestStringConvertible {
        var family: AddressFamily
        /// The node's underlay address, its router's two, and the peers'.
        var node: String
        var routers: [String]
        var peers: [String]
        var prefixLength: Int
        var forwarding: String
        /// This node's device, the overlay, and the peers' subnets.
        var tunnel: String
        var network: String
        var subnets: [String]
        var overhead: Int
        /// The MTU behind the router, and what an inner packet may have there.
        var outer: Int
        var inner: Int

        var testDescription: String { "\(family)" }
        var ip: String { family == .ipv4 ? "ip" : "ip -6" }
        /// What makes an address usable at once.
        var flags: String { family == .ipv4 ? "" : "nodad" }

        static let all = [
            Way(
                family: .ipv4, node: "198.51.100.2", routers: ["198.51.100.1", "203.0.113.1"],
                peers: ["203.0.113.2", "203.0.113.3"], prefixLength: 24,
                forwarding: "net.ipv4.ip_forward", tunnel: "10.66.28.0", network: "10.66.0.0/16",
                subnets: ["10.66.5.0/24", "10.66.6.0/24"], overhead: 28, outer: 1300, inner: 1272),
            Way(
                family: .ipv6, node: "fd98::2", routers: ["fd98::1", "fd03::1"],
                peers: ["fd03::2", "fd03::3"],
                prefixLength: 64, forwarding: "net.ipv6.conf.all.forwarding", tunnel: "fd66:0:0:28::",
                network: "fd66::/48", subnets: ["fd66:0:0:5::/64", "fd66:0:0:6::/64"], overhead: 48,
                outer: 1400, inner: 1352),
        ]

        /// Joins the node to the first peer by a router.
        func join(
            _ node: NetworkNamespace.Lease, _ router: NetworkNamespace.Lease, _ peer: NetworkNamespace.Lease
        )
            async throws
        {
            let routerID = try await router.run { threadID() }
            let peerID = try await peer.run { threadID() }
            try await node.run {
                try execute(
                    """
                    ip link add node-u0 type veth peer name node-r0 && ip link set node-r0 netns \(routerID) && \
                    ip addr add \(self.node)/\(prefixLength) dev node-u0 \(flags) && ip link set node-u0 up && \
                    ip route add default via \(routers[0]) && ip tuntap add dev flannel0 mode tun
                    """)
            }
            try await router.run {
                try execute(
                    """
                    ip link add node-r1 mtu \(outer) type veth peer name node-u0 mtu \(outer) && \
                    ip link set node-u0 netns \(peerID) && sysctl -q -w \(forwarding)=1 && \
                    ip addr add \(routers[0])/\(prefixLength) dev node-r0 \(flags) && \
                    ip addr add \(routers[1])/\(prefixLength) dev node-r1 \(flags) && \
                    ip link set node-r0 up && ip link set node-r1 up
                    """)
            }
            try await peer.run {
                try execute(
                    """
                    ip addr add \(peers[0])/\(prefixLength) dev node-u0 \(flags) && ip link set node-u0 up && \
                    ip route add default via \(routers[1])
                    """)
            }
        }
    }

    /// Gives the loopback addresses of IPv6, and waits until the kernel takes packets for them in, which it does a moment later.
    private static func addAddresses(_ addresses: [String]) throws {
        try execute(
            """
            for address in \(addresses.joined(separator: " ")); do
                ip -6 address add $address/128 dev lo nodad
                until ip -6 route show table local | grep -q "^local $address "; do sleep 0.01; done
            done
            """)
    }

    /// Sends so many bytes of UDP from a socket of its own; what the kernel refuses as too large is no failure.
    private static func send(_ count: Int, to endpoint: Endpoint) throws {
        let descriptor = socket(
            endpoint.address.v4 == nil ? AF_INET6 : AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        defer { close(descriptor) }
        let bytes = [UInt8](repeating: 0, count: count)
        let sent = endpoint.withSocketName { sendto(descriptor, bytes, count, 0, $0, $1) }
        try #require(sent == count || errno == EMSGSIZE)
    }

    // long: one path from its discovery to its end, whose steps need each other.
    @Test(arguments: Way.all) func aNarrowPathGetsARouteUntilItIsForgotten(way: Way) async throws {
        let node = try await NetworkNamespace.make()
        let router = try await NetworkNamespace.make()
        let peer = try await NetworkNamespace.make()
        try await way.join(node, router, peer)
        var timing = PathTiming()
        timing.firstTimeout = .milliseconds(50)
        let probing = timing
        let network = try await node.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .milliseconds(200), health: NodeHealth(),
                logger: quietLogger, pathTiming: probing)
        }
        _ = try await network.chooseUnderlay()
        let tunnel = TunnelSettings(
            interfaceName: "flannel0", address: IPAddress(way.tunnel)!, network: IPPrefix(way.network)!,
            mtu: 1500 - way.overhead, overhead: way.overhead, transmitQueueLength: 1000)
        try await network.setDesired(tunnel.desiredItems)
        let run = Task { await network.run() }
        defer { run.cancel() }
        let (first, second) = (way.subnets[0], way.subnets[1])
        func routes() async throws -> String {
            try await node.run { try execute("\(way.ip) route show dev flannel0") }
        }
        await network.followPaths(
            to: zip(way.subnets, way.peers).map { subnet, peer in
                FollowedPeer(
                    prefixes: [IPPrefix(subnet)!], endpoint: Endpoint(address: IPAddress(peer)!, port: 8285))
            }, through: tunnel)
        #expect(try await !routes().contains(first))

        // A datagram too large for the router's far side, as the tunnel's are: the router answers with ICMP.
        let target = Endpoint(address: IPAddress(way.peers[0])!, port: 8285)
        try await until {
            try await node.run {
                try Self.send(1420, to: target)
                return try RouteSocket().path(to: target.address, from: nil)?.learntMTU == way.outer
            }
        }
        try await until {
            let routes = try await routes()
            return routes.contains(first) && routes.contains("mtu \(way.inner)")
        }
        #expect(try await !routes().contains(second))
        #expect(network.knownPaths.narrow == [IPPrefix(first)!: way.outer])

        // Somebody takes it away: it comes back like everything else.
        try await node.run { try execute("\(way.ip) route del \(first) dev flannel0") }
        try await until { try await routes().contains(first) }

        try await node.run { try execute("\(way.ip) route flush cache") }
        try await until { try await !routes().contains(first) }
        #expect(try await routes().contains(way.network))
    }

    /// Where both families go to one address, one search says what both may be.
    @Test func bothPrefixesOfAPeerGetARoute() async throws {
        let node = try await NetworkNamespace.make()
        try await node.run {
            try execute(
                """
                ip link add eth0 type veth peer name other && ip link set eth0 up && ip link set other up && \
                ip addr add 198.51.100.2/24 dev eth0 && ip route add default via 198.51.100.1 && \
                ip route add 203.0.113.2/32 dev eth0 mtu 1400 && ip route add 203.0.113.3/32 dev eth0 mtu 1200 && \
                ip tuntap add dev flannel0 mode tun && ip link set flannel0 mtu 1472 up
                """)
        }
        let health = NodeHealth()
        let network = try await node.run {
            try NodeNetwork(options: UnderlayOptions(), health: health, logger: quietLogger, pathTiming: nil)
        }
        _ = try await network.chooseUnderlay()
        let tunnel = TunnelSettings(
            interfaceName: "flannel0", address: IPAddress("10.66.28.0")!, network: IPPrefix("10.66.0.0/16")!,
            mtu: 1472, overhead: 28, transmitQueueLength: 1000)
        let run = Task { await network.run() }
        defer { run.cancel() }
        await network.followPaths(
            to: [2, 3].map { number in
                FollowedPeer(
                    prefixes: [IPPrefix("10.66.\(number).0/24")!, IPPrefix("fd66:0:0:\(number)::/64")!],
                    endpoint: Endpoint(address: IPAddress("203.0.113.\(number)")!, port: 8285))
            }, through: tunnel)
        let (ipv4, ipv6) = try await node.run {
            (try execute("ip route show dev flannel0"), try execute("ip -6 route show dev flannel0"))
        }
        #expect(ipv4.contains("10.66.2.0/24") && ipv4.contains("mtu 1372"), "\(ipv4)")
        #expect(ipv6.contains("fd66:0:0:2::/64") && ipv6.contains("mtu 1372"), "\(ipv6)")
        #expect(ipv4.contains("10.66.3.0/24") && ipv4.contains("mtu 1172"), "\(ipv4)")
        // No link of IPv6 is narrower than that.
        #expect(ipv6.contains("fd66:0:0:3::/64") && ipv6.contains("mtu 1280"), "\(ipv6)")
        // What it carries less, is told.
        #expect(
            health.problems.map(\.cause) == [
                "the path to peer 10.66.3.0/24 (203.0.113.3) carries packets of 1200 bytes only: the tunnel needs 1308"
            ])
    }

    @Test func theKernelsRouteAndLinkAreAsked() async throws {
        let node = try await NetworkNamespace.make()
        try await node.run {
            try execute(
                """
                ip link add eth0 type veth peer name other && ip link set eth0 up && ip link set other up && \
                ip addr add 198.51.100.2/24 dev eth0 && ip route add default via 198.51.100.1 && \
                ip link add wg0 mtu 1420 type veth peer name wg1 && ip link set wg0 up && ip link set wg1 up && \
                ip route add 203.0.113.5/32 dev wg0 && ip route add 203.0.113.6/32 dev eth0 mtu 1400 && \
                ip route add 203.0.113.7/32 dev eth0 mtu lock 1350 && ip route add blackhole 203.0.113.8/32
                """)
        }
        try await node.run {
            let socket = try RouteSocket()
            let eth0 = try socket.link(named: "eth0")?.index
            func path(_ text: String) throws -> KernelPath? {
                try socket.path(to: IPAddress(text)!, from: IPAddress("198.51.100.2")!)
            }
            #expect(try path("203.0.113.4") == KernelPath(interfaceIndex: eth0))
            #expect(
                try path("203.0.113.5") == KernelPath(interfaceIndex: socket.link(named: "wg0")?.index))
            #expect(try path("203.0.113.6") == KernelPath(interfaceIndex: eth0, routeMTU: 1400))
            #expect(try path("203.0.113.7") == KernelPath(interfaceIndex: eth0, routeMTU: 1350))
            #expect(try path("198.51.100.2") == nil)
            #expect(throws: NetlinkError.self) { try path("203.0.113.8") }
        }
    }

    /// A datagram that nobody takes, in one namespace, and what else ICMP says.
    @Test(arguments: [
        (AddressFamily.ipv4, "127.0.0.7", "127.0.0.8"), (.ipv6, "fd00::7", "fd00::8"),
    ])
    func aRefusalIsHeardOfTheHostItselfAlone(family: AddressFamily, host: String, other: String) async throws
    {
        let node = try await NetworkNamespace.make()
        let target = Endpoint(address: IPAddress(host)!, port: 8285)
        let heard = try await node.run {
            try execute("ip link set lo up")
            if family == .ipv6 { try Self.addAddresses([host, other]) }
            guard let socket = RefusalSocket(family) else { return [Endpoint]() }
            try Self.send(100, to: target)
            try execute("ping -c 1 -W 1 \(other)")
            return socket.refusals()
        }
        #expect(heard == [target])
    }

    @Test func whatIsNoRefusalIsNone() throws {
        let ipv4: [UInt8] = [
            3, 3, 0, 0, 0, 0, 0, 0,
            69, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0x5D, 0x20, 0x5E, 0, 20,
            0, 0,
        ]
        func address(_ last: UInt8) -> [UInt8] { [0xFD] + [UInt8](repeating: 0, count: 14) + [last] }
        let ipv6: [UInt8] =
            [1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 20, 17, 64] + address(1) + address(2)
            + [0x20, 0x5D, 0x20, 0x5E, 0, 20, 0, 0]
        let cases: [(message: [UInt8], host: String, router: String, protocolPlace: Int)] = [
            (ipv4, "10.0.0.2", "10.0.0.9", 17), (ipv6, "fd00::2", "fd00::9", 14),
        ]
        for (message, host, router, protocolPlace) in cases {
            let host = try #require(IPAddress(host))
            let expected = Endpoint(address: host, port: 0x205E)
            #expect(RefusalSocket.refused(message[...], by: host) == expected)
            // Not of a router, not of another code or type, not about TCP, not cut off.
            #expect(RefusalSocket.refused(message[...], by: try #require(IPAddress(router))) == nil)
            for (place, byte) in [(1, UInt8(0)), (0, 11), (protocolPlace, 6)] {
                var other = message
                other[place] = byte
                #expect(RefusalSocket.refused(other[...], by: host) == nil, "\(place)")
            }
            for count in 0..<(message.count - 4) {
                #expect(RefusalSocket.refused(message.prefix(count), by: host) == nil, "\(count)")
            }
        }
    }

    @Test(arguments: [
        (["10.66.1.0/32", "10.66.2.0/32"], "10.66.9.0", 36), (["fd66::1/128", "fd66::2/128"], "fd66::9", 56),
    ])
    func aProbeIsKnownByItsAnswer(prefixes: [String], absent: String, smallest: Int) async throws {
        let node = try await NetworkNamespace.make()
        let addresses = prefixes.compactMap { IPPrefix($0)?.address }
        let answers = try await node.run {
            try execute("ip link set lo mtu 1472 up")
            if addresses[0].v4 == nil {
                try Self.addAddresses(addresses.map { "\($0)" })
            } else {
                for prefix in prefixes { try execute("ip addr add \(prefix) dev lo") }
            }
            guard let socket = PathProbeSocket(address: addresses[0]) else { return [(addresses[0], -1)] }
            #expect(PathProbeSocket(address: IPAddress(absent)!) == nil)
            #expect(!socket.send(to: addresses[1], sequence: 1, size: 1473))
            // An answer that is not taken does not keep the next from being sent.
            for (sequence, size) in [(0, smallest), (7, 1472), (63, 1000)] {
                #expect(socket.send(to: addresses[1], sequence: sequence, size: size))
            }
            return socket.answers().map { ($0.peer, $0.sequence) }
        }
        #expect(answers.map(\.0) == Array(repeating: addresses[1], count: 3))
        #expect(answers.map(\.1) == [0, 7, 63])
    }

    /// Its number may be another's by the time that it is let go.
    @Test func aSocketThatCouldNotBeMadeIsClosedOnce() async throws {
        let node = try await NetworkNamespace.make()
        let isOver = Flag()
        async let stolen = onThread {
            var stolen = 0
            while !isOver.value {
                let own = dup(STDERR_FILENO)
                for _ in 0..<10 where fcntl(own, F_GETFD) < 0 { stolen += 1 }
                close(own)
            }
            return stolen
        }
        try await node.run {
            let absent = try #require(IPAddress("10.66.9.0"))
            for _ in 0..<20_000 { #expect(PathProbeSocket(address: absent) == nil) }
        }
        isOver.value = true
        #expect(await stolen == 0)
    }
}

private final class Flag: Sendable {
    private let state = Atomic<Bool>(false)
    var value: Bool {
        get { state.load(ordering: .relaxed) }
        set { state.store(newValue, ordering: .relaxed) }
    }
}
