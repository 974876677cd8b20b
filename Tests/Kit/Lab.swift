import CLinux
import FoundationEssentials
import Glibc
import NetworkNamespaces
import Telemetry

/// Nodes of one network on one machine, each in a network namespace of its own, joined by a bridge: real daemons, real
/// kernel. Node `n` has `eth0` at 172.20.32.10n/24. All of it goes with this object, also after a test that failed.
///
/// A lab is cheap (some tens of milliseconds a node) and shares nothing with another one: each test makes its own, and
/// tests run beside each other, as many as `LabPlace` lets in.
public final class Lab {
    private let place: LabPlace
    /// A directory for everything that the lab's daemons write; removed at the end.
    public let directory: String
    /// The namespace with the bridge `wire`, to which each node's `eth0` is joined as `node<n>`.
    public let wire: NetworkNamespace.Lease
    /// The nodes, the first of them at index 0.
    public private(set) var nodes: [LabNode] = []

    /// The network configuration that labs have unless told otherwise.
    public static let configuration = #"{"Network": "100.96.0.0/16", "Backend": {"Type": "udp"}}"#

    /// Makes a lab without a running daemon.
    ///
    /// - Parameters:
    ///   - nodes: how many.
    ///   - config: the network's configuration in the lease directory that they share; nil for none.
    ///   - mtu: of each `eth0`, in bytes.
    ///   - isAlone: whether no other lab runs meanwhile, for a test that needs the whole machine.
    public init(
        nodes count: Int = 2, config: String? = Lab.configuration, mtu: Int = 1500, isAlone: Bool = false
    ) async throws {
        place = await LabPlace.take(isAlone ? LabPlace.count : 1)
        directory = "/tmp/twill-lab-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        wire = try await NetworkNamespace.make()
        try FileManager.default.createDirectory(
            atPath: directory + "/store/subnets", withIntermediateDirectories: true)
        if let config { try write("store/config", config) }
        try await wire.run { try execute("ip link add wire type bridge && ip link set wire up") }
        for number in 1...count { nodes.append(try await LabNode(number, in: self, mtu: mtu)) }
    }

    deinit {
        for node in nodes { node.endDaemons() }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Node `number`, counted from 1.
    public subscript(number: Int) -> LabNode { nodes[number - 1] }

    /// Writes a file below the directory, in the place of another.
    public func write(_ name: String, _ text: String) throws {
        try Data(text.utf8).write(to: URL(filePath: directory + "/" + name), options: .atomic)
    }

    /// Reads a file below the directory; nil where there is none.
    public func read(_ name: String) -> String? {
        try? String(contentsOfFile: directory + "/" + name, encoding: .utf8)
    }

    /// Starts a daemon on each node and waits until all are ready and know each other.
    ///
    /// - Parameter flags: of each daemon, beside those that keep it inside the lab's directory.
    @discardableResult
    public func start(_ flags: String = "") async throws -> [LabDaemon] {
        var daemons: [LabDaemon] = []
        for node in nodes { daemons.append(try await node.start(flags)) }
        for daemon in daemons {
            try await daemon.wait(for: "ready with all peers") {
                $0.isReady && $0.peers.count == self.nodes.count - 1
            }
        }
        return daemons
    }
}

/// A node: a namespace with `eth0` on the lab's wire and a default route to nobody.
public final class LabNode {
    /// Counted from 1.
    public let number: Int
    /// The address of `eth0`.
    public let address: String
    /// The namespace, for what `run` does not do.
    public let namespace: NetworkNamespace.Lease
    /// The directory for what this node's daemons write.
    public let directory: String
    private let labDirectory: String
    private var daemons: [LabDaemon] = []

    fileprivate init(_ number: Int, in lab: Lab, mtu: Int) async throws {
        self.number = number
        address = "172.20.32.10\(number)"
        labDirectory = lab.directory
        directory = "\(lab.directory)/node\(number)"
        namespace = try await NetworkNamespace.make()
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let path = try await namespace.path
        try await lab.wire.run {
            try execute(
                "ip link add node\(number) mtu \(mtu) type veth peer name eth0 mtu \(mtu) netns \(path)"
                    + " && ip link set node\(number) master wire up")
        }
        try await run(
            "ip address add \(address)/24 dev eth0 && ip link set eth0 up && ip route add default via 172.20.32.254"
                + " && sysctl -qw net.ipv4.ip_forward=1")
    }

    /// Runs a shell command in the node's namespace; gives what it printed, and throws where its status is not 0.
    @discardableResult
    public func run(_ command: String) async throws -> String {
        try await namespace.run { try execute(command) }
    }

