import Addresses
import EtcdAPI
import Foundation
import Health
import LeaseTesting
import Leases
import Testing

@testable import LeaseEtcd

private let day = Duration.seconds(86_400)

@Suite("K6: numbers and names that no etcd tells")
struct EtcdAnswerTests {
    private func store() throws -> EtcdStore {
        try EtcdStore(configuration: EtcdConfiguration(endpoints: ["127.0.0.1:1"]))
    }

    private func pair(_ key: String, revision: Int64, lease: Int64 = 0) -> Etcdserverpb_KeyValue {
        .with {
            $0.key = Data("/coreos.com/network/\(key)".utf8)
            $0.value = Data("{}".utf8)
            $0.modRevision = revision
            $0.lease = lease
        }
    }

    @Test("revisions, leases and counts at the ends of their range trap nothing")
    func extremeNumbers() throws {
        let store = try store()
        for number in [Int64.min, -1, 0, 1, .max] {
            let response = Etcdserverpb_RangeResponse.with {
                $0.header.revision = number
                $0.count = number
                $0.kvs = [
                    pair("subnets/10.66.1.0-24", revision: number, lease: number),
                    pair("config", revision: number),
                    pair("elsewhere", revision: number), .init(),
                ]
            }
            if (0..<Int64.max).contains(number) {
                #expect(try store.snapshot(of: response).entries.count == 1)
            } else {
                #expect(throws: LeaseStoreError.self) { try store.snapshot(of: response) }
            }
            var watch = Etcdserverpb_WatchResponse.with { $0.header.revision = number }
            _ = store.update(of: watch, since: number)
            watch.events = [
                .with { $0.kv = pair("subnets/10.66.1.0-24", revision: number) },
                .with {
                    $0.type = .delete
                    $0.kv = pair("config", revision: number)
                },
            ]
            _ = store.update(of: watch, since: number)
            _ = EtcdStore.holder(lease: number)
        }
    }

    @Test("what the configuration's watch tells does not move where the leases' is resumed")
    func positions() throws {
        let store = try store()
        let config = Etcdserverpb_WatchResponse.with {
            $0.events = [.with { $0.kv = pair("config", revision: 9) }]
        }
        #expect(
            store.update(of: config, since: 5)
                == .changes([.configuration("{}")], upTo: StorePosition(revision: 5)))
        let lease = Etcdserverpb_WatchResponse.with {
            $0.events = [.with { $0.kv = pair("subnets/10.66.1.0-24", revision: 8) }]
        }
        guard case .changes(_, let position) = store.update(of: lease, since: 5) else {
            Issue.record("no change")
            return
        }
        #expect(position == StorePosition(revision: 8))
    }

    @Test("a watch that tells changes of before is not believed, neither of leases nor of the configuration")
    func goesBack() throws {
        let put = StoreEvent.put(
            StoreEntry(
                key: "10.66.1.0-24", value: "{}", version: StoreVersion(number: 9), holder: nil,
                lifetime: .permanent))
        var progress = EtcdWatchProgress(after: 5)
        // One revision may change several keys.
        try progress.advance(by: [7, 7], of: [put, .deleted(key: "10.66.2.0-24")], from: "one")
        try progress.advance(by: [6], of: [.configuration("{}")], from: "one")
        try progress.advance(by: [8, 9], of: [put, put], from: "one")
        #expect(progress.leases == 9 && progress.configuration == 6)
        let lies: [([Int64], StoreEvent)] = [
            ([9], put), ([8, 10], put), ([6], .configuration(nil)), ([5], put),
        ]
        for (revisions, event) in lies {
            var progress = progress
            let error = #expect(throws: LeaseStoreError.self) {
                try progress.advance(by: revisions, of: [event], from: "one")
            }
            #expect(error?.kind == .failed)
        }
    }

    @Test("endpoints without a scheme are those of flanneld: plain, or TLS where files for it are given")
    func schemes() throws {
        let plain = try EtcdEndpoint(parsing: "10.0.0.5:2379")
        #expect(plain.host == "10.0.0.5" && plain.port == 2379 && !plain.isSecure)
        #expect(try EtcdEndpoint(parsing: "etcd.example").port == 2379)
        #expect(try EtcdEndpoint(parsing: "[fd00::1]:4001").host == "fd00::1")
        #expect(try EtcdEndpoint(parsing: "10.0.0.5:2379", isSecureByDefault: true).isSecure)
        #expect(try !EtcdEndpoint(parsing: "http://10.0.0.5", isSecureByDefault: true).isSecure)
        var configuration = EtcdConfiguration(endpoints: ["10.0.0.5:2379"])
        configuration.authorityFile = "/nonexistent/ca.pem"
        #expect(throws: LeaseStoreError.self) { try configuration.checkFiles() }
        // With plain endpoints alone nobody reads the file.
        configuration.endpoints = ["http://10.0.0.5:2379"]
        try configuration.checkFiles()
    }

    @Test("half of a pair has no effect, which is said")
    func halves() throws {
        var configuration = EtcdConfiguration(endpoints: ["https://10.0.0.5:2379"])
        #expect(configuration.remarks == [])
        configuration.keyFile = "/nonexistent/key.pem"
        configuration.username = "u"
        try configuration.checkFiles()
        #expect(configuration.remarks.count == 2)
        #expect(configuration.remarks[0].hasPrefix("--etcd-keyfile has no effect"))
        #expect(configuration.remarks[1].hasPrefix("--etcd-username has no effect"))
        configuration.password = "p"
        #expect(configuration.remarks.count == 1 && configuration.credentials != nil)
    }
}

