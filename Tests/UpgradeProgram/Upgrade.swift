import Counters
import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces

/// One playing of an event: two nodes with a pod each; the first node's daemon suffers.
enum Upgrade {
    static func play(_ event: UpgradeEvent, _ options: UpgradeOptions) async throws -> UpgradeResult {
        let stage = try await UpgradeStage(options, event)
        let stolenBefore = Self.stolenMilliseconds
        // Both ways at once, half of the rate each, and TCP both ways beside them.
        let forth = try await NumberedTraffic.start(
            from: stage.pods[0], to: stage.pods[1], rate: options.rate / 2)
        let back = try await NumberedTraffic.start(
            from: stage.pods[1], to: stage.pods[0], rate: options.rate / 2)
        try await forth.flows()
        try await back.flows()
        let streams = try await stage.pods[0].iperf(
            to: stage.pods[1].address, "-P 8 --bidir -b 2M -t 3600 --connect-timeout 5000")
        try await Task.sleep(for: .seconds(1))
        try await stage.play(event)
        // What passes what, when that carries small packets again, is seen as well.
        try await stage.usesKernelPathAgain()
        try await Task.sleep(for: .seconds(max(options.seconds - 1, 1)))
        // Before the streams end: who closes a connection with data on the way resets it. One that was reset ends iperf3.
        let resets = try await stage.resets() + (streams.isRunning ? 0 : 1)
        streams.signal(SIGKILL)
        var report = await forth.end()
        let other = await back.end()
        if event.isPlanned, report.lost + other.lost + report.reordered + other.reordered > 0 {
            complain(
                "\(event.rawValue): out \(report), in \(other); \(stage.drops); \(try await stage.kernelDrops())"
            )
        }
        let longestGap = max(report.longestGapMilliseconds, other.longestGapMilliseconds)
        if event.isPlanned, longestGap >= 10 {
            let stolen = Self.stolenMilliseconds - stolenBefore
            complain(
                "\(event.rawValue): nothing came for \(longestGap) ms; the hypervisor gave \(stolen) ms of this machine's processors to others in that playing"
            )
        }
        report.sent += other.sent
        report.lost += other.lost
        report.duplicated += other.duplicated
        report.reordered += other.reordered
        report.longestGapMilliseconds = longestGap
        if ProcessInfo.processInfo.environment["TWILL_UPGRADE_LOGS"] != nil { stage.tellLogs() }
        return UpgradeResult(
            traffic: report, resets: resets, droppedByForwarder: try await stage.droppedByForwarder())
    }

    /// What the hypervisor gave to others of this machine's processors since its start: ticks of a hundredth of a second each
    /// (`steal`, proc_stat(5)).
    private static var stolenMilliseconds: Int {
        let text = (try? String(contentsOfFile: "/proc/stat", encoding: .utf8)) ?? ""
        let fields = text.prefix { $0 != "\n" }.split(separator: " ")
        return fields.count > 8 ? (Int(fields[8]) ?? 0) * 10 : 0
    }
}

/// Two nodes, their pods, and the daemon that something happens to.
final class UpgradeStage {
    private let lab: Lab
    private let options: UpgradeOptions
    private var victim: LabDaemon?
    private var forwarder: LabProcess?
    private var peer: LabDaemon?
    let pods: [LabPod]
    private var victims: [LabDaemon] = []
    private let configuration: String
    private var peerSubnet = ""
    /// Of a forwarder, by its node.
    private static let forwarderSubnets = [1: "100.96.250.0/24", 2: "100.96.251.0/24"]

