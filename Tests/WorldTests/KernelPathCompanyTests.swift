import Addresses
import Counters
import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// The kernel path of a node beside others that have none, on paths that do not bear it, and while things happen:
/// nothing is lost that would not be lost without it.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct KernelPathCompanyTests {
    private static let isOn = "--kernel-path=auto"

    /// Nodes with daemons and a pod each.
    private struct World {
        let lab: Lab
        var daemons: [LabDaemon] = []
        var pods: [LabPod] = []

        /// - Parameters:
        ///   - flags: of each node's daemon.
        ///   - wrappers: words before each, where there are any.
        ///   - families: which addresses nodes and pods have.
        init(
            _ flags: [String], wrappers: [String] = [], families: Lab.Families = .ipv4, isAlone: Bool = false
        ) async throws {
            lab = try await Lab(
                nodes: flags.count, config: Lab.configuration(of: families), families: families,
                isAlone: isAlone)
            for (index, (node, flags)) in zip(lab.nodes, flags).enumerated() {
                daemons.append(
                    try await node.start(flags, wrapper: index < wrappers.count ? wrappers[index] : ""))
            }
            for (node, daemon) in zip(lab.nodes, daemons) {
                let status = try await daemon.wait(for: "ready with all peers") {
                    $0.isReady && $0.peers.count == flags.count - 1
                }
                pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
            }
        }

        /// Waits until `node` has `peers` able peers, and no more.
        func hasAblePeers(_ node: Int, _ peers: Int) async throws {
            try await daemons[node - 1].wait(for: "\(peers) able peers") {
                $0.peers.filter { $0.kernelPath == true }.count == peers
            }
        }

        /// Every pod reaches every other: by echoes, small and full-sized, and by a TCP connection with bulk.
        func everybodyReachesEverybody() async throws {
            for (index, pod) in pods.enumerated() {
                for other in pods where other.address != pod.address {
                    try await pod.reaches(other.address)
                    #expect(await pod.answers(from: other.address, count: 5) == 5)
                    // What the overlay's headers leave of 1,500.
                    let largest = other.address.contains(":") ? 1452 : 1472
                    #expect(await pod.answers(from: other.address, count: 2, bytes: largest) == 2)
                }
                let next = pods[(index + 1) % pods.count]
                let port = UInt16(7100 + index)
                let server = try await next.launch("iperf3 -s -1 -p \(port)")
                try await next.listens(on: port, tcp: true)
                #expect(await pod.succeeds("timeout 20 iperf3 -c \(next.address) -p \(port) -n 3M"))
                #expect(try await server.exitStatus() == 0)
            }
        }

        /// Nothing was dropped and nothing is said on these nodes.
        func nothingIsSaid(on nodes: [Int]) async throws {
            for node in nodes {
                let status = try #require(daemons[node - 1].status)
                #expect(status.problems == [] && status.isReady)
                let drops = status.drops.filter {
                    $0.key != .dropOutboundQueueFull && $0.key != .dropInboundSocketFull
                }
                #expect(drops == [:], "node \(node)")
                #expect(!daemons[node - 1].log.contains("level=warning"), "\(daemons[node - 1].log)")
            }
        }
    }

    // MARK: Company

    /// The same over IPv6, which no flannel speaks.
    @Test func overIPv6OneWithoutAKernelPathIsSentNothingThatItCannotTake() async throws {
        let world = try await World([Self.isOn, Self.isOn, "--kernel-path=off"], families: .ipv6)
        try await world.hasAblePeers(1, 1)
        try await world.hasAblePeers(2, 1)
        try await world.hasAblePeers(3, 0)
        try await world.everybodyReachesEverybody()
        try await world.hasAblePeers(1, 1)
        try await world.nothingIsSaid(on: [1, 2, 3])
        #expect(world.daemons[0].counter(.kernelPathPacketsSent) > 0)
        #expect(world.daemons[2].counter(.kernelPathStrays) == 0)
    }

    /// Two nodes with a kernel path, one whose kernel path is off, and a forwarder as flannel's is.
    @Test func olderNodesAreSentNothingThatTheyCannotTake() async throws {
        let world = try await World([Self.isOn, Self.isOn, "--kernel-path=off"])
        try await world.hasAblePeers(1, 1)
        try await world.hasAblePeers(2, 1)
        try await world.hasAblePeers(3, 0)
        // A flannel: the wire's own namespace is a host beside the nodes.
        let stranger = try await world.lab.addStranger(at: ["172.20.32.250"])
        let subnets = try world.daemons.map { try #require($0.status?.lease?.subnet) }
        let peers = zip(world.lab.nodes, subnets).map { "--peer \($1)=\($0.address):8285" }
        _ = try await stranger.launch(
            "\(try BenchmarkProgram.baseline.path()) --tun base0 --bind 172.20.32.250:8285 \(peers.joined(separator: " "))"
        )
        _ = try await until("the forwarder's device") { try await stranger.interface("base0") }
        try await stranger.run(
            "ip address add 100.96.250.0/32 dev base0 && ip link set base0 mtu 1472 txqueuelen 10000 up"
                + " && ip route add 100.96.0.0/16 dev base0")
        try world.lab.write("store/subnets/100.96.250.0-24", #"{"PublicIP":"172.20.32.250"}"#)
        for daemon in world.daemons {
            try await daemon.wait(for: "the forwarder") { $0.peers.count == 3 }
        }
        for pod in world.pods { try await pod.reaches("100.96.250.0") }
        for pod in world.pods { #expect(await pod.answers(from: "100.96.250.0", count: 10) == 10) }
        try await world.everybodyReachesEverybody()
        try await world.hasAblePeers(1, 1)
        try await world.nothingIsSaid(on: [1, 2, 3])
        #expect(world.daemons[0].counter(.kernelPathPacketsSent) > 0)
        #expect(world.daemons[2].counter(.kernelPathStrays) == 0)
        // It took the hellos for what they are.
        #expect(
            world.daemons[2].counter(.hellosReceived) > 0 && world.daemons[2].counter(.hellosSent) == 0)
    }

    /// Somebody on the way eats datagrams without a checksum, one way or both.
    @Test(arguments: [Lab.Families.ipv4, .ipv6], [[2], [1, 2]])
    func aPathThatEatsThemIsNotUsed(families: Lab.Families, towards nodes: [Int]) async throws {
        let lab = try await Lab(config: Lab.configuration(of: families), families: families)
        for node in nodes {
            // As tcpdump has it: `udp dst port 8285 and udp[6:2] = 0`. Where a frame has its type, its transport, UDP's port and
            // checksum.
            let (type, transport, port, checksum) =
                families == .ipv4 ? (2048, 23, 36, 40) : (34525, 20, 56, 60)
            let program =
                "10,40 0 0 12,21 0 6 \(type),48 0 0 \(transport),21 0 4 17,40 0 0 \(port),21 0 2 8285,"
                + "40 0 0 \(checksum),21 1 0 0,6 0 0 4294967295,6 0 0 2"
            try await lab.wire.run {
                try execute(
                    "tc qdisc add dev node\(node) clsact && tc filter add dev node\(node) egress bpf da bytecode '\(program)'"
                )
            }
        }
        let daemons = try await lab.start()
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            pods.append(try await node.addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        for daemon in daemons {
            try await daemon.wait(for: "a hello to the peer") { $0.value(of: .hellosSent) > 0 }
        }
        try await pods[0].reaches(pods[1].address)
        #expect(await pods[0].answers(from: pods[1].address, count: 40) == 40)
        #expect(daemons.allSatisfy { $0.status?.peers.allSatisfy { $0.kernelPath != true } == true })
        #expect(daemons.allSatisfy { $0.counter(.kernelPathPacketsSent) == 0 })
        #expect(daemons.allSatisfy { $0.status?.problems == [] })
    }

    /// The hello passes the hosts' rules, which what goes past the daemons does not: so a rule that drops it ends the kernel
    /// path, and holds for everything then.
    @Test(arguments: [
        (Lab.Families.ipv4, 1, "OUTPUT", "source"), (.ipv4, 2, "INPUT", "destination"),
        (.ipv4, 2, "OUTPUT", "source"), (.ipv4, 1, "INPUT", ""), (.ipv6, 1, "OUTPUT", "source"),
        (.ipv6, 1, "INPUT", ""),
    ])
    func aRuleOfAHostHolds(families: Lab.Families, node: Int, chain: String, port: String) async throws {
        let world = try await World([Self.isOn, Self.isOn], families: families)
        let iptables = families == .ipv4 ? "iptables" : "ip6tables"
        for node in 1...2 { try await world.hasAblePeers(node, 1) }
        try await world.pods[0].reaches(world.pods[1].address)
        let peer = world.lab[3 - node].address
        // One rule is for the port, one for the peer alone.
        let matches = port.isEmpty ? "-s \(peer)" : "-p udp --\(port)-port 8285"
        try await world.lab[node].run("\(iptables) -w -A \(chain) \(matches) -j DROP")
        for node in 1...2 { try await world.hasAblePeers(node, 0) }
        let sent = world.daemons.map { $0.counter(.kernelPathPacketsSent) }
        #expect(await world.pods[0].answers(from: world.pods[1].address, count: 10) == 0)
        #expect(await world.pods[1].answers(from: world.pods[0].address, count: 10) == 0)
        #expect(world.daemons.map { $0.counter(.kernelPathPacketsSent) } == sent)
        // And it comes back with the rule's end.
        try await world.lab[node].run("\(iptables) -w -D \(chain) \(matches) -j DROP")
        for node in 1...2 { try await world.hasAblePeers(node, 1) }
        try await world.pods[0].reaches(world.pods[1].address)
    }

    /// What an able peer still sends after this node's kernel path came to rest goes through the packet threads, which
    /// complete what the peer's kernel left to this one's.
    @Test(arguments: [Lab.Families.ipv4, .ipv6]) func strayPacketsArrive(families: Lab.Families) async throws
    {
        let world = try await World([Self.isOn, Self.isOn], families: families)
        try await world.hasAblePeers(1, 1)
        try world.lab.write(
            "echo.py",
            """
            import socket
            listener = socket.create_server(("::", 7200), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
            while True: listener.accept()[0].close()
            """)
        let listener = try await world.pods[1].launch("python3 \(world.lab.directory)/echo.py")
        try await world.pods[1].listens(on: 7200, tcp: true)
        let connects = try await world.pods[0].launch(
            "bash -c 'for i in $(seq 150); do timeout 2 bash -c \"</dev/tcp/\(world.pods[1].address)/7200\" && echo yes; sleep 0.02; done'"
        )
        // A kernel path does not pass by IPsec; the peer hears of it with the next answer.
        let between = "src \(world.lab[2].address) dst \(families == .ipv4 ? "192.0.2.1" : "2001:db8::1")"
        try await world.lab[2].run(
            "ip xfrm policy add \(between) dir out tmpl \(between) proto esp mode transport")
        try await world.daemons[1].wait(for: "a kernel path that waits") {
            $0.kernelPath?.state == "waiting"
        }
        _ = try await connects.exitStatus(seconds: 60)
        listener.signal(SIGKILL)
        #expect(connects.output.split(separator: "\n").count == 150)
        try await world.hasAblePeers(1, 0)
        #expect(world.daemons[1].counter(.kernelPathStrays) > 0)
        #expect(world.daemons[1].status?.problems == [])
    }

    // MARK: While things happen

    /// A flow whose packets are small and large by turns, numbered: none passes another.
    @Test func nothingOfAFlowIsReordered() async throws {
        let world = try await World([Self.isOn, Self.isOn])
        try await world.hasAblePeers(1, 1)
        try await world.hasAblePeers(2, 1)
        let traffic = try await CheckedTraffic(
            between: world.pods.map { .init(host: $0, address: $0.address) }, seed: 77, "--rate 2000")
        #expect(
            traffic.received.allSatisfy { $0.behind == 0 && $0.corrupt == 0 && $0.datagrams > 1000 })
        #expect(world.daemons.allSatisfy { $0.counter(.kernelPathPacketsSent) > 50 })
    }

    /// 1,000 changes of the peers a second, for three seconds, beside echoes and bulk between two that stay.
    @Test func peersThatComeAndGo() async throws {
        let world = try await World([Self.isOn, Self.isOn], isAlone: true)
        try await world.hasAblePeers(1, 1)
        let store = world.lab.directory + "/store/subnets"
        let bulk = try await world.pods[1].launch("iperf3 -s -1")
        try await world.pods[1].listens(on: 5201, tcp: true)
        let client = try await world.pods[0].launch("iperf3 -c \(world.pods[1].address) -t 4")
        let changes = try await world.lab[1].launch(
            """
            python3 -c '
            import os, time
            end, n = time.time() + 3, 0
            while time.time() < end:
                for k in range(20):
                    name = "\(store)/100.96.%d.0-24" % (100 + n % 100)
                    if os.path.exists(name): os.unlink(name)
                    else:
                        open("\(store)/.new", "w").write("{\\"PublicIP\\":\\"172.20.33.%d\\"}" % (1 + n % 200))
                        os.rename("\(store)/.new", name)
                    n += 1
                time.sleep(0.02)
            '
            """)
        let echoes = try await world.pods[0].echoes(
            to: world.pods[1].address, count: 140, interval: 0.02)
        #expect(echoes.answered >= 139, "\(echoes)")
        #expect(try await changes.exitStatus() == 0)
        #expect(try await client.exitStatus() == 0)
        bulk.signal(SIGTERM)
        #expect(world.daemons.allSatisfy { $0.isRunning })
        try await world.daemons[0].wait(for: "an able peer still") {
            $0.peers.contains { $0.endpoint.hasPrefix(world.lab[2].address) && $0.kernelPath == true }
        }
    }

    /// Killed under load, and started again: what is on the way then is lost, and nothing after that.
    @Test func killedUnderLoad() async throws {
        let world = try await World([Self.isOn, Self.isOn])
        try await world.hasAblePeers(1, 1)
        try await world.hasAblePeers(2, 1)
        let ping = try await world.pods[0].launch(
            "ping -n -i 0.01 -c 300 -W 1 \(world.pods[1].address)")
        try await Task.sleep(for: .seconds(1))
        world.daemons[0].signal(SIGKILL)
        #expect(try await world.daemons[0].exitStatus() == 128 + Int(SIGKILL))
        let next = try await world.lab[1].start()
        try await next.ready()
        try await next.wait(for: "an able peer") { $0.peers.contains { $0.kernelPath == true } }
        _ = try await ping.exitStatus()
        #expect(await world.pods[0].answers(from: world.pods[1].address, count: 50) == 50)
        #expect(next.status?.problems == [])
        // One program at each place, not one more of each life.
        let filters = try await world.lab[1].run(
            "tc filter show dev eth0 ingress 2>/dev/null; tc filter show dev flannel0 egress 2>/dev/null")
        #expect(filters.components(separatedBy: "direct-action").count <= 3, "\(filters)")
    }

    /// Somebody else's filters on both interfaces see all that they saw before, and stay.
    @Test func othersTrafficControlStays() async throws {
        let lab = try await Lab()
        let count = "2,40 0 0 12,6 0 0 4294967295"
        try await lab[1].run(
            "tc qdisc add dev eth0 clsact && tc filter add dev eth0 ingress pref 7 bpf da bytecode '\(count)'"
        )
        let daemons = try await lab.start()
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            pods.append(try await node.addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        for daemon in daemons {
            try await daemon.wait(for: "an able peer") { $0.peers.contains { $0.kernelPath == true } }
        }
        #expect(await pods[0].answers(from: pods[1].address, count: 20) == 20)
        #expect(daemons[0].counter(.kernelPathPacketsReceived) >= 20)
        daemons[0].signal(SIGTERM)
        #expect(try await daemons[0].exitStatus() == 0)
        let filters = try await lab[1].run("tc filter show dev eth0 ingress")
        #expect(filters.contains("pref 7"), "\(filters)")
    }
}
