import Addresses
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// The ways in which flannel v0.28.9 was seen to break, by their numbers, with running daemons, a real etcd and the
/// kernel's own routes and queues. What a store alone can show is looked at more closely in LeaseEtcdTests.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct FlannelBreaksTests {
    @Test("1: a malformed lease value costs that lease alone")
    func break01MalformedValue() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let foreign = try await LabSocket.receiving(on: 8285, of: nodes.lab[3])
        try await nodes.etcd.putLease("100.96.252.0-24", "no JSON at all")
        for (node, daemon) in zip(nodes.lab.nodes, nodes.daemons) {
            try await daemon.skips("100.96.252.0-24")
            #expect(try await node.routes().contains { $0.destination == "100.96.0.0/16" })
        }
        #expect(await nodes.pods[0].answers(from: nodes.pods[1].address) == 3)
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: nodes.lab[3].address)
        try await nodes.packetsReach(foreign, "a packet by the lease that was written after it")
        #expect(nodes.daemons[0].count(of: "event=lease_skipped key=100.96.252.0-24") == 1)
    }

    @Test("2: eight nodes that start at once all get a subnet")
    func break02AllocationRace() async throws {
        let lab = try await Lab(nodes: 8, config: nil, isAlone: true)
        // Fourteen subnets for eight nodes: some lose the race for one.
        let etcd = try await lab.startEtcd(config: #"{"Network":"100.81.0.0/24","SubnetLen":28}"#)
        var daemons: [LabDaemon] = []
        for node in lab.nodes { daemons.append(try await node.start("--etcd-endpoints=\(etcd.endpoint)")) }
        var subnets: Set<String> = []
        for daemon in daemons {
            let status = try await daemon.wait(for: "ready with seven peers", seconds: 90) {
                $0.isReady && $0.peers.count == 7
            }
            subnets.insert(try #require(status.lease?.subnet))
        }
        #expect(subnets.count == 8)
        for daemon in daemons { daemon.signal(SIGTERM) }
        for daemon in daemons { #expect(try await daemon.exitStatus() == 0) }
    }

    @Test("3: a reservation stays one")
    func break03Reservation() async throws {
        let lab = try await Lab(nodes: 1, config: nil)
        let etcd = try await lab.startEtcd()
        try await etcd.putLease("100.96.77.0-24", at: lab[1].address)
        for _ in 0..<2 {
            let daemon = try await lab[1].start(
                "--etcd-endpoints=\(etcd.endpoint) --subnet-lease-renew-margin 1439")
            let lease = try #require(try await daemon.ready().lease)
            #expect(lease.subnet == "100.96.77.0/24" && lease.isReservation)
            #expect(
                try await #require(etcd.lease("100.96.77.0-24")).lease == nil, "the reservation got an end")
            try await daemon.stop()
        }
        #expect(try await etcd.lease("100.96.77.0-24") != nil)
    }

    @Test("4: etcd comes back empty, and every node registers again")
    func break04DataLoss() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let foreign = try await LabSocket.receiving(on: 8285, of: nodes.lab[3])
        // A history longer than the new one will be.
        for number in 0..<20 { try await nodes.etcd.put("/elsewhere", "\(number)") }
        try await nodes.etcd.stop()
        try nodes.etcd.wipe()
        try await nodes.etcd.start()
        try await nodes.etcd.setNetwork(Lab.configuration)
        _ = try await until("both nodes' leases in the empty etcd", seconds: 60, { nodes.daemons[0].log }) {
            try await Set(nodes.etcd.leases().map(\.key))
                == Set([1, 2].map { "\(LabEtcd.prefix)/subnets/\(nodes.key($0))" }) ? true : nil
        }
        for (daemon, subnet) in zip(nodes.daemons, nodes.subnets) {
            #expect(try await daemon.healed().lease?.subnet == subnet)
        }
        try await nodes.podsReachEachOther()
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: nodes.lab[3].address)
        try await nodes.packetsReach(foreign, "a packet by a lease that is new since")
    }

    @Test("5: a node's own key deleted is registered again")
    func break05OwnKeyDeleted() async throws {
        let nodes = try await NodesOnEtcd()
        for _ in 0..<3 {
            try await nodes.etcd.deleteLease(nodes.key(1))
            _ = try await until("the lease after it was deleted", { nodes.daemons[0].log }) {
                try await nodes.etcd.lease(nodes.key(1))
            }
        }
        #expect(nodes.daemons[0].isRunning)
        #expect(try await nodes.daemons[0].healed().lease?.subnet == nodes.subnets[0])
        try await nodes.podsReachEachOther()
    }

    @Test("6: leases that are none of udp's are no peers")
    func break06NotOurLeases() async throws {
        let nodes = try await NodesOnEtcd()
        let leases = [
            "100.96.201.0-24": #"{"PublicIP":"172.20.33.1","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            "100.96.202.0-25": #"{"PublicIP":"172.20.33.2"}"#, "100.96.203.0-24": "{}",
            "0.0.0.0-0": #"{"PublicIP":"172.20.33.4"}"#, "100.97.0.0-24": #"{"PublicIP":"172.20.33.5"}"#,
        ]
        for (key, value) in leases { try await nodes.etcd.putLease(key, value) }
        for key in leases.keys { try await nodes.daemons[0].skips(key) }
        for bits: UInt32 in [0x6460_C902, 0x6460_CA02, 0x6460_CB02] {
            let before = nodes.daemons[0].counter(.dropOutboundNoRoute)
            try await LabSocket.sending(to: IPv4Address(bits: bits), port: 9, from: nodes.pods[0]).send()
            try await nodes.daemons[0].wait(for: "that what is for \(IPv4Address(bits: bits)) is for nobody")
            {
                $0.value(of: .dropOutboundNoRoute) > before
            }
        }
        #expect(nodes.daemons[0].status?.peers.count == 1)
        #expect(await nodes.pods[0].answers(from: nodes.pods[1].address) == 3)
    }

    @Test("7: a changed PublicIP takes effect, after a re-list too")
    func break07ChangedAddress() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let foreign = try await LabSocket.receiving(on: 8285, of: nodes.lab[3])
        let daemon = nodes.daemons[0]
        func expectPeer(at endpoint: String) async throws {
            try await daemon.wait(for: "the peer at \(endpoint)") {
                $0.peers.contains { $0.subnet == "100.96.253.0/24" && $0.endpoint == endpoint }
            }
        }
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: "172.20.33.7")
        try await expectPeer(at: "172.20.33.7:8285")
        // Node 1 hears nothing of the change but what a snapshot tells: its watch's history is compacted.
        daemon.signal(SIGSTOP)
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: nodes.lab[3].address)
        try await nodes.etcd.compact()
        try await nodes.etcd.stop()
        try await nodes.etcd.start()
        daemon.signal(SIGCONT)
        try await expectPeer(at: "\(nodes.lab[3].address):8285")
        try await nodes.packetsReach(foreign, "a packet at the new address")
        // And by the watch.
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: "172.20.33.8")
        try await expectPeer(at: "172.20.33.8:8285")
    }

    @Test("8: two nodes with one PublicIP do not share a lease")
    func break08OneAddress() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let double = try await nodes.start(on: nodes.lab[3], "--public-ip \(nodes.lab[1].address)")
        let subnet = try #require(
            try await double.wait(for: "its own subnet") { $0.lease != nil }.lease?.subnet)
        #expect(!nodes.subnets.contains(subnet))
        // A line of the log may come after what it tells of.
        try await double.logged("event=another_node_announces_this_node_s_address")
        #expect(double.count(of: "event=another_node_announces_this_node_s_address") == 1)
        #expect(nodes.daemons[0].status?.lease?.subnet == nodes.subnets[0])
        #expect(try await nodes.etcd.lease(nodes.key(1)) != nil)
        try await double.stop()
        try await nodes.podsReachEachOther()
    }

    @Test("9: the overlay's route comes back after a link went down and up", arguments: ["flannel0", "eth0"])
    func break09LinkDown(interface: String) async throws {
        let nodes = try await NodesOnEtcd(flags: "--iface=eth0")
        let daemon = nodes.daemons[0]
        // The kernel takes the interface's routes away with the first.
        try await nodes.lab[1].run("ip link set \(interface) down && ip link set \(interface) up")
        _ = try await until("the overlay's route", { daemon.log }) {
            try await nodes.lab[1].routes().first {
                $0.destination == "100.96.0.0/16" && $0.interface == "flannel0"
            }
        }
        try await nodes.podsReachEachOther()
        try await daemon.healed()
    }

    @Test("10: route changes take effect while packets flow")
    func break10ChangesUnderLoad() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3)
        let foreign = try await LabSocket.receiving(on: 8285, of: nodes.lab[3])
        try await nodes.pods[1].serveIperf()
        let load = try await nodes.pods[0].iperf(to: nodes.pods[1].address, "--time 600")
        let before = nodes.daemons[0].counter(.packetsSent)
        try await nodes.daemons[0].wait(for: "load") { $0.value(of: .packetsSent) > before + 1000 }
        try await nodes.etcd.putLease(NodesOnEtcd.foreignKey, at: nodes.lab[3].address)
        try await nodes.packetsReach(foreign, "a packet by a lease that was written under load")
        #expect(load.isRunning)
    }

    /// The way out of node 1 takes nothing any more: its socket's buffer fills, and stays full.
    @Test("11: a full way out blocks nothing else, and nothing spins")
    func break11FullWayOut() async throws {
        let nodes = try await NodesOnEtcd()
        let (lab, daemon) = (nodes.lab, nodes.daemons[0])
        let inward = try await LabSocket.sending(
            to: try #require(IPv4Address(nodes.pods[0].address)), port: 9, from: nodes.pods[1])
        let outward = try await LabSocket.sending(
            to: try #require(IPv4Address(nodes.pods[1].address)), port: 9, from: nodes.pods[0])
        try await lab[1].run("tc qdisc add dev eth0 root tbf rate 8kbit burst 2k limit 200m")
        let datagram = [UInt8](repeating: 0x78, count: 1400)
        _ = try await until(
            "the first packet that found the way out full", seconds: 60, { "\(daemon.status?.drops ?? [:])" }
        ) {
            for _ in 0..<2000 { outward.send(datagram) }
            return daemon.counter(.dropOutboundUnderlayFull) > 0 ? true : nil
        }
        // In the other direction packets come in all the while,
        let before = daemon.counter(.packetsDelivered)
        for _ in 0..<20 { inward.send() }
        try await daemon.wait(for: "packets in, while none go out") {
            $0.value(of: .packetsDelivered) >= before + 20
        }
        // and with nothing to do nothing is done: a thread that spins takes all the time that there is.
        let clock = ContinuousClock()
        let (ticks, start) = (daemon.process.processorTicks, clock.now)
        try await Task.sleep(for: .seconds(2))
        let share = Double(daemon.process.processorTicks - ticks) / ((clock.now - start) / .milliseconds(10))
        #expect(share < 0.5, "with the way out full, the daemon took \(share) of a processor")
        try await lab[1].run("tc qdisc del dev eth0 root")
        try await nodes.podsReachEachOther()
    }

    @Test("12: a wrong config is said once, and a right one taken over")
    func break12WrongConfiguration() async throws {
        let lab = try await Lab(nodes: 1, config: nil)
        let etcd = try await lab.startEtcd(config: #"{"Network":"100.82.0.0/16","SubnetLen":12}"#)
        let daemon = try await lab[1].start("--etcd-endpoints=\(etcd.endpoint)")
        try await daemon.problem("SubnetLen is 12")
        // Time for a second word.
        try await Task.sleep(for: .seconds(2))
        #expect(daemon.count(of: "event=network_configuration_is_wrong") == 1)
        try await etcd.setNetwork(#"{"Network":"100.82.0.0/16"}"#)
        try await daemon.healed()
        try await etcd.setNetwork(#"{"Network":"100.82.0.0/16","Backend":{"Type":"udp","MTU":1400}}"#)
        _ = try await until("the new MTU in subnet.env", { daemon.log }) {
            lab.read("node1/subnet.env")?.contains("\nFLANNEL_MTU=1400\n") == true ? true : nil
        }
    }

    @Test("13: etcd unreachable at start is said once, and waited for")
    func break13UnreachableAtStart() async throws {
        let lab = try await Lab(nodes: 2, config: nil)
        let etcd = try await lab.makeEtcd()
        let first = try await lab[1].start("--etcd-endpoints=\(etcd.endpoint)")
        try await first.problem("\(LabEtcd.address):2379")
        // Time to give up, and for a second word.
        try await Task.sleep(for: .seconds(3))
        #expect(first.isRunning)
        #expect(first.count(of: "event=store_unreachable") == 1)
        try await etcd.start()
        try await etcd.setNetwork(Lab.configuration)
        try await first.healed(seconds: 60)
        let second = try await lab[2].start("--etcd-endpoints=\(etcd.endpoint)")
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, [first, second]) {
            let status = try await daemon.wait(for: "its peer") { $0.isReady && $0.peers.count == 1 }
            pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
        }
        try await pods[0].reaches(pods[1].address)
    }
}
