import Addresses
import LeaseTesting
import Testing

@testable import Backends
@testable import Leases

/// Networks of IPv6, and of both families: keys and values as flannel has them, and who is whose peer.
@Suite("Leases of IPv6")
struct IPv6LeaseTests {
    private static func network(_ type: String, ipv4: Bool) -> String {
        let first = ipv4 ? #""Network":"10.66.0.0/16""# : #""EnableIPv4":false"#
        return
            "{\(first),\"EnableIPv6\":true,\"IPv6Network\":\"fd00:12::/48\",\"Backend\":{\"Type\":\"\(type)\"}}"
    }

    private func entry(of node: SimulatedNode, in simulation: Simulation) throws -> (
        key: String, value: String
    ) {
        let key = try #require(node.subnet)
        return (key, try #require(simulation.entries[key]?.value))
    }

    @Test(
        "IPv6 alone: the key begins as flannel's does, and PublicIP is 0.0.0.0",
        arguments: ["udp", "host-gw"])
    func ipv6Alone(type: String) throws {
        let simulation = Simulation(seed: 501, network: Self.network(type, ipv4: false))
        let first = simulation.addNode("fd20::1")
        let second = simulation.addNode("fd20::2")
        simulation.run(for: .seconds(20))
        let (key, value) = try entry(of: second, in: simulation)
        #expect(key.hasPrefix("0.0.0.0-0&fd00:12:0:") && key.hasSuffix("::-64"))
        let backend = type == "udp" ? "" : #","BackendType":"host-gw""#
        #expect(value == #"{"PublicIP":"0.0.0.0","PublicIPv6":"fd20::2"\#(backend)}"#)
        let peer = try #require(first.table.peers.first)
        #expect("\(peer.endpoint)" == (type == "udp" ? "[fd20::2]:8285" : "fd20::2"))
        #expect(peer.subnet.ipv4 == nil && peer.subnet.key == key)
        // Found again after a restart, by its identity or by where it is.
        let subnets = [first.subnet, second.subnet]
        second.restart()
        simulation.run(for: .seconds(20))
        #expect([first.subnet, second.subnet] == subnets)
    }

    @Test("vxlan: what is announced for each family stands for itself")
    func vxlan() throws {
        let simulation = Simulation(seed: 502, network: Self.network("vxlan", ipv4: true))
        let first = simulation.addNode("198.18.9.1", ipv6Address: "fd20::1")
        let second = simulation.addNode("198.18.9.2", ipv6Address: "fd20::2")
        simulation.run(for: .seconds(20))
        let (key, value) = try entry(of: second, in: simulation)
        let subnet = try #require(LeaseSubnet(key: key))
        let macs = subnet.prefixes.map { VXLANBackend().hardwareAddress(of: $0) }
        try #require(macs.count == 2 && macs[0] != macs[1])
        #expect(
            value == #"{"PublicIP":"198.18.9.2","PublicIPv6":"fd20::2","BackendType":"vxlan","#
                + #""BackendData":{"VNI":1,"VtepMAC":"\#(macs[0])"},"BackendV6Data":{"VNI":1,"VtepMAC":"\#(macs[1])"}}"#
        )
        let peer = try #require(first.table.peers.first)
        let (ipv4, ipv6) = (BackendPeer(peer, .ipv4), BackendPeer(peer, .ipv6))
        #expect(ipv4?.address == IPAddress("198.18.9.2") && ipv6?.address == IPAddress("fd20::2"))
        #expect((ipv6?.announced?.value as? VXLANData)?.hardwareAddress == macs[1])
        #expect(first.table.skipped.isEmpty)
    }

    @Test("udp in a network of both families has one address, IPv4, and says nothing of IPv6")
    func udpOfBoth() throws {
        let simulation = Simulation(seed: 503, network: Self.network("udp", ipv4: true))
        let first = simulation.addNode("198.18.9.1", ipv6Address: "fd20::1")
        let second = simulation.addNode("198.18.9.2", ipv6Address: "fd20::2")
        simulation.run(for: .seconds(20))
        let (key, value) = try entry(of: second, in: simulation)
        #expect(value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)
        #expect(first.table.peers.map(\.subnet.key) == [key] && first.table.skipped.isEmpty)
        #expect(first.table.peers.first.map { "\($0.endpoint)" } == "198.18.9.2:8285")
    }

    @Test("alloc in a network of both families announces one address, as flannel does")
    func allocationOfBoth() throws {
        let simulation = Simulation(seed: 505, network: Self.network("alloc", ipv4: true))
        let first = simulation.addNode("198.18.9.1", ipv6Address: "fd20::1")
        let second = simulation.addNode("198.18.9.2", ipv6Address: "fd20::2")
        simulation.run(for: .seconds(20))
        let (key, value) = try entry(of: second, in: simulation)
        #expect(value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)
        #expect(first.table.peers.map(\.subnet.key) == [key] && first.table.skipped.isEmpty)
    }

