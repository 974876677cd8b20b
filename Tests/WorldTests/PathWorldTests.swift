import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import NodeDaemon
import Telemetry
import Testing

/// Paths to other nodes that carry less than this node's interface: what pods notice, what the operator is told, and how it
/// ends.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct PathWorldTests {
    /// Two nodes with a pod each; their daemons are ready.
    private struct Pair {
        let lab: Lab
        let daemons: [LabDaemon]
        let pods: [LabPod]
        let subnets: [String]

        /// - Parameter probesOften: whether the first node probes paths each second instead of each minute, and asks narrow
        ///   ones each five seconds.
        init(_ lab: Lab, flags: [String] = ["", ""], probesOften: Bool = false) async throws {
            self.lab = lab
            var daemons: [LabDaemon] = []
            for (node, flags) in zip(lab.nodes, flags) {
                daemons.append(
                    try await node.start(
                        flags, environment: probesOften ? "FLANNELD_PATH_PROBE_INTERVAL=1" : ""))
            }
            var pods: [LabPod] = []
            var subnets: [String] = []
            for (node, daemon) in zip(lab.nodes, daemons) {
                let status = try await daemon.wait(for: "ready with its peer") {
                    $0.isReady && $0.peers.count == 1
                }
                subnets.append(status.lease?.subnet ?? "")
                pods.append(try await node.addPod(in: subnets[subnets.count - 1]))
            }
            self.daemons = daemons
            self.pods = pods
            self.subnets = subnets
        }

        /// Waits until TCP's full segments reach the second pod. What is lost on the way there is what tells the daemon.
        func largePacketsPass() async throws {
            _ = try await until("large packets pass", { "\(self.daemons[0].status?.problems ?? [])" }) {
                await self.pods[0].canSend(1_000_000, to: self.pods[1]) ? true : nil
            }
        }

        /// The routes of the other node's prefixes by themselves.
        func route(on node: Int = 1) async throws -> String {
            var routes = ""
            for prefix in subnets[2 - node].split(separator: ",") {
                let family = prefix.contains(":") ? "-6" : "-4"
                routes += try await lab[node].run("ip \(family) route show \(prefix) dev flannel0")
            }
            return routes
        }
    }

    @Test(arguments: Lab.Families.allCases) func aRouteWithAnMTUIsFollowed(families: Lab.Families)
        async throws
    {
        let lab = try await Lab(config: Lab.configuration(of: families), families: families)
        let pair = try await Pair(lab)
        let overhead = families.hasIPv4 ? 28 : 48
        for address in pair.pods[1].addresses {
            try await pair.pods[0].reaches(address)
            #expect(await pair.pods[0].answers(from: address, bytes: 1500 - overhead) == 3)
        }
        let peer = "\(lab[2].address)/\(families.hasIPv4 ? 32 : 128)"
        try await lab[1].run("ip route add \(peer) dev eth0 mtu 1400")
        try await pair.largePacketsPass()
        let status = try await pair.daemons[0].wait(for: "a narrow path") { $0.peers[0].pathMTU == 1400 }
        #expect(status.problems.isEmpty)
        #expect(try await pair.route().contains("mtu \(1400 - overhead)"))
        for address in pair.pods[1].addresses {
            #expect(try await lab[1].run("ip route get \(address)").contains("mtu \(1400 - overhead)"))
        }
        try await lab[1].run("ip route replace \(peer) dev eth0 mtu lock 1350")
        try await pair.daemons[0].wait(for: "a narrower path") { $0.peers[0].pathMTU == 1350 }
        try await lab[1].run("ip route del \(peer) dev eth0")
        try await pair.daemons[0].wait(for: "a wide path") { $0.peers[0].pathMTU == nil }
        #expect(try await pair.route() == "")
    }

    @Test func aPeerBehindAnotherInterfaceGetsThatOnesMTU() async throws {
        let pair = try await Pair(Lab())
        // The second node is moved behind a link of its own, as a VPN's interface is.
        let path = try await pair.lab[2].namespace.path
        try await pair.lab[1].run(
            "ip link add side mtu 1420 type veth peer name side mtu 1420 netns \(path) && ip link set side up"
                + " && sysctl -qw net.ipv4.conf.side.rp_filter=0 net.ipv4.conf.all.rp_filter=0")
        try await pair.lab[2].run(
            "ip link set side up && sysctl -qw net.ipv4.conf.side.rp_filter=0 net.ipv4.conf.all.rp_filter=0"
                + " && ip route add 172.20.32.101/32 dev side")
        try await pair.lab[1].run("ip route add 172.20.32.102/32 dev side")
        try await pair.largePacketsPass()
        for (number, daemon) in pair.daemons.enumerated() {
            let status = try await daemon.wait(for: "a narrow path") { $0.peers[0].pathMTU == 1420 }
            #expect(status.problems.isEmpty)
            #expect(try await pair.route(on: number + 1).contains("mtu 1392"))
        }
    }

    @Test func aPathTooNarrowForTheTunnelIsAProblem() async throws {
        let pair = try await Pair(Lab())
        try await pair.lab[1].run("ip route add 172.20.32.102/32 dev eth0 mtu 560")
        try await pair.daemons[0].problem(pair.subnets[1], "172.20.32.102", "560 bytes", "604")
        try await pair.lab[1].run("ip route del 172.20.32.102/32 dev eth0")
        try await pair.daemons[0].healed()
    }

    @Test(arguments: [true, false]) func aNarrowRouterIsFoundAndLeft(filtersICMP: Bool) async throws {
        let lab = try await Lab()
        let router = try await lab.addRouter(before: 2)
        if filtersICMP { try await router.filterICMP() }
        try await router.setMTU(1400)
        let pair = try await Pair(lab, probesOften: true)
        try await pair.pods[0].reaches(pair.pods[1].address)
        try await pair.largePacketsPass()
        let status = try await pair.daemons[0].wait(for: "a narrow path") { $0.peers[0].pathMTU == 1400 }
        let problem = try #require(status.problems.first)
        #expect(problem.contains(pair.subnets[1]) && problem.contains("1400") && problem.contains("1500"))
        #expect(problem.contains("no ICMP error") == filtersICMP)
        #expect(pair.daemons[0].count(of: "event=narrow_path") > 0)
        // The way back.
        try await router.setMTU(1500)
        try await pair.daemons[0].healed()
        #expect(try await pair.route() == "")
        #expect(await pair.pods[0].answers(from: pair.pods[1].address) == 3)
    }

    @Test func aPathThatTurnsBlackMeanwhileIsFound() async throws {
        let lab = try await Lab()
        let router = try await lab.addRouter(before: 2)
        try await router.filterICMP()
        let pair = try await Pair(lab, probesOften: true)
        #expect(await pair.pods[0].canSend(2_000_000, to: pair.pods[1]))
        try await router.setMTU(1200, fromNode: 1500)
        try await pair.largePacketsPass()
        try await pair.daemons[0].wait(for: "a narrow path") { $0.peers[0].pathMTU == 1200 }
    }

    @Test func aForgedICMPErrorCostsNothing() async throws {
        let pair = try await Pair(Lab(nodes: 2))
        let (node, peer) = (pair.lab[1].address, pair.lab[2].address)
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, bytes: 1472) == 3)
        let stranger = try await NetworkNamespace.make()
        let path = try await stranger.path
        try await pair.lab.wire.run {
            try execute(
                "ip link add stranger type veth peer name eth0 netns \(path) && ip link set stranger master wire up"
            )
        }
        try await stranger.run {
            try execute(
                "ip addr add 172.20.32.66/24 dev eth0 && ip link set eth0 up && python3 -c '\(forgery(node, peer))'"
            )
        }
        // The kernel believes it …
        #expect(try await pair.lab[1].run("ip route get \(peer)").contains("mtu"))
        // … and what is sent to the peer is as large as ever, before and after the daemon saw it.
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, count: 20, bytes: 1472) == 20)
        try await Task.sleep(for: .seconds(2))
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, count: 20, bytes: 1472) == 20)
        let status = try await pair.daemons[0].healed()
        #expect(status.peers[0].pathMTU == nil)
        #expect(
            status.counters.allSatisfy { !$0.isDrop || $0.name == "drop_outbound_no_route" || $0.value == 0 })
        #expect(try await pair.route() == "")
    }

    /// Six "fragmentation needed, MTU 68" about a tunnel datagram from `node` to `peer`.
    private func forgery(_ node: String, _ peer: String) -> String {
        """
        import socket, struct
        def checksum(b):
            s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
            s = (s >> 16) + (s & 65535)
            return ~(s + (s >> 16)) & 65535
        a = socket.inet_aton
        q = struct.pack("!BBHHHBBH4s4s", 69, 0, 1500, 1, 0x4000, 64, 17, 0, a("\(node)"), a("\(peer)"))
        q += struct.pack("!HHHH", 8285, 8285, 1480, 0)
        m = struct.pack("!BBHHH", 3, 4, 0, 0, 68) + q
        m = m[:2] + struct.pack("!H", checksum(m)) + m[4:]
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        for _ in range(6): s.sendto(m, ("\(node)", 0))
        """
    }

    @Test func jumboFramesOnOneNodeOnly() async throws {
        let lab = try await Lab()
        try await lab.wire.run { try execute("ip link set node1 mtu 9000 && ip link set wire mtu 1500") }
        try await lab[1].run("ip link set eth0 mtu 9000")
        let pair = try await Pair(lab)
        #expect(await pair.pods[0].answers(from: pair.pods[1].address) == 3)
        try await pair.largePacketsPass()
        let status = try await pair.daemons[0].wait(for: "a narrow path") { $0.peers[0].pathMTU != nil }
        #expect(status.tunnel?.mtu == 8972 && status.peers[0].pathMTU == 1500)
        #expect(await pair.pods[1].canSend(2_000_000, to: pair.pods[0]))
    }

    @Test func anMTUSetByHandOnOneNode() async throws {
        let pair = try await Pair(Lab(), flags: ["", "--mtu=1300"])
        #expect(await pair.pods[0].answers(from: pair.pods[1].address) == 3)
        _ = await pair.pods[0].answers(from: pair.pods[1].address, count: 5, bytes: 1400)
        let status = try await pair.daemons[0].wait(for: "a narrow path") { $0.peers[0].pathMTU != nil }
        #expect(status.peers[0].pathMTU == 1328)
        #expect(status.problems.contains { $0.contains(pair.subnets[1]) && $0.contains("1328") })
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, bytes: 1300) == 3)
    }

    @Test func aPeerThatDoesNotAnswerIsNamedWhileItIsSentTo() async throws {
        let lab = try await Lab()
        let router = try await lab.addRouter(before: 2)
        let pair = try await Pair(lab, probesOften: true)
        try await router.setPassing(false)
        try await pair.pods[0].run(
            "ping -n -i 0.2 -w 25 \(pair.pods[1].address) >/dev/null 2>&1 & sleep 0.1")
        try await pair.daemons[0].problem("peer \(pair.subnets[1])", "172.20.32.102", "does not answer")
        #expect(pair.daemons[1].status?.problems == [])
        try await router.setPassing(true)
        try await pair.daemons[0].healed()
    }

    /// The daemon is gone and its machine is there, which says so.
    @Test(arguments: [Lab.Families.ipv4, .ipv6])
    func aPeerWhoseHostRefusesIsNamedAndCounted(families: Lab.Families) async throws {
        let lab = try await Lab(config: Lab.configuration(of: families), families: families)
        let pair = try await Pair(lab, flags: ["--v=1", ""], probesOften: true)
        let name = try #require(pair.daemons[0].status?.peers.first?.name)
        #expect(name == HostName.own)
        pair.daemons[1].signal(SIGKILL)
        _ = try await pair.daemons[1].exitStatus()
        try await pair.pods[0].run(
            "ping -n -i 0.2 -w 40 \(pair.pods[1].address) >/dev/null 2>&1 & sleep 0.1")
        try await pair.daemons[0].problem(
            "peer \(pair.subnets[1])", lab[2].address, "nobody listens on the UDP port of its lease")
        let status = try #require(pair.daemons[0].status)
        #expect(status.peers.map(\.silence) == ["refused"] && status.isReady)
        let silent = pair.daemons[0].metrics.filter { $0.name == "twill_silent_peers" }
        #expect(
            silent.reduce(into: [:]) { $0[$1.labels["kind"] ?? ""] = $1.value } == [
                "unanswered": 0, "refused": 1,
            ])
        // It runs again, and is heard.
        let again = try await pair.lab[2].start()
        try await again.ready()
        try await pair.daemons[0].healed()
        #expect(pair.daemons[0].status?.peers.map(\.silence) == [nil])
        // With -v 1 the log says what was decided.
        for event in ["lease_decision", "item_set", "peer_added"] {
            #expect(pair.daemons[0].log.contains("debug event=\(event) "), "\(event)")
            #expect(!pair.daemons[1].log.contains(" event=\(event) "), "\(event)")
        }
    }

    @Test func aPeerThatAnswersNoProbeIsNoProblem() async throws {
        let pair = try await Pair(Lab(), probesOften: true)
        try await pair.lab[2].run("iptables -w -A INPUT -i flannel0 -j DROP")
        #expect(await pair.pods[0].canSend(2_000_000, to: pair.pods[1]))
        try await Task.sleep(for: .seconds(4))
        let status = try #require(pair.daemons[0].status)
        #expect(status.isReady && status.problems.isEmpty && status.peers[0].pathMTU == nil)
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, bytes: 1472) == 3)
    }

    @Test func probesAreFewAndNobodyNoticesThem() async throws {
        let pair = try await Pair(Lab(), probesOften: true)
        let before = pair.daemons.map { $0.status }
        try await Task.sleep(for: .seconds(3))
        // Without traffic there is none.
        for (daemon, status) in zip(pair.daemons, before) {
            #expect(
                daemon.status?.peers[0].traffic?.sent.packets == status?.peers[0].traffic?.sent.packets)
        }
        #expect(await pair.pods[0].answers(from: pair.pods[1].address, count: 20, bytes: 1472) == 20)
        try await Task.sleep(for: .seconds(3))
        for daemon in pair.daemons {
            let status = try await daemon.healed()
            #expect(
                status.counters.allSatisfy {
                    !$0.isDrop || $0.name == "drop_outbound_no_route" || $0.value == 0
                })
            // 20 packets of the pods, and a probe or an answer a second at most.
            #expect((status.peers[0].traffic?.sent.packets ?? 0) <= 32)
        }
    }
}

