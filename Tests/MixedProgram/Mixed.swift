import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Telemetry

// How it works. Three nodes with a pod each, on a lease directory. MixedSlice.swift starts all the traffic of a slice
// and waits for its end; Counts.swift reads what daemons and kernels counted before and after, once nothing moves any
// more; MixedSlice+Judgement.swift compares what was sent, what arrived and what was counted.

/// A network under mixed traffic.
final class Mixed {
    static let trafficPort: UInt16 = 7000
    static let mtu = 1472
    private static let iperfPorts: [UInt16] = [5201, 5202, 5203]

    let options: MixedOptions
    let lab: Lab
    /// Somebody on the underlay whom no lease names.
    let stranger: LabStranger
    private(set) var pods: [LabPod] = []
    private(set) var daemons: [LabDaemon] = []
    private(set) var subnets: [String] = []
    private(set) var faults = 0
    private let engine: String
    private var pastLogs: [(node: Int, log: () -> String)] = []

    init(_ options: MixedOptions, _ engine: String) async throws {
        self.options = options
        self.engine = engine
        lab = try await Lab(nodes: 3, daemon: options.daemon, isAlone: true)
        stranger = try await lab.addStranger(at: ["172.20.32.250"])
    }

    /// How many datagrams of a slice may come to a pod late. A flow that has had nothing large for a second is the kernel
    /// path's, and the first large datagram right behind small ones may pass them (ADR 88): a burst has 32 at most.
    var lateLimit: Int { options.kernelPath == "auto" ? 32 : 0 }

    /// Tells of something that must not be, and goes on.
    func fault(_ text: String) {
        faults += 1
        say("      ✗ \(text)")
    }

    func keepFiles() {
        let path = "/tmp/twill-mixed-failed"
        do {
            try lab.keep(at: path)
            complain("logs and reports of the last slice are in \(path)")
        } catch { complain("logs and reports could not be kept: \(error)") }
    }

    func run() async throws {
        try await begin()
        var number = 0
        while number * options.sliceSeconds < options.seconds {
            while let file = options.pauseFile, access(file, F_OK) == 0 {
                try await Task.sleep(for: .milliseconds(200))
            }
            try await MixedSlice(number, of: self).run()
            number += 1
        }
        judgeLogs()
    }

    private func begin() async throws {
        for node in lab.nodes { daemons.append(try await startDaemon(node.number)) }
        for (node, daemon) in zip(lab.nodes, daemons) {
            let status = try await daemon.ready()
            subnets.append(status.lease?.subnet ?? "")
            pods.append(try await node.addPod(in: subnets[subnets.count - 1]))
            // A veth without GRO queues a packet on the CPU that sent it: a sender that moves to another CPU
            // overtakes itself. With GRO it has one queue, and what is reordered is twilld's doing.
            try await node.run("ethtool -K \(pods[pods.count - 1].device) gro on")
            try await pods[pods.count - 1].run("ethtool -K eth0 gro on")
        }
        for port in Self.iperfPorts {
            _ = try await pods[1].launch("iperf3 -s -p \(port)")
            try await pods[1].listens(on: port, tcp: true)
        }
        try await podsTalk(1, 2)
        try await podsTalk(1, 3)
    }

    // MARK: Daemons

    private func startDaemon(_ number: Int) async throws -> LabDaemon {
        // Queues that hold what comes while these few CPUs are busy with the senders: what is dropped there is no
        // fault.
        let daemon = try await lab[number].start(
            "--iface=eth0 --engine=\(engine) --queue-length=16384 --socket-buffer=\(64 << 20) "
                + "--kernel-path=\(options.kernelPath ?? "off") "
                + options.daemonFlags.joined(separator: " "))
        pastLogs.append((number, { daemon.log }))
        return daemon
    }

    /// An answer may wait behind all that the deep queues hold (who joins, and slices, begin while the last slice's
    /// rest drains).
    private func podsTalk(_ from: Int, _ to: Int) async throws {
        _ = try await until("pods \(from) and \(to) to talk", seconds: 60) {
            await pods[from - 1].succeeds("ping -n -c 1 -W 10 \(pods[to - 1].address)") ? true : nil
        }
    }

    private func leaseFile(_ number: Int) -> String {
        "store/subnets/\(subnets[number - 1].replacing("/", with: "-"))"
    }

    func leave(_ number: Int) async throws {
        daemons[number - 1].signal(SIGTERM)
        let status = try await daemons[number - 1].exitStatus(seconds: 10)
        if status != 0 { fault("node \(number)'s twilld ended with \(status)") }
        try? FileManager.default.removeItem(atPath: "\(lab.directory)/\(leaseFile(number))")
    }

    func join(_ number: Int) async throws {
        daemons[number - 1] = try await startDaemon(number)
        let status = try await daemons[number - 1].wait(for: "node \(number) to join again") {
            $0.lease != nil
        }
        let subnet = status.lease?.subnet ?? "none"
        if subnet != subnets[number - 1] {
            fault("node \(number) had \(subnets[number - 1]) and came back with \(subnet)")
        }
        _ = try await until("node \(number)'s lease") {
            lab.read(leaseFile(number))?.isEmpty == false ? true : nil
        }
        try await podsTalk(1, number)
    }

    private func judgeLogs() {
        for (number, log) in pastLogs {
            for line in log().split(separator: "\n")
            where line.contains(" error ") || line.contains(" critical ") {
                fault("node \(number)'s log: \(line)")
            }
        }
    }
}
