import Addresses
import Foundation
import LeaseTesting
import Leases
import Testing

@testable import LeaseEtcd

private let value = #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#
private let day = Duration.seconds(86_400)

extension EtcdServer {
    func store(username: String? = nil, password: String? = nil) throws -> EtcdStore {
        var configuration = EtcdConfiguration(endpoints: [endpoint])
        configuration.username = username
        configuration.password = password
        return try EtcdStore(configuration: configuration)
    }
}

@Suite(
    "etcd store", .enabled(if: hasEtcd, "etcd is not installed: apt-get install etcd-server etcd-client"),
    .serialized)
struct EtcdStoreTests {
    private let holder = NodeIdentity(number: 7)

    @Test(
        "two nodes get their subnets and see each other; values are flannel's byte for byte, one etcd lease each"
    )
    func twoNodes() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let first = TestNode("198.18.9.1", store: try server.store())
        let second = TestNode("198.18.9.2", store: try server.store())
        let subnets = [try await first.subnet(), try await second.subnet()]
        #expect(subnets[0] != subnets[1])
        try await first.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[1]] }
        try await second.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[0]] }
        #expect(
            try server.leases() == [
                subnets[0].key: #"{"PublicIP":"198.18.9.1","PublicIPv6":null}"#, subnets[1].key: value,
            ])
        #expect(try server.etcdLeaseCount() == 2)
        let lease = String(try server.etcdLease(of: subnets[0].key), radix: 16)
        #expect(try server.control("lease", "timetolive", lease).contains("granted with TTL(86400s)"))
    }

    @Test(
        "a stopped node keeps its lease and finds it again, as does one that flanneld left; no etcd lease is added"
    )
    func comesBack() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let identity = NodeIdentity.random()
        var subnet: LeaseSubnet?
        for _ in 0..<4 {
            let node = TestNode("198.18.9.2", store: try server.store(), identity: identity)
            let current = try await node.subnet()
            #expect(subnet == nil || current == subnet)
            subnet = current
            await node.stop()
        }
        #expect(try server.leases() == [subnet!.key: value])
        #expect(try server.etcdLeaseCount() == 1)

        let flannels = try server.control("lease", "grant", "86400").split(separator: " ")[1]
        try server.control(
            "put", "\(EtcdServer.prefix)/subnets/10.66.200.0-24", #"{"PublicIP":"198.18.9.3"}"#,
            "--lease=\(flannels)")
        let node = TestNode("198.18.9.3", store: try server.store())
        #expect(try await node.subnet().key == "10.66.200.0-24")
    }

    @Test("each operation is guarded")
    func guards() async throws {
        let server = try EtcdServer()
        let store = try server.store()
        let key = "10.66.1.0-24"
        guard
            case .done(let first) = try await store.create(
                key: key, value: value, timeToLive: day, holder: holder),
            case .done(let renewed) = try await store.renew(
                key: key, value: value, timeToLive: day, holder: holder, version: first),
            case .done(let second) = try await store.renew(
                key: key, value: "other", timeToLive: day, holder: holder, version: renewed)
        else {
            Issue.record("refused")
            return
        }
        // A renewal alone is no change that a watch would tell.
        #expect(first == renewed)
        #expect(try await store.create(key: key, value: value, timeToLive: day, holder: holder) == .refused)
        #expect(
            try await store.renew(key: key, value: value, timeToLive: day, holder: holder, version: first)
                == .refused)
        #expect(try await store.delete(key: key, version: first) == .refused)
        let entry = try #require(try await store.snapshot().entries.first)
        #expect(entry.holder == holder && entry.value == "other" && entry.version == second)
        #expect(entry.lifetime == .expiring(remaining: nil))
        #expect(try await store.delete(key: key, version: second) != .refused)
        #expect(try await store.snapshot().entries == [])
        #expect(try server.etcdLeaseCount() == 1)
    }

    @Test("a lease that is not renewed ends, one that is renewed does not")
    func endsUnlessRenewed() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let kept = TestNode("198.18.9.2", store: try server.store()) {
            // Renewed at half of it, long before its end however busy the machine is.
            $0.timeToLive = .seconds(14)
        }
        let subnet = try await kept.subnet()
        _ = try await server.store().create(
            key: "10.66.250.0-24", value: #"{"PublicIP":"198.18.9.9"}"#, timeToLive: .seconds(9),
            holder: holder)
        try await kept.wait(for: "the peer") { $0.peers.count == 1 }
        try await kept.wait(for: "the peer's end") { $0.peers == [] }
        #expect(kept.log.count(of: .leaseRenewed) >= 1)
        #expect(kept.log.count(of: .leaseIsGone) == 0)
        let keys = try server.leases().keys.sorted()
        #expect(keys == [subnet.key], "\(kept.log.lines) \(kept.table)")
    }

    @Test("after a change of this machine's address the connection is another")
    func addressChanges() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let store = try server.store()
        let before = try await store.connection.currentLink().number
        let position = try await store.snapshot().position
        var isInPlace = false
        await #expect(throws: LeaseStoreError.self) {
            for try await _ in store.watch(after: position) where !isInPlace {
                isInPlace = true
                await store.addressChanged()
            }
        }
        #expect(isInPlace)
        #expect(try await store.snapshot().configuration != nil)
        #expect(try await store.connection.currentLink().number > before)
        // A node follows, and says where it is reached now.
        let node = TestNode("198.18.9.2", store: store)
        let subnet = try await node.subnet()
        await node.keeper.announce(NodeAnnouncement(publicAddress: IPv4Address("198.18.9.4")!))
        try await eventually("the address in etcd") {
            try server.leases()[subnet.key]?.contains("198.18.9.4") == true
        }
        try await node.wait(for: "the store") { $0.isStoreConnected }
    }

    @Test("a dead first endpoint costs nothing but a try; one that dies later is left for the next")
    func failover() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let dead = "http://127.0.0.1:\(EtcdServer.deadPort())"
        let store = try EtcdStore(configuration: EtcdConfiguration(endpoints: [dead, server.endpoint]))
        let node = TestNode("198.18.9.2", store: store)
        _ = try await node.subnet()
        #expect(node.log.count(of: .storeUnreachable) == 0)
        server.stop()
        try await node.wait(for: "the outage") { !$0.isStoreConnected }
        try server.start()
        try await node.wait(for: "the store") { $0.isStoreConnected }
    }

    @Test("an endpoint that takes connections and never answers is left for the next")
    func silentEndpoint() async throws {
        let server = try EtcdServer()
        let silent = try EtcdServer()
        try server.setNetwork()
        silent.pause()
        let store = try EtcdStore(
            configuration: EtcdConfiguration(endpoints: [silent.endpoint, server.endpoint]))
        let node = TestNode("198.18.9.2", store: store)
        _ = try await node.subnet()
        silent.resume()
    }

    @Test("a stream that goes quiet is noticed, and what was missed is told when it answers")
    func quietStream() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let node = TestNode("198.18.9.2", store: try server.store())
        _ = try await node.subnet()
        server.pause()
        try await node.wait(for: "the silence noticed") { !$0.isStoreConnected }
        #expect(node.table.ownLease != nil)
        server.resume()
        try server.putLease("10.66.250.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        try await node.wait(for: "the peer") { $0.isStoreConnected && $0.peers.count == 1 }
        #expect(node.log.count(of: .storeAnswersAgain) == 1)
    }

    @Test("a watch resumes at its revision; where that was compacted away, everything is read anew")
    func compaction() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let store = try server.store()
        let start = try await store.snapshot().position
        try server.putLease("10.66.250.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        var keys: [String] = []
        for try await update in store.watch(after: start) {
            guard case .changes(let events, _) = update else { continue }
            for case .put(let entry) in events { keys.append(entry.key) }
            break
        }
        #expect(keys == ["10.66.250.0-24"])

        try server.putLease("10.66.251.0-24", #"{"PublicIP":"198.18.9.10"}"#)
        try server.control("compact", "\(try await store.snapshot().position.number)")
        var kind: LeaseStoreError.Kind?
        do {
            for try await _ in store.watch(after: start) {}
        } catch let error as LeaseStoreError {
            kind = error.kind
        }
        #expect(kind == .historyLost)

        let node = TestNode("198.18.9.2", store: store)
        try await node.wait(for: "the peers") { $0.peers.count == 2 }
        server.stop()
        try await node.wait(for: "the outage") { !$0.isStoreConnected }
        try server.start()
        try server.deleteLease("10.66.250.0-24")
        try await node.wait(for: "the deletion") { $0.isStoreConnected && $0.peers.count == 1 }
    }

    @Test("a store that is away for long costs no descriptors")
    func descriptors() async throws {
        let dead = "http://127.0.0.1:\(EtcdServer.deadPort())"
        let store = try EtcdStore(configuration: EtcdConfiguration(endpoints: [dead]))
        let open = { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count }
        await #expect(throws: LeaseStoreError.self) { try await store.snapshot() }
        let before = try open()
        for _ in 0..<100 { await #expect(throws: LeaseStoreError.self) { try await store.snapshot() } }
        // Other suites open some of their own meanwhile.
        try await eventually("no more descriptors than before") { try open() < before + 50 }
    }

    @Test("two networks in one etcd keep apart")
    func prefixes() async throws {
        let server = try EtcdServer()
        var configuration = EtcdConfiguration(endpoints: [server.endpoint], prefix: "/other/network/")
        let other = try EtcdStore(configuration: configuration)
        try await other.setConfiguration(#"{"Network":"10.77.0.0/16"}"#)
        configuration.prefix = "/other/network2"
        try await EtcdStore(configuration: configuration).setConfiguration(#"{"Network":"10.78.0.0/16"}"#)
        try server.setNetwork()
        let identity = NodeIdentity.random()
        let first = TestNode("198.18.9.2", store: try server.store(), identity: identity)
        let second = TestNode("198.18.9.2", store: other, identity: identity)
        #expect(try await first.subnet().key.hasPrefix("10.66."))
        #expect(try await second.subnet().key.hasPrefix("10.77."))
        #expect(first.table.peers == [] && second.table.peers == [])
        #expect(try server.etcdLeaseCount() == 2)
    }

    @Test(
        "a wrong configuration is refused by name",
        arguments: [
            ("ftp://127.0.0.1", "is no URL"), ("http://", "is no URL"), ("127.0.0.1:99999", "is no URL"),
            (":2379", "is no URL"),
            ("10.0.0.5:2379/x", "is no URL"),
        ])
    func wrongEndpoint(endpoint: String, words: String) {
        let error = #expect(throws: LeaseStoreError.self) {
            try EtcdStore(configuration: EtcdConfiguration(endpoints: [endpoint]))
        }
        #expect(error?.description.contains("\"\(endpoint)\" \(words)") == true)
    }

    @Test("lease list tells how long leases have left, and that reservations never end")
    func remainingTimes() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let store = try server.store()
        for number in 1...40 {
            let result = try await store.create(
                key: "10.66.\(number).0-24", value: value, timeToLive: .seconds(3600 + number),
                holder: NodeIdentity(number: UInt32(number)))
            #expect(result != .refused)
        }
        try server.putLease("10.66.99.0-24", value)
        let listing = try await LeaseOperations(store: store).list()
        #expect(listing.count == 41)
        #expect(listing.last?.isReservation == true && listing.last?.remaining == nil)
        for (number, entry) in zip(1..., listing.dropLast()) {
            let remaining = try #require(entry.remaining)
            #expect(!entry.isReservation)
            #expect(remaining > .seconds(3000) && remaining <= .seconds(3600 + number))
        }
    }

    @Test("lease list, reserve and release, network show and set")
    func operations() async throws {
        let server = try EtcdServer()
        let operations = LeaseOperations(store: try server.store())
        await #expect(throws: LeaseOperationError.self) { try await operations.network() }
        await #expect(throws: NetworkConfigurationError.self) { try await operations.setNetwork("nonsense") }
        #expect(try await operations.setNetwork(#"{"Network":"10.66.0.0/16"}"#) == [])
        #expect(try await operations.network().configuration.ipv4?.subnetLength == 24)

        let subnet = LeaseSubnet(key: "10.66.28.0-24")!
        try await operations.reserve(subnet, publicAddress: .v4(IPv4Address("198.18.9.2")!))
        #expect(try server.leases() == [subnet.key: value])
        #expect(try server.etcdLease(of: subnet.key) == 0)
        for (key, address) in [
            ("10.66.28.0-24", "198.18.9.3"), ("10.66.29.0-24", "198.18.9.2"), ("10.67.0.0-24", "198.18.9.4"),
        ] {
            await #expect(throws: LeaseOperationError.self) {
                try await operations.reserve(
                    LeaseSubnet(key: key)!, publicAddress: .v4(IPv4Address(address)!))
            }
        }
        try server.putLease("10.66.30.0-24", "nonsense")
        let listing = try await operations.list()
        #expect(listing.map(\.key) == ["10.66.28.0-24", "10.66.30.0-24"])
        #expect(listing.map(\.isReservation) == [true, true])
        #expect(listing[0].problem == nil && listing[0].endpoint?.description == "198.18.9.2:8285")
        #expect(listing[1].problem == "the value is no JSON object")
        #expect(
            try await operations.setNetwork(#"{"Network":"10.66.0.0/16","SubnetMin":"10.66.29.0"}"#).count
                == 1)
        try await operations.release(subnet)
        await #expect(throws: LeaseOperationError.self) { try await operations.release(subnet) }
        #expect(try server.leases().keys.sorted() == ["10.66.30.0-24"])
    }
}
