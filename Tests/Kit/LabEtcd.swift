import FoundationEssentials
import Glibc
import NetworkNamespaces

extension Lab {
    /// Makes an etcd on the lab's wire, at 172.20.32.1 or fd20:32::1, that is not started yet.
    public func makeEtcd(_ families: Lab.Families = .ipv4) async throws -> LabEtcd {
        let address = families.hasIPv4 ? LabEtcd.address : LabEtcd.ipv6Address
        let length = families.hasIPv4 ? "24" : "64 nodad"
        try await wire.run {
            try execute(
                "ip address show dev wire | grep -q \(address)/ || ip address add \(address)/\(length) dev wire"
            )
        }
        return LabEtcd(
            directory: directory, wire: wire,
            endpoint: "http://\(families.hasIPv4 ? address : "[\(address)]"):2379")
    }

    /// Starts an etcd on the lab's wire, and writes the network's configuration into it.
    ///
    /// - Parameters:
    ///   - config: the network's configuration; nil for none.
    ///   - families: by which addresses the nodes reach it.
    public func startEtcd(
        config: String? = Lab.configuration, _ families: Lab.Families = .ipv4
    ) async throws -> LabEtcd {
        let etcd = try await makeEtcd(families)
        try await etcd.start()
        if let config { try await etcd.setNetwork(config) }
        return etcd
    }
}

/// A real etcd of one member in a lab; it ends with this object.
public final class LabEtcd {
    /// For a daemon's `--etcd-endpoints`.
    public let endpoint: String
    /// Its address on the lab's wire.
    public static let address = "172.20.32.1"
    /// The same where nodes have IPv6 alone.
    public static let ipv6Address = "fd20:32::1"
    fileprivate let directory: String
    private let wire: NetworkNamespace.Lease
    private var processIdentifier: pid_t = 0

    private static let member =
        "--name one --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster one=http://127.0.0.1:2380"

    fileprivate init(directory: String, wire: NetworkNamespace.Lease, endpoint: String) {
        self.endpoint = endpoint
        self.directory = directory
        self.wire = wire
    }

    deinit { kill() }

    /// Starts it, with the data that it has, and waits until it answers.
    public func start() async throws {
        let command =
            "etcd \(Self.member) --data-dir \(directory)/etcd --listen-client-urls \(endpoint)"
            + " --advertise-client-urls \(endpoint) --listen-peer-urls http://127.0.0.1:2380 --log-level error"
        let text = try await wire.run {
            try execute("\(command) >>\(self.directory)/etcd.log 2>&1 & echo $!")
        }
        processIdentifier = pid_t(text.prefix { $0.isNumber }) ?? 0
        _ = try await until(
            "etcd", seconds: 90,
            { (try? String(contentsOfFile: directory + "/etcd.log", encoding: .utf8)) ?? "" }
        ) { try? await self.control("endpoint health --command-timeout=1s") }
    }

    /// Runs etcdctl with the words given, which a shell reads; gives what it printed.
    @discardableResult
    public func control(_ words: String) async throws -> String {
        try await wire.run { try execute("ETCDCTL_API=3 etcdctl --endpoints=\(self.endpoint) \(words)") }
    }

    /// Stops its clock, as an overloaded machine would; `resume` goes on.
    public func pause() { _ = Glibc.kill(processIdentifier, SIGSTOP) }

    /// Lets it go on.
    public func resume() { _ = Glibc.kill(processIdentifier, SIGCONT) }

    /// Ends it at once; its data stays.
    public func kill() {
        guard processIdentifier > 1 else { return }
        resume()
        _ = Glibc.kill(processIdentifier, SIGKILL)
        processIdentifier = 0
    }

    /// Ends it, and waits until its ports are free; its data stays.
    ///
    /// - Parameter number: the signal.
    public func stop(_ number: Int32 = SIGKILL) async throws {
        if number != SIGKILL, processIdentifier > 1 {
            _ = Glibc.kill(processIdentifier, number)
        } else {
            kill()
        }
        _ = try await until("the end of etcd", seconds: 60) { () -> Bool? in
            for port: UInt16 in [2379, 2380] where try await wire.hasSocket(on: port, tcp: true) {
                return nil
            }
            return true
        }
        processIdentifier = 0
    }

    /// Keeps what it has; `restore` comes back to that.
    public func save() async throws {
        try? FileManager.default.removeItem(atPath: directory + "/etcd.snapshot")
        try await control("snapshot save \(directory)/etcd.snapshot")
    }

