import Addresses
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// What changes while nodes run: leases, the network's configuration, the store itself, and what others do to the
/// kernel.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct ChangeTests {
    @Test func aNewLeaseTakesEffectAndItsEnd() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let foreign = try await LabSocket.receiving(on: 8285, of: nodes.lab[3])
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: nodes.lab[3].address)
        try await nodes.packetsReach(foreign, "a packet at the new peer")
        try await nodes.etcd.deleteLease(NodesOnEtcd.foreignKey)
        let before = nodes.daemons[0].counter(.dropOutboundNoRoute)
        let sender = try await LabSocket.sending(to: NodesOnEtcd.foreignPod, port: 9, from: nodes.pods[0])
        try await nodes.daemons[0].wait(for: "that the peer is none") {
            sender.send()
            return $0.value(of: .dropOutboundNoRoute) > before
        }
    }

    @Test func aChangedConfigurationIsFollowed() async throws {
        let nodes = try await NodesOnEtcd()
        func config(network: String = "100.96.0.0/16", _ rest: String) -> String {
            #"{"Network":"\#(network)",\#(rest)}"#
        }
        let backend = #""Backend":{"Type":"udp","Port":8290,"MTU":1400}"#
        func follow(port: Int, mtu: Int) async throws {
            for (node, daemon) in zip(nodes.lab.nodes, nodes.daemons) {
                try await daemon.wait(for: "port \(port) and MTU \(mtu)") {
                    $0.isReady && $0.problems.isEmpty && $0.tunnel?.mtu == mtu
                        && $0.peers.map { $0.endpoint.hasSuffix(":\(port)") } == [true]
                }
                try await node.listens(on: UInt16(port), tcp: false)
                _ = try await until("the device's MTU") {
                    try await node.interface("flannel0")?.mtu == mtu ? true : nil
                }
                _ = try await until("the MTU in subnet.env") {
                    let text = nodes.lab.read("node\(node.number)/subnet.env")
                    return text?.contains("\nFLANNEL_MTU=\(mtu)\n") == true ? true : nil
                }
            }
            try await nodes.podsReachEachOther()
        }
        try await nodes.etcd.setNetwork(config(backend))
        try await follow(port: 8290, mtu: 1400)
        // What the pods have still to learn.
        try await nodes.daemons[0].logged("event=subnet_file_changed")

        // A network that the nodes' subnets are none of, and a length that is none: said, and nothing else happens.
        try await nodes.etcd.setNetwork(config(network: "100.80.0.0/16", backend))
        try await nodes.daemons[0].problem("restart twilld")
        try await nodes.podsReachEachOther()
        try await nodes.etcd.setNetwork(config(#""SubnetLen":33"#))
        try await nodes.daemons[0].problem("SubnetLen")
        try await nodes.podsReachEachOther()

        try await nodes.etcd.setNetwork(Lab.configuration)
        try await follow(port: 8285, mtu: 1472)
    }

    /// What there is at the start, what is said of it, and what is kept beside it.
    @Test(
        arguments: [
            (#"{"Network":"#, "no JSON", nil),
            (#"{"Network":"100.96.0.0/16","SubnetLen":33}"#, "SubnetLen", nil),
            (
                #"{"Network":"100.80.0.0/28","SubnetLen":30,"SubnetMin":"100.80.0.4","SubnetMax":"100.80.0.4"}"#,
                "no subnet is free in 100.80.0.0/28", "100.80.0.4-30"
            ),
        ] as [(String, String, String?)])
    func whatGivesNoSubnetAtTheStartIsSaid(config: String, words: String, taken: String?) async throws {
        let lab = try await Lab(nodes: 1, config: nil)
        let etcd = try await lab.startEtcd(config: config)
        if let taken { try await etcd.putLease(taken, at: "172.20.33.9") }
        let daemon = try await lab[1].start("--etcd-endpoints=\(etcd.endpoint)")
        try await daemon.problem(words)
        #expect(daemon.status?.isReady == false && daemon.status?.lease == nil)
        #expect(lab.read("node1/subnet.env") == nil)
        #expect(try await etcd.leases().count == (taken == nil ? 0 : 1))
    }

    @Test func packetsFlowWithoutTheStoreAndItIsFollowedAgain() async throws {
        let nodes = try await NodesOnEtcd()
        try await nodes.etcd.stop()
        for daemon in nodes.daemons { try await daemon.problem(LabEtcd.address) }
        #expect(await nodes.pods[0].answers(from: nodes.pods[1].address) == 3)
        #expect(nodes.daemons.allSatisfy { $0.isRunning && $0.status?.isReady == true })
        try await nodes.etcd.start()
        try await nodes.etcd.putLease("100.96.251.0-24", "garbage after the outage")
        for daemon in nodes.daemons { try await daemon.skips("100.96.251.0-24") }
        #expect(await nodes.pods[0].answers(from: nodes.pods[1].address) == 3)
    }

    @Test func anAddressOfTheDeviceThatIsDeletedComesBack() async throws {
        let lab = try await Lab()
        let daemons = try await lab.start()
        let before = try #require(try await lab[1].interface("flannel0")?.addresses.map(\.local))
        try await lab[1].run("ip -4 address flush dev flannel0")
        _ = try await until("the address", { daemons[0].log }) {
            try await lab[1].interface("flannel0")?.addresses.map(\.local) == before ? true : nil
        }
        try await daemons[0].healed()
    }
}
