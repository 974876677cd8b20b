import Addresses
import Health
import Netlink
import NetworkNamespaces
import Synchronization
import Testing

@testable import Node

/// What the reconciler keeps of each item, with items that do as they are told.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct ItemStatusTests {
    /// An item that fails for as long as it is told to, and notes what is asked of it.
    private final class Item: OwnedItem {
        let name: String
        let isFailing = Mutex(false)
        let isThere = Mutex(false)
        var component: Component { Component(.setting, name) }

        init(_ name: String) { self.name = name }

        func deviation(in _: NetworkState) -> String? { isThere.withLock { $0 } ? nil : "missing" }

        func update(in _: NetworkState, using _: RouteSocket) throws {
            if isFailing.withLock({ $0 }) { throw NetlinkError(operation: "make \(name)", code: 1) }
            isThere.withLock { $0 = true }
        }

        func delete(using _: RouteSocket) throws {
            if isFailing.withLock({ $0 }) { throw NetlinkError(operation: "take \(name) away", code: 1) }
            isThere.withLock { $0 = false }
        }
    }

    private func reconciler() throws -> Reconciler {
        Reconciler(
            socket: try RouteSocket(), health: NodeHealth(), logger: quietLogger,
            resyncInterval: .seconds(5))
    }

    private func pass(_ reconciler: Reconciler) throws -> Reconciler.Outcome {
        try reconciler.update(in: NetworkState(), isResync: true, isFirstTime: false) { _ in NetworkState() }
    }

    @Test func anItemThatFailsKeepsItsErrorAndHowOften() throws {
        let reconciler = try reconciler()
        let (bad, good) = (Item("a"), Item("b"))
        bad.isFailing.withLock { $0 = true }
        reconciler.replace(with: [good, bad])
        for retries in 0..<3 {
            #expect(try pass(reconciler).failure is NetlinkError)
            let statuses = reconciler.statuses.all
            #expect(statuses.map(\.item) == ["a", "b"] && statuses.map(\.state) == [.failing, .good])
            #expect(statuses.map(\.retries) == [retries, 0])
            #expect(statuses[0].lastError?.contains("cannot make a: ") == true)
            #expect(statuses[1].lastError == nil)
        }
        let since = reconciler.statuses.all[0].since
        bad.isFailing.withLock { $0 = false }
        #expect(try pass(reconciler).failure == nil)
        let mended = try #require(reconciler.statuses.all.first)
        #expect(mended.state == .good && mended.lastError == nil && mended.retries == 0)
        #expect(mended.since > since)
    }

    @Test func whatCannotBeTakenAwayIsTriedAgainAndTold() throws {
        let reconciler = try reconciler()
        let item = Item("a")
        reconciler.replace(with: [item])
        _ = try pass(reconciler)
        item.isFailing.withLock { $0 = true }
        reconciler.replace(with: [])
        for retries in 0..<2 {
            #expect(reconciler.deleteUnwanted())
            #expect(reconciler.statuses.all.map(\.state) == [.leaving])
            #expect(reconciler.statuses.all.map(\.retries) == [retries])
        }
        item.isFailing.withLock { $0 = false }
        #expect(reconciler.deleteUnwanted())
        #expect(reconciler.statuses.all.isEmpty && !item.isThere.withLock { $0 })
        #expect(!reconciler.deleteUnwanted())
    }

    @Test func whatIsWantedAgainIsNotTakenAway() throws {
        let reconciler = try reconciler()
        let item = Item("a")
        reconciler.replace(with: [item])
        _ = try pass(reconciler)
        reconciler.replace(with: [])
        reconciler.replace(with: [item])
        #expect(!reconciler.deleteUnwanted())
        #expect(item.isThere.withLock { $0 })
    }
}

/// What carries twill's number and nobody wants goes, by the real kernel.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct PruningTests {
    private static let settings = TunnelSettings(
        interfaceName: "flannel0", address: IPv4Address("10.66.28.0")!, network: IPv4Prefix("10.66.0.0/16")!,
        mtu: 1472, transmitQueueLength: 1000)

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
        let addresses = try RouteSocket().addressesIPv4().filter { $0.origin == Route.twillOrigin }
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
                    && RouteSocket().addressesIPv4().filter { $0.origin == Route.twillOrigin }.count == 2
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
        let blackhole = BlackholeRoute(subnet: IPv4Prefix("10.66.28.0/24")!)
        try await network.setDesired(Self.settings.desiredItems + [blackhole])
        let (overlay, hole) = try await namespace.run {
            (try execute("ip route show 10.66.0.0/16"), try execute("ip route show 10.66.28.0/24"))
        }
        #expect(overlay.hasPrefix("10.66.0.0/16 dev flannel0 proto 116 scope link"))
        #expect(hole.hasPrefix("blackhole 10.66.28.0/24 proto 116"))
    }
}