    /// Puts its data back to what was saved, while it is stopped: a cluster of another number.
    public func restore() async throws {
        try wipe()
        try await control(
            "snapshot restore \(directory)/etcd.snapshot \(Self.member) --data-dir \(directory)/etcd")
    }

    /// Takes its data away, while it is stopped.
    public func wipe() throws { try FileManager.default.removeItem(atPath: directory + "/etcd") }
}

extension LabEtcd {
    /// Where flannel keeps a network.
    public static let prefix = "/coreos.com/network"

    /// What is under a key.
    public struct Entry: Decodable, Sendable {
        /// The key.
        public let key: String
        /// The value.
        public let value: String
        /// The number of the etcd lease that it ends with; nil where it stays.
        public let lease: Int?

        private enum CodingKeys: String, CodingKey { case key, value, lease }

        /// Decodes what etcdctl prints: keys and values in base64.
        public init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            key = String(decoding: try container.decode(Data.self, forKey: .key), as: UTF8.self)
            value = String(
                decoding: try container.decodeIfPresent(Data.self, forKey: .value) ?? Data(), as: UTF8.self)
            lease = try container.decodeIfPresent(Int.self, forKey: .lease)
        }
    }

    private struct Answer: Decodable {
        struct Header: Decodable { let revision: Int }
        let header: Header
        let kvs: [Entry]?
    }

    private func get(_ words: String) async throws -> Answer {
        try JSONDecoder().decode(Answer.self, from: Data(try await control("get -w json \(words)").utf8))
    }

    private func quoted(_ text: String) -> String { "'\(text.replacing("'", with: "'\\''"))'" }

    /// Writes a value under a key.
    public func put(_ key: String, _ value: String) async throws {
        try await control("put \(quoted(key)) \(quoted(value))")
    }

    /// Writes the network's configuration.
    public func setNetwork(_ config: String) async throws { try await put(Self.prefix + "/config", config) }

    /// Writes a lease.
    ///
    /// - Parameters:
    ///   - subnet: as keys have it: `100.96.28.0-24`.
    ///   - value: its JSON, or whatever stands in its place.
    public func putLease(_ subnet: String, _ value: String) async throws {
        try await put("\(Self.prefix)/subnets/\(subnet)", value)
    }

    /// Writes a lease of a node at an address.
    public func putLease(_ subnet: String, at address: String) async throws {
        try await putLease(subnet, #"{"PublicIP":"\#(address)"}"#)
    }

    /// Makes an etcd lease, with which keys end.
    ///
    /// - Returns: its number, as etcdctl spells it.
    public func grant(seconds: Int) async throws -> String {
        let words = try await control("lease grant \(seconds)").split(separator: " ")
        return words.count > 1 ? String(words[1]) : ""
    }

    /// Ends an etcd lease, and the keys that hang on it.
    public func revoke(_ lease: Int) async throws {
        try await control("lease revoke \(String(lease, radix: 16))")
    }

    /// How many etcd leases there are.
    public func leaseCount() async throws -> Int {
        try await control("lease list").split(separator: "\n").count { !$0.hasPrefix("found") && !$0.isEmpty }
    }

    /// Deletes a lease.
    public func deleteLease(_ subnet: String) async throws {
        try await control("del \(Self.prefix)/subnets/\(subnet)")
    }

    /// A lease; nil where there is none.
    public func lease(_ subnet: String) async throws -> Entry? {
        try await get("\(Self.prefix)/subnets/\(subnet)").kvs?.first
    }

    /// All leases.
    public func leases() async throws -> [Entry] {
        try await get("--prefix \(Self.prefix)/subnets/").kvs ?? []
    }

    /// Forgets all that was before now.
    public func compact() async throws { try await control("compact \(try await get("x").header.revision)") }

    /// Does many things at once.
    ///
    /// - Parameter operations: as etcdctl's `txn` reads them: `put KEY VALUE`, `del KEY`.
    public func transact(_ operations: [String]) async throws {
        let file = "\(directory)/transaction"
        try Data("\n\(operations.joined(separator: "\n"))\n\n\n".utf8).write(to: URL(filePath: file))
        try await control("txn <\(file)")
    }
}

// What runs in a namespace's thread keeps nothing of the object but its strings.
extension LabEtcd: @unchecked Sendable {}
