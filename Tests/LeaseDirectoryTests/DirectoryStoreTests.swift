import Foundation
import LeaseTesting
import Leases
import Testing

@testable import LeaseDirectory

private let value = #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#
private let day = Duration.seconds(86_400)

/// A directory of a test's own.
final class TestDirectory {
    private let parent = NSTemporaryDirectory() + "leases-directory-\(UUID().uuidString)"
    // A store does not make its parent, so a node that outlives the test leaves nothing behind.
    var path: String { "\(parent)/store" }

    init(network: String? = #"{"Network":"10.66.0.0/16"}"#) throws {
        try make()
        if let network { try write("config", network) }
    }

    deinit { try? FileManager.default.removeItem(atPath: parent) }

    func make() throws {
        try FileManager.default.createDirectory(atPath: "\(path)/subnets", withIntermediateDirectories: true)
    }

    func write(_ name: String, _ text: String) throws {
        try text.write(toFile: "\(path)/\(name)", atomically: false, encoding: .utf8)
    }

    func read(_ name: String) throws -> String {
        try String(contentsOfFile: "\(path)/\(name)", encoding: .utf8)
    }

    func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: "\(path)/\(name)") }

    func names(_ name: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: "\(path)/\(name)").sorted()
    }
}

@Suite("Directory store")
struct DirectoryStoreTests {
    private let holder = NodeIdentity(number: 7)

