import Addresses
import FoundationEssentials
import Glibc
import Kit
import KubernetesNodes
import KubernetesTesting
import NetworkNamespaces
import Telemetry
import Testing

/// Real daemons as nodes of a Kubernetes cluster, by an API server that does as it is told.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct ClusterTests {
    @Test func twoNodesOfAClusterReachEachOther() async throws {
        let world = try await ClusterWorld()
        let daemons = try await world.startAll()
        // The first subnet of all is a node's too.
        #expect(daemons[0].status?.lease?.subnet == "10.244.0.0/24")
        #expect(daemons[0].status?.lease?.isAssigned == true)
        #expect(daemons[0].status?.text().contains("assigned by the cluster") == true)
        #expect(daemons[0].status?.store.name.hasPrefix("Kubernetes, http://") == true)
        #expect(world.subnetFile(1).contains("FLANNEL_SUBNET=10.244.0.1/24"))
        #expect(world.subnetFile(1).contains("FLANNEL_NETWORK=10.244.0.0/16"))
        let pods = [
            try await world.lab[1].addPod(in: "10.244.0.0/24"),
            try await world.lab[2].addPod(in: "10.244.1.0/24"),
        ]
        try await pods[0].reaches(pods[1].address)
        for number in 1...2 {
            let record = try await world.node(number, "the condition") { $0.networkUnavailable == "False" }
            #expect(record.annotations.publicIP == world.lab[number].address)
            #expect(record.annotations.isManaged == "true" && record.annotations.backendType == "")
        }
        #expect(world.list(1)?.contains("\"type\": \"flannel\"") == true)
        // A node that leaves the cluster is no peer any longer.
        world.server?.delete("node2")
        try await daemons[0].wait(for: "no peer") { $0.peers.isEmpty }
    }

    /// Row 9: packets flow, and a node starts again from what it kept.
    @Test func theAPIServerMayBeGone() async throws {
        let world = try await ClusterWorld()
        let daemons = try await world.startAll()
        let pods = [
            try await world.lab[1].addPod(in: "10.244.0.0/24"),
            try await world.lab[2].addPod(in: "10.244.1.0/24"),
        ]
        try await pods[0].reaches(pods[1].address)
        let file = world.subnetFile(1)
        _ = try await until("what is kept") {
            world.lab.read("node1/state/kubernetes.json")?.contains("10.244.1.0") == true ? true : nil
        }
        world.stopServer()
        try await daemons[0].problem("API server", "packets flow on")
        #expect(await pods[0].answers(from: pods[1].address) == 3)
        #expect(daemons[0].status?.isReady == true)

        daemons[0].signal(SIGTERM)
        #expect(try await daemons[0].exitStatus() == 0)
        #expect(world.subnetFile(1) == file)
        let again = try await world.start(1)
        try await again.problem("last known")
        try await again.ready()
        try await pods[0].reaches(pods[1].address)
        #expect(world.subnetFile(1) == file)

        try await world.startServer()
        try await again.wait(for: "the API server, without a problem", seconds: 60) {
            $0.isReady && $0.store.isConnected && $0.problems.isEmpty
        }
    }

    /// Row 8: what is waited for is seen from outside though there is no underlay yet, nor anything else.
    @Test func theFirstStartWaitsForTheAPIServer() async throws {
        let world = try await ClusterWorld(nodes: 1)
        world.stopServer()
        let daemon = try await world.start(1)
        try await daemon.problem("API server", "172.20.32.1:6443")
        #expect(daemon.status?.isReady == false)
        #expect(daemon.status?.state.contains("waiting for the cluster") == true)
        #expect(world.subnetFile(1).isEmpty && world.list(1) == nil)
        try await world.startServer()
        try await daemon.healed(seconds: 60)
        #expect(daemon.status?.lease?.subnet == "10.244.0.0/24")
    }

    /// Row 3, row 5: another object of the same name has another podCIDR.
    @Test func aNodeMadeAnewIsFollowedAndItsStaleBridgeIsNamed() async throws {
        let world = try await ClusterWorld()
        let daemons = try await world.startAll("--ip-blackhole-route")
        let node = world.lab[1]
        // What the plugin made, with a pod on it.
        try await node.run(
            "ip link add cni0 type bridge && ip address add 10.244.0.1/24 dev cni0 && ip link set cni0 up && "
                + "ip link add veth1 type veth peer name pod1 && ip link set veth1 master cni0 up")
        try await world.node(1, "annotations") { $0.annotations.publicIP != nil }
        world.server?.delete("node1")
        try await daemons[1].wait(for: "no peer") { $0.peers.isEmpty }
        world.server?.put(NodeRecord(name: "node1", uid: "another", podCIDRs: ["10.244.7.0/24"]))

        try await daemons[0].wait(for: "the new subnet") { $0.lease?.subnet == "10.244.7.0/24" }
        _ = try await until("subnet.env", { "\(world.subnetFile(1))" }) {
            world.subnetFile(1).contains("FLANNEL_SUBNET=10.244.7.1/24") ? true : nil
        }
        let record = try await world.node(1, "annotations") { $0.annotations.publicIP != nil }
        #expect(record.uid == "another")
        try await world.node(1, "the condition") { $0.networkUnavailable == "False" }
        try await daemons[1].wait(for: "its peer") { $0.peers.map(\.subnet) == ["10.244.7.0/24"] }
        _ = try await until("the device's address") {
            try await node.interface("flannel0")?.addresses.map(\.local).contains("10.244.7.0") == true
                ? true : nil
        }
        _ = try await until("one blackhole") {
            let blackholes = try await node.routes().filter { $0.type == "blackhole" }.map(\.destination)
            return blackholes == ["10.244.7.0/24"] ? true : nil
        }

        let problem = try await daemons[0].problem("cni0", "10.244.0.1/24", "10.244.7.0/24", "1 pod is on it")
        #expect(problem.contains("twilld cleanup --cni"))
        let text = try await node.run(
            "\(LabDaemon.binary) cleanup --cni --subnet-file \(node.directory)/subnet.env")
        #expect(text.contains("removed bridge cni0 (10.244.0.1/24)") && text.contains("1 interfaces of pods"))
        #expect(try await node.interface("cni0") == nil)
        try await daemons[0].wait(for: "no word of cni0") {
            !$0.problems.contains { $0.contains("cni0 has") }
        }
    }

    @Test func onLeaseLossMayEndTheDaemon() async throws {
        let world = try await ClusterWorld(nodes: 1)
        let daemon = try await world.startAll("--on-lease-loss exit")[0]
        world.server?.delete("node1")
        world.server?.put(NodeRecord(name: "node1", uid: "another", podCIDRs: ["10.244.7.0/24"]))
        #expect(try await daemon.exitStatus() == 75, "\(daemon.log)")
        // The next start has the new one.
        let again = try await world.start(1, "--on-lease-loss exit")
        #expect(try await again.ready().lease?.subnet == "10.244.7.0/24")
    }

    /// Row 4.
    @Test func annotationsThatAreTakenAwayComeBack() async throws {
        let world = try await ClusterWorld()
        let daemons = try await world.startAll()
        world.server?.change("node1") { $0.annotations = NodeAnnotations() }
        try await world.node(1, "annotations") { $0.annotations.isManaged == "true" }
        try await world.node(1, "annotations") { $0.annotations.publicIP == world.lab[1].address }
        world.server?.change("node1") { $0.networkUnavailable = "True" }
        try await world.node(1, "the condition") { $0.networkUnavailable == "False" }
        #expect(daemons[1].status?.peers.map(\.subnet) == ["10.244.0.0/24"])
    }

    /// Rows 1 and 2; what an earlier start left in subnet.env is no subnet of this node.
    @Test func aPodCIDROutsideOfTheNetworkIsSaidAndWaitedFor() async throws {
        let world = try await ClusterWorld(nodes: 1, network: "10.99.0.0/16")
        try world.lab.write("node1/subnet.env", "FLANNEL_SUBNET=10.244.3.1/24\n")
        let daemon = try await world.start(1)
        try await daemon.problem("10.244.0.0/24", "10.99.0.0/16")
        #expect(daemon.status?.isReady == false)
        #expect(world.list(1) == nil && world.record(1)?.networkUnavailable == nil)
        try await daemon.logged("event=subnet_file_removed")
        #expect(world.subnetFile(1).isEmpty)
        world.server?.change("node1") { $0.podCIDRs = [] }
        try await daemon.problem("has no podCIDR", "--allocate-node-cidrs")
        world.server?.change("node1") { $0.podCIDRs = ["10.244.0.0/24"] }
        try world.lab.write("net-conf.json", ClusterWorld.configuration(network: "10.244.0.0/16"))
        try await daemon.healed()
        #expect(world.subnetFile(1).contains("FLANNEL_SUBNET=10.244.0.1/24"))
        #expect(world.list(1) != nil)
    }

    /// Rows 6 and 7: the list and the condition call the node ready.
    @Test func theListAndTheConditionComeAfterSubnetEnv() async throws {
        let world = try await ClusterWorld(nodes: 1)
        let directory = world.lab.directory + "/readonly"
        try await world.lab[1].run("mkdir \(directory) && mount -t tmpfs -o ro tmpfs \(directory)")
        defer { umount2(directory, Int32(MNT_DETACH)) }
        let daemon = try await world.start(1, "--subnet-file \(directory)/subnet.env")
        try await daemon.problem("waits for subnet.env")
        try await world.node(1, "annotations") { $0.annotations.publicIP != nil }
        #expect(world.list(1) == nil)
        #expect(world.record(1)?.networkUnavailable == nil)
        try await world.lab[1].run("mount -o remount,rw \(directory)")
        try await daemon.healed()
        try await world.node(1, "the condition") { $0.networkUnavailable == "False" }
        #expect(world.list(1) != nil)
        // Who takes the list away gets it back; the ConfigMap's own goes before twill's.
        try await world.lab[1].run("rm \(world.lab[1].directory)/net.d/10-flannel.conflist")
        let list = #"{"name": "own", "plugins": [{"type": "flannel"}]}"#
        try world.lab.write("cni-conf.json", list)
        _ = try await until("the list") { world.list(1) == list ? true : nil }
    }

    /// Rows 10, 11 and 12: what an operator says of a node's address is followed while it runs.
    @Test func addressesInAnnotationsAreFollowed() async throws {
        let world = try await ClusterWorld()
        try await world.lab[1].run(
            "ip link add eth1 type veth peer name far1 && ip link set far1 up && ip link set eth1 up && "
                + "ip address add 172.20.33.1/24 dev eth1")
        let daemons = try await world.startAll()
        world.server?.change("node1") { $0.annotations.publicIPOverwrite = "192.0.2.7" }
        try await world.node(1, "the overwritten address") { $0.annotations.publicIP == "192.0.2.7" }
        try await daemons[1].wait(for: "it as a peer") { $0.peers.first?.endpoint == "192.0.2.7:8285" }
        #expect(daemons[0].status?.underlay?.interface == "eth0")
        world.server?.change("node1") {
            $0.annotations.publicIPOverwrite = nil
            $0.annotations.nodePublicIP = "172.20.33.1"
        }
        try await daemons[0].wait(for: "the other interface") { $0.underlay?.interface == "eth1" }
        try await world.node(1, "its address") { $0.annotations.publicIP == "172.20.33.1" }
        // An address that the machine itself changes is announced too.
        world.server?.change("node1") { $0.annotations.nodePublicIP = nil }
        try await world.node(1, "the first address") { $0.annotations.publicIP == world.lab[1].address }
        try await world.lab[1].run(
            "ip address delete 172.20.32.101/24 dev eth0 && ip address add 172.20.32.111/24 dev eth0 && "
                + "ip route replace default via 172.20.32.254")
        try await world.node(1, "the new address") { $0.annotations.publicIP == "172.20.32.111" }
    }

    /// Row 22, and what waits for nobody.
    @Test(arguments: [
        ("", "--kube-subnet-mgr --kube-api-url http://172.20.32.1:6443", "node"),
        ("NODE_NAME=a", "--kube-subnet-mgr", "KUBERNETES_SERVICE_HOST"),
        ("NODE_NAME=a", "--kube-subnet-mgr --kubeconfig-file /nowhere", "/nowhere"),
    ])
    func whatCanNeverBeANodeEndsAtOnce(environment: String, flags: String, words: String) async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(flags, environment: environment)
        #expect(try await daemon.exitStatus() == 78, "\(daemon.log)")
        #expect(daemon.log.contains(words))
    }
}
