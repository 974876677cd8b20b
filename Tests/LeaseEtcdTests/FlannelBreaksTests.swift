import Addresses
import LeaseEtcd
import LeaseTesting
import Leases
import Testing

/// The ways in which flannel v0.28.9 was seen to break, by their numbers, as far as a store alone shows them. All
/// thirteen, with running daemons and the kernel's routes and queues, are tests of NamespaceTests.
@Suite(
    "What breaks flannel",
    .enabled(if: hasEtcd, "etcd is not installed: apt-get install etcd-server etcd-client"),
    .serialized)
struct FlannelBreaksTests {
    @Test("1: a malformed lease value costs that lease alone, and what comes after it is taken in")
    func break01MalformedValue() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let nodes = try (1...3).map { TestNode("198.18.9.\($0)", store: try server.store()) }
        for node in nodes { try await node.wait(for: "the peers") { $0.peers.count == 2 } }
        try server.putLease("10.66.250.0-24", "{nonsense")
        for node in nodes {
            try await node.wait(for: "the skipped lease") { $0.skipped.map(\.key) == ["10.66.250.0-24"] }
            #expect(node.table.peers.count == 2)
        }
        try server.putLease("10.66.251.0-24", #"{"PublicIP":"198.18.9.251"}"#)
        for node in nodes {
            try await node.wait(for: "the peer after it") { $0.peers.count == 3 }
            #expect(node.log.count(of: .leaseSkipped, "10.66.250.0-24") == 1)
        }
        // One that starts now reads it in its snapshot.
        let late = TestNode("198.18.9.4", store: try server.store())
        try await late.wait(for: "the peers") { $0.peers.count == 4 && $0.skipped.count == 1 }
    }

