import Addresses
import Glibc
import Health
import JSON
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Backends
@testable import Node

/// What host-gw and vxlan want of the kernel, made, restored and taken away by the real one.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct KernelBackendTests {
    private let health = NodeHealth()
    private static let alias = "twilld /run/flannel/subnet.env"

    /// An underlay `node-u0` (198.51.100.2/24, default route), and what `commands` make there.
    private func node(
        _ commands: String = "true", resync: Duration = .seconds(3600)
    ) async throws -> (NetworkNamespace.Lease, NodeNetwork, BackendPlace) {
        let namespace = try await NetworkNamespace.make()
        let (network, index) = try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add 198.51.100.2/24 dev node-u0 && \
                ip route add default via 198.51.100.1 && sysctl -q -w net.ipv4.ip_forward=1 && { \(commands); }
                """)
            let network = try NodeNetwork(
                options: UnderlayOptions(), alias: Self.alias, resyncInterval: resync, routePatience: .zero,
                health: health, logger: quietLogger)
            return (network, try #require(try RouteSocket().link(named: "node-u0")).index)
        }
        let place = BackendPlace(
            network: try prefix("10.66.0.0/16"), subnet: try prefix("10.66.28.0/24"), tunnelName: "flannel0",
            alias: Self.alias, underlayName: "node-u0", underlayIndex: index,
            underlayAddress: try address("198.51.100.2"), publicAddress: try address("198.51.100.2"),
            mtu: 1450,
            queueLength: 1000)
        return (namespace, network, place)
    }

    private func prefix(_ text: String) throws -> IPPrefix { .v4(try #require(IPv4Prefix(text))) }
    private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    private func peer(_ number: Int, at address: String, _ mac: String? = nil) throws -> BackendPeer {
        let data = try mac.map {
            VXLANData(networkIdentifier: 1, hardwareAddress: try #require(HardwareAddress($0)))
        }
        return BackendPeer(
            subnet: try prefix("10.66.\(number).0/24"), address: try self.address(address),
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

    // MARK: host-gw

    @Test func routesOfPeersAreMadeRestoredAndTakenAway() async throws {
        let (namespace, network, place) = try await node(
            // A route of flanneld's to a peer, and one of an earlier run's to a node that is gone.
            "ip route add 10.66.3.0/24 via 198.51.100.77 && ip route add 10.66.9.0/24 via 198.51.100.9 proto 116"
        )
        let backend = HostGatewayBackend()
        let peers = [try peer(3, at: "198.51.100.3"), try peer(4, at: "198.51.100.4")]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        let routes =
            "10.66.3.0/24 via 198.51.100.3 dev node-u0 proto 116 \n10.66.4.0/24 via 198.51.100.4 dev node-u0 proto 116 \n"
        #expect(try await said(namespace, "ip route show root 10.66.0.0/16") == routes)
        #expect(health.problems.isEmpty)

        let running = Task { await network.run() }
        defer { running.cancel() }
        try await namespace.run { try execute("ip route del 10.66.3.0/24") }
        try await wait(for: "10.66.3.0/24 via 198.51.100.3", in: namespace, "ip route")
        try await namespace.run { try execute("ip route replace 10.66.4.0/24 via 198.51.100.5") }
        try await wait(for: "10.66.4.0/24 via 198.51.100.4", in: namespace, "ip route")

        try await network.setDesired(backend.desiredItems(in: place, peers: [peers[1]]))
        #expect(
            try await said(namespace, "ip route show root 10.66.0.0/16")
                == "10.66.4.0/24 via 198.51.100.4 dev node-u0 proto 116 \n")
        try await network.setDesired([])
        #expect(try await said(namespace, "ip route show root 10.66.0.0/16") == "")
    }

    @Test func aPeerOnAnotherLinkIsNamedAndTheOthersAreReached() async throws {
        let (namespace, network, place) = try await node()
        let backend = HostGatewayBackend()
        let peers = [try peer(3, at: "203.0.113.3"), try peer(4, at: "198.51.100.4")]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(
            try await said(namespace, "ip route show root 10.66.0.0/16").hasPrefix(
                "10.66.4.0/24 via 198.51.100.4"))
        let problem = try #require(health.problems.first)
        #expect(problem.effect == .degraded)
        #expect(
            problem.cause.contains("10.66.3.0/24 at 203.0.113.3") && !problem.cause.contains("10.66.4.0"))
        #expect(problem.remedy.contains("vxlan"))
        try await namespace.run { try execute("ip addr add 203.0.113.2/24 dev node-u0") }
        await network.reconcile()
        #expect(health.problems.isEmpty)
        #expect(
            try await said(namespace, "ip route show 10.66.3.0/24").hasPrefix(
                "10.66.3.0/24 via 203.0.113.3"))
    }

    @Test func hostGatewayBehindANATIsSaid() async throws {
        let (_, network, there) = try await node()
        var place = there
        place.publicAddress = try address("203.0.113.9")
        try await network.setDesired(HostGatewayBackend().desiredItems(in: place, peers: []))
        #expect(health.problems.map(\.effect) == [.cutOff])
        #expect(health.problems.first?.cause.contains("203.0.113.9") == true)
    }

    // MARK: vxlan

    private let macs = ["02:58:00:00:00:03", "02:58:00:00:00:04", "02:58:00:00:00:05"]

    private func expectPeer(
        _ number: Int, at address: String, _ mac: String, in namespace: NetworkNamespace.Lease
    ) async throws {
        try await wait(
            for: "10.66.\(number).0 lladdr \(mac) PERMANENT", in: namespace, "ip neigh show dev flannel.1")
        try await wait(
            for: "\(mac) dst \(address) self permanent", in: namespace, "bridge fdb show dev flannel.1")
        try await wait(
            for: "10.66.\(number).0/24 via 10.66.\(number).0 dev flannel.1 proto 116 onlink", in: namespace,
            "ip route")
    }

    @Test func theDeviceItsEntriesAndRoutesAreMadeAndTakenAway() async throws {
        let (namespace, network, place) = try await node()
        let backend = VXLANBackend()
        let peers = [
            try peer(3, at: "198.51.100.3", macs[0]), try peer(4, at: "203.0.113.4", macs[1]),
        ]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(health.problems.isEmpty, "\(health.problems)")
        func expectAll() async throws {
            try await expectPeer(3, at: "198.51.100.3", macs[0], in: namespace)
            try await expectPeer(4, at: "203.0.113.4", macs[1], in: namespace)
            let mac = backend.hardwareAddress(of: place.subnet)
            for word in [
                "vxlan id 1 local 198.51.100.2 dev node-u0", "dstport 8472 nolearning", "mtu 1450", ",UP",
                "link/ether \(mac)", "alias \(Self.alias)", "inet 10.66.28.0/32",
            ] { try await wait(for: word, in: namespace, "ip -d address show flannel.1") }
        }
        try await expectAll()

        // What somebody takes away or changes is back at once: the resync comes in an hour.
        let running = Task { await network.run() }
        defer { running.cancel() }
        for command in [
            "ip neigh del 10.66.3.0 dev flannel.1",
            "ip neigh replace 10.66.3.0 lladdr 02:58:00:00:00:99 dev flannel.1 nud permanent",
            "ip neigh flush dev flannel.1 nud permanent",
            "bridge fdb del \(macs[0]) dev flannel.1 self",
            "bridge fdb replace \(macs[1]) dst 203.0.113.9 dev flannel.1 self permanent",
            "ip route del 10.66.3.0/24", "ip link set flannel.1 down", "ip addr flush dev flannel.1",
            "ip link del flannel.1",
        ] {
            try await namespace.run { try execute(command) }
            try await expectAll()
        }

        // A peer that is gone, and one whose device is another.
        let changed = [try peer(4, at: "203.0.113.4", macs[2])]
        try await network.setDesired(backend.desiredItems(in: place, peers: changed))
        try await expectPeer(4, at: "203.0.113.4", macs[2], in: namespace)
        let left = try await said(
            namespace, "ip neigh show dev flannel.1 nud permanent; bridge fdb show dev flannel.1; ip route")
        #expect(!left.contains(macs[0]) && !left.contains(macs[1]) && !left.contains("10.66.3.0"))
        try await network.setDesired([])
        #expect(try await !said(namespace, "ip link; ip route").contains("flannel"))
    }

    @Test(arguments: [
        "id 2 dev node-u0 local 198.51.100.2 dstport 8472 nolearning",
        "id 1 dev node-u0 local 198.51.100.2 dstport 4789 nolearning",
        "id 1 dev node-u0 dstport 8472 nolearning", "id 1 local 198.51.100.2 dstport 8472 nolearning",
        "id 1 dev node-u0 local 198.51.100.2 dstport 8472 learning",
        "id 1 dev node-u0 local 198.51.100.2 dstport 8472 nolearning gbp",
    ])
    func aDeviceThatIsNotAlikeIsMadeAnew(attributes: String) async throws {
        let (namespace, network, place) = try await node(
            "ip link add name flannel.1 type vxlan \(attributes)")
        let before = try await said(namespace, "ip -o link show flannel.1 | cut -d: -f1")
        try await network.setDesired(VXLANBackend().desiredItems(in: place, peers: []))
        #expect(try await said(namespace, "ip -o link show flannel.1 | cut -d: -f1") != before)
        let device = try await said(namespace, "ip -d link show flannel.1")
        #expect(
            device.contains("vxlan id 1 local 198.51.100.2 dev node-u0")
                && device.contains("dstport 8472 nolearning") && !device.contains(" gbp"))
    }

    @Test func flanneldsDeviceIsTakenOverWithoutWhatItLeft() async throws {
        let (namespace, network, place) = try await node(
            """
            ip link add name flannel.1 address 02:ff:00:00:00:01 type vxlan id 1 dev node-u0 local 198.51.100.2 \
            dstport 8472 nolearning && ip link set flannel.1 up && ip addr add 10.66.28.0/32 dev flannel.1 && \
            ip route add 10.66.3.0/24 via 10.66.3.0 dev flannel.1 onlink && \
            ip route add 10.66.9.0/24 via 10.66.9.0 dev flannel.1 onlink && \
            ip neigh add 10.66.9.0 lladdr 02:58:00:00:00:09 dev flannel.1 nud permanent
            """)
        let before = try await said(namespace, "ip -o link show flannel.1 | cut -d: -f1")
        let peers = [try peer(3, at: "198.51.100.3", macs[0])]
        try await network.setDesired(VXLANBackend().desiredItems(in: place, peers: peers))
        #expect(try await said(namespace, "ip -o link show flannel.1 | cut -d: -f1") == before)
        try await expectPeer(3, at: "198.51.100.3", macs[0], in: namespace)
        let left = try await said(namespace, "ip route; ip neigh show dev flannel.1")
        #expect(!left.contains("10.66.9.0"), "\(left)")
    }

    @Test func whatAnEarlierRunLeftGoesAndAnothersStays() async throws {
        let (namespace, network, place) = try await node(
            """
            ip link add name flannel.5 type vxlan id 5 dev node-u0 dstport 8472 && \
            ip link set flannel.5 alias '\(Self.alias)' && ip link set flannel.5 up && \
            ip route add 10.55.3.0/24 via 10.55.3.0 dev flannel.5 onlink proto 116 && \
            ip link add name flannel.6 type vxlan id 6 dev node-u0 dstport 8472 && \
            ip link set flannel.6 alias 'twilld /run/other/subnet.env' && ip link set flannel.6 up && \
            ip route add 10.56.3.0/24 via 10.56.3.0 dev flannel.6 onlink proto 116 && \
            ip link add name flannel.7 type vxlan id 7 dev node-u0 dstport 8472
            """)
        try await network.setDesired(HostGatewayBackend().desiredItems(in: place, peers: []))
        let links = try await said(namespace, "ip link; ip route")
        #expect(!links.contains("flannel.5"))
        #expect(links.contains("10.56.3.0/24 via 10.56.3.0 dev flannel.6") && links.contains("flannel.7"))
    }

    @Test func aNameThatIsTakenAndAHardwareAddressThatTwoHaveAreSaid() async throws {
        var (namespace, network, place) = try await node("ip link add flannel.1 type bridge")
        await #expect(throws: (any Error).self) {
            try await network.setDesired(VXLANBackend().desiredItems(in: place, peers: []))
        }
        #expect(
            health.problems.contains {
                $0.effect == .cutOff && $0.remedy.contains("ip link delete flannel.1")
            })
        #expect(try await said(namespace, "ip -d link show flannel.1").contains("bridge"))
        (namespace, network, place) = try await node()
        let peers = [
            try peer(3, at: "198.51.100.3", macs[0]), try peer(4, at: "198.51.100.4", macs[0]),
        ]
        try await network.setDesired(VXLANBackend().desiredItems(in: place, peers: peers))
        try await expectPeer(3, at: "198.51.100.3", macs[0], in: namespace)
        #expect(health.problems.contains { $0.cause.contains("10.66.3.0/24 and 10.66.4.0/24") })
    }

    @Test func directRoutingLeavesTheTunnelToOtherLinks() async throws {
        let (namespace, network, place) = try await node()
        let backend = try BackendRegistry.all.backend(
            reading: JSONValue(parsing: #"{"Type":"vxlan","DirectRouting":true}"#))
        let peers = [
            try peer(3, at: "198.51.100.3", macs[0]), try peer(4, at: "203.0.113.4", macs[1]),
        ]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(
            try await said(namespace, "ip route show root 10.66.0.0/16")
                == "10.66.3.0/24 via 198.51.100.3 dev node-u0 proto 116 \n10.66.4.0/24 via 10.66.4.0 dev flannel.1 proto 116 onlink \n"
        )
        #expect(health.problems.isEmpty)
    }

    // MARK: Where packets really go

    @Test func whatTakesPacketsOfAPeerIsNamed() async throws {
        let (namespace, network, place) = try await node()
        let peers = [try peer(3, at: "198.51.100.3"), try peer(4, at: "198.51.100.4")]
        let backend = HostGatewayBackend()
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        var targets = OverlayTargets(
            interfaceName: "node-u0", network: IPPrefix("10.66.0.0/16")!,
            subnet: IPPrefix("10.66.28.0/24")!,
            peers: [IPPrefix("10.66.3.0/24")!, IPPrefix("10.66.4.0/24")!])
        targets.hops = [
            IPPrefix("10.66.3.0/24")!: [.init(interfaceName: "node-u0", gateway: peers[0].address)],
            IPPrefix("10.66.4.0/24")!: [.init(interfaceName: "node-u0", gateway: peers[1].address)],
        ]
        await network.judgeRoutes([targets])
        await network.reconcile()
        #expect(health.problems.isEmpty, "\(health.problems)")
        try await namespace.run { try execute("ip route add 10.66.3.0/25 via 198.51.100.66") }
        await network.reconcile()
        #expect(health.problems.contains { $0.cause.contains("10.66.3.0/25 via 198.51.100.66") })
        // A table that comes before the main one, where each peer has its own route.
        try await namespace.run {
            try execute(
                "ip route del 10.66.3.0/25 via 198.51.100.66 && ip rule add lookup 52 priority 5270 && "
                    + "ip route add 10.64.0.0/10 via 198.51.100.77 table 52")
        }
        await network.reconcile()
        // Without a listener nothing tells the judge of the rule.
        await network.judgeRoutes([])
        await network.judgeRoutes([targets])
        #expect(
            health.problems.contains {
                $0.effect == .cutOff && $0.cause.contains("\"5270: from all lookup 52\"")
            }, "\(health.problems)")
    }

    // MARK: ipip and wireguard

    /// A kernel without them, as many are built: said by its name, with what to do, and not waited for by a daemon that
    /// begins.
    @Test(.enabled(if: !kernelHasDevices("ipip") && !kernelHasDevices("wireguard")))
    func aKernelWithoutTunnelsIsNamed() async throws {
        let (namespace, network, place) = try await node()
        let error = await #expect(throws: ItemProblem.self) {
            try await network.setDesired(IPIPBackend().desiredItems(in: place, peers: []))
        }
        #expect(error?.needsAnotherKernel == true)
        #expect(error?.problem.cause == "this machine's kernel has no IPIP")
        #expect(error?.problem.remedy.contains("modprobe ipip") == true)
        let prepared = await #expect(throws: ItemProblem.self) {
            try await namespace.run { try WireGuardBackend().prepare(on: machine) }
        }
        #expect(prepared?.needsAnotherKernel == true)
        #expect(prepared?.problem.cause == "this machine's kernel has no WireGuard")
        #expect(prepared?.problem.remedy.contains("modprobe wireguard") == true)
    }

    private var machine: BackendMachine {
        var machine = BackendMachine(environment: ["WIREGUARD_KEY_FILE": "/tmp/twill-\(getpid())/wgkey"])
        machine.alias = Self.alias
        return machine
    }

    @Test(.enabled(if: kernelHasDevices("ipip"), "this kernel has no IPIP"))
    func theIPIPDeviceAndItsRoutesAreMadeRestoredAndTakenAway() async throws {
        // A device of another address, which flanneld left, is made anew; routes that it left go.
        let (namespace, network, place) = try await node(
            """
            ip link add name flannel.ipip type ipip local 198.51.100.9 && ip link set flannel.ipip up && \
            ip route add 10.66.9.0/24 via 198.51.100.77 dev flannel.ipip onlink
            """)
        let backend = IPIPBackend()
        let peers = [try peer(3, at: "198.51.100.3"), try peer(4, at: "203.0.113.4")]
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(health.problems.isEmpty, "\(health.problems)")
        func expectAll() async throws {
            for word in [
                "ipip", "remote any", "local 198.51.100.2", "nopmtudisc", "mtu 1450", ",UP",
                "alias \(Self.alias)",
                "inet 10.66.28.0/32",
            ] { try await wait(for: word, in: namespace, "ip -d address show dev flannel.ipip") }
            for route in [
                "10.66.3.0/24 via 198.51.100.3 dev flannel.ipip proto 116 onlink",
                "10.66.4.0/24 via 203.0.113.4 dev flannel.ipip proto 116 onlink",
            ] { try await wait(for: route, in: namespace, "ip route") }
        }
        try await expectAll()
        #expect(try await !said(namespace, "ip route").contains("10.66.9.0"))
        let running = Task { await network.run() }
        defer { running.cancel() }
        for command in [
            "ip route del 10.66.3.0/24", "ip link set flannel.ipip down", "ip addr flush dev flannel.ipip",
            "ip link del flannel.ipip",
        ] {
            try await namespace.run { try execute(command) }
            try await expectAll()
        }
        try await network.setDesired([])
        #expect(try await !said(namespace, "ip link; ip route").contains("flannel"))
    }

    @Test(.enabled(if: kernelHasDevices("wireguard"), "this kernel has no WireGuard"))
    func theWireGuardDeviceAndItsPeersAreMadeRestoredAndTakenAway() async throws {
        let (namespace, network, before) = try await node(resync: .milliseconds(200))
        var place = before
        let (machine, backend) = (machine, WireGuardBackend())
        defer { system("rm -r /tmp/twill-\(getpid())") }
        place.machine = machine
        place.prepared = try await namespace.run { try backend.prepare(on: machine) }
        // Done once more, the key is the same.
        #expect(try await namespace.run { try backend.prepare(on: machine) } == place.prepared)
        let keys = [
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
        ]
        let peers = try zip([3, 4], keys).map { number, key in
            BackendPeer(
                subnet: try prefix("10.66.\(number).0/24"), address: try address("198.51.100.\(number)"),
                announced: BackendAnnouncement(
                    WireGuardData(publicKey: try #require(WireGuardKey(base64: key)), port: nil)))
        }
        try await network.setDesired(backend.desiredItems(in: place, peers: peers))
        #expect(health.problems.isEmpty, "\(health.problems)")
        let own = try #require(place.prepared?.value as? WireGuardData)
        func device() async throws -> WireGuardDevice {
            try await namespace.run { try WireGuardSocket().device(named: "flannel-wg") }
        }
        func expectAll() async throws {
            for word in ["wireguard", "mtu 1450", ",UP", "alias \(Self.alias)", "inet 10.66.28.0/32"] {
                try await wait(for: word, in: namespace, "ip -d address show dev flannel-wg")
            }
            try await wait(for: "10.66.0.0/16 dev flannel-wg proto 116 scope link", in: namespace, "ip route")
            let wanted = Set(peers.map { "\($0.subnet) \($0.address):51820" })
            while true {
                let device = try await device()
                let present = Set(
                    device.peers.map { "\($0.allowedPrefixes[0]) \($0.endpoint.map { "\($0)" } ?? "")" })
                if device.publicKey == own.publicKey, device.port == 51_820, present == wanted { break }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
        try await expectAll()
        let running = Task { await network.run() }
        defer { running.cancel() }
        let key = try #require(WireGuardKey(base64: keys[0]))
        let stranger = try #require(WireGuardKey((0..<32).map { _ in UInt8.random(in: 0...255) }))
        let changes: [@Sendable () throws -> Void] = [
            { try WireGuardSocket().configure("flannel-wg", peers: [.remove(key)]) },
            {
                let peer = WireGuardPeer(
                    key: stranger, endpoint: nil, allowedPrefixes: [.v4(IPv4Prefix("10.66.3.0/24")!)])
                try WireGuardSocket().configure(
                    "flannel-wg", privateKey: stranger, port: 4444, peers: [.set(peer)])
            },
            { try execute("ip link set flannel-wg down") }, { try execute("ip route del 10.66.0.0/16") },
            { try execute("ip link del flannel-wg") },
        ]
        for change in changes {
            try await namespace.run(change)
            try await expectAll()
        }
        try await network.setDesired([])
        #expect(try await !said(namespace, "ip link; ip route").contains("flannel"))
    }
}