    init(_ options: UpgradeOptions, _ event: UpgradeEvent) async throws {
        self.options = options
        lab = try await Lab(
            config: event == .vxlan ? Self.vxlanNetwork : Lab.configuration, daemon: options.daemon,
            isAlone: true)
        // On the same processors the other node would wait for what the first one's daemons do, which nodes do not.
        for (share, host) in lab.nodes.enumerated() {
            try await host.namespace.keep(toShare: share, of: lab.nodes.count)
        }
        configuration = "\(lab.directory)/victim.conf"
        try lab.write("victim.conf", "workers = 1\n")
        let isKept = event == .killWithStore || event == .restartByStore
        let keeper = isKept ? ServiceKeeper.words(socket: "\(lab[1].directory)/notify") : ""
        if event == .forwarder { try Self.writeForwarder(1, lab) }
        if options.peerIsForwarder { try Self.writeForwarder(2, lab) }
        var daemons: [Int: LabDaemon] = [:]
        if event != .forwarder {
            let daemon = try await lab[1].start(Self.flags(options, configuration), wrapper: keeper)
            victim = daemon
            victims = [daemon]
            daemons[1] = daemon
        }
        if !options.peerIsForwarder {
            peer = try await lab[2].start(
                options.daemonFlags.joined(separator: " "), binary: options.peer)
            daemons[2] = peer
        }
        var subnets: [String] = []
        for node in 1...2 {
            if let daemon = daemons[node] {
                subnets.append(try await Self.ready(daemon))
            } else {
                subnets.append(Self.forwarderSubnets[node] ?? "")
            }
        }
        peerSubnet = subnets[1]
        var pods: [LabPod] = []
        for (node, subnet) in zip(lab.nodes, subnets) { pods.append(try await node.addPod(in: subnet)) }
        self.pods = pods
        for (share, pod) in pods.enumerated() {
            try await pod.namespace.keep(toShare: share, of: pods.count)
        }
        if event == .forwarder { forwarder = try await startForwarder(1, to: subnets[1]) }
        if options.peerIsForwarder { _ = try await startForwarder(2, to: subnets[0]) }
        // A veth without GRO queues a packet on the CPU that sent it: a sender that moves to another CPU overtakes itself.
        for (node, pod) in zip(lab.nodes, pods) {
            try await node.run("ethtool -K pod2 gro on")
            try await pod.run("ethtool -K eth0 gro on")
        }
        try await pods[0].reaches(pods[1].address)
        try await pods[1].serveIperf()
        // What is measured is a node in its usual state: with its kernel path, where it has one.
        try await usesKernelPathAgain()
        // The store has the descriptors a second after the daemon is ready.
        if isKept { try await Task.sleep(for: .seconds(2)) }
    }

    private static let vxlanNetwork = #"{"Network": "100.96.0.0/16", "Backend": {"Type": "vxlan"}}"#

