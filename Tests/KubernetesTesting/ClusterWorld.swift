import FoundationEssentials
package import Kit
package import KubernetesNodes
import NetworkNamespaces

/// Nodes of a Kubernetes cluster whose API server is in this process: `node1` has the first podCIDR of each family of the
/// lab, 10.244.0.0/24 unless another network is asked for, `node2` the next, and so on.
package final class ClusterWorld {
    private static let port = 6443

    package let lab: Lab
    /// Nil while there is none.
    package private(set) var server: FakeAPIServer?
    /// Where it answers: `172.20.32.1`, and in a lab of IPv6 alone `fd20:32::1`.
    private let address: String
    private var nodes: [String: NodeRecord] = [:]
    private var version = 1000

    /// - Parameter network: the overlay of IPv4, of which no node's podCIDR need be.
    package convenience init(nodes count: Int = 2, network: String = "10.244.0.0/16") async throws {
        try await self.init(nodes: count, configuration: Self.configuration(network: network)) { number in
            ["10.244.\(number - 1).0/24"]
        }
    }

    /// - Parameters:
    ///   - configuration: `net-conf.json`.
    ///   - families: of the lab.
    ///   - podCIDRs: of a node by its number.
    package init(
        nodes count: Int = 2, configuration: String, families: Lab.Families = .ipv4,
        podCIDRs: (Int) -> [String]
    ) async throws {
        lab = try await Lab(nodes: count, config: nil, families: families)
        address = families.hasIPv4 ? "172.20.32.1" : "fd20:32::1"
        try lab.write("net-conf.json", configuration)
        let prefix = families.hasIPv4 ? "\(address)/24" : "\(address)/64"
        let flags = families.hasIPv4 ? "" : " nodad"
        try await lab.wire.run { try execute("ip address add \(prefix) dev wire\(flags)") }
        for number in 1...count {
            nodes["node\(number)"] = NodeRecord(
                name: "node\(number)", uid: "uid-\(number)", podCIDRs: podCIDRs(number))
        }
        try await startServer()
    }

    deinit { server?.stop() }

    package static func configuration(network: String) -> String {
        #"{"Network": "\#(network)", "Backend": {"Type": "udp"}}"#
    }

    /// Starts the API server, with the nodes that there were.
    package func startServer() async throws {
        let address = address
        let started = try await lab.wire.run {
            try FakeAPIServer(certificates: nil, host: address, port: ClusterWorld.port)
        }
        version += 1000
        started.state.withLock { $0.version = version }
        for (_, record) in nodes.sorted(by: { $0.key < $1.key }) { started.put(record) }
        server = started
    }

    /// Ends the API server at once; the nodes stay.
    package func stopServer() {
        guard let server else { return }
        nodes = server.state.withLock { $0.nodes }
        server.stop()
        self.server = nil
    }

    /// A node's object as the API server has it.
    package func record(_ number: Int) -> NodeRecord? { server?.state.withLock { $0.nodes["node\(number)"] } }

    /// Waits until a node's object is as `isSo` wants it; a node writes to its own a few times a minute at most.
    @discardableResult
    package func node(_ number: Int, _ what: String, _ isSo: (NodeRecord) -> Bool) async throws -> NodeRecord
    {
        try await until(
            "\(what) of node\(number)", seconds: 90, { "it is \(String(describing: record(number)))" }
        ) {
            record(number).flatMap { isSo($0) ? $0 : nil }
        }
    }

    /// Starts a node's daemon.
    package func start(_ number: Int, _ flags: String = "") async throws -> LabDaemon {
        let node = lab[number]
        let host = address.contains(":") ? "[\(address)]" : address
        return try await node.start(
            "--kube-subnet-mgr --kube-api-url http://\(host):\(Self.port) --net-config-path \(lab.directory)/net-conf.json"
                + " --cni-conf-dir \(node.directory)/net.d --iptables-resync=1 \(flags)",
            environment: "NODE_NAME=node\(number) WIREGUARD_KEY_FILE=\(node.directory)/wgkey")
    }

    /// Starts a daemon on each node, and waits until all are ready and know each other.
    package func startAll(_ flags: String = "") async throws -> [LabDaemon] {
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
    package func list(_ number: Int) -> String? { lab.read("node\(number)/net.d/10-flannel.conflist") }

    /// The lines of a node's `subnet.env`.
    package func subnetFile(_ number: Int) -> [Substring] {
        lab.read("node\(number)/subnet.env")?.split(separator: "\n") ?? []
    }
}
