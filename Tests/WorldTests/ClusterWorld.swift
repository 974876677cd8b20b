import Addresses
import FoundationEssentials
import Glibc
import Kit
import KubernetesNodes
import KubernetesTesting
import NetworkNamespaces
import Telemetry
import Testing

/// Nodes of a Kubernetes cluster whose API server is in this process: `node1` has the podCIDR 10.244.0.0/24, `node2`
/// 10.244.1.0/24, and so on.
final class ClusterWorld {
    private static let address = "172.20.32.1"
    private static let port = 6443

    let lab: Lab
    /// Nil while there is none.
    private(set) var server: FakeAPIServer?
    private var nodes: [String: NodeRecord] = [:]
    private var version = 1000

    init(nodes count: Int = 2, network: String = "10.244.0.0/16") async throws {
        lab = try await Lab(nodes: count, config: nil)
        try lab.write("net-conf.json", Self.configuration(network: network))
        try await lab.wire.run { try execute("ip address add \(ClusterWorld.address)/24 dev wire") }
        for number in 1...count {
            nodes["node\(number)"] = NodeRecord(
                name: "node\(number)", uid: "uid-\(number)", podCIDRs: ["10.244.\(number - 1).0/24"])
        }
        try await startServer()
    }

    deinit { server?.stop() }

    static func configuration(network: String) -> String {
        #"{"Network": "\#(network)", "Backend": {"Type": "udp"}}"#
    }

    /// Starts the API server, with the nodes that there were.
    func startServer() async throws {
        let started = try await lab.wire.run {
            try FakeAPIServer(certificates: nil, host: ClusterWorld.address, port: ClusterWorld.port)
        }
        version += 1000
        started.state.withLock { $0.version = version }
        for (_, record) in nodes.sorted(by: { $0.key < $1.key }) { started.put(record) }
        server = started
    }

    /// Ends the API server at once; the nodes stay.
    func stopServer() {
        guard let server else { return }
        nodes = server.state.withLock { $0.nodes }
        server.stop()
        self.server = nil
    }

    /// A node's object as the API server has it.
    func record(_ number: Int) -> NodeRecord? { server?.state.withLock { $0.nodes["node\(number)"] } }

    /// Waits until a node's object is as `isSo` wants it; a node writes to its own a few times a minute at most.
    @discardableResult
    func node(_ number: Int, _ what: String, _ isSo: (NodeRecord) -> Bool) async throws -> NodeRecord {
        try await until(
            "\(what) of node\(number)", seconds: 90, { "it is \(String(describing: record(number)))" }
        ) {
            record(number).flatMap { isSo($0) ? $0 : nil }
        }
    }

    /// Starts a node's daemon.
    func start(_ number: Int, _ flags: String = "") async throws -> LabDaemon {
        let node = lab[number]
        return try await node.start(
            "--kube-subnet-mgr --kube-api-url http://\(Self.address):\(Self.port) --net-config-path \(lab.directory)/net-conf.json"
                + " --cni-conf-dir \(node.directory)/net.d --iptables-resync=1 \(flags)",
            environment: "NODE_NAME=node\(number)")
    }

    /// Starts a daemon on each node, and waits until all are ready and know each other.
    func startAll(_ flags: String = "") async throws -> [LabDaemon] {
        var daemons: [LabDaemon] = []
        for node in lab.nodes { daemons.append(try await start(node.number, flags)) }
        for daemon in daemons {
            try await daemon.wait(for: "ready with all peers") {
                $0.isReady && $0.peers.count == self.lab.nodes.count - 1
            }
        }
        return daemons
    }

    /// The CNI list that a node's container runtime would read; nil for none.
    func list(_ number: Int) -> String? { lab.read("node\(number)/net.d/10-flannel.conflist") }

    /// The lines of a node's `subnet.env`.
    func subnetFile(_ number: Int) -> [Substring] {
        lab.read("node\(number)/subnet.env")?.split(separator: "\n") ?? []
    }
}
