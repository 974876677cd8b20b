import FoundationEssentials
import Glibc
import NetworkNamespaces

extension Lab {
    /// Starts an etcd on the lab's wire, at 172.20.32.1, and writes the network's configuration into it.
    ///
    /// - Parameter config: the network's configuration; nil for none.
    public func startEtcd(config: String? = Lab.configuration) async throws -> LabEtcd {
        try await wire.run {
            try execute(
                "ip address show dev wire | grep -q \(LabEtcd.address)/24 || ip address add \(LabEtcd.address)/24 dev wire"
            )
        }
        let etcd = LabEtcd(directory: directory, wire: wire)
        try await etcd.start()
        if let config {
            try write("etcd-config", config)
            try await etcd.control("put /coreos.com/network/config <\(directory)/etcd-config")
        }
        return etcd
    }
}

/// A real etcd of one member in a lab; it ends with this object.
public final class LabEtcd {
    /// For a daemon's `--etcd-endpoints`.
    public let endpoint = "http://\(LabEtcd.address):2379"
    /// Its address on the lab's wire.
    public static let address = "172.20.32.1"
    private let directory: String
    private let wire: NetworkNamespace.Lease
    private var processIdentifier: pid_t = 0

    fileprivate init(directory: String, wire: NetworkNamespace.Lease) {
        self.directory = directory
        self.wire = wire
    }

    deinit { kill() }

    /// Starts it, with the data that it has, and waits until it answers.
    public func start() async throws {
        let command =
            "etcd --name one --data-dir \(directory)/etcd --listen-client-urls \(endpoint)"
            + " --advertise-client-urls \(endpoint) --listen-peer-urls http://127.0.0.1:2380"
            + " --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster one=http://127.0.0.1:2380"
            + " --log-level error"
        let text = try await wire.run {
            try execute("\(command) >>\(self.directory)/etcd.log 2>&1 & echo $!")
        }
        processIdentifier = pid_t(text.prefix { $0.isNumber }) ?? 0
        _ = try await until("etcd") { try? await self.control("endpoint health --command-timeout=1s") }
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
}

// What runs in a namespace's thread keeps nothing of the object but its strings.
extension LabEtcd: @unchecked Sendable {}
