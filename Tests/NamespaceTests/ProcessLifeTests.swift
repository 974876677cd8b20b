import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// How a daemon starts, ends and comes back, and what is left of it.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct ProcessLifeTests {
    /// Whatever ended it, the next one has the same subnet, from the store alone.
    @Test(arguments: [SIGTERM, SIGKILL])
    func theSubnetIsTheSameAfterARestart(signal: Int32) async throws {
        let nodes = try await NodesOnEtcd()
        nodes.daemons[0].signal(signal)
        #expect(try await nodes.daemons[0].exitStatus() == (signal == SIGTERM ? 0 : 128 + Int(signal)))
        #expect(try await nodes.etcd.lease(nodes.key(1)) != nil, "the lease is gone from the store")
        try FileManager.default.removeItem(atPath: nodes.lab[1].directory + "/subnet.env")
        let next = try await nodes.start(on: nodes.lab[1])
        #expect(try await next.healed().lease?.subnet == nodes.subnets[0])
        #expect(try await nodes.lab[1].interface("flannel0") != nil)
        try await nodes.podsReachEachOther()
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func itsEndLeavesNothingInTheKernel(signal: Int32) async throws {
        let nodes = try await NodesOnEtcd(flags: "--on-stop=remove")
        try await nodes.daemons[0].stop(signal)
        try await nodes.lab[1].loses("flannel0")
        #expect(try await nodes.lab[1].routes().contains { $0.destination == "100.96.0.0/16" } == false)
    }

    @Test func cleanupTakesAwayWhatOutlivesTheDaemon() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start("--ip-masq --ip-blackhole-route")[0]
        let subnet = try #require(daemon.status?.lease?.subnet)
        let (file, socket) = (lab[1].directory + "/subnet.env", lab[1].directory + "/twilld.sock")
        // What it asks of a device is in /sys, which shows the namespace of whoever mounted it.
        let cleanup =
            "unshare --mount sh -c 'mount -t sysfs sys /sys && exec \(LabDaemon.binary) cleanup --subnet-file \(file)"
            + " --status-socket \(socket)'"
        #expect(await lab[1].succeeds(cleanup) == false, "it cleaned up under a running daemon")
        daemon.signal(SIGKILL)
        #expect(try await daemon.exitStatus() == 128 + Int(SIGKILL))
        func blackholes() async throws -> [String] {
            try await lab[1].routes().filter { $0.type == "blackhole" }.map(\.destination)
        }
        #expect(try await blackholes() == [subnet])
        // The kernel takes the ring of a process that was killed down late, and the ring holds the device.
        _ = try await until("a device that nobody holds") {
            await lab[1].succeeds("ip link show flannel0 | grep -q NO-CARRIER") ? true : nil
        }
        let said = try await lab[1].run(cleanup)
        for thing in [
            "iptables chain FLANNEL-POSTRTG of table nat", "route blackhole \(subnet)", "device flannel0",
            file,
            socket,
        ] { #expect(said.contains("removed \(thing)"), "\(said)") }
        #expect(try await lab[1].run("nft list ruleset").contains("FLANNEL") == false)
        #expect(try await blackholes() == [])
        #expect(try await lab[1].interface("flannel0") == nil)
        #expect(
            !FileManager.default.fileExists(atPath: file) && !FileManager.default.fileExists(atPath: socket))
        #expect(try await lab[1].run(cleanup) == "nothing to remove\n")
    }

    /// ExecStart lines of flanneld as distributions and guides have them, with what their EnvironmentFile sets: with
    /// the program's name changed and nothing else, they start twilld.
    private static let units = [
        (
            "FLANNEL_ETCD_ENDPOINTS=<etcd> FLANNEL_ETCD_PREFIX=\(LabEtcd.prefix) FLANNEL_OPTIONS=--iface=eth0",
            "-etcd-endpoints=${FLANNEL_ETCD_ENDPOINTS} -etcd-prefix=${FLANNEL_ETCD_PREFIX} $FLANNEL_OPTIONS"
        ),
        (
            "FLANNELD_ETCD_ENDPOINTS=<etcd> FLANNELD_IFACE=eth0 FLANNELD_IP_MASQ=true", "--ip-masq=true"
        ),
        (
            "ETCD=<etcd>",
            "-etcd-endpoints http://172.20.32.199:2379,$ETCD -iface 172.20.32.101 -ip-masq -iptables-resync=5"
                + " -subnet-lease-renew-margin 60 -healthz-port 8471 -public-ip= -v 0"
        ),
    ]

    @Test(arguments: units)
    func aUnitFileOfFlanneldStartsIt(environment: String, words: String) async throws {
        let lab = try await Lab(nodes: 1, config: nil)
        let etcd = try await lab.startEtcd()
        // The machine's /run and /var/lib are empty, and the file is looked for where flannel has it.
        try lab.write(
            "unit.sh",
            """
            mount -t tmpfs none /run && mount -t tmpfs none /var/lib || exit
            export \(environment.replacing("<etcd>", with: etcd.endpoint))
            exec \(LabDaemon.binary) \(words)
            """)
        let daemon = try await lab[1].launch("unshare --mount sh \(lab.directory)/unit.sh")
        let file = "/proc/\(daemon.processIdentifier)/root/run/flannel/subnet.env"
        let text = try await until("subnet.env", seconds: 60, { daemon.errors }) {
            (try? String(contentsOfFile: file, encoding: .utf8)).flatMap { $0.isEmpty ? nil : $0 }
        }
        #expect(text.firstMatch(of: #/FLANNEL_SUBNET=100\.96\.\d+\.1/24\n/#) != nil, "\(text)")
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// What waits in io_uring counts as waiting for a disk, unless it says otherwise: a whole CPU at 100 % iowait,
    /// and an alarm.
    @Test(.enabled(if: kernelCanTell, "Linux before 6.15 knows no wait without iowait"))
    func aDaemonThatSleepsIsNotTakenForOneThatWaitsForADisk() async throws {
        let lab = try await Lab(isAlone: true)
        let daemons = try await lab.start()
        // Others of this machine may wait for a disk now and then; a daemon of ours would always.
        _ = try await until("a moment in which nothing waits for a disk", seconds: 60) {
            let text = try String(contentsOfFile: "/proc/stat", encoding: .utf8)
            return text.contains("\nprocs_blocked 0\n") ? true : nil
        }
        #expect(daemons.allSatisfy { $0.isRunning })
    }

    private static let kernelCanTell: Bool = {
        var name = utsname()
        guard uname(&name) == 0 else { return false }
        let release = withUnsafeBytes(of: &name.release) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (6, 15)
    }()
}
