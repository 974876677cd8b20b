import Kit
import LeaseEtcd
import LeaseTesting
import Leases
import Testing

@Suite(
    "etcd security", .enabled(if: hasEtcd, "etcd is not installed: apt-get install etcd-server etcd-client"),
    .serialized)
struct EtcdSecurityTests {
    @Test("TLS with an authority alone; a server that another authority signed is refused")
    func authority() async throws {
        let certificates = try Certificates.shared.get()
        let server = try EtcdServer(
            scheme: "https",
            arguments: ["--cert-file", certificates["server.pem"], "--key-file", certificates["server.key"]],
            clientArguments: ["--cacert", certificates["authority.pem"]])
        try server.setNetwork()
        var configuration = EtcdConfiguration(endpoints: [server.endpoint])
        configuration.authorityFile = certificates["authority.pem"]
        let node = TestNode("198.18.9.2", store: try EtcdStore(configuration: configuration))
        let subnet = try await node.subnet()
        try server.putLease("10.66.250.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        try await node.wait(for: "the peer") { $0.peers.count == 1 }
        #expect(try server.leases()[subnet.key] == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)

        for wrong in [certificates["stranger.pem"], nil] {
            configuration.authorityFile = wrong
            let store = try EtcdStore(configuration: configuration)
            let error = await #expect(throws: LeaseStoreError.self) { try await store.snapshot() }
            #expect(error?.description.contains(server.endpoint) == true, "\(error?.description ?? "")")
        }
    }

    @Test("TLS with a client's certificate; without it the server refuses")
    func clientCertificate() async throws {
        let certificates = try Certificates.shared.get()
        let server = try EtcdServer(
            scheme: "https",
            arguments: [
                "--cert-file", certificates["server.pem"], "--key-file", certificates["server.key"],
                "--client-cert-auth", "--trusted-ca-file", certificates["authority.pem"],
            ],
            clientArguments: [
                "--cacert", certificates["authority.pem"], "--cert", certificates["client.pem"], "--key",
                certificates["client.key"],
            ])
        try server.setNetwork()
        var configuration = EtcdConfiguration(endpoints: [server.endpoint])
        configuration.authorityFile = certificates["authority.pem"]
        let without = try EtcdStore(configuration: configuration)
        await #expect(throws: LeaseStoreError.self) { try await without.snapshot() }
        configuration.certificateFile = certificates["client.pem"]
        // Alone it has no effect, as with flanneld, which is said.
        #expect(configuration.remarks == ["--etcd-certfile has no effect without --etcd-keyfile"])
        let half = try EtcdStore(configuration: configuration)
        await #expect(throws: LeaseStoreError.self) { try await half.snapshot() }
        configuration.keyFile = certificates["client.key"]
        let node = TestNode("198.18.9.2", store: try EtcdStore(configuration: configuration))
        _ = try await node.subnet()
    }

    @Test("a file that is not there is named")
    func missingFile() {
        var configuration = EtcdConfiguration(endpoints: ["https://127.0.0.1:2379"])
        configuration.authorityFile = "/nonexistent/authority.pem"
        let error = #expect(throws: LeaseStoreError.self) { try configuration.checkFiles() }
        #expect(error?.description.contains("cannot read /nonexistent/authority.pem") == true)
    }

    @Test("a file that is no certificate is said so")
    func brokenFile() async throws {
        let certificates = try Certificates.shared.get()
        var configuration = EtcdConfiguration(endpoints: ["https://127.0.0.1:2379"])
        configuration.authorityFile = certificates["server.ext"]
        let store = try EtcdStore(configuration: configuration)
        let error = await #expect(throws: LeaseStoreError.self) { try await store.snapshot() }
        #expect(error?.kind == .denied)
        #expect(error?.description.contains("--etcd-cafile") == true)
    }

    @Test("user and password; a wrong one is said so, and a token that ended is replaced")
    func password() async throws {
        let server = try EtcdServer()
        try server.setNetwork()
        try server.control("user", "add", "root:rootpw")
        try server.control("user", "grant-role", "root", "root")
        try server.control("role", "add", "twill")
        try server.control(
            "role", "grant-permission", "twill", "--prefix=true", "readwrite", EtcdServer.prefix)
        try server.control("user", "add", "twill:secret")
        try server.control("user", "grant-role", "twill", "twill")
        // Not enabled yet: a user is no obstacle.
        _ = try await server.store(username: "twill", password: "secret").snapshot()
        try server.control("auth", "enable")

        for (username, password) in [("twill", "wrong"), (nil, nil)] {
            let node = TestNode("198.18.9.3", store: try server.store(username: username, password: password))
            try await node.wait(for: "the refusal") {
                $0.problems.contains { $0.contains("--etcd-password") }
            }
            #expect(node.log.count(of: .storeRefuses) == 1)
        }
        let node = TestNode("198.18.9.2", store: try server.store(username: "twill", password: "secret"))
        let subnet = try await node.subnet()
        try server.control("auth", "disable", "--user=root:rootpw")
        try server.control("auth", "enable")
        await node.keeper.announce(.init(publicAddress: .init("198.18.9.4")!))
        try await eventually("the new address") {
            try server.control("get", "\(EtcdServer.prefix)/subnets/\(subnet.key)", "--user=root:rootpw")
                .contains("198.18.9.4")
        }
        try server.control(
            "put", "\(EtcdServer.prefix)/subnets/10.66.250.0-24", #"{"PublicIP":"198.18.9.9"}"#,
            "--user=root:rootpw")
        try await node.wait(for: "the peer") { $0.isStoreConnected && $0.peers.count == 1 }
        server.stop()
        try await node.wait(for: "the outage") { !$0.isStoreConnected }
    }
}