    @Test(
        "two daemons' worth of nodes: leases as flannel writes them, peers seen, nothing else left in the directory"
    )
    func twoNodes() async throws {
        let directory = try TestDirectory()
        let first = TestNode("198.18.9.1", store: DirectoryStore(path: directory.path))
        let second = TestNode("198.18.9.2", store: DirectoryStore(path: directory.path))
        let subnets = [try await first.subnet(), try await second.subnet()]
        try await first.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[1]] }
        try await second.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[0]] }
        #expect(try directory.read("subnets/\(subnets[1].key)") == value)
        #expect(try directory.names("") == ["config", "holders", "subnets"])
        #expect(try directory.names("subnets") == subnets.map(\.key).sorted())
        #expect(try directory.names("holders").count == 2)
    }

    @Test("twenty nodes started at once all get their own subnet")
    func race() async throws {
        let directory = try TestDirectory(network: #"{"Network":"10.66.0.0/18"}"#)
        let nodes = (1...20).map { TestNode("198.18.9.\($0)", store: DirectoryStore(path: directory.path)) }
        var subnets: Set<LeaseSubnet> = []
        for node in nodes { subnets.insert(try await node.subnet()) }
        #expect(subnets.count == 20)
        for node in nodes { try await node.wait(for: "all peers") { $0.peers.count == 19 } }
        #expect(try directory.names("subnets").count == 20)
        #expect(try directory.names("holders").count == 20)
    }

    @Test("a file written by hand is a peer at once, its change too, and its removal")
    func byHand() async throws {
        let directory = try TestDirectory()
        let node = TestNode("198.18.9.1", store: DirectoryStore(path: directory.path))
        _ = try await node.subnet()
        try directory.write("subnets/10.66.200.0-24", value + "\n")
        try await node.wait(for: "the peer") { $0.peers.map(\.endpoint.description) == ["198.18.9.2:8285"] }
        try directory.write("subnets/10.66.200.0-24", #"{"PublicIP":"198.18.9.3"}"#)
        try await node.wait(for: "the peer's move") {
            $0.peers.map(\.endpoint.description) == ["198.18.9.3:8285"]
        }
        try directory.remove("subnets/10.66.200.0-24")
        try await node.wait(for: "no peer") { $0.peers == [] }
    }

    @Test("a file written by hand for this node is a reservation: used, and it stays one")
    func reservation() async throws {
        let directory = try TestDirectory()
        try directory.write("subnets/10.66.200.0-24", #"{"PublicIP":"198.18.9.1"}"#)
        let store = DirectoryStore(path: directory.path)
        let node = TestNode("198.18.9.1", store: store)
        #expect(try await node.subnet().key == "10.66.200.0-24")
        #expect(node.table.ownLease?.isReservation == true)
        #expect(try await store.snapshot().entries.map(\.lifetime) == [.permanent])
        #expect(((try? directory.names("holders")) ?? []) == [])
    }

    @Test("a stopped node's lease stays, and is found again; a lost directory has every node again")
    func comesBack() async throws {
        let directory = try TestDirectory()
        let identity = NodeIdentity.random()
        let first = TestNode("198.18.9.1", store: DirectoryStore(path: directory.path), identity: identity)
        let subnet = try await first.subnet()
        await first.stop()
        #expect(try directory.names("subnets") == [subnet.key])
        let again = TestNode("198.18.9.1", store: DirectoryStore(path: directory.path), identity: identity)
        #expect(try await again.subnet() == subnet)
        // A directory without a config may be the place where the store is not mounted just now.
        let config = try directory.read("config")
        try directory.remove("")
        try await again.wait(for: "the loss") { !$0.isStoreConnected }
        #expect(again.table.ownLease?.subnet == subnet)
        try directory.make()
        try await again.wait(for: "the missing config") { $0.problems.contains { $0.contains("config") } }
        #expect(try directory.names("subnets") == [])
        try directory.write("config", config)
        try await eventually("the lease") { (try? directory.names("subnets")) == [subnet.key] }
        #expect(again.table.ownLease?.subnet == subnet)
    }

    @Test("the configuration is followed")
    func configuration() async throws {
        let directory = try TestDirectory(network: nil)
        let store = DirectoryStore(path: directory.path)
        let node = TestNode("198.18.9.1", store: store)
        try await node.wait(for: "the problem") { !$0.problems.isEmpty }
        try await LeaseOperations(store: store).setNetwork(#"{"Network":"10.66.0.0/16"}"#)
        _ = try await node.subnet()
        try directory.write("config", #"{"Network":"10.66.0.0/16","Backend":{"Port":9000}}"#)
        try await node.wait(for: "the port") { $0.configuration?.backend.port == 9000 }
    }

    @Test("no directory: an error that names the path, and nothing is made but by writing a configuration")
    func failures() async throws {
        let store = DirectoryStore(path: "/nonexistent/twill")
        let error = await #expect(throws: LeaseStoreError.self) { try await store.snapshot() }
        #expect(error?.description.contains("directory /nonexistent/twill is not there") == true)
        let directory = try TestDirectory()
        let typo = DirectoryStore(path: directory.path + "-typo")
        let node = TestNode("198.18.9.1", store: typo)
        try await node.wait(for: "the problem") { $0.problems.contains { $0.contains("-typo is not there") } }
        await #expect(throws: LeaseStoreError.self) { try await LeaseOperations(store: typo).list() }
        #expect(!FileManager.default.fileExists(atPath: directory.path + "-typo"))
        try await typo.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        _ = try await node.subnet()
    }

    @Test("lease list writes nothing")
    func listWritesNothing() async throws {
        let directory = try TestDirectory()
        try directory.write("subnets/10.66.200.0-24", value)
        let list = try await LeaseOperations(store: DirectoryStore(path: directory.path)).list()
        #expect(list.map(\.key) == ["10.66.200.0-24"])
        #expect(try directory.names("") == ["config", "subnets"])
    }

    /// The first node of a network makes the folder of the leases: nothing was lost by it, and nothing is read anew.
    @Test("a watch goes on where the first lease makes the folder")
    func theFirstLeaseIsNoLoss() async throws {
        let directory = try TestDirectory()
        try? directory.remove("subnets")
        let store = DirectoryStore(path: directory.path)
        let snapshot = try await store.snapshot()
        let other = DirectoryStore(path: directory.path)
        for try await update in store.watch(after: snapshot.position) {
            switch update {
            case .alive:
                _ = try await other.create(
                    key: "10.66.1.0-24", value: value, timeToLive: day, holder: holder)
            case .changes(let events, _):
                #expect(events.count == 1)
                return
            default: continue
            }
        }
        Issue.record("the watch ended")
    }

    // MARK: Each operation

    @Test("create never overwrites, and leaves nothing behind where it is refused")
    func create() async throws {
        let directory = try TestDirectory()
        let store = DirectoryStore(path: directory.path)
        try directory.write("subnets/10.66.1.0-24", "theirs")
        let result = try await store.create(
            key: "10.66.1.0-24", value: value, timeToLive: day, holder: holder)
        #expect(result == .refused)
        #expect(try directory.read("subnets/10.66.1.0-24") == "theirs")
        #expect(try directory.names("holders") == [])
    }

    @Test("a lease has its holder and its time; a reservation has neither")
    func lifetimes() async throws {
        let directory = try TestDirectory()
        let store = DirectoryStore(path: directory.path)
        _ = try await store.create(key: "10.66.1.0-24", value: value, timeToLive: day, holder: holder)
        _ = try await store.create(key: "10.66.2.0-24", value: value, timeToLive: nil, holder: nil)
        let entries = try await store.snapshot().entries.sorted { $0.key < $1.key }
        #expect(entries.map(\.holder) == [holder, nil])
        #expect(entries[1].lifetime == .permanent)
        guard case .expiring(let remaining?) = entries[0].lifetime else {
            Issue.record("it does not expire")
            return
        }
        #expect(remaining > .seconds(80_000) && remaining <= day)
    }

    @Test("a renewal moves the end, a rewrite the value; each is guarded by the version")
    func renew() async throws {
        let directory = try TestDirectory()
        let store = DirectoryStore(path: directory.path)
        let key = "10.66.1.0-24"
        guard
            case .done(let first) = try await store.create(
                key: key, value: value, timeToLive: .seconds(10), holder: holder),
            case .done(let second) = try await store.renew(
                key: key, value: value, timeToLive: day, holder: holder, version: first),
            case .done(let third) = try await store.renew(
                key: key, value: "other", timeToLive: day, holder: holder, version: second)
        else {
            Issue.record("refused")
            return
        }
        #expect(try directory.read("subnets/\(key)") == "other")
        #expect(try directory.names("holders").count == 1)
        for stale in [first, second] {
            let result = try await store.renew(
                key: key, value: value, timeToLive: day, holder: holder, version: stale)
            #expect(result == .refused)
            #expect(try await store.delete(key: key, version: stale) == .refused)
        }
        #expect(try await store.snapshot().entries.map(\.version) == [third])
        #expect(try await store.delete(key: key, version: third) == .done(version: third))
        #expect(try directory.names("subnets") == [])
        #expect(try directory.names("holders") == [])
    }
}
