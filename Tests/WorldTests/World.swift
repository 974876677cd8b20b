import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// Two nodes with a pod each on a real etcd; the first node is the one that suffers.
final class World {
    let lab: Lab
    let etcd: LabEtcd
    let victim: LabDaemon
    let other: LabDaemon
    let pods: [LabPod]
    /// The second node's subnet: `100.96.28.0/24`.
    let peerSubnet: String
    /// The first node's key in the store: `100.96.29.0-24`.
    let ownKey: String
    /// The first node's disk: `subnet.env` and the identity are on it, and it is small.
    let disk: String
    private let logReader: pid_t
    private var idleConnections: [Int32] = []

    static let fakeTime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

    init() async throws {
        lab = try await Lab(config: nil, isAlone: true)
        etcd = try await lab.startEtcd()
        let directory = lab[1].directory
        // The log goes through a pipe that somebody may stop to read.
        let reader = try await lab[1].run(
            "mkfifo \(directory)/pipe; cat \(directory)/pipe >\(directory)/log 2>/dev/null & echo $!")
        logReader = pid_t(reader.prefix { $0.isNumber }) ?? 0
        // A disk that is soon full, and a clock that can be set.
        try await lab[1].run("mkdir \(directory)/disk && mount -t tmpfs -o size=64k tmpfs \(directory)/disk")
        try lab.write("node1/clock", "+0\n")
        victim = try await lab[1].start(
            "--etcd-endpoints=\(etcd.endpoint) --subnet-file \(directory)/disk/subnet.env"
                + " --state-dir \(directory)/disk/state --healthz-ip 127.0.0.1 --healthz-port 8401"
                + " --ip-masq --iptables-resync 1",
            environment:
                "LD_PRELOAD=\(World.fakeTime) FAKETIME_TIMESTAMP_FILE=\(directory)/clock FAKETIME_NO_CACHE=1"
                // libfaketime changes the environment, where Swift looks for the arguments: `nice` takes the brunt.
                + " FAKETIME_DONT_FAKE_MONOTONIC=1 nice -n 0",
            standardError: "\(directory)/pipe")
        other = try await lab[2].start("--etcd-endpoints=\(etcd.endpoint)")
        disk = "\(directory)/disk"
        var pods: [LabPod] = []
        var subnets: [String] = []
        for (node, daemon) in zip(lab.nodes, [victim, other]) {
            let subnet = try #require(
                try await daemon.wait(for: "a lease and a peer") {
                    $0.isReady && $0.lease != nil && $0.peers.count == 1
                }.lease?.subnet)
            subnets.append(subnet)
            if node.number == 1 {
                try await node.run("cp \(directory)/disk/subnet.env \(directory)/subnet.env")
            }
            pods.append(try await node.addPod(in: subnet))
        }
        self.pods = pods
        peerSubnet = subnets[1]
        ownKey = subnets[0].replacing("/", with: "-")
    }

    deinit {
        for connection in idleConnections { close(connection) }
        if logReader > 1 {
            kill(logReader, SIGCONT)
            kill(logReader, SIGKILL)
        }
        _ = try? execute("umount -l \(lab.directory)/node1/disk")
    }

    func stopReadingTheLog() {
        kill(logReader, SIGSTOP)
        // A pipe holds 64 KiB; each of these is some kilobytes.
        for _ in 0..<40 {
            victim.signal(SIGUSR1)
            usleep(5_000)
        }
    }

    func readTheLogOn() { kill(logReader, SIGCONT) }

    func connect(_ count: Int) async throws {
        idleConnections += try await lab[1].namespace.run {
            (0..<count).compactMap { _ in
                let descriptor = socket(
                    AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
                guard descriptor >= 0 else { return nil }
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = UInt16(8401).bigEndian
                address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
                withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        _ = Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                    }
                }
                return descriptor
            }
        }
    }

    func disconnect() {
        for connection in idleConnections { close(connection) }
        idleConnections = []
    }
}

extension World {
    /// What is said must be what is so, this long after a change at the latest; the slowest to be noticed is an etcd that takes
    /// requests and does not answer.
    private static let patienceSeconds = 30.0

    /// Waits until the problems are those of the faults, and until pods reach each other where they can.
    func expectTruth(of faults: [Fault]) async throws {
        let allowed = faults.reduce(into: Set<String>()) { set, fault in
            set.formUnion((fault.tolerated.union(fault.kind.map { [$0] } ?? [])).map(\.rawValue))
        }
        let names = faults.map(\.name)
        try await victim.wait(for: "the problems of \(names)", seconds: Self.patienceSeconds) { status in
            // What is taken away five times in a minute, as it may be here, is told of for a while after.
            let wrong = status.components.filter {
                $0.condition != "good" && $0.problem?.contains("again and again") != true
            }
            return faults.allSatisfy { $0.isTold(in: wrong) }
                && wrong.allSatisfy { allowed.contains($0.kind) }
        }
        guard faults.allSatisfy(\.packetsFlow) else { return }
        _ = try await until("pods that reach each other under \(names)", seconds: Self.patienceSeconds) {
            await pods[0].answers(from: pods[1].address, count: 2) == 2 ? true : nil
        }
    }
}

extension Fault {
    /// Whether the components that are not good tell of this fault as they must.
    func isTold(in wrong: [NodeStatus.Component]) -> Bool {
        guard case .problem(let kind, let effect, let words) = telling else { return true }
        return wrong.contains { component in
            component.kind == kind.rawValue && component.condition == effect.rawValue
                && words.allSatisfy { component.problem?.contains($0) == true }
        }
    }
}