@Suite(
    "K6: what the world does to an etcd store",
    .enabled(if: hasEtcd, "etcd is not installed: apt-get install etcd-server etcd-client"), .serialized)
struct EtcdWorldTests {
    @Test("a snapshot of several pages and over 4 MiB is read whole, as of one revision")
    func pages() async throws {
        let server = try EtcdServer()
        try server.setNetwork(#"{"Network":"10.0.0.0/8","SubnetLen":30}"#)
        let store = try server.store()
        // Five large values in three pages, which etcdctl's transactions of a hundred fill.
        for number in 0..<5 {
            try server.control(
                "put", "\(EtcdServer.prefix)/subnets/10.\(number * 2).1big",
                input: String(repeating: "x", count: 1_000_000))
        }
        var count = 0
        while count < 2_100 {
            var transaction = "\n"
            for _ in 0..<100 {
                transaction += "put \(EtcdServer.prefix)/subnets/10.\(count / 256).\(count % 256).0-30 "
                transaction += "\"{\\\"PublicIP\\\":\\\"198.18.9.\(count % 200 + 1)\\\"}\"\n"
                count += 1
            }
            try server.control("txn", input: transaction + "\n\n")
        }
        let snapshot = try await store.snapshot()
        #expect(snapshot.configuration != nil)
        #expect(snapshot.entries.count == count + 5)
        #expect(Set(snapshot.entries.map(\.key)).count == count + 5)
        #expect(snapshot.storeIdentity != nil)
        let node = TestNode("198.19.0.1", store: store)
        try await node.wait(for: "the peers") { $0.peers.count == count && $0.ownLease != nil }
    }

    @Test("a role that may read and write the config and the subnets alone, as flanneld's")
    func leastRights() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        try server.control("user", "add", "root:rootpw")
        try server.control("user", "grant-role", "root", "root")
        try server.control("role", "add", "flannel")
        try server.control("role", "grant-permission", "flannel", "read", "\(EtcdServer.prefix)/config")
        try server.control(
            "role", "grant-permission", "flannel", "--prefix=true", "readwrite",
            "\(EtcdServer.prefix)/subnets/")
        try server.control("user", "add", "flannel:secret")
        try server.control("user", "grant-role", "flannel", "flannel")
        try server.control("auth", "enable")
        let node = TestNode("198.18.9.2", store: try server.store(username: "flannel", password: "secret"))
        _ = try await node.subnet()
        try server.control(
            "put", "\(EtcdServer.prefix)/subnets/10.66.250.0-24", #"{"PublicIP":"198.18.9.9"}"#,
            "--user=root:rootpw")
        try await node.wait(for: "the peer") { $0.peers.count == 1 }
        try server.control(
            "put", "\(EtcdServer.prefix)/config", #"{"Network":"10.66.0.0/16","Backend":{"Port":9000}}"#,
            "--user=root:rootpw")
        try await node.wait(for: "the port") { $0.configuration?.backend.port == 9000 }
        #expect(node.table.problems == [])
    }

