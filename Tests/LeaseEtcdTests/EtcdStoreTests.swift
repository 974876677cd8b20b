import Addresses
import LeaseEtcd
import LeaseTesting
import Leases
import Testing

@Suite(
    "etcd store", .enabled(if: hasEtcd, "etcd is not installed (apt-get install etcd-server etcd-client)"),
    .serialized)
struct EtcdStoreTests {
    @Test("two nodes get their subnets and see each other; values are flannel's byte for byte")
    func twoNodes() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        let first = TestNode(
            "198.18.9.1", store: try EtcdStore(configuration: .init(endpoints: [server.endpoint])))
        let second = TestNode(
            "198.18.9.2", store: try EtcdStore(configuration: .init(endpoints: [server.endpoint])))
        let subnets = [try await first.subnet(), try await second.subnet()]
        #expect(subnets[0] != subnets[1])
        try await first.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[1]] }
        try await second.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[0]] }
        #expect(
            try server.leases() == [
                subnets[0].key: #"{"PublicIP":"198.18.9.1","PublicIPv6":null}"#,
                subnets[1].key: #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#,
            ])
        #expect(try server.etcdLeaseCount() == 2)
    }
}
