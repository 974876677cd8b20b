import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// A log's reader that takes nothing until it is told to: a named pipe that is full.
private final class StalledReader {
    let path: String
    private let descriptor: Int32

    init(_ path: String) {
        self.path = path
        #expect(mkfifo(path, 0o600) == 0)
        descriptor = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)
        #expect(descriptor >= 0)
        fill()
    }

    deinit { close(descriptor) }

    /// Leaves room for nothing.
    func fill() {
        let block = [UInt8](repeating: 0x2E, count: 4096)
        while write(descriptor, block, block.count) > 0 {}
        while write(descriptor, block, 1) > 0 {}
    }

    /// Reads until `text` has come, `seconds` at most; gives whether it did.
    func read(until text: String, seconds: Double = 20) async throws -> String {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        return try await until(
            "\(text) in the log", seconds: seconds, { String(decoding: all.suffix(2000), as: UTF8.self) }
        ) {
            while true {
                let count = Glibc.read(self.descriptor, &buffer, buffer.count)
                guard count > 0 else { break }
                all += buffer[..<count]
            }
            let got = String(decoding: all, as: UTF8.self)
            return got.contains(text) ? got : nil
        }
    }
}

/// K4: the log holds up nothing that keeps the node.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct StalledLogTests {
    /// Starts node 1's daemon with a standard error that a line of shell sets up.
    private func start(_ lab: Lab, standardError: String, flags: String = "") async throws -> LabDaemon {
        try lab.write("start.sh", "exec \"$@\" \(standardError)\n")
        return try await lab[1].start(flags, wrapper: "sh \(lab.directory)/start.sh")
    }

    @Test func aFullPipeHoldsUpNothing() async throws {
        let lab = try await Lab()
        let reader = StalledReader("\(lab.directory)/log")
        let daemon = try await start(
            lab, standardError: "2>\(reader.path)", flags: "--healthz-ip 127.0.0.1 --healthz-port 8471")
        try await daemon.ready()
        try await daemon.problem("the log's reader has taken nothing")
        // A degraded log leaves the node ready.
        #expect(try await lab[1].run("curl -s http://127.0.0.1:8471/readyz") == "ok\n")
        daemon.signal(SIGUSR1)
        daemon.signal(SIGHUP)
        // A new peer appears, a route comes back, another daemon's packets arrive.
        let other = try await lab[2].start()
        let subnet = try #require(try await other.ready().lease?.subnet)
        try await daemon.wait(for: "the peer") { $0.peers.contains { $0.subnet == subnet } }
        try await lab[1].run("ip route delete 100.96.0.0/16 dev flannel0")
        _ = try await until("the route") {
            await lab[1].succeeds("ip route show 100.96.0.0/16 | grep -q flannel0") ? true : nil
        }
        // Once the reader reads again, everything is there.
        let log = try await reader.read(until: "event=restored")
        #expect(
            log.contains("event=ready") && log.contains("end=counters")
                && log.contains("event=nothing_to_reload"))
        _ = try await daemon.healed()
        reader.fill()
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        // The device stays for the next daemon, and nobody holds it.
        #expect(await lab[1].succeeds("ip link show flannel0 | grep -q NO-CARRIER"))
    }

    /// A standard error that takes nothing for good.
    @Test(arguments: [
        ("2>/dev/full", "No space left on device"), ("2>&-", "Bad file descriptor"),
        ("2>PIPE", "Broken pipe"), ("2</dev/null", "Bad file descriptor"),
    ])
    func aLogThatCannotBeWrittenEndsNothing(standardError: String, reason: String) async throws {
        let lab = try await Lab(nodes: 1)
        let path = "\(lab.directory)/log"
        #expect(mkfifo(path, 0o600) == 0)
        let reader = open(path, O_RDWR | O_CLOEXEC)
        let daemon = try await start(lab, standardError: standardError.replacing("PIPE", with: path))
        if reason != "Broken pipe" { close(reader) }
        try await daemon.ready()
        if reason == "Broken pipe" {
            close(reader)
            // Other tests start programs meanwhile, and a child has all descriptors until it is the program: what is
            // written before that has a reader.
            _ = try await until("a pipe that nobody reads") {
                let writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)
                if writer >= 0 { close(writer) }
                return writer < 0 ? true : nil
            }
            daemon.signal(SIGUSR1)
        }
        try await daemon.problem("the log can't be written", reason)
        #expect(daemon.status?.isReady == true)
        // Nothing that is meant for the log went into a socket that got its number.
        #expect(daemon.status?.problems.count == 1)
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func theLastLineOfAStartThatFailsIsThere() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start("--mtu 1473")
        #expect(try await daemon.exitStatus() == 78)
        #expect(daemon.log.split(separator: "\n").last?.hasPrefix("twilld: ") == true)
    }

    /// A SIGHUP that comes while the node waits for its underlay is no less one.
    @Test func hangingUpBeforeThereIsAnUnderlayReloads() async throws {
        let lab = try await Lab(nodes: 1)
        let route = try await lab[1].run("ip route show default | head -n 1")
        try await lab[1].run("ip link set eth0 down")
        try lab.write("twilld.conf", "workers = 1\n")
        let daemon = try await lab[1].start("--config \(lab.directory)/twilld.conf")
        try await daemon.wait(for: "the wait for an underlay") {
            $0.state.contains("waiting for an underlay")
        }
        try lab.write("twilld.conf", "workers = 2\n")
        daemon.signal(SIGHUP)
        try await daemon.logged("event=configuration_reloaded")
        #expect(daemon.log.contains("taken_over=workers"))
        try await lab[1].run("ip link set eth0 up && ip route replace \(route)")
        try await daemon.ready()
        #expect(daemon.log.contains("workers=2"))
        #expect(!daemon.log.contains("workers=1"))
    }

    /// SIGHUP reads the file again: what can be is taken over, the rest is named, and a wrong file ends
    /// nothing.
    @Test func hangingUpReloads() async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("twilld.conf", "v = 0\niptables-resync = 300\n")
        let daemon = try await lab[1].start("--config \(lab.directory)/twilld.conf")
        try await daemon.ready()
        try lab.write("twilld.conf", "v = 1\niptables-resync = 1\nmtu = 1300\nmetrics-peers = 7\n")
        daemon.signal(SIGHUP)
        try await daemon.logged("event=configuration_reloaded")
        let line = daemon.log.split(separator: "\n").first { $0.contains("configuration_reloaded") } ?? ""
        #expect(
            line.contains("taken_over=iptables-resync,mtu,v")
                && line.contains("needs_a_restart=metrics-peers"), "\(line)")
        try lab.write("store/subnets/100.96.250.0-24", #"{"PublicIP":"172.20.32.250"}"#)
        try await daemon.logged("debug event=peer_added")
        try lab.write("twilld.conf", "mut = 1300\n")
        daemon.signal(SIGHUP)
        try await daemon.problem("mut", "line 1")
        try await daemon.logged("event=reload_failed")
        #expect(daemon.status?.isReady == true)
        try lab.write("twilld.conf", "v = 1\niptables-resync = 1\n")
        daemon.signal(SIGHUP)
        try await daemon.healed()
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }
}
