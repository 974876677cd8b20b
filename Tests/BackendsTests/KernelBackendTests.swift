import Addresses
import LeaseTesting
import Netlink
import Testing

@testable import Backends
@testable import Leases

/// host-gw and vxlan as nodes agree on them, under the simulated clock and store.
@Suite("Backends of the kernel's")
struct KernelBackendTests {
    private func prefix(_ text: String) throws -> IPPrefix { .v4(try #require(IPv4Prefix(text))) }

    @Test("host-gw: no byte more, nothing announced but its name, as flannel writes it")
    func hostGateway() throws {
        let backend = HostGatewayBackend()
        #expect(backend.overhead(over: .ipv4) == 0 && backend.overhead(over: .ipv6) == 0 && backend.port == 0)
        let simulation = Simulation(
            seed: 401, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"host-gw"}}"#)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(20))
        let key = try #require(second.subnet)
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"BackendType":"host-gw"}"#)
        let peer = try #require(first.table.peers.first)
        #expect("\(peer.endpoint)" == "198.18.9.2")
        // A flanneld's entry is a peer, and one of another backend's is none.
        simulation.put(
            "10.66.200.0-24", #"{"PublicIP":"198.18.9.200","PublicIPv6":null,"BackendType":"host-gw"}"#)
        simulation.put("10.66.201.0-24", #"{"PublicIP":"198.18.9.201"}"#)
        simulation.run(for: .seconds(1))
        #expect(first.table.peers.map { "\($0.subnet)" }.contains("10.66.200.0/24"))
        #expect(first.table.skipped.map(\.reason) == ["its backend is udp, and this network's is host-gw"])
    }

    @Test("vxlan: 50 bytes over IPv4, 70 over IPv6; Backend.MTU is the outer packet's")
    func sizes() throws {
        let usual = VXLANBackend()
        #expect(usual.overhead(over: .ipv4) == 50 && usual.overhead(over: .ipv6) == 70)
        #expect(usual.mtu(over: .ipv4) == nil && usual.port == 8472)
        let configuration = try NetworkConfiguration(
            parsing: #"{"Network":"10.66.0.0/16","Backend":{"Type":"VXLAN","mtu":1400,"vni":7}}"#)
        #expect(configuration.backend.mtu(over: .ipv4) == 1350)
        #expect(configuration.backend.mtu(over: .ipv6) == 1330)
        #expect("\(configuration.backend)" == "vxlan, VNI 7, port 8472")
    }

    @Test("vxlan: a node's hardware address follows from its subnet, is nobody else's, and is no group's")
    func hardwareAddresses() throws {
        let backend = VXLANBackend()
        var seen: Set<HardwareAddress> = []
        for number in 0..<UInt32(20_000) {
            let subnet = IPPrefix.v4(IPv4Prefix(IPv4Address(bits: 0x0A00_0000 + number << 8), length: 24))
            let address = backend.hardwareAddress(of: subnet)
            #expect(address == VXLANBackend().hardwareAddress(of: subnet))
            #expect(address.isUnicast && address.bits >> 41 & 1 == 1)
            seen.insert(address)
        }
        #expect(seen.count == 20_000)
    }

    @Test(
        "vxlan: the lease has the hardware address before there is a device, and keeps it through a restart")
    func announcement() throws {
        let simulation = Simulation(
            seed: 402, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"vxlan"}}"#)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(20))
        let key = try #require(second.subnet)
        let subnet = try #require(LeaseSubnet(key: key))
        let address = VXLANBackend().hardwareAddress(of: .v4(try #require(subnet.ipv4)))
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"BackendType":"vxlan","#
                + #""BackendData":{"VNI":1,"VtepMAC":"\#(address)"}}"#)
        let peer = try #require(first.table.peers.first)
        #expect((peer.announced?.value as? VXLANData)?.hardwareAddress == address)
        #expect("\(peer.endpoint)" == "198.18.9.2:8472")
    }

    @Test(
        "vxlan: a node without a hardware address to send to, or of another VNI, is named, and no peer",
        arguments: [
            (#"{"PublicIP":"198.18.9.9","BackendType":"vxlan"}"#, "VtepMAC"),
            (#"{"PublicIP":"198.18.9.9","BackendType":"vxlan","BackendData":{"VNI":1}}"#, "VtepMAC"),
            (
                #"{"PublicIP":"198.18.9.9","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}}"#,
                "no hardware address of an interface"
            ),
            (
                #"{"PublicIP":"198.18.9.9","BackendType":"vxlan","BackendData":{"VNI":2,"VtepMAC":"0a:58:00:00:00:01"}}"#,
                "VNI is 2"
            ),
        ])
    func refusals(value: String, words: String) throws {
        let simulation = Simulation(
            seed: 403, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"vxlan"}}"#)
        let node = simulation.addNode("198.18.9.1")
        simulation.put("10.66.200.0-24", value)
        simulation.put(
            "10.66.201.0-24",
            #"{"PublicIP":"198.18.9.8","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:58:00:00:00:02"}}"#
        )
        simulation.run(for: .seconds(20))
        #expect(node.table.peers.map { "\($0.subnet)" } == ["10.66.201.0/24"])
        #expect(node.table.skipped.map(\.key) == ["10.66.200.0-24"])
        #expect(node.table.skipped.first?.reason.contains(words) == true)
    }

    @Test("a network that becomes another backend's is followed: subnets stay, and the leases are rewritten")
    func change() throws {
        let simulation = Simulation(seed: 404, network: #"{"Network":"10.66.0.0/16"}"#)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(20))
        let subnets = [first.subnet, second.subnet]
        for (type, port) in [("host-gw", ""), ("vxlan", ":8472"), ("udp", ":8285")] {
            simulation.setConfiguration(#"{"Network":"10.66.0.0/16","Backend":{"Type":"\#(type)"}}"#)
            simulation.run(for: .seconds(20))
            #expect([first.subnet, second.subnet] == subnets)
            #expect(first.table.peers.map { "\($0.endpoint)" } == ["198.18.9.2\(port)"], "\(type)")
            #expect(first.table.skipped.isEmpty, "\(first.table.skipped)")
        }
    }
}
