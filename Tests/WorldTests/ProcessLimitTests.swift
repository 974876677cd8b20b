import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// K12: connections and open files have limits, and at them the daemon goes on.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct ProcessLimitTests {
    /// Opens `count` connections from within the node's namespace and holds them; the caller closes them.
    private func connections(_ count: Int, on node: LabNode, port: UInt16) async throws -> [Int32] {
        try await node.namespace.run {
            (0..<count).map { _ in
                let descriptor = socket(AF_INET, 1 | O_CLOEXEC, 0)
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = port.bigEndian
                address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
                _ = withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                    }
                }
                return descriptor
            }
        }
    }

    @Test func idleConnectionsBeyondTheLimitOfFilesEndNothing() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("ip link set lo up")
        let daemon = try await lab[1].start(
            "--healthz-ip 127.0.0.1 --healthz-port 8471", wrapper: "ulimit -n 256;")
        try await daemon.ready()
        for _ in 0..<3 {
            let idle = try await connections(400, on: lab[1], port: 8471)
            #expect(try await lab[1].run("curl -s http://127.0.0.1:8471/healthz") == "ok\n")
            let metrics = try await lab[1].run("curl -s http://127.0.0.1:8471/metrics")
            #expect(metrics.contains("\nprocess_max_fds 256\n"))
            let open = metrics.firstMatch(of: #/process_open_fds (\d+)/#).flatMap { Int($0.1) }
            #expect((open ?? .max) < 200)
            for descriptor in idle { close(descriptor) }
        }
        #expect(daemon.isRunning)
        try await daemon.healed()
        try await lab[1].run("ip route delete 100.96.0.0/16 dev flannel0")
        try await daemon.logged("event=restored")
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// Files that run short are said before there are none, and that is over once there are more again.
    @Test func filesThatRunShortAreSaid() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("ip link set lo up")
        let daemon = try await lab[1].start("--healthz-ip 127.0.0.1 --healthz-port 8471")
        try await daemon.ready()
        let number = daemon.processIdentifier
        let before = try #require(
            Int(try await lab[1].run("ls /proc/\(number)/fd | wc -l").filter(\.isNumber)))
        let idle = try await connections(64, on: lab[1], port: 8471)
        // The daemon has taken them; some files that were open before may be gone.
        try await lab[1].run(
            "until [ $(ls /proc/\(number)/fd | wc -l) -ge \(before + 60) ]; do sleep 0.1; done")
        try await lab[1].run(
            "prlimit --pid \(number) --nofile=$(($(ls /proc/\(number)/fd | wc -l) + 8)):4096")
        try await daemon.logged("component=\"limit open files\"")
        try await lab[1].run("prlimit --pid \(number) --nofile=1024:4096")
        for descriptor in idle { close(descriptor) }
        try await daemon.healed()
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// The soft limit is raised to the hard one; one that is too low is said.
    @Test func theLimitOfFilesIsRaisedOrSaid() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("ip link set lo up")
        var daemon = try await lab[1].start(
            "--healthz-ip 127.0.0.1 --healthz-port 8471", wrapper: "ulimit -Sn 64; ulimit -Hn 4096;")
        try await daemon.ready()
        #expect(
            try await lab[1].run("curl -s http://127.0.0.1:8471/metrics").contains("\nprocess_max_fds 4096\n")
        )
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        daemon = try await lab[1].start(wrapper: "ulimit -n 60;")
        #expect(try await daemon.exitStatus() == 78)
        #expect(daemon.log.contains("the limit of open files is 60"))
    }

    @Test func theStatusSocketIsTheAdministratorsAlone() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(wrapper: "umask 0;")
        try await daemon.ready()
        #expect(try await lab[1].run("stat -c %a \(lab[1].directory)/twilld.sock") == "600\n")
        // One that was killed leaves its name behind, which the next takes over.
        daemon.signal(SIGKILL)
        #expect(try await daemon.exitStatus() == 137)
        let next = try await lab[1].start()
        try await next.ready()
        next.signal(SIGTERM)
        #expect(try await next.exitStatus() == 0)
        #expect(try await lab[1].run("ls -A \(lab[1].directory)").contains("sock") == false)
    }
}