    /// Whether a shell command in the node's namespace ends with status 0.
    public func succeeds(_ command: String) async -> Bool { (try? await run(command)) != nil }

    /// Starts a daemon in the node's namespace, on the lease directory that the lab's nodes share unless `flags` name
    /// another store.
    ///
    /// - Parameters:
    ///   - flags: beside those that keep it inside the lab's directory; they count more than those.
    ///   - environment: `NAME=value` words.
    ///   - wrapper: words before the daemon's own, such as `setpriv --bounding-set=-all`, or `ulimit -n 100;` for the shell.
    ///   - standardError: a file, perhaps a FIFO, that takes its log; nil for one that `LabDaemon.log` reads.
    public func start(
        _ flags: String = "", environment: String = "", wrapper: String = "", standardError: String? = nil
    ) async throws -> LabDaemon {
        let store =
            flags.contains("etcd-endpoints") || flags.contains("lease-dir")
            ? "" : "--lease-dir \(labDirectory)/store"
        let files = "\(directory)/daemon-\(daemons.count)"
        let command =
            "\(wrapper.hasSuffix(";") ? wrapper + " exec" : "exec \(wrapper)") env \(environment) \(LabDaemon.binary) \(store)"
            + " --subnet-file \(directory)/subnet.env --state-dir \(directory)/state"
            + " --status-socket \(directory)/twilld.sock \(flags)"
        // The shell waits for it in the foreground: `wait` hangs where SIGCHLD is blocked, as in a test's threads.
        try await run(
            "(sh -c 'echo $$ >\(files).pid; \(command) >\(standardError ?? "\(files).log") 2>&1'; echo $? >\(files).status)"
                + " >/dev/null 2>&1 &")
        let daemon = try await LabDaemon(files: files, socketPath: "\(directory)/twilld.sock")
        daemons.append(daemon)
        return daemon
    }

    /// Makes a pod: a namespace with `eth0` at the subnet's second address, joined to this node's bridge `docker0`, which
    /// has the first.
    ///
    /// - Parameter subnet: the node's subnet, as its lease has it: `100.96.28.0/24`.
    public func addPod(in subnet: String, name: String = "pod", host: Int = 2) async throws -> LabPod {
        let prefix = subnet.prefix { $0 != "/" }.split(separator: ".").prefix(3).joined(separator: ".")
        let length = subnet.split(separator: "/").last ?? "24"
        let pod = try await NetworkNamespace.make()
        let path = try await pod.path
        try await run(
            """
            ip link show docker0 >/dev/null 2>&1 || {
                ip link add docker0 type bridge && ip address add \(prefix).1/\(length) dev docker0 && ip link set docker0 up
            }
            mtu=$(sed -n s/FLANNEL_MTU=//p \(directory)/subnet.env)
            ip link add \(name)\(host) mtu $mtu type veth peer name eth0 mtu $mtu netns \(path) &&
                ip link set \(name)\(host) master docker0 up
            """)
        try await pod.run {
            try execute(
                "ip address add \(prefix).\(host)/\(length) dev eth0 && ip link set eth0 up"
                    + " && ip route add default via \(prefix).1")
        }
        return LabPod(namespace: pod, address: "\(prefix).\(host)")
    }

    fileprivate func endDaemons() { for daemon in daemons { daemon.end() } }
}

/// A pod on a node.
public final class LabPod: Sendable {
    /// Where it runs.
    public let namespace: NetworkNamespace.Lease
    /// Its address.
    public let address: String

    fileprivate init(namespace: NetworkNamespace.Lease, address: String) {
        self.namespace = namespace
        self.address = address
    }

    /// Runs a shell command in the pod; gives what it printed, and throws where its status is not 0.
    @discardableResult
    public func run(_ command: String) async throws -> String {
        try await namespace.run { try execute(command) }
    }

    /// How many of `count` echo requests to `address` were answered.
    ///
    /// - Parameters:
    ///   - bytes: the size of each IPv4 packet, headers included; not fragmented.
    public func answers(from address: String, count: Int = 3, bytes: Int = 84) async -> Int {
        let output = try? await namespace.run {
            try execute("ping -n -M do -i 0.05 -W 1 -c \(count) -s \(bytes - 28) \(address) || true")
        }
        let words = output?.split(separator: "\n").first { $0.contains("packets transmitted") }?.split(
            separator: " ")
        return words.flatMap { words in words.count > 3 ? Int(words[3]) : nil } ?? 0
    }
}

extension NetworkNamespace.Lease {
    /// A path by which other programs may enter the namespace, or move a device to it, while this object lasts.
    public var path: String {
        get async throws {
            try await run {
                "/proc/" + (try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/thread-self"))
                    + "/ns/net"
            }
        }
    }
}