    @Test("2: nodes that start at once all get their own subnet, however often they lose the race")
    func break02AllocationRace() async throws {
        let server = try EtcdServer()
        // 63 subnets for 50 nodes: most of them lose at least once.
        try server.setNetwork(#"{"Network":"10.66.0.0/24","SubnetLen":30}"#)
        let nodes = try (1...50).map { TestNode("198.18.9.\($0)", store: try server.store()) }
        var subnets: Set<LeaseSubnet> = []
        for node in nodes { subnets.insert(try await node.subnet()) }
        #expect(subnets.count == 50)
        #expect(nodes.contains { $0.log.count(of: .anotherNodeWasFaster) > 0 })
        for node in nodes { try await node.wait(for: "all peers") { $0.peers.count == 49 } }
        #expect(try server.leases().count == 50)
        #expect(try server.etcdLeaseCount() == 50)
    }

    @Test("3: a reservation is used by its node, avoided by others, and stays one")
    func break03Reservations() async throws {
        let server = try EtcdServer()
        try server.setNetwork(#"{"Network":"10.66.0.0/24","SubnetLen":26}"#)
        try server.putLease("10.66.0.64-26", #"{"PublicIP":"198.18.9.2"}"#)
        let other = TestNode("198.18.9.3", store: try server.store())
        #expect(try await other.subnet().key != "10.66.0.64-26")
        let node = TestNode("198.18.9.2", store: try server.store()) { $0.timeToLive = .seconds(2) }
        #expect(try await node.subnet().key == "10.66.0.64-26")
        #expect(node.table.ownLease?.isReservation == true)
        await node.keeper.announce(NodeAnnouncement(publicAddress: IPv4Address("198.18.9.2")!, port: 9000))
        try await other.wait(for: "the new port") { $0.peers.map(\.endpoint.port) == [9000] }
        #expect(try server.etcdLease(of: "10.66.0.64-26") == 0)
        await node.stop()
        #expect(try server.etcdLease(of: "10.66.0.64-26") == 0)
    }

    @Test("4: etcd comes back empty: every node registers again, with its subnet, and sees the others")
    func break04DataLoss() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let nodes = try (1...5).map { TestNode("198.18.9.\($0)", store: try server.store()) }
        // Others may see a node's lease before it has etcd's answer itself.
        for node in nodes {
            try await node.wait(for: "its lease and the peers") { $0.ownLease != nil && $0.peers.count == 4 }
        }
        let before = nodes.map { $0.table.ownLease?.subnet }
        // A history longer than the new one will be.
        for number in 0..<30 { try server.control("put", "/elsewhere/\(number)", "x") }
        server.stop()
        for node in nodes {
            try await node.wait(for: "the outage") { !$0.isStoreConnected }
            #expect(node.table.peers.count == 4)
        }
        try server.wipe()
        try server.start()
        for node in nodes { try await node.wait(for: "the store") { $0.isStoreConnected } }
        try await eventually("the leases in etcd") { try server.leases().count >= 5 }
        #expect(nodes.map { $0.table.ownLease?.subnet } == before)
        #expect(try server.leases().keys.sorted() == before.compactMap { $0?.key }.sorted())
        try server.putLease("10.66.250.0-24", #"{"PublicIP":"198.18.9.250"}"#)
        for node in nodes { try await node.wait(for: "a new peer") { $0.peers.count == 5 } }
    }

    @Test("4: etcd comes back older than it was: the same")
    func break04OlderRevision() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let first = TestNode("198.18.9.1", store: try server.store())
        _ = try await first.subnet()
        let snapshot = "\(server.directory).snapshot"
        try server.control("snapshot", "save", snapshot)
        let second = TestNode("198.18.9.2", store: try server.store())
        let subnet = try await second.subnet()
        for number in 0..<30 { try server.control("put", "/elsewhere/\(number)", "x") }
        server.stop()
        try await second.wait(for: "the outage") { !$0.isStoreConnected }
        try server.restore(snapshot)
        try server.start()
        try await eventually("the leases in etcd") { try server.leases()[subnet.key] != nil }
        try await first.wait(for: "the peer") { $0.isStoreConnected && $0.peers.map(\.subnet) == [subnet] }
        #expect(second.table.ownLease?.subnet == subnet)
    }

    @Test("5: a node's own key deleted is registered again, the daemon goes on")
    func break05OwnKeyDeleted() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let node = TestNode("198.18.9.2", store: try server.store())
        let subnet = try await node.subnet()
        for _ in 0..<3 {
            try server.deleteLease(subnet.key)
            try await eventually("the leases in etcd") { try server.leases()[subnet.key] != nil }
        }
        #expect(node.table.ownLease?.subnet == subnet)
        #expect(node.log.count(of: .leaseIsGone) == 3)
        #expect(try server.etcdLeaseCount() == 1)
    }

    @Test("5: the key taken by another node: said who, a new lease; with the policy exit, the end")
    func break05OwnKeyTaken() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let node = TestNode("198.18.9.2", store: try server.store())
        let flannelLike = TestNode("198.18.9.3", store: try server.store()) { $0.lossPolicy = .exit }
        let (subnet, otherSubnet) = (try await node.subnet(), try await flannelLike.subnet())
        try server.putLease(subnet.key, #"{"PublicIP":"198.18.9.77"}"#)
        try server.putLease(otherSubnet.key, #"{"PublicIP":"198.18.9.77"}"#)
        try await node.wait(for: "a new lease") { $0.ownLease != nil && $0.ownLease?.subnet != subnet }
        #expect(node.table.ownLease?.replaced == subnet)
        #expect(node.log.count(of: .subnetLost, "198.18.9.77:8285") == 1)
        try await eventually("the end") { flannelLike.lost != nil }
        #expect(flannelLike.lost?.description.contains("198.18.9.77") == true)
    }

    @Test(
        "6: leases of another backend, of another length, outside the network or without an address are no peers"
    )
    func break06NotOurLeases() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let node = TestNode("198.18.9.2", store: try server.store()) {
            $0.previousSubnet = LeaseSubnet(key: "10.66.9.0-24")
        }
        _ = try await node.subnet()
        let bad = [
            "10.66.21.0-24": #"{"PublicIP":"198.18.9.21","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            "10.66.22.0-25": #"{"PublicIP":"198.18.9.22"}"#, "10.66.0.0-16": #"{"PublicIP":"198.18.9.23"}"#,
            "0.0.0.0-0": #"{"PublicIP":"198.18.9.24"}"#, "10.66.25.0-24": #"{}"#,
            "10.66.26.0-24": #"{"PublicIP":"0.0.0.0"}"#, "10.66.27.0-24": #"{"PublicIP":"x"}"#,
            "10.66.28.0-24": #"{"PublicIP":"198.18.9.2"}"#, "10.67.0.0-24": #"{"PublicIP":"198.18.9.28"}"#,
        ]
        for (key, value) in bad { try server.putLease(key, value) }
        try server.putLease("10.66.30.0-24", #"{"PublicIP":"198.18.9.30","BackendType":"udp"}"#)
        try await node.wait(for: "the one peer") { $0.peers.map(\.subnet.key) == ["10.66.30.0-24"] }
        #expect(node.table.skipped.map(\.key) == bad.keys.sorted())
        #expect(node.log.count(of: .leaseSkipped) == bad.count)
    }

    @Test("7: a changed address or port on the same subnet takes effect, from the watch and from a snapshot")
    func break07AddressChanges() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        try server.putLease("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#)
        let node = TestNode("198.18.9.2", store: try server.store())
        try await node.wait(for: "the peer") { $0.peers.map(\.endpoint.description) == ["198.18.9.30:8285"] }
        try server.putLease("10.66.30.0-24", #"{"PublicIP":"198.18.9.31"}"#)
        try await node.wait(for: "the address") {
            $0.peers.map(\.endpoint.description) == ["198.18.9.31:8285"]
        }
        server.stop()
        try await node.wait(for: "the outage") { !$0.isStoreConnected }
        try server.start()
        try server.putLease("10.66.30.0-24", #"{"PublicIP":"198.18.9.31","BackendData":{"Port":9000}}"#)
        try server.control("compact", "\(try await server.store().snapshot().position.number)")
        try await node.wait(for: "the port") { $0.peers.map(\.endpoint.description) == ["198.18.9.31:9000"] }
    }

    @Test(
        "8: two nodes with one address: the second says so and leaves the first's lease; the same node takes it back"
    )
    func break08OneAddressTwice() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let identity = NodeIdentity.random()
        let first = TestNode("198.18.9.2", store: try server.store(), identity: identity)
        let subnet = try await first.subnet()
        let second = TestNode("198.18.9.2", store: try server.store())
        #expect(try await second.subnet() != subnet)
        #expect(second.log.count(of: .addressAnnouncedByAnother, subnet.key) == 1)
        await first.stop()
        let again = TestNode("198.18.9.2", store: try server.store(), identity: identity)
        #expect(try await again.subnet() == subnet)
    }

    @Test("8: nodes that share an address, each with a port of its own, are peers")
    func break08PortsOfTheirOwn() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let first = TestNode("198.18.9.2", store: try server.store(), port: 9001)
        let second = TestNode("198.18.9.2", store: try server.store(), port: 9002)
        try await first.wait(for: "the peer") { $0.peers.map(\.endpoint.description) == ["198.18.9.2:9002"] }
        try await second.wait(for: "the peer") { $0.peers.map(\.endpoint.description) == ["198.18.9.2:9001"] }
    }

    @Test("12: a wrong configuration is said once with its rule, and a right one taken over when it comes")
    func break12Configuration() async throws {
        let server = try EtcdServer()
        let node = TestNode("198.18.9.2", store: try server.store())
        try await node.wait(for: "none") { $0.problems.contains { $0.contains("no network configuration") } }
        try server.setNetwork(#"{"Network":"10.66.0.0/16","SubnetLen":12}"#)
        try await node.wait(for: "the rule") { $0.problems.contains { $0.contains("SubnetLen is 12") } }
        try server.setNetwork(#"{"Network":"10.66.0.0/16"}"#)
        _ = try await node.subnet()
        try server.setNetwork(#"{"Network":"10.66.0.0/16","Backend":{"Port":9000,"MTU":1400}}"#)
        try await node.wait(for: "the change") { $0.configuration?.backend.mtu(over: .ipv4) == 1400 }
        try server.setNetwork("nonsense")
        try await node.wait(for: "the problem") { $0.problems.contains { $0.contains("no JSON") } }
        #expect(node.table.configuration?.backend.port == 9000)
        #expect(node.log.count(of: .networkConfigurationIsWrong) == 2)
        #expect(node.log.count(of: .noNetworkConfiguration) == 1)
    }

    @Test("13: etcd unreachable at start is said once, and said when it answers")
    func break13UnreachableAtStart() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        server.stop()
        let node = TestNode("198.18.9.2", store: try server.store())
        try await node.wait(for: "the problem") { !$0.problems.isEmpty }
        try await Task.sleep(for: .seconds(3))
        #expect(node.log.count(of: .storeUnreachable, server.endpoint) == 1)
        try server.start()
        _ = try await node.subnet()
        #expect(node.log.count(of: .storeAnswersAgain) == 1)
        #expect(node.table.problems == [])
    }
}
