import Addresses
import FoundationEssentials
import Health
import Leases
import NIOHTTP1
import Telemetry
import Testing

@testable import NodeDaemon

@Suite struct ObservationTests {
    @Test func readinessFollowsTheState() {
        let health = NodeHealth()
        let seen = Observation(origin: .init(name: "directory /d"), health: health)
        #expect(seen.answer(path: "/healthz")?.status == .ok)
        #expect(seen.answer(path: "/readyz") == HTTPAnswer(status: .serviceUnavailable, body: "starting\n"))
        #expect(seen.update(state: "waiting for a lease", isSetUp: false))
        // Said once, however often it is so.
        #expect(!seen.update(state: "waiting for a lease", isSetUp: false))
        #expect(seen.answer(path: "/readyz")?.body == "waiting for a lease\n")
        #expect(seen.update(state: "subnet 10.66.28.0/24, peers: 1", isSetUp: true))
        #expect(seen.answer(path: "/readyz") == HTTPAnswer(status: .ok, body: "ok\n"))
        #expect(seen.answer(path: "/nothing") == nil)

        // What degrades the node leaves it ready; what cuts its pods off does not, and /readyz says what it
        // is.
        health.set(Component(.path), Problem(.degraded, "narrow", remedy: "widen it"))
        #expect(seen.answer(path: "/readyz")?.status == .ok)
        health.set(Component(.underlay), Problem(.cutOff, "no eth0", remedy: "plug it in"))
        #expect(
            seen.answer(path: "/readyz")
                == HTTPAnswer(status: .serviceUnavailable, body: "no eth0; plug it in\n"))
        #expect(!seen.status.isReady)
        #expect(seen.status.components.map(\.condition) == ["cut-off", "degraded"])
        health.set(Component(.underlay), nil)
        #expect(seen.status.isReady)
    }

    @Test func reconnectsAreCountedFromTheFirstConnection() {
        let seen = Observation(origin: .init(name: "etcd"), health: NodeHealth())
        var table = PeerTable()
        for isConnected in [false, true, true, false, false, true, false, true] {
            table.isStoreConnected = isConnected
            seen.update(table)
        }
        #expect(seen.status.store == NodeStatus.Store(name: "etcd", isConnected: true, reconnects: 2))
    }

    @Test func theTableAndTheProblemsAreShown() throws {
        let health = NodeHealth()
        let seen = Observation(origin: .init(name: "etcd"), health: health)
        var table = PeerTable()
        let subnet = try #require(LeaseSubnet(key: "10.66.29.0-24"))
        table.peers = [
            Peer(subnet: subnet, endpoint: Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285))
        ]
        table.skipped = [SkippedLease(key: "x", reason: "no subnet")]
        table.conditions = [Component(.store): Problem(.degraded, "etcd says no", remedy: "ask again")]
        seen.update(table)
        health.set(Component(.firewall), Problem(.degraded, "no nft", remedy: "install it"))
        health.set(Component(.underlay), Problem(.cutOff, "no eth0", remedy: "plug it in"))
        var status = seen.status
        #expect(status.peers == [.init(subnet: "10.66.29.0/24", endpoint: "192.0.2.1:8285")])
        #expect(status.skipped == [.init(key: "x", reason: "no subnet")])
        let skipped =
            "no packet is sent by the lease x: no subnet; correct it, or release it: twilld lease list"
        #expect(
            status.problems == [
                "no eth0; plug it in", "no nft; install it", "etcd says no; ask again", skipped,
            ])
        health.set(Component(.underlay), nil)
        status = seen.status
        #expect(status.problems == ["no nft; install it", "etcd says no; ask again", skipped])

        let answer = try #require(seen.answer(path: "/status"))
        #expect(answer.contentType == "application/json")
        let decoded = try JSONDecoder().decode(NodeStatus.self, from: Data(answer.body.utf8))
        #expect(decoded.peers == status.peers && decoded.problems == status.problems)
        let metrics = try #require(seen.answer(path: "/metrics"))
        #expect(metrics.contentType == MetricsText.contentType)
        #expect(metrics.body.contains("\ntwill_skipped_leases 1\n"))
        #expect(metrics.body.contains("\ntwill_component_condition{component=\"underlay\"} 0\n"))
        #expect(metrics.body.contains("\ntwill_component_condition{component=\"firewall\"} 1\n"))
    }
}