    /// Writes what a forwarder's node has: its lease, and the file that tells pods their MTU.
    private static func writeForwarder(_ node: Int, _ lab: Lab) throws {
        let key = (forwarderSubnets[node] ?? "").replacing("/", with: "-")
        try lab.write("store/subnets/\(key)", #"{"PublicIP":"172.20.32.10\#(node)"}"#)
        try lab.write("node\(node)/subnet.env", "FLANNEL_MTU=1472\n")
    }

    /// Starts a node's forwarder, and gives its device what flanneld gives it.
    private func startForwarder(_ node: Int, to subnet: String) async throws -> LabProcess {
        let program = try BenchmarkProgram.baseline.path(["release", "debug"])
        let own = (Self.forwarderSubnets[node] ?? "").replacing("/24", with: "/32")
        return try await lab[node].launch(
            """
            sh -c '\(program) --tun flannel0 --bind 172.20.32.10\(node):8285 --peer \(subnet)=172.20.32.10\(3 - node):8285 & \
            trap "kill $!" TERM; \
            until ip link set flannel0 mtu 1472 txqueuelen 4000 up 2>/dev/null; do :; done; \
            ip address add \(own) dev flannel0; ip route add 100.96.0.0/16 dev flannel0; wait'
            """)
    }

    private static func flags(_ options: UpgradeOptions, _ configuration: String) -> String {
        (["--config", configuration] + options.daemonFlags).joined(separator: " ")
    }

    /// Waits until whoever answers is ready and knows its peer; gives its subnet.
    private static func ready(_ daemon: LabDaemon, not former: Int32? = nil) async throws -> String {
        try await until("a lease and a peer", seconds: 60, { daemon.log.suffix(4000).description }) {
            guard let status = daemon.status, status.isReady, status.peers.count == 1,
                status.processIdentifier != former
            else { return nil }
            return status.lease?.subnet
        }
    }

    /// Waits until the kernel paths of both nodes take packets, where they have one and a peer that takes it.
    func usesKernelPathAgain() async throws {
        guard options.peer == nil, let victim, let peer else { return }
        for daemon in [victim, peer] { try await Self.usesKernelPath(daemon) }
    }

    /// Waits until the kernel path of whoever answers takes packets, where there is one.
    private static func usesKernelPath(_ daemon: LabDaemon) async throws {
        _ = try await until("its kernel path", seconds: 30, { daemon.log.suffix(4000).description }) {
            guard let path = daemon.status?.kernelPath else { return daemon.status == nil ? nil : true }
            return path.state == "waiting" || path.state == "on" && path.ablePeers == 0 ? nil : true
        }
    }

    func play(_ event: UpgradeEvent) async throws {
        switch event {
        case .quiet: try await Task.sleep(for: .seconds(1))
        case .restart: try await takeOver(by: options.daemon)
        case .upgrade:
            try await takeOver(by: try await lab.anotherBuild(of: options.daemon))
            try await takeOver(by: options.daemon)
        case .failedHandOver:
            for step in HandOverClient.Step.allCases where step != .silent {
                try await endHandOver(at: step)
            }
        case .silentHandOver: try await endHandOver(at: .silent)
        case .port: try await reload("workers = 1\nport = 9285\n", "data_plane_replaced")
        case .workers:
            try await reload("workers = 2\n", "data_plane_replaced")
            try await reload("workers = 1\n", "data_plane_replaced")
        case .tuning: try await reload("workers = 1\nbatch = 48\n", "data_plane_replaced")
        case .restartByStore, .killWithStore:
            let daemon = try running
            let former = daemon.status?.processIdentifier ?? 0
            kill(former, event == .killWithStore ? SIGKILL : SIGTERM)
            _ = try await Self.ready(daemon, not: former)
        case .killWithout, .stopAndStart, .vxlan:
            let daemon = try running
            daemon.signal(event == .killWithout ? SIGKILL : SIGTERM)
            _ = try await daemon.exitStatus()
            try await start(options.daemon)
        case .forwarder:
            forwarder?.signal(SIGTERM)
            _ = try await forwarder?.exitStatus(seconds: 10)
            forwarder = try await startForwarder(1, to: peerSubnet)
        }
    }

    private var running: LabDaemon {
        get throws {
            guard let victim else { throw UpgradeFailure(description: "there is no daemon") }
            return victim
        }
    }

    private func endHandOver(at step: HandOverClient.Step) async throws {
        try await HandOverClient.stop(at: step, "\(lab[1].directory)/twilld.sock.handover", lab[1])
    }

    private func start(_ binary: String) async throws {
        let daemon = try await lab[1].start(Self.flags(options, configuration), binary: binary)
        victim = daemon
        victims.append(daemon)
        try await daemon.ready()
    }

    private func takeOver(by binary: String) async throws {
        let former = try running
        try await start(binary)
        let status = try await former.exitStatus()
        guard status == 0 else {
            throw UpgradeFailure(description: "it ended with \(status): \(former.log.suffix(2000))")
        }
    }

    private func reload(_ text: String, _ event: String) async throws {
        let daemon = try running
        let before = daemon.count(of: "event=\(event)")
        try lab.write("victim.conf", text)
        daemon.signal(SIGHUP)
        _ = try await until("event=\(event)", { daemon.log.suffix(4000).description }) {
            daemon.count(of: "event=\(event)") > before ? true : nil
        }
        try await Task.sleep(for: .milliseconds(300))
    }

    /// Connections of the pods that somebody reset.
    func resets() async throws -> Int {
        var resets = 0
        for pod in pods {
            resets += try await pod.kernelCounters()["TcpEstabResets"] ?? 0
        }
        return resets
    }

    /// What the daemons themselves dropped.
    var drops: String {
        [("it", victim), ("its peer", peer)].map { name, daemon in
            let drops = (daemon?.status?.drops ?? [:]).map { "\($0.key.name) \($0.value)" }.sorted()
            return "\(name) dropped: \(drops.isEmpty ? "nothing" : drops.joined(separator: ", "))"
        }.joined(separator: "; ")
    }

    /// What the socket of a forwarder that is the peer had no room for.
    func droppedByForwarder() async throws -> Int {
        guard options.peerIsForwarder else { return 0 }
        return try await lab[2].kernelCounters()["UdpRcvbufErrors"] ?? 0
    }

    /// What the kernel dropped on the nodes and in the pods.
    func kernelDrops() async throws -> String {
        var found: [String] = []
        for (name, host) in zip(["node 1", "node 2"], lab.nodes) {
            found.append("\(name) UdpNoPorts \(try await host.kernelCounters()["UdpNoPorts"] ?? 0)")
            found += try await host.kernelDrops().filter { $0.value > 0 }.map {
                "\(name) \($0.key) \($0.value)"
            }
        }
        for (name, pod) in zip(["pod 1", "pod 2"], pods) {
            found += try await pod.kernelDrops().filter { $0.value > 0 }.map {
                "\(name) \($0.key) \($0.value)"
            }
        }
        return "the kernel dropped: \(found.isEmpty ? "nothing" : found.sorted().joined(separator: ", "))"
    }

    func tellLogs() { for victim in victims { complain(victim.log) } }
}
