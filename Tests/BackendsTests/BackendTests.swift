import Addresses
import Backends
import LeaseTesting
import Reconciler
import Testing

@testable import Leases

/// flannel's udp, and the backend of this test's own.
private let both = BackendRegistry(usual: UDPBackend.self, others: [DirectRoutes.self])

@Suite("Backends")
struct BackendTests {
    private static let place = BackendPlace(
        network: .v4(IPv4Prefix(IPv4Address(10, 66, 0, 0), length: 16)),
        subnet: .v4(IPv4Prefix(IPv4Address(10, 66, 28, 0), length: 24)), tunnelName: "flannel0",
        alias: "twilld /run/flannel/subnet.env", underlayName: "eth0", underlayIndex: 2,
        underlayAddress: .v4(IPv4Address(198, 18, 9, 2)), publicAddress: .v4(IPv4Address(198, 18, 9, 2)),
        mtu: 1472, queueLength: 1000)

    private func direct(_ members: String) throws -> NetworkConfiguration {
        try NetworkConfiguration(
            parsing: "{\"Network\":\"10.66.0.0/16\",\"Backend\":{\"Type\":\"Direct-Routes\"\(members)}}",
            backends: both)
    }

    @Test("udp: headers of 28 bytes over IPv4 and 48 over IPv6, and of the kernel the tunnel device alone")
    func udp() {
        let udp = UDPBackend()
        #expect(udp.overhead(over: .ipv4) == 28)
        #expect(udp.overhead(over: .ipv6) == 48)
        let peer = BackendPeer(
            subnet: .v4(IPv4Prefix(IPv4Address(10, 66, 3, 0), length: 24)),
            address: .v4(IPv4Address(198, 18, 9, 3)),
            announced: nil)
        let items = udp.desiredItems(in: Self.place, peers: [peer])
        #expect(items.map(\.name) == Self.place.tunnel(overhead: 28).desiredItems.map(\.name))
        #expect("\(udp)" == "udp, port 8285, MTU of the underlay less 28 bytes")
    }

    @Test("udp announces a port of the node's own, and none that is the network's")
    func udpAnnouncement() throws {
        let udp = UDPBackend()
        #expect(udp.data(for: Self.place.subnet, port: nil) == nil)
        #expect(udp.data(for: Self.place.subnet, port: 9000)?.json == #"{"Port":9000}"#)
    }

    @Test(
        "another backend's configuration, by its own keys and rules, and by flannel's words where it is not built"
    )
    func configuration() throws {
        let configuration = try direct(#","Rack":7"#)
        #expect((configuration.backend as? DirectRoutes)?.rack == 7)
        #expect(configuration == (try direct(#","Rack":7,"Port":1"#)))
        #expect(configuration != (try direct(#","Rack":8"#)))
        let error = #expect(throws: NetworkConfigurationError.self) { try direct(#","Rack":100"#) }
        #expect(error?.description == "Backend.Rack is 100: it must be 1 to 99")
        let unknown = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration(
                parsing: #"{"Network":"10.66.0.0/16","Backend":{"Type":"direct-routes"}}"#)
        }
        #expect(
            unknown?.description
                == "Backend.Type is \"direct-routes\": twill has udp, vxlan, host-gw, ipip, wireguard, alloc and extension alone; "
                + "nodes of this network need flanneld, or set it to one of those")
    }

    @Test("nodes of another backend find each other, announce what is its, and skip those of udp by name")
    func network() throws {
        let simulation = Simulation(
            seed: 400, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"direct-routes","Rack":3}}"#,
            backends: both)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(20))
        let key = try #require(second.subnet)
        #expect(
            simulation.entries[key]?.value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"#
                + #""BackendType":"direct-routes","BackendData":{"Rack":3}}"#)
        let peer = try #require(first.table.peers.first)
        #expect((peer.announced?.value as? DirectRoutes.Announced)?.rack == 3)
        let backend = try #require(first.table.configuration).backend
        let items = backend.desiredItems(
            in: Self.place, peers: first.table.peers.compactMap { BackendPeer($0, .ipv4) })
        #expect(items.map(\.name) == ["route \(peer.subnet) via 198.18.9.2"])

        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.200"}"#)
        simulation.run(for: .seconds(1))
        #expect(
            first.table.skipped.map(\.reason) == ["its backend is udp, and this network's is direct-routes"])
    }
}
