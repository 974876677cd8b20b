import Addresses
import FoundationEssentials
import Leases
import NIOHTTP1
import Telemetry
import Testing

@testable import twilld

@Suite struct ObservationTests {
    @Test func readinessFollowsTheState() {
        let seen = Observation(storeName: "directory /d")
        #expect(seen.answer(path: "/healthz")?.status == .ok)
        #expect(seen.answer(path: "/readyz") == HTTPAnswer(status: .serviceUnavailable, body: "starting\n"))
        #expect(seen.update(state: "waiting for a lease", isReady: false))
        // Said once, however often it is so.
        #expect(!seen.update(state: "waiting for a lease", isReady: false))
        #expect(seen.answer(path: "/readyz")?.body == "waiting for a lease\n")
        #expect(seen.update(state: "subnet 10.66.28.0/24, peers: 1", isReady: true))
        #expect(seen.answer(path: "/readyz") == HTTPAnswer(status: .ok, body: "ok\n"))
        #expect(seen.answer(path: "/nothing") == nil)
    }

    @Test func reconnectsAreCountedFromTheFirstConnection() {
        let seen = Observation(storeName: "etcd")
        var table = PeerTable()
        for isConnected in [false, true, true, false, false, true, false, true] {
            table.isStoreConnected = isConnected
            seen.update(table)
        }
        #expect(seen.status.store == NodeStatus.Store(name: "etcd", isConnected: true, reconnects: 2))
    }

    @Test func theTableAndTheProblemsAreShown() throws {
        let seen = Observation(storeName: "etcd")
        var table = PeerTable()
        let subnet = try #require(LeaseSubnet(key: "10.66.29.0-24"))
        table.peers = [
            Peer(subnet: subnet, endpoint: Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285))
        ]
        table.skipped = [SkippedLease(key: "x", reason: "no subnet")]
        table.problems = ["etcd says no"]
        seen.update(table)
        seen.setProblem(.rules, "no nft")
        seen.setProblem(.underlay, "no eth0")
        var status = seen.status
        #expect(status.peers == [.init(subnet: "10.66.29.0/24", endpoint: "192.0.2.1:8285")])
        #expect(status.skipped == [.init(key: "x", reason: "no subnet")])
        #expect(status.problems == ["no eth0", "no nft", "etcd says no"])
        seen.clearProblem(.underlay)
        status = seen.status
        #expect(status.problems == ["no nft", "etcd says no"])

        let answer = try #require(seen.answer(path: "/status"))
        #expect(answer.contentType == "application/json")
        let decoded = try JSONDecoder().decode(NodeStatus.self, from: Data(answer.body.utf8))
        #expect(decoded.peers == status.peers && decoded.problems == status.problems)
        let metrics = try #require(seen.answer(path: "/metrics"))
        #expect(metrics.contentType == MetricsText.contentType)
        #expect(metrics.body.contains("\ntwill_skipped_leases 1\n"))
    }
}
