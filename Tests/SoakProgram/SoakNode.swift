import Disturbances
import FoundationEssentials
import Glibc
import Kit

/// A node of a soak: its daemon, its pod and what was measured of them. What it ought to be is in a
/// `DisturbedNetwork`.
final class SoakNode {
    let host: LabNode
    private(set) var daemon: LabDaemon
    private(set) var pod: LabPod?
    private(set) var starts = 0
    private(set) var startedAt = ContinuousClock.now
    /// What the pods received so far, in bytes.
    private(set) var receivedBytes = 0
    private var receivedByThisPod = 0
    /// The workers that its daemon is told to have.
    private(set) var workers = 1

    /// What a process had when it counted as warm, and at the last look.
    struct Growth {
        var warm: Int
        var last: Int
    }

    /// The life of a process that counts as warm.
    struct Life {
        var seconds: Int
        var residentBytes: Growth
        var descriptors: Growth
    }

    /// After this time a process counts as warm: its buffers were used, its lists were as long as they get.
    private static let warmSeconds = 45
    /// What a process takes at once that is worth a line, for whoever looks for a cause afterwards.
    private static let notableBytes = 1 << 20
    /// The process that runs.
    private var life: Life?
    /// The process that lived longest; nil where none lived until it was warm.
    private(set) var longestLife: Life?

    /// Whether a stand-in for systemd keeps the daemon: then that is the process that the lab knows.
    private let isKept: Bool
    /// The two builds that take over from one another, the one that runs first.
    private var builds: [String]

    init(_ host: LabNode, _ etcd: LabEtcd, isKept: Bool, builds: [String]) async throws {
        self.host = host
        self.isKept = isKept
        self.builds = builds
        try Self.write(workers: workers, host)
        daemon = try await Self.start(host, etcd, isKept: isKept, build: builds[0])
        starts = 1
    }

    private static func write(workers: Int, _ host: LabNode) throws {
        try Data("workers = \(workers)\n".utf8).write(to: URL(filePath: host.directory + "/twilld.conf"))
    }

    private static func start(
        _ host: LabNode, _ etcd: LabEtcd, isKept: Bool, build: String
    ) async throws -> LabDaemon {
        // A renewal each minute: times to live are flannel's, 24 hours, and 1,439 minutes is the widest margin there
        // is.
        try await host.start(
            "--etcd-endpoints=\(etcd.endpoint) --iface=eth0 --ip-masq --subnet-lease-renew-margin=1439"
                + " --config \(host.directory)/twilld.conf",
            wrapper: isKept ? ServiceKeeper.words(socket: "\(host.directory)/notify") : "", binary: build)
    }

    // MARK: The daemon

    func start(_ etcd: LabEtcd) async throws {
        became(try await Self.start(host, etcd, isKept: isKept, build: builds[0]))
    }

    private func became(_ next: LabDaemon) {
        daemon = next
        starts += 1
        startedAt = .now
        life = nil
    }

    /// Starts a daemon of the other build beside the one that runs. It takes over at once, or, where that one is not set up
    /// (the store is away), ends and is not missed.
    ///
    /// - Parameter delay: how long after its start it is killed; nil: it is not. If it has taken over by then, it is started
    ///   again.
    func takeOver(_ etcd: LabEtcd, killedAfter delay: Duration? = nil) async throws {
        let former = daemon
        builds.swapAt(0, 1)
        let next = try await Self.start(host, etcd, isKept: isKept, build: builds[0])
        if let delay {
            try await Task.sleep(for: delay)
            next.signal(SIGKILL)
            _ = try await next.exitStatus()
            // If it was given all and had said so, the former one ends within a moment.
            try await Task.sleep(for: .seconds(1))
            if former.isRunning { builds.swapAt(0, 1) } else { try await start(etcd) }
            return
        }
        let isOver: Bool = try await until("the end of one of two daemons", seconds: 30) {
            former.isRunning && next.isRunning ? nil : next.isRunning
        }
        if isOver { became(next) } else { builds.swapAt(0, 1) }
    }

    /// Sends a signal to the daemon. Where it is kept, the keeper passes SIGTERM on; what stops or kills is for both, the
    /// keeper first, which would start another one.
    func signal(_ number: Int32) {
        daemon.signal(number)
        if isKept, number != SIGTERM, let process = keptProcess { kill(process, number) }
    }

    /// The daemon is killed, and its keeper lives.
    func crash() async throws {
        let former = try await until("a daemon of node \(host.number)", seconds: 10) { keptProcess }
        kill(former, SIGKILL)
        _ = try await until("another daemon of node \(host.number)", seconds: 10) {
            keptProcess.flatMap { $0 == former ? nil : $0 }
        }
        starts += 1
    }

