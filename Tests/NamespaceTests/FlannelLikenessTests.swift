import Addresses
import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// What others read and see of a node is as flannel has it.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct FlannelLikenessTests {
    @Test func subnetFile() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start()[0]
        let subnet = try #require(daemon.status?.lease?.subnet)
        #expect(subnet.wholeMatch(of: #/100\.96\.\d+\.0/24/#) != nil)
        #expect(
            lab.read("node1/subnet.env") == """
                FLANNEL_NETWORK=100.96.0.0/16
                FLANNEL_SUBNET=\(subnet.replacing(".0/24", with: ".1/24"))
                FLANNEL_MTU=1472
                FLANNEL_IPMASQ=false

                """)
        var attributes = stat()
        #expect(stat("\(lab[1].directory)/subnet.env", &attributes) == 0)
        #expect(attributes.st_mode & 0o777 == 0o644)
    }

    @Test func leaseInEtcd() async throws {
        struct Value: Decodable { let PublicIP: String }
        let nodes = try await NodesOnEtcd()
        let lease = try #require(try await nodes.etcd.lease(nodes.key(1)))
        let value = try JSONDecoder().decode(Value.self, from: Data(lease.value.utf8))
        #expect(value.PublicIP == nodes.lab[1].address)
        #expect((lease.lease ?? 0) > 0, "the key hangs on no etcd lease: it would never expire")
        // And what an operator is told of it.
        let list = try await nodes.lab[1].run(
            "\(LabDaemon.binary) lease list --etcd-endpoints \(nodes.etcd.endpoint)")
        let line = list.split(separator: "\n").first {
            $0.hasPrefix(nodes.key(1)) || $0.hasPrefix(nodes.subnets[0])
        }
        let fields = try #require(line, "\(list)").split(separator: " ")
        #expect(fields[1] != "-" && fields[2] == "172.20.32.101:8285", "\(list)")
        #expect(fields[3] == "23h" || fields[3] == "24h", "\(list)")
    }

    @Test func deviceAddressRouteAndMTU() async throws {
        let lab = try await Lab(nodes: 1)
        let subnet = try #require(try await lab.start()[0].status?.lease?.subnet)
        let device = try #require(try await lab[1].interface("flannel0"))
        #expect(device.mtu == 1472)
        let addresses = device.addresses.filter { !$0.local.contains(":") }
        #expect(addresses.map { "\($0.local)/\($0.prefixLength)" } == [subnet.replacing("/24", with: "/32")])
        let routes = try await lab[1].routes().filter { $0.interface == "flannel0" }
        #expect(routes.map(\.destination) == ["100.96.0.0/16"])
    }

    /// From pods and from nodes, up to the MTU and not above it; each forwarding node takes one from the time to
    /// live, as with flannel.
    @Test func packetsInEveryDirection() async throws {
        let lab = try await Lab()
        let daemons = try await lab.start()
        var pods: [LabPod] = []
        var bridges: [String] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            let subnet = try #require(daemon.status?.lease?.subnet)
            pods.append(try await node.addPod(in: subnet))
            bridges.append(subnet.replacing(".0/24", with: ".1"))
        }
        // A pod's link that came up a moment ago answers in its own time.
        try await lab[1].reaches(pods[1].address)
        try await lab[2].reaches(pods[0].address)
        #expect(await lab[1].answers(from: pods[1].address) == 3)
        #expect(await lab[2].answers(from: pods[0].address) == 3)
        #expect(await pods[0].answers(from: bridges[1]) == 3)
        #expect(await lab[1].answers(from: bridges[1]) == 3)
        let capture = try await PacketCapture.start(on: pods[0], interface: "eth0")
        #expect(await pods[0].answers(from: pods[1].address, bytes: 1472) == 3)
        #expect(await pods[0].answers(from: pods[1].address, count: 1, bytes: 1473) == 0)
        // Two nodes' kernels and both their daemons: 64 less 4.
        let answers = capture.packets().filter { !$0.isOutgoing && $0.bytes[9] == UInt8(IPPROTO_ICMP) }
        #expect(answers.map { $0.bytes[8] } == [60, 60, 60])
    }

    @Test func noRouteIsAnsweredByICMP() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start()[0]
        let pod = try await lab[1].addPod(in: try #require(daemon.status?.lease?.subnet))
        let socket = try await LabSocket.sending(to: IPv4Address(bits: 0x6460_FE09), port: 9, from: pod)
        _ = try await until("what says that nobody holds the subnet") {
            socket.send()
            return socket.error() == ENETUNREACH ? true : nil
        }
        #expect(daemon.counter(.unreachablesSent) > 0)
    }
}
