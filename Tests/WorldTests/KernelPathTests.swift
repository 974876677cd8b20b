import Counters
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// The kernel path of real nodes: what goes by it, what becomes of it, and that nothing is worse where it is not.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct KernelPathTests {
    /// Two nodes with a pod each. Where nodes have both families, pods speak IPv6 to each other: over IPv4.
    private struct Nodes {
        let lab: Lab
        var daemons: [LabDaemon]
        let pods: [LabPod]

        init(
            wrapper: String = "", isAble: Bool = true, families: Lab.Families = .ipv4
        ) async throws {
            let lab = try await Lab(nodes: 2, config: Lab.configuration(of: families), families: families)
            self.lab = lab
            daemons = [
                try await lab[1].start("--kernel-path=auto", wrapper: wrapper),
                try await lab[2].start("--kernel-path=auto"),
            ]
            var pods: [LabPod] = []
            for (node, daemon) in zip(lab.nodes, daemons) {
                let status = try await daemon.wait(for: "its peer") { $0.isReady && $0.peers.count == 1 }
                pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
            }
            self.pods = pods
            if isAble { for daemon in daemons { try await Self.able(daemon) } }
            // Neighbours are known then, and the flow of the first packets has gone by the packet threads.
            try await pods[0].reaches(target)
        }

        /// The second pod's address.
        var target: String { pods[1].addresses.last ?? "" }

        static func able(_ daemon: LabDaemon) async throws {
            try await daemon.wait(for: "an able peer") { status in
                status.kernelPath?.state == "on" && status.peers.allSatisfy { $0.kernelPath == true }
            }
        }

        /// What stands in the way of what comes in at the first node: the names of programs.
        func filters() async throws -> [String] {
            try await lab[1].run("tc filter show dev eth0 ingress").split(separator: " ")
                .filter { $0.hasPrefix("twill_inbound_") }.map(String.init)
        }

        /// How many of the packets of a ping, each way, went by the kernel path at the first node.
        func byKernelPath(pings: Int = 10) async throws -> (sent: UInt64, received: UInt64) {
            let before = daemons[0].status
            #expect(await pods[0].answers(from: target, count: pings) == pings)
            let after = daemons[0].status
            func grown(_ counter: Counter) -> UInt64 {
                (after?.value(of: counter) ?? 0) &- (before?.value(of: counter) ?? 0)
            }
            return (grown(.kernelPathPacketsSent), grown(.kernelPathPacketsReceived))
        }
    }

    @Test(arguments: Lab.Families.allCases)
    func smallPacketsGoByItWithTheHopsOfThePacketThreads(families: Lab.Families) async throws {
        let nodes = try await Nodes(families: families)
        // At 20 packets a second none of them waits for the one before.
        let (sent, received) = try await nodes.byKernelPath()
        #expect(sent >= 9)
        #expect(received >= 9)
        let by = try await nodes.pods[0].run("ping -n -c 1 \(nodes.target)")
        #expect(by.contains("ttl=60"), "\(by)")
        // One that is large goes by the packet threads, and has as many.
        let past = try await nodes.pods[0].run("ping -n -c 1 -s 1000 \(nodes.target)")
        #expect(past.contains("ttl=60"), "\(past)")
        let status = try #require(nodes.daemons[0].status)
        #expect(status.kernelPath?.attachment == "clsact")
        #expect(status.kernelPath?.ablePeers == 1)
        // The peer's traffic has them, too.
        let peer = try #require(status.peers.first?.traffic)
        #expect(peer.sent.packets >= sent && peer.received.packets >= received)
        #expect(nodes.daemons[0].metrics.contains { $0.name == "twill_kernel_path_on" && $0.value == 1 })
        #expect(status.problems.isEmpty)
        #expect(nodes.daemons.allSatisfy { $0.counter(.kernelPathStrays) == 0 })
    }

    /// A connection's opening, end and small segments have checksums that the pods' kernels leave to a device.
    @Test(arguments: Lab.Families.allCases) func connectionsGoByIt(families: Lab.Families) async throws {
        let nodes = try await Nodes(families: families)
        try nodes.lab.write(
            "echo.py",
            """
            import socket, sys
            family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
            if len(sys.argv) == 2:
                listener = socket.create_server((sys.argv[1], 7200), family=family)
                while True:
                    connection = listener.accept()[0]
                    connection.sendall(connection.recv(64))
                    connection.close()
            for number in range(50):
                connection = socket.create_connection((sys.argv[1], 7200), timeout=5)
                connection.sendall(b"%d" % number)
                assert connection.recv(64) == b"%d" % number
                connection.close()
            """)
        let program = "python3 \(nodes.lab.directory)/echo.py \(nodes.target)"
        let server = try await nodes.pods[1].launch(program)
        try await nodes.pods[1].listens(on: 7200, tcp: true)
        let before = try #require(nodes.daemons[0].status)
        try await nodes.pods[0].run("\(program) client")
        let after = try #require(nodes.daemons[0].status)
        // Of each SYN, request and FIN, and what answers them.
        for counter in [Counter.kernelPathPacketsSent, .kernelPathPacketsReceived] {
            #expect(after.value(of: counter) - before.value(of: counter) >= 130)
        }
        server.signal(SIGKILL)
    }

    /// The way is slow, then it is not; then the peer hears nothing.
    @Test func roundTripsAndLossesOfThePeersAreTold() async throws {
        let lab = try await Lab(nodes: 2)
        let wire = try await lab.addSlowWire(before: 2)
        defer { wire.end() }
        wire.setDelay(milliseconds: 150)
        let daemons = try await lab.start()
        func value(_ name: String) -> Double? {
            daemons[0].metrics.first { $0.name == "twill_peer_\(name)" && $0.labels["subnet"] != nil }?.value
        }
        try await daemons[0].wait(for: "an answer") { $0.peers.first?.hellos != nil }
        // A hello and its answer cannot be sooner than the wire.
        let slow = try #require(value("round_trip_seconds"))
        #expect(slow >= 0.3)
        #expect(try #require(daemons[0].status?.peers.first?.hellos).roundTripSeconds >= 0.3)
        wire.setDelay(milliseconds: 0)
        // The shortest of the last counts: one that was quick is enough.
        try await daemons[0].wait(for: "a quick answer") {
            ($0.peers.first?.hellos?.roundTripSeconds ?? 1) < 0.3
        }

        try await lab[2].run("iptables -w -A INPUT -p udp --dport 8285 -j DROP")
        let answered = try #require(value("hellos_answered_total"))
        let asked = try #require(value("hellos_asked_total"))
        try await daemons[0].wait(for: "questions without an answer") { status in
            Double(status.peers.first?.hellos?.asked ?? 0) >= asked + 4
        }
        // One may have been on its way.
        #expect(try #require(value("hellos_answered_total")) <= answered + 1)
        let text = try await lab[1].run(
            "\(LabDaemon.binary) status --status-socket \(lab[1].directory)/twilld.sock")
        #expect(text.contains(#/IN +RTT +HEARD AGO/#), "\(text)")
    }

    @Test func aDaemonThatIsKilledLeavesNothingThatHarmsAndItsNextGoesOn() async throws {
        var nodes = try await Nodes()
        nodes.daemons[0].signal(SIGKILL)
        _ = try await nodes.daemons[0].exitStatus()
        // Its programs go on for the seconds that their table is valid; the next one's come into their place.
        #expect(try await nodes.filters() == ["twill_inbound_flannel0"])
        nodes.daemons[0] = try await nodes.lab[1].start("--kernel-path=auto")
        try await Nodes.able(nodes.daemons[0])
        try await Nodes.able(nodes.daemons[1])
        try await nodes.pods[0].reaches(nodes.target)
        #expect(try await nodes.byKernelPath().sent >= 9)
        #expect(try await nodes.filters() == ["twill_inbound_flannel0"])
    }

    @Test func oneThatIsStoppedLeavesItsProgramsToTheNextOrTakesThemAway() async throws {
        var nodes = try await Nodes()
        nodes.daemons[0].signal(SIGTERM)
        _ = try await nodes.daemons[0].exitStatus()
        // Nobody reads from the device; what is small goes on.
        #expect(await nodes.pods[0].answers(from: nodes.target, count: 10) >= 9)
        #expect(try await nodes.filters() == ["twill_inbound_flannel0"])
        nodes.daemons[0] = try await nodes.lab[1].start("--on-stop=remove")
        try await Nodes.able(nodes.daemons[0])
        nodes.daemons[0].signal(SIGTERM)
        _ = try await nodes.daemons[0].exitStatus()
        #expect(try await nodes.filters().isEmpty)
    }

    @Test func whatOneThatWasKilledHasLeftIsTakenAwayWhereTheNextHasNone() async throws {
        var nodes = try await Nodes()
        nodes.daemons[0].signal(SIGKILL)
        _ = try await nodes.daemons[0].exitStatus()
        nodes.daemons[0] = try await nodes.lab[1].start("--kernel-path=off")
        try await nodes.daemons[0].ready()
        #expect(try await nodes.filters().isEmpty)
    }

    @Test func whereTheDeviceIsAnotherItIsAttachedAnew() async throws {
        let nodes = try await Nodes()
        try await nodes.lab[1].run("ip link delete flannel0")
        try await nodes.daemons[0].logged("tunnel_device_lost")
        try await Nodes.able(nodes.daemons[0])
        try await nodes.pods[0].reaches(nodes.target)
        #expect(try await nodes.byKernelPath().sent >= 9)
    }

    /// The verifier refuses more to those without CAP_PERFMON; the unit and the manifest have none.
    @Test(arguments: [Lab.Families.ipv4, .ipv6])
    func theRightsOfTheUnitAreEnough(families: Lab.Families) async throws {
        let nodes = try await Nodes(
            wrapper: "setpriv --bounding-set=-sys_admin,-perfmon --inh-caps=-sys_admin,-perfmon",
            families: families)
        #expect(try await nodes.byKernelPath().sent >= 9)
    }

    @Test func withoutTheRightThePacketThreadsCarryEverythingAndThatIsSaidOnce() async throws {
        let without = "setpriv --bounding-set=-bpf,-sys_admin,-perfmon --inh-caps=-bpf,-sys_admin,-perfmon"
        let nodes = try await Nodes(wrapper: without, isAble: false)
        let status = try await nodes.daemons[0].healed()
        #expect(status.kernelPath?.state == "refused")
        #expect(status.kernelPath?.detail?.contains("CAP_BPF") == true)
        #expect(status.peers.first?.kernelPath == nil)
        #expect(nodes.daemons[0].count(of: "kernel_path_is_not_to_be_had") == 1)
        let (sent, received) = try await nodes.byKernelPath()
        #expect(sent == 0 && received == 0)
        // The other one has one, and nobody to send to by it.
        let other = try await nodes.daemons[1].wait(for: "its kernel path") { $0.kernelPath?.state == "on" }
        #expect(other.kernelPath?.ablePeers == 0)
    }

    /// A request follows each answer at once, from before a daemon begins to after it carries packets: there is no pause in
    /// which nothing of the flow is under way.
    @Test(arguments: [Lab.Families.ipv4, .ipv6])
    func anExchangeWithoutPausesComesToItAfterAStart(families: Lab.Families) async throws {
        let nodes = try await Nodes(families: families)
        try nodes.lab.write(
            "exchange.py",
            """
            import socket, sys
            s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
            if len(sys.argv) == 2:
                s.bind((sys.argv[1], 7300))
                while True:
                    data, who = s.recvfrom(64)
                    s.sendto(data, who)
            s.connect((sys.argv[1], 7300))
            s.settimeout(0.5)
            while True:
                s.send(b"request")
                try: s.recv(64)
                except OSError: pass
            """)
        let server = try await nodes.pods[1].launch(
            "python3 \(nodes.lab.directory)/exchange.py \(nodes.target)")
        try await nodes.pods[1].listens(on: 7300, tcp: false)
        let client = try await nodes.pods[0].launch(
            "python3 \(nodes.lab.directory)/exchange.py \(nodes.target) client")
        // Another daemon takes over; it knows nothing of the flow.
        let next = try await nodes.lab[1].start("--kernel-path=auto")
        try await next.ready()
        try await Nodes.able(next)
        for daemon in [next, nodes.daemons[1]] {
            _ = try await until("an exchange that goes past the daemon", { daemon.log }) { () -> Bool? in
                guard let before = daemon.status else { return nil }
                try await Task.sleep(for: .milliseconds(500))
                guard let after = daemon.status else { return nil }
                func grown(_ counter: Counter) -> UInt64 {
                    after.value(of: counter) &- before.value(of: counter)
                }
                let read = grown(.tunnelReads)
                return read < 1000 && grown(.kernelPathPacketsSent) > 50 + 10 * read ? true : nil
            }
        }
        client.signal(SIGKILL)
        server.signal(SIGKILL)
    }

    /// Of either family, whichever the nodes are reached by.
    @Test(arguments: [
        (Lab.Families.ipv4, "src 172.20.32.101 dst 192.0.2.1"), (.ipv4, "src fd20:32::101 dst 2001:db8::1"),
        (.ipv6, "src fd20:32::101 dst 2001:db8::1"),
    ])
    func ipsecPoliciesAreNotPassedBy(families: Lab.Families, between: String) async throws {
        let nodes = try await Nodes(families: families)
        let policy = "\(between) dir out"
        try await nodes.lab[1].run(
            "ip xfrm policy add \(policy) tmpl \(between) proto esp mode transport")
        try await nodes.daemons[0].wait(for: "a kernel path that waits") {
            $0.kernelPath?.state == "waiting" && $0.kernelPath?.detail?.contains("IPsec") == true
        }
        let (sent, received) = try await nodes.byKernelPath()
        #expect(sent == 0 && received == 0)
        try await nodes.lab[1].run("ip xfrm policy delete \(policy)")
        try await Nodes.able(nodes.daemons[0])
    }
}
