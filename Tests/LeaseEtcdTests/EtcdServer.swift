import Foundation
import Glibc
import Synchronization
import Testing

/// Whether the tests that need etcd can run; in CI they must.
let hasEtcd =
    FileManager.default.isExecutableFile(atPath: "/usr/bin/etcd")
    || ProcessInfo.processInfo.environment["TWILL_CI"] == "1"

/// A real etcd of one member on loopback, with a data directory of its own.
final class EtcdServer {
    enum Failure: Error { case notReady(String), command(String) }

    // 23000 to 23999, two for each server; the rest of this machine's tests use others.
    private static let nextPort = Mutex(23_000 + Int(getpid()) % 400 * 2)

    let port: Int
    let directory: String
    private let peerPort: Int
    private let arguments: [String]
    private let clientArguments: [String]
    private let scheme: String
    private var process: Process?

    var endpoint: String { "\(scheme)://127.0.0.1:\(port)" }

    /// Starts a server.
    init(scheme: String = "http", arguments: [String] = [], clientArguments: [String] = []) throws {
        self.scheme = scheme
        self.arguments = arguments
        self.clientArguments = clientArguments
        port = Self.nextPort.withLock { port in
            repeat {
                port += 2
                if port >= 24_000 { port = 23_000 }
            } while !Self.isFree(port) || !Self.isFree(port + 1)
            return port
        }
        peerPort = port + 1
        directory = NSTemporaryDirectory() + "leases-etcd-\(port)-\(getpid())"
        try start()
    }

    deinit {
        stop()
        try? FileManager.default.removeItem(atPath: directory)
        try? FileManager.default.removeItem(atPath: directory + ".snapshot")
    }

    /// A port where nobody listens.
    static func deadPort() -> Int {
        nextPort.withLock { port in
            repeat { port += 2 } while !isFree(port)
            return port
        }
    }

    private static func isFree(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var one: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        } == 0
    }

    func start() throws {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/etcd")
        let peer = "http://127.0.0.1:\(peerPort)"
        process.arguments =
            [
                "--name", "one", "--data-dir", directory, "--listen-client-urls", endpoint,
                "--advertise-client-urls", endpoint, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", "one=\(peer)", "--log-level",
                "error",
                "--unsafe-no-fsync",
            ].filter { $0 != "--unsafe-no-fsync" } + arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        self.process = process
        for _ in 0..<200 {
            if (try? control("endpoint", "health", "--command-timeout=1s")) != nil { return }
            guard process.isRunning else { break }
            usleep(50_000)
        }
        throw Failure.notReady("etcd on port \(port) does not answer")
    }

    /// Kills the server; its data stays.
    func stop() {
        guard let process, process.isRunning else { return }
        kill(process.processIdentifier, SIGCONT)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        self.process = nil
    }

    /// Stops the server's clock, as an overloaded machine would; `resume` goes on.
    func pause() { process.map { _ = kill($0.processIdentifier, SIGSTOP) } }

    func resume() { process.map { _ = kill($0.processIdentifier, SIGCONT) } }

    /// Loses all data.
    func wipe() throws { try FileManager.default.removeItem(atPath: directory) }

    /// Replaces all data by a snapshot's.
    func restore(_ snapshot: String) throws {
        try wipe()
        let peer = "http://127.0.0.1:\(peerPort)"
        // Offline: no endpoint is asked.
        try control(
            "snapshot", "restore", snapshot, "--data-dir", directory, "--name", "one", "--initial-cluster",
            "one=\(peer)", "--initial-advertise-peer-urls", peer)
    }

    /// Runs etcdctl; what it prints.
    @discardableResult
    func control(_ arguments: String..., input: String? = nil) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/etcdctl")
        process.arguments = ["--endpoints", endpoint] + clientArguments + arguments
        process.environment = ["ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        let standardInput = Pipe()
        process.standardInput = standardInput
        try process.run()
        if let input { try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8)) }
        try standardInput.fileHandleForWriting.close()
        let data = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw Failure.command("etcdctl \(arguments.joined(separator: " "))")
        }
        return String(decoding: data, as: UTF8.self)
    }

    // MARK: The network's keys

    static let prefix = "/coreos.com/network"

    func setNetwork(_ json: String = #"{"Network":"10.66.0.0/16","Backend":{"Type":"udp"}}"#) throws {
        try control("put", "\(Self.prefix)/config", json)
    }

    func putLease(_ key: String, _ value: String) throws {
        try control("put", "\(Self.prefix)/subnets/\(key)", value)
    }

    func deleteLease(_ key: String) throws { try control("del", "\(Self.prefix)/subnets/\(key)") }

    /// The leases' keys and values.
    func leases() throws -> [String: String] {
        let prefix = "\(Self.prefix)/subnets/"
        let lines = try control("get", "--prefix", prefix).split(separator: "\n").map(String.init)
        var leases: [String: String] = [:]
        for index in stride(from: 0, to: lines.count - 1, by: 2) {
            leases[String(lines[index].dropFirst(prefix.count))] = lines[index + 1]
        }
        return leases
    }

    /// The etcd lease of a key; 0 for a key without a time to live.
    func etcdLease(of key: String) throws -> Int64 {
        let text = try control("get", "\(Self.prefix)/subnets/\(key)", "-w", "fields")
        let line = text.split(separator: "\n").first { $0.hasPrefix("\"Lease\"") }
        return line.flatMap { Int64($0.split(separator: " ").last ?? "") } ?? -1
    }

    /// How many leases etcd has.
    func etcdLeaseCount() throws -> Int {
        try control("lease", "list").split(separator: "\n").filter { !$0.hasPrefix("found") }.count
    }
}