    @Test(
        "extension in a network of both families: both addresses, the same text for each, and one peer of both"
    )
    func extensionOfBoth() throws {
        let text = Self.network("extension", ipv4: true)
        let preparation = BackendPreparation(
            try NetworkConfiguration(parsing: text).backend,
            BackendAnnouncement(ExtensionData(output: "mac")))
        let simulation = Simulation(seed: 506, network: text)
        let nodes = [1, 2].map { simulation.addNode("198.18.9.\($0)", ipv6Address: "fd20::\($0)") }
        for (number, node) in zip([1, 2], nodes) {
            node.announce(
                "198.18.9.\(number)", ipv6Address: "fd20::\(number)", preparation: preparation)
        }
        simulation.run(for: .seconds(20))
        let (key, value) = try entry(of: nodes[1], in: simulation)
        #expect(
            value == #"{"PublicIP":"198.18.9.2","PublicIPv6":"fd20::2","BackendType":"extension","#
                + #""BackendData":"mac","BackendV6Data":"mac"}"#)
        let peer = try #require(nodes[0].table.peers.first)
        let ipv6 = BackendSide(
            subnet: try #require(LeaseSubnet(key: key)?.prefix(.ipv6)),
            address: try #require(IPAddress("fd20::2")))
        #expect(BackendPeer(peer, .ipv4)?.ipv6 == ipv6)
        #expect(BackendPeer(peer, .ipv6)?.subnet == ipv6.subnet && BackendPeer(peer, .ipv6)?.ipv6 == nil)
        #expect(nodes[0].table.skipped.isEmpty)
    }

    @Test(
        "a network with IPv6 and a backend that is IPv4's alone is refused, with what to do",
        arguments: ["ipip", "wireguard"])
    func backendsOfIPv4(type: String) throws {
        for (ipv4, words) in [
            (true, "leave it out, or set Backend.Type"), (false, "alone; set Backend.Type"),
        ] {
            let error = #expect(throws: NetworkConfigurationError.self) {
                try NetworkConfiguration(parsing: Self.network(type, ipv4: ipv4))
            }
            let text = error?.description ?? ""
            #expect(
                text.hasPrefix("EnableIPv6 is true: twill's \(type) carries IPv4 alone")
                    && text.contains(words))
        }
    }

    @Test(
        "a peer that has one family of two is a peer of that one, by name",
        arguments: [
            ("10.66.200.0-24", #"{"PublicIP":"198.18.9.9","BackendType":"host-gw"}"#, "no IPv6 subnet"),
            (
                "10.66.200.0-24&fd00:12:0:c8::-64", #"{"PublicIP":"198.18.9.9","BackendType":"host-gw"}"#,
                "no PublicIPv6"
            ),
            (
                "10.66.200.0-24&fd00:12:0:c8::-64",
                #"{"PublicIP":"198.18.9.9","PublicIPv6":"fd00:12:0:9::1","BackendType":"host-gw"}"#,
                "lies inside the network"
            ),
        ])
    func oneOfTwo(key: String, value: String, words: String) throws {
        let simulation = Simulation(seed: 504, network: Self.network("host-gw", ipv4: true))
        let node = simulation.addNode("198.18.9.1", ipv6Address: "fd20::1")
        simulation.put(key, value)
        simulation.run(for: .seconds(20))
        let peer = try #require(node.table.peers.first)
        #expect(BackendPeer(peer, .ipv4) != nil && BackendPeer(peer, .ipv6) == nil)
        let reason = try #require(node.table.skipped.first?.reason)
        #expect(reason.contains(words) && reason.contains("by IPv4 alone"), "\(reason)")
    }

    @Test(
        "in a network of IPv6 alone, who is of IPv4 is named and no peer",
        arguments: [
            ("10.66.200.0-24", #"{"PublicIP":"198.18.9.9"}"#, "no IPv6 subnet"),
            ("0.0.0.0-0&fd00:12:0:c8::-64", #"{"PublicIP":"198.18.9.9","PublicIPv6":null}"#, "no PublicIPv6"),
            (
                "0.0.0.0-0&fd00:13:0:c8::-64", #"{"PublicIP":"0.0.0.0","PublicIPv6":"fd20::9"}"#,
                "outside IPv6Network"
            ),
        ])
    func strangersOfIPv4(key: String, value: String, words: String) {
        let simulation = Simulation(seed: 505, network: Self.network("udp", ipv4: false))
        let node = simulation.addNode("fd20::1")
        simulation.put(key, value)
        simulation.run(for: .seconds(20))
        #expect(node.subnet != nil && node.table.peers.isEmpty)
        #expect(node.table.skipped.first?.reason.contains(words) == true, "\(node.table.skipped)")
    }

    @Test("a node without an address of the network's family waits, and says so, until it has one")
    func nodeOfTheOtherFamily() {
        let simulation = Simulation(seed: 506, network: Self.network("udp", ipv4: false))
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(20))
        #expect(node.subnet == nil && node.table.configuration == nil)
        #expect(node.table.refusedNetworks == [.v6(IPv6Prefix("fd00:12::/48")!)])
        #expect(node.table.problems.contains { $0.contains("no IPv6 address") }, "\(node.table.problems)")
        node.feed(
            .announce(NodeAnnouncement(publicAddress: nil, publicIPv6Address: IPv6Address("fd20::1"))))
        simulation.run(for: .seconds(20))
        #expect(node.subnet?.hasPrefix("0.0.0.0-0&") == true && node.table.problems.isEmpty)
    }

    @Test("a network of no family is refused")
    func noFamily() {
        let error = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration(parsing: #"{"EnableIPv4":false}"#)
        }
        #expect(error?.description.contains("EnableIPv6 must be true") == true)
    }
}
