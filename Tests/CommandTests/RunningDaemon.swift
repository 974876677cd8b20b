import FoundationEssentials
import Glibc
import NetworkNamespaces
import NodeDaemon
import Telemetry
import Testing

/// A machine for one `twilld`: a namespace with one underlay interface, and a directory for everything it writes.
final class TestMachine {
    let directory: String
    private let namespace: NetworkNamespace.Lease
    private var daemons: [RunningDaemon] = []

    /// Makes a machine with `eth0` at 198.18.78.1/24, MTU 1500, and a default route to nobody; `config` is the network's.
    init(config: String? = #"{"Network": "10.66.0.0/16"}"#) async throws {
        directory = "/tmp/twill-test-daemon-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        namespace = try await NetworkNamespace.make()
        try FileManager.default.createDirectory(
            atPath: directory + "/store/subnets", withIntermediateDirectories: true)
        if let config { try write("store/config", config) }
        try await run(
            "ip link add eth0 type veth peer name far && ip link set far up && ip address add 198.18.78.1/24 dev eth0 && ip link set eth0 up"
                + " && ip route add default via 198.18.78.254 && sysctl -qw net.ipv4.ip_forward=1")
    }

    deinit {
        for daemon in daemons { daemon.end() }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Runs a shell command in the namespace; gives what it printed.
    @discardableResult
    func run(_ command: String) async throws -> String { try await namespace.run { try execute(command) } }

    /// Makes `io_uring_setup` fail for the daemons that are started from here on.
    func forbidUring(errorNumber: Int32) async throws {
        try await namespace.run { try NetworkNamespaces.forbidUring(errorNumber: errorNumber) }
    }

    /// Writes a file below the directory.
    func write(_ name: String, _ text: String) throws {
        try Data(text.utf8).write(to: URL(filePath: directory + "/" + name), options: .atomic)
    }

    /// Reads a file below the directory; nil where there is none.
    func read(_ name: String) -> String? {
        try? String(contentsOfFile: directory + "/" + name, encoding: .utf8)
    }

    /// Starts a daemon with the flags that keep it inside the directory, and `flags`.
    ///
    /// - Parameter environment: `NAME=value` words.
    func start(_ flags: String = "", environment: String = "") async throws -> RunningDaemon {
        let number = daemons.count
        let files = directory + "/daemon-\(number)"
        let command =
            "env \(environment) \(RunningDaemon.binary) -lease-dir \(directory)/store -subnet-file \(directory)/subnet.env"
            + " --state-dir \(directory)/state --status-socket \(directory)/twilld.sock \(flags)"
        // The shell waits for it in the foreground: `wait` hangs where SIGCHLD is blocked, as in a test's threads.
        try await run(
            "(sh -c 'echo $$ >\(files).pid; exec \(command) >\(files).log 2>&1'; echo $? >\(files).status)"
                + " >/dev/null 2>&1 &")
        let daemon = try await RunningDaemon(files: files, socketPath: directory + "/twilld.sock")
        daemons.append(daemon)
        return daemon
    }
}

/// A `twilld` process.
final class RunningDaemon {
    private let files: String
    private let client: StatusClient
    let processIdentifier: pid_t

    /// The program that was built beside the tests.
    static let binary: String = {
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return String(tests[..<(tests.lastIndex(of: "/") ?? tests.startIndex)]) + "/twilld"
    }()

    fileprivate init(files: String, socketPath: String) async throws {
        self.files = files
        client = StatusClient(socketPath: socketPath)
        var text: String?
        for _ in 0..<1500 where text?.hasSuffix("\n") != true {
            text = try? String(contentsOfFile: files + ".pid", encoding: .utf8)
            try await Task.sleep(for: .milliseconds(20))
        }
        processIdentifier = try #require(text.flatMap { pid_t($0.prefix { $0.isNumber }) })
    }

    /// Everything that it wrote.
    var log: String { (try? String(contentsOfFile: files + ".log", encoding: .utf8)) ?? "" }

    /// What it says of itself; nil where it does not answer.
    var status: NodeStatus? { try? client.status() }

    /// Waits until it is ready.
    func ready() async throws -> NodeStatus {
        try await until("ready") { [self] in
            guard let status, status.processIdentifier == processIdentifier, status.isReady else {
                return nil
            }
            return status
        }
    }

    func signal(_ number: Int32) { kill(processIdentifier, number) }

    /// Waits until it ended; gives its exit status, 128 and more where a signal ended it.
    func exitStatus() async throws -> Int {
        try await until("its end") { [files] in
            guard let text = try? String(contentsOfFile: files + ".status", encoding: .utf8) else {
                return nil
            }
            return Int(text.prefix { $0.isNumber })
        }
    }

    /// Ends it at once, for a test that failed halfway.
    fileprivate func end() {
        if !FileManager.default.fileExists(atPath: files + ".status") { signal(SIGKILL) }
    }

    /// Waits for something that comes in its own time; a test that waits in vain fails after half a minute.
    func until<Value>(_ what: String, _ value: () -> Value?) async throws -> Value {
        for _ in 0..<1500 {
            if let value = value() { return value }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw Missing(description: "waited for \(what) in vain; the log:\n\(log)")
    }

    struct Missing: Error, CustomStringConvertible { let description: String }
}
