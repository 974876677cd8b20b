import Addresses
import Firewall
import Health
import Logging
import Netlink
import NetworkNamespaces
import Synchronization
import Testing

@testable import Node
@testable import Reconciler

/// The reconciler against the real kernel, in network namespaces that the tests make.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct NodeNetworkTests {
    private static let settings = TunnelSettings(
        interfaceName: "flannel0", address: .v4(IPv4Address("10.66.28.0")!),
        network: .v4(IPv4Prefix("10.66.0.0/16")!),
        mtu: 1472, overhead: 28, transmitQueueLength: 1000)

    /// A namespace with an underlay `node-u0` (198.51.100.2/24, default route) and an idle TUN `flannel0`.
    private func namespace() async throws -> NetworkNamespace.Lease {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                """
                ip link add node-u0 type veth peer name node-u1 && ip link set node-u1 up && \
                ip link set node-u0 up && ip addr add 198.51.100.2/24 dev node-u0 && \
                ip route add default via 198.51.100.1 && ip tuntap add dev flannel0 mode tun && \
                sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.ip_forward=1
                """)
        }
        return namespace
    }

    /// Waits until `command` prints `text`; the suite's time limit ends a wait that is in vain.
    private func wait(for text: String, in namespace: NetworkNamespace.Lease, _ command: String) async throws
    {
        while try await !namespace.run({ try execute(command) }).contains(text) {
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// The TUN as its desired items want it, said by ip(8) and `/proc/sys`.
    private func expectTunnel(in namespace: NetworkNamespace.Lease) async throws {
        try await namespace.run {
            let link = try execute("ip addr show flannel0")
            #expect(link.contains("mtu 1472") && link.contains("qlen 1000") && link.contains(",UP"))
            #expect(link.contains("inet 10.66.28.0/32 scope global flannel0"))
            #expect(
                try execute("ip route show 10.66.0.0/16").hasPrefix(
                    "10.66.0.0/16 dev flannel0 proto 116 scope link"))
            let settings = "/proc/sys/net/ipv4/conf/flannel0"
            #expect(
                try execute("cat \(settings)/accept_local \(settings)/rp_filter \(settings)/forwarding")
                    == "1\n2\n1\n")
        }
    }

    @Test func theTunnelIsMadeAsWanted() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            // Left by somebody else: a former lease's address, and a route in the overlay's place.
            try execute(
                "ip addr add 10.66.99.0/32 dev flannel0; ip route add 10.66.0.0/16 via 198.51.100.9")
            return try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        try await expectTunnel(in: namespace)
        let addresses = try await namespace.run { try execute("ip addr show flannel0") }
        #expect(!addresses.contains("10.66.99.0"))
    }

    @Test func whatSomebodyTakesAwayComesBack() async throws {
        let namespace = try await namespace()
        // An interval that never ends within the test: what comes back does so by notification.
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .seconds(3600), health: NodeHealth(),
                logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        let running = Task { await network.run() }
        defer { running.cancel() }
        let route = "ip route show 10.66.0.0/16"

        try await namespace.run { try execute("ip route del 10.66.0.0/16") }
        try await wait(for: "dev flannel0", in: namespace, route)
        try await namespace.run { try execute("ip addr del 10.66.28.0/32 dev flannel0") }
        try await wait(for: "10.66.28.0/32", in: namespace, "ip addr show flannel0")
        try await wait(for: "dev flannel0", in: namespace, route)
        try await namespace.run { try execute("ip link set flannel0 down") }
        try await wait(for: ",UP", in: namespace, "ip link show flannel0")
        try await wait(for: "dev flannel0", in: namespace, route)
        try await namespace.run { try execute("ip link set flannel0 mtu 1000 txqueuelen 5") }
        try await wait(for: "mtu 1472", in: namespace, "ip link show flannel0")
        try await namespace.run { try execute("ip route replace 10.66.0.0/16 via 198.51.100.9") }
        try await wait(for: "dev flannel0", in: namespace, route)
        try await expectTunnel(in: namespace)
        running.cancel()
        await running.value
    }

    @Test func whatIsNotToldOfComesBackByTheResync() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .milliseconds(50), health: NodeHealth(),
                logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        let running = Task { await network.run() }
        defer { running.cancel() }
        let setting = "cat /proc/sys/net/ipv4/conf/flannel0/accept_local"
        try await namespace.run { try execute("echo 0 > /proc/sys/net/ipv4/conf/flannel0/accept_local") }
        try await wait(for: "1", in: namespace, setting)
    }

    /// The kernel path's programs come a moment after all else, and what somebody took away meanwhile is no less somebody's doing.
    @Test func whatWasTakenAwayBeforeSomethingIsAddedIsRestoredAndThatIsSaid() async throws {
        let namespace = try await namespace()
        let log = RestoresLog()
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .seconds(3600), health: NodeHealth(),
                logger: Logger(label: "test") { _ in log })
        }
        let items = NodeNetworkTests.settings.desiredItems
        try await network.setDesired(items)
        let blackhole = BlackholeRoute(subnet: .v4(IPv4Prefix("10.66.28.0/24")!))
        try await namespace.run { try execute("ip route del 10.66.0.0/16") }
        try await network.setDesired(items + [blackhole], isAddition: true)
        try await expectTunnel(in: namespace)
        #expect(log.count == 1)
        // Where other things are wanted it is not somebody's doing that they are not there.
        try await namespace.run { try execute("ip route del 10.66.0.0/16") }
        try await network.setDesired(items)
        try await expectTunnel(in: namespace)
        #expect(log.count == 1)
    }

    @Test func theResyncRestoresRulesThatNoNotificationTellsOf() async throws {
        let namespace = try await NetworkNamespace.make()
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(), resyncInterval: .milliseconds(100), health: NodeHealth(),
                logger: quietLogger)
        }
        let rules = PacketFilterRules(
            PacketFilterSettings(
                network: Self.settings.network, subnet: .v4(IPv4Prefix("10.66.28.0/24")!), masquerades: true),
            preferring: .nftables, interfaceName: "flannel0", beside: PacketFilterEffects())
        try await network.setDesired([rules])
        let running = Task { await network.run() }
        defer { running.cancel() }
        try await namespace.run { try execute("nft flush ruleset") }
        let list = "nft list table ip flannel-ipv4 2>/dev/null || true"
        while try await !namespace.run({ try execute(list) }).contains("masquerade") {
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    @Test func aNewLeaseTakesTheOldOnesThingsAway() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        let old = BlackholeRoute(subnet: .v4(IPv4Prefix("10.66.28.0/24")!))
        try await network.setDesired(NodeNetworkTests.settings.desiredItems + [old])
        try await namespace.run {
            #expect(try execute("ip route show type blackhole").hasPrefix("blackhole 10.66.28.0/24"))
            // The bridge's own route must win.
            try execute("ip link add node-b0 type bridge && ip link set node-b0 up")
            try execute("ip addr add 10.66.28.1/24 dev node-b0")
            #expect(try execute("ip route get 10.66.28.7").contains("dev node-b0"))
        }
        var settings = NodeNetworkTests.settings
        settings.address = .v4(IPv4Address("10.66.5.0")!)
        try await network.setDesired(
            settings.desiredItems + [BlackholeRoute(subnet: .v4(IPv4Prefix("10.66.5.0/24")!))])
        try await namespace.run {
            let routes = try execute("ip route show type blackhole")
            #expect(routes.contains("10.66.5.0/24") && !routes.contains("10.66.28.0/24"))
            let addresses = try execute("ip -4 -o addr show flannel0")
            #expect(addresses.contains("10.66.5.0/32") && !addresses.contains("10.66.28.0"))
        }
        try await network.withdrawAll()
        let routes = try await namespace.run { try execute("ip route show type blackhole") }
        #expect(routes.isEmpty)
    }

    @Test func aNewNetworkTakesTheOldOnesRouteAway() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            // And what a start before this one left on a device that outlived it.
            try execute("ip link set flannel0 up; ip route add 10.5.0.0/16 dev flannel0")
            return try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        let show = "ip route show dev flannel0"
        #expect(try await !namespace.run { try execute(show) }.contains("10.5.0.0"))
        var settings = NodeNetworkTests.settings
        settings.network = .v4(IPv4Prefix("10.66.0.0/17")!)
        try await network.setDesired(settings.desiredItems)
        let narrower = try await namespace.run { try execute(show) }
        #expect(narrower.contains("10.66.0.0/17") && !narrower.contains("10.66.0.0/16"))
        settings.network = .v4(IPv4Prefix("10.64.0.0/10")!)
        try await network.setDesired(settings.desiredItems)
        let wider = try await namespace.run { try execute(show) }
        #expect(wider.contains("10.64.0.0/10") && !wider.contains("10.66.0.0/17"))
    }

    /// Two routes to one destination with one metric: the kernel takes the first, and refuses to make it like the second.
    @Test func aRouteThatSomebodyPutsBeforeOursIsTakenAway() async throws {
        let namespace = try await namespace()
        let health = NodeHealth()
        let network = try await namespace.run {
            try NodeNetwork(options: UnderlayOptions(), health: health, logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        try await namespace.run { try execute("ip route prepend 10.66.0.0/16 via 198.51.100.9") }
        await network.reconcile()
        let routes = try await namespace.run { try execute("ip route show 10.66.0.0/16") }
        #expect(
            routes == "10.66.0.0/16 dev flannel0 proto 116 scope link \n"
                || routes.hasPrefix("10.66.0.0/16 dev flannel0 proto 116 scope link"))
        #expect(!routes.contains("198.51.100.9") && health.problems.isEmpty)
    }

    @Test func aFightOverTheRouteIsSaid() async throws {
        let namespace = try await namespace()
        let health = NodeHealth()
        let network = try await namespace.run {
            try NodeNetwork(options: UnderlayOptions(), health: health, logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        for _ in 0..<5 {
            #expect(health.problems.isEmpty)
            try await namespace.run { try execute("ip route replace 10.66.0.0/16 via 198.51.100.9 proto 12") }
            await network.reconcile()
        }
        let problem = health.problem(of: Component(.route, "10.66.0.0/16"))
        #expect(problem?.effect == .degraded)
        #expect(problem?.cause.contains("10.66.0.0/16 via 198.51.100.9 dev node-u0 proto 12 (bird)") == true)
    }

    @Test func aDeviceThatIsDeletedIsToldOnce() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        let running = Task { await network.run() }
        defer { running.cancel() }
        try await namespace.run { try execute("ip link del flannel0") }
        var events = network.events.makeAsyncIterator()
        #expect(await events.next() == .deviceLost("flannel0"))
        // Each item says so itself, and none something else about a device that is not there.
        for item in NodeNetworkTests.settings.desiredItems where !(item is ForwardingEnabled) {
            #expect(throws: DeviceMissingError(interfaceName: "flannel0")) {
                try item.deviation(in: NetworkState())
            }
        }
        await #expect(throws: DeviceMissingError.self) {
            try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        }
    }

    @Test func theUnderlayIsChosenAndFollowed() async throws {
        let namespace = try await namespace()
        let health = NodeHealth()
        let network = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(interfaces: ["node-u0"]), patience: .milliseconds(50),
                health: health,
                logger: quietLogger)
        }
        let chosen = try await network.chooseUnderlay()
        #expect(
            chosen.interfaceName == "node-u0" && chosen.address == IPv4Address("198.51.100.2")!
                && chosen.mtu == 1500)
        let running = Task { await network.run() }
        defer { running.cancel() }
        var events = network.events.makeAsyncIterator()
        func nextUnderlay() async -> Underlay? {
            if case .underlayChanged(let underlay)? = await events.next() { underlay } else { nil }
        }
        try await namespace.run { try execute("ip link set node-u0 mtu 1400") }
        #expect(await nextUnderlay()?.mtu == 1400)
        try await namespace.run { try execute("ip route replace default via 198.51.100.1 mtu 1300") }
        #expect(await nextUnderlay()?.mtu == 1300)
        try await namespace.run {
            try execute("ip addr add 203.0.113.9/24 dev node-u0 && ip addr del 198.51.100.2/24 dev node-u0")
        }
        while let underlay = await nextUnderlay(), underlay.address != IPv4Address("203.0.113.9")! {}
        #expect(health.problem(of: Component(.underlay)) == nil)
        try await namespace.run { try execute("ip addr del 203.0.113.9/24 dev node-u0") }
        while health.problem(of: Component(.underlay))?.remedy.contains("no usable IPv4 address") != true {
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(
            health.problem(of: Component(.underlay))?.sentence.contains(
                "interface node-u0 has lost the underlay's address 203.0.113.9") == true)
        try await namespace.run { try execute("ip addr add 203.0.113.9/24 dev node-u0") }
        while health.problem(of: Component(.underlay)) != nil { try await Task.sleep(for: .milliseconds(20)) }
    }

    @Test func theRouteToAnAddressChoosesTheUnderlay() async throws {
        let namespace = try await namespace()
        let underlay = try await namespace.run {
            try NodeNetwork(
                options: UnderlayOptions(reachableAddress: IPAddress("198.51.100.77")!),
                health: NodeHealth(), logger: quietLogger
            )
        }.chooseUnderlay()
        #expect(underlay.interfaceName == "node-u0" && underlay.address == IPv4Address("198.51.100.2")!)
    }

    @Test func aMachineThatDoesNotForwardIsNotChangedButToldOf() async throws {
        let namespace = try await namespace()
        let network = try await namespace.run {
            try execute("sysctl -q -w net.ipv4.ip_forward=0")
            return try NodeNetwork(options: UnderlayOptions(), health: NodeHealth(), logger: quietLogger)
        }
        // Not essential: no error.
        try await network.setDesired(NodeNetworkTests.settings.desiredItems)
        let (forwards, error) = try await namespace.run {
            let error = #expect(throws: SystemSettingError.self) {
                _ = try ForwardingEnabled(family: .ipv4).deviation(in: NetworkState())
            }
            return (try execute("cat /proc/sys/net/ipv4/ip_forward"), error)
        }
        #expect(forwards == "0\n")
        #expect(error?.description.contains("sysctl -w net.ipv4.ip_forward=1") == true)
    }
}

/// Says nothing below errors, so that what the tests provoke does not fill their output.
/// Counts what was restored.
private final class RestoresLog: LogHandler, Sendable {
    private let restores = Atomic<Int>(0)

    var count: Int { restores.load(ordering: .relaxed) }
    var logLevel: Logger.Level {
        get { .notice }
        set {}
    }
    var metadata: Logger.Metadata {
        get { [:] }
        set {}
    }
    subscript(metadataKey _: String) -> Logger.Metadata.Value? {
        get { nil }
        set {}
    }

    func log(event: LogEvent) {
        if "\(event.message)" == EventName.restored.rawValue { restores.add(1, ordering: .relaxed) }
    }
}

let quietLogger: Logger = {
    var logger = Logger(label: "node-tests")
    logger.logLevel = .critical
    return logger
}()