    @Test("authentication switched on while it runs")
    func authenticationComes() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        try server.control("user", "add", "root:rootpw")
        try server.control("user", "grant-role", "root", "root")
        let node = TestNode("198.18.9.2", store: try server.store(username: "root", password: "rootpw"))
        let subnet = try await node.subnet()
        try server.control("auth", "enable")
        await node.keeper.announce(NodeAnnouncement(publicAddress: IPv4Address("198.18.9.4")!))
        try await eventually("the new address") {
            try server.control("get", "\(EtcdServer.prefix)/subnets/\(subnet.key)", "--user=root:rootpw")
                .contains("198.18.9.4")
        }
        // The connection of before is still there where nobody drops it: a write of another kind.
        let store = try server.store(username: "root", password: "rootpw")
        try server.control("auth", "disable", "--user=root:rootpw")
        _ = try await store.snapshot()
        try server.control("auth", "enable")
        #expect(try await store.snapshot().configuration != nil)
        #expect(
            try await store.create(
                key: "10.66.9.0-24", value: "{}", timeToLive: day, holder: NodeIdentity(number: 9))
                != .refused)
    }

    @Test("etcdctl del --prefix of everything: every peer stays and is said; the lease is registered again")
    func deletedAtOnce() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        for number in 200...203 {
            try server.putLease("10.66.\(number).0-24", #"{"PublicIP":"198.18.9.\#(number)"}"#)
        }
        let node = TestNode("198.18.9.2", store: try server.store())
        let subnet = try await node.subnet()
        try await node.wait(for: "the peers") { $0.peers.count == 4 }
        try server.control("del", "--prefix", EtcdServer.prefix)
        try await node.wait(for: "the doubt") { $0.conditions[Component(.store, "lost leases")] != nil }
        #expect(node.table.peers.count == 4)
        try await eventually("the lease in etcd") { try server.leases()[subnet.key] != nil }
        try server.setNetwork()
        for number in 200...203 {
            try server.putLease("10.66.\(number).0-24", #"{"PublicIP":"198.18.9.\#(number)"}"#)
        }
        try await node.wait(for: "all confirmed") { $0.problems == [] && $0.peers.count == 4 }
        try server.deleteLease("10.66.200.0-24")
        try await node.wait(for: "the deletion") { $0.peers.count == 3 && $0.problems == [] }
    }

    @Test("the store under the name is another cluster's: nothing that works goes")
    func anotherCluster() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        try server.putLease("10.66.200.0-24", #"{"PublicIP":"198.18.9.200"}"#)
        let node = TestNode("198.18.9.2", store: try server.store())
        let subnet = try await node.subnet()
        try await node.wait(for: "the peer") { $0.peers.count == 1 }
        server.stop()
        try await node.wait(for: "the outage") { !$0.isStoreConnected }
        try server.wipe()
        try server.start()
        try await node.wait(for: "the doubt") {
            $0.isStoreConnected && $0.conditions[Component(.store, "lost leases")] != nil
        }
        #expect(node.table.peers.count == 1)
        #expect(node.table.ownLease?.subnet == subnet)
    }

    @Test("a lease that is reserved while its node runs stays a reservation")
    func reservedWhileItRuns() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let node = TestNode("198.18.9.2", store: try server.store()) { $0.timeToLive = .seconds(4) }
        let subnet = try await node.subnet()
        try await LeaseOperations(store: try server.store()).reserve(
            subnet, publicAddress: .v4(IPv4Address("198.18.9.2")!))
        try await node.wait(for: "the reservation") { $0.ownLease?.isReservation == true }
        await node.keeper.announce(NodeAnnouncement(publicAddress: IPv4Address("198.18.9.2")!, port: 9000))
        try await eventually("the port") { try server.leases()[subnet.key]?.contains("9000") == true }
        #expect(try server.etcdLease(of: subnet.key) == 0)
    }

    @Test("the identity lost, subnet and address kept: the subnet stays, with one etcd lease of its own")
    func identityLost() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let before = TestNode("198.18.9.2", store: try server.store())
        let subnet = try await before.subnet()
        await before.stop()
        let again = TestNode("198.18.9.2", store: try server.store()) { $0.previousSubnet = subnet }
        #expect(try await again.subnet() == subnet)
        #expect(again.log.count(of: .leaseSkipped) == 0)
        #expect(try server.leases().keys.sorted() == [subnet.key])
    }
}