extension LabPod {
    /// Whether so many bytes of TCP reach another pod within ten seconds.
    func canSend(_ bytes: Int, to receiver: LabPod) async -> Bool {
        // One that failed may still listen on its port.
        let port = Int.random(in: 20_000...30_000)
        let family = receiver.address.contains(":") ? "AF_INET6" : "AF_INET"
        let listener = """
            import socket
            l = socket.create_server((\"\(receiver.address)\", \(port)), family=socket.\(family))
            l.settimeout(12)
            c, _ = l.accept()
            c.settimeout(12)
            n = 0
            while n < \(bytes):
                d = c.recv(65536)
                if not d: break
                n += len(d)
            c.send(b\"k\")
            """
        let sender = """
            import socket, sys, time
            for _ in range(100):
                try:
                    s = socket.create_connection((\"\(receiver.address)\", \(port)), 10)
                    break
                except ConnectionRefusedError: time.sleep(0.05)
            s.settimeout(10)
            s.sendall(bytes(\(bytes)))
            sys.exit(0 if s.recv(1) == b\"k\" else 1)
            """
        do {
            try await receiver.run("(python3 -c '\(listener)' >/dev/null 2>&1 &)")
            try await run("python3 -c '\(sender)'")
            return true
        } catch {
            return false
        }
    }
}