    /// The keeper's child.
    private var keptProcess: pid_t? {
        let keeper = daemon.processIdentifier
        let text = try? String(contentsOfFile: "/proc/\(keeper)/task/\(keeper)/children", encoding: .utf8)
        return text?.split(separator: " ").first.flatMap { pid_t($0) }
    }

    /// Tells the daemon another number of workers. A daemon that has just been started hears of it as soon as the kernel has
    /// given it its first instructions.
    func set(workers: Int) async throws {
        // Each has buffers of its own: what the process has from here on is no growth.
        startedAt = .now
        life = nil
        self.workers = workers
        try Self.write(workers: workers, host)
        try await takes(SIGHUP)
        if isKept { if let process = keptProcess { kill(process, SIGHUP) } } else { daemon.signal(SIGHUP) }
    }

    /// Waits until a daemon that has just been started takes a signal, which ends it before that.
    private func takes(_ number: Int32) async throws {
        let daemon = daemon
        _ = try await until("a daemon that takes signal \(number)", seconds: 10) {
            !daemon.isRunning || LabProcess.takes(number, keptProcess ?? daemon.processIdentifier)
                ? true : nil
        }
    }

    func end(_ number: Int32) async throws {
        if number == SIGTERM { try await takes(number) }
        signal(number)
        let status = try await daemon.exitStatus(seconds: 20)
        guard status == (number == SIGTERM ? 0 : 128 + Int(number)) else {
            throw SoakFailure(
                description: "twilld on node \(host.number) ended with \(status) on signal \(number)")
        }
    }

    /// The subnet that pods are to use, as its lease's key has it; nil before there is one.
    var subnetInFile: String? {
        let text = try? String(contentsOfFile: host.directory + "/subnet.env", encoding: .utf8)
        return text?.firstMatch(of: #/(?m)^FLANNEL_SUBNET=(\S+)\.1/24$/#).map { "\($0.1).0-24" }
    }

    /// Takes everything away that was on its disk.
    func wipeDisk() throws {
        for name in ["state", "subnet.env"] {
            try FileManager.default.removeItem(atPath: "\(host.directory)/\(name)")
        }
    }

    // MARK: Pods and what runs between them

    /// Makes a pod, which serves and measures with iperf3, over and over, to the pod of the next node.
    func makePod(in subnet: String, next: LabNode) async throws {
        let pod = try await host.addPod(in: subnet.replacing("-", with: "/"))
        self.pod = pod
        try Data("\(pod.address)\n".utf8).write(
            to: URL(filePath: host.directory + "/pod"), options: .atomic)
        receivedByThisPod = 0
        _ = try await pod.launch(
            #"sh -c "while :; do iperf3 -s -1 --rcv-timeout 5000; sleep 0.5; done""#)
        let protocolWords = host.number % 2 == 1 ? "-b 20M" : "-u -b 20M -l 1400"
        _ = try await pod.launch(
            #"sh -c "while :; do timeout 25 iperf3 -c \$(cat \#(next.directory)/pod) -t 20 -i 0"#
                + #" --connect-timeout 2000 \#(protocolWords); sleep 0.5; done""#)
    }

    /// Makes the pods anew in another subnet, as docs/operations.md tells an operator to.
    func remakePod(in subnet: String, next: LabNode) async throws {
        try await countReceived()
        if let pod { try await host.removePod(pod) }
        try await makePod(in: subnet, next: next)
    }

    /// Adds what the pod received to what was received before.
    func countReceived() async throws {
        guard let bytes = try await pod?.interface("eth0")?.receivedBytes else { return }
        receivedBytes += bytes - receivedByThisPod
        receivedByThisPod = bytes
    }

    // MARK: Memory and descriptors

    /// Looks at its daemon's memory and descriptors.
    ///
    /// - Returns: where it has taken notably more memory since the look before, what it has of each kind.
    func sample() -> String? {
        let seconds = Int((ContinuousClock.now - startedAt) / .seconds(1))
        // Of a daemon that is kept the lab knows the keeper alone.
        guard seconds >= Self.warmSeconds, !isKept else { return nil }
        let (bytes, descriptors) = (daemon.residentBytes, daemon.openDescriptorCount)
        var life =
            self.life
            ?? Life(
                seconds: seconds, residentBytes: .init(warm: bytes, last: bytes),
                descriptors: .init(warm: descriptors, last: descriptors))
        let before = life.residentBytes.last
        life.seconds = seconds
        life.residentBytes.last = bytes
        life.descriptors.last = descriptors
        self.life = life
        if seconds >= longestLife?.seconds ?? 0 { longestLife = life }
        guard bytes > before + Self.notableBytes else { return nil }
        return
            "node \(host.number)'s daemon, \(workers) workers, had \(before >> 10) KiB and has \(bytes >> 10)"
            + " after \(seconds) s: \(daemon.residentParts)"
    }
}
