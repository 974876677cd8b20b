import FoundationEssentials
import Glibc
import NetworkNamespaces
import Telemetry

/// Nodes of one network on one machine, each in a network namespace of its own, joined by a bridge: real daemons,
/// real kernel. Node `n` has `eth0` at 172.20.32.10n/24, fd20:32::10n/64, or both. All of it goes with this object, also
/// after a test that failed.
///
/// A lab is cheap (some tens of milliseconds a node) and shares nothing with another one: each test makes its own,
/// and tests run beside each other, as many as `LabPlace` lets in.
public final class Lab {
    /// Which addresses each `eth0` has.
    public enum Families: String, Sendable, CaseIterable {
        /// IPv4 alone.
        case ipv4
        /// IPv6 alone.
        case ipv6
        /// Both.
        case dual

        /// Whether IPv4 is among them.
        public var hasIPv4: Bool { self != .ipv6 }
        /// Whether IPv6 is among them.
        public var hasIPv6: Bool { self != .ipv4 }
    }

    /// What the wire and each `eth0` do.
    public enum Underlay: Sendable {
        /// As a veth comes: a super-packet crosses it unsegmented.
        case offloading
        /// What a network card without tunnel and UDP offloads does: super-packets are cut before it, and merged
        /// (GRO) behind it.
        case plain

        /// What sets an interface so: a shell command.
        func command(_ interface: String) -> String {
            let state = self == .plain ? "off" : "on"
            return "ethtool -K \(interface) tso \(state) tx-udp-segmentation \(state)"
                + " tx-udp_tnl-segmentation \(state) tx-udp_tnl-csum-segmentation \(state) gro on"
        }

        /// What sets a new interface so, which is offloading.
        fileprivate func firstCommand(_ interface: String) -> String {
            self == .offloading ? "true" : command(interface)
        }
    }

    private let place: LabPlace
    /// A directory for everything that the lab's daemons write; removed at the end.
    public var directory: String { files.path }
    private let files: LabDirectory
    /// The namespace with the bridge `wire`, to which each node's `eth0` is joined as `node<n>`.
    public let wire: NetworkNamespace.Lease
    /// The daemon that its nodes run.
    public let binary: String
    private let wireNumber: UInt64
    /// The nodes, the first of them at index 0.
    public private(set) var nodes: [LabNode] = []

    /// The network configuration that labs have unless told otherwise.
    public static let configuration = #"{"Network": "100.96.0.0/16", "Backend": {"Type": "udp"}}"#

    /// The same for nodes with these addresses.
    public static func configuration(of families: Families) -> String {
        let ipv4 = families.hasIPv4 ? #""Network": "100.96.0.0/16""# : #""EnableIPv4": false"#
        let ipv6 = families.hasIPv6 ? #", "EnableIPv6": true, "IPv6Network": "fd00:96::/48""# : ""
        return "{\(ipv4)\(ipv6), \"Backend\": {\"Type\": \"udp\"}}"
    }

    /// Makes a lab without a running daemon.
    ///
    /// - Parameters:
    ///   - nodes: how many.
    ///   - config: the network's configuration in the lease directory that they share; nil for none.
    ///   - mtu: of each `eth0`, in bytes.
    ///   - underlay: what the wire and each `eth0` do.
    ///   - families: which addresses each `eth0` has.
    ///   - daemon: the program that its nodes run, of which a copy is used, so that builds do not disturb; nil for
    ///     the one that was built beside the tests.
    ///   - isAlone: whether no other lab runs meanwhile, for a test that needs the whole machine.
    public init(
        nodes count: Int = 2, config: String? = Lab.configuration, mtu: Int = 1500,
        underlay: Underlay = .offloading, families: Families = .ipv4, daemon: String? = nil,
        isAlone: Bool = false
    ) async throws {
        place = await LabPlace.take(isAlone ? LabPlace.count : 1)
        files = try LabDirectory()
        binary = daemon == nil ? LabDaemon.binary : files.path + "/twilld"
        wire = try await NetworkNamespace.make()
        wireNumber = try await wire.number
        try FileManager.default.createDirectory(
            atPath: directory + "/store/subnets", withIntermediateDirectories: true)
        if let config { try write("store/config", config) }
        if let daemon { try FileManager.default.copyItem(atPath: daemon, toPath: binary) }
        try await wire.run { try execute("ip link add wire type bridge && ip link set wire up") }
        for number in 1...count {
            nodes.append(
                try await LabNode(number, in: self, mtu: mtu, underlay: underlay, families: families))
        }
    }

    deinit {
        endProcesses(in: nodes.reduce(into: [wireNumber]) { $0.formUnion($1.namespaces.keys) })
    }

    /// Node `number`, counted from 1.
    public subscript(number: Int) -> LabNode { nodes[number - 1] }

    /// Changes what the wire and each `eth0` do, while daemons run, as a failover to another network card does.
    public func setUnderlay(_ underlay: Underlay) async throws {
        for node in nodes {
            try await node.run(underlay.command("eth0"))
            let command = underlay.command("node\(node.number)")
            try await wire.run { try execute(command) }
        }
    }

    /// The same program with another commit written into it, which is another build of it to all who look.
    public func anotherBuild(of daemon: String) async throws -> String {
        let path = "\(directory)/another-twilld"
        try write("commit", "another" + String(repeating: "\0", count: 57))
        try await self[1].run(
            "objcopy --update-section .twill.commit=\(directory)/commit \(daemon) \(path)")
        return path
    }

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
public final class LabNode: LabHost {
    /// Counted from 1.
    public let number: Int
    /// The address of `eth0`: of IPv4, and of IPv6 where it has that alone.
    public let address: String
    /// The namespace, for what `run` does not do.
    public let namespace: NetworkNamespace.Lease
    /// The directory for what this node's daemons write.
    public let directory: String
    private let labDirectory: String
    private let binary: String
    private var daemonCount = 0
    /// Its namespace and those of its pods, by their numbers.
    ///
    /// It keeps those of its pods for as long as it lasts itself, also where nobody else does any more: the kernel gives the
    /// number of a namespace that is gone to the next one, which is another lab's, and what runs there is not to be ended.
    fileprivate var namespaces: [UInt64: NetworkNamespace.Lease]

    fileprivate init(
        _ number: Int, in lab: Lab, mtu: Int, underlay: Lab.Underlay, families: Lab.Families
    ) async throws {
        self.number = number
        address = families.hasIPv4 ? "172.20.32.10\(number)" : "fd20:32::10\(number)"
        labDirectory = lab.directory
        binary = lab.binary
        directory = "\(lab.directory)/node\(number)"
        namespace = try await NetworkNamespace.make()
        namespaces = [try await namespace.number: namespace]
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let path = try await namespace.path
        try await lab.wire.run {
            try execute(
                "ip link add node\(number) mtu \(mtu) type veth peer name eth0 mtu \(mtu) netns \(path)"
                    + " && ip link set node\(number) master wire up && \(underlay.firstCommand("node\(number)"))"
            )
        }
        var commands = ["ip link set eth0 up"]
        if families.hasIPv4 {
            commands += [
                "ip address add \(address)/24 dev eth0", "ip route add default via 172.20.32.254",
                "sysctl -qw net.ipv4.ip_forward=1",
            ]
        }
        if families.hasIPv6 {
            commands += [
                "ip address add fd20:32::10\(number)/64 dev eth0 nodad",
                "ip route add default via fd20:32::254",
                "sysctl -qw net.ipv6.conf.all.forwarding=1",
            ]
        }
        commands.append(underlay.firstCommand("eth0"))
        try await run(commands.joined(separator: " && "))
    }

    /// Starts a daemon in the node's namespace, on the lease directory that the lab's nodes share unless `flags` name
    /// another store.
    ///
    /// - Parameters:
    ///   - flags: beside those that keep it inside the lab's directory; they count more than those.
    ///   - environment: `NAME=value` words.
    ///   - wrapper: words before the daemon's own, such as `setpriv --bounding-set=-all`, or `ulimit -n 100;` for the
    ///     shell.
    ///   - standardError: a file, perhaps a FIFO, that takes its log; nil for one that `LabDaemon.log` reads.
    public func start(
        _ flags: String = "", environment: String = "", wrapper: String = "", standardError: String? = nil,
        binary other: String? = nil
    ) async throws -> LabDaemon {
        let others = ["etcd-endpoints", "lease-dir", "kube-subnet-mgr"]
        let store = others.contains { flags.contains($0) } ? "" : "--lease-dir \(labDirectory)/store"
        let files = "\(directory)/daemon-\(daemonCount)"
        daemonCount += 1
        let command =
            "\(wrapper.hasSuffix(";") ? wrapper + " exec" : "exec \(wrapper)")"
            + " \(environment.isEmpty ? "" : "env \(environment)") \(other ?? binary) \(store)"
            + " --subnet-file \(directory)/subnet.env --state-dir \(directory)/state"
            + " --status-socket \(directory)/twilld.sock \(flags) >\(standardError ?? "\(files).out") 2>&1"
        return LabDaemon(
            process: try await LabProcess(command, in: namespace, files: files),
            socketPath: "\(directory)/twilld.sock")
    }

    /// Makes a pod: a namespace with `eth0` at the subnet's second address of each family, joined to this node's bridge
    /// `docker0`, which has the first.
    ///
    /// - Parameter subnet: the node's subnet, as its lease has it: `100.96.28.0/24`, `100.96.28.0/24,fd00:96:0:1c::/64`.
    public func addPod(in subnet: String, name: String = "pod", host: Int = 2) async throws -> LabPod {
        let prefixes = subnet.split(separator: ",").map { LabPrefix(String($0)) }
        let pod = try await NetworkNamespace.make()
        namespaces[try await pod.number] = pod
        let path = try await pod.path
        let bridgeAddresses = prefixes.map {
            "ip address add \($0.host(1))/\($0.length) dev docker0 \($0.flags)"
        }
        try await run(
            """
            ip link show docker0 >/dev/null 2>&1 || {
                ip link add docker0 type bridge && \(bridgeAddresses.joined(separator: " && ")) && \
                ip link set docker0 up
            }
            mtu=$(sed -n s/FLANNEL_MTU=//p \(directory)/subnet.env)
            ip link add \(name)\(host) mtu $mtu type veth peer name eth0 mtu $mtu netns \(path) &&
                ip link set \(name)\(host) master docker0 up
            """)
        let podCommands =
            ["ip link set eth0 up"]
            + prefixes.flatMap {
                [
                    "ip address add \($0.host(host))/\($0.length) dev eth0 \($0.flags)",
                    "ip route add default via \($0.host(1))",
                ]
            }
        try await pod.run { try execute(podCommands.joined(separator: " && ")) }
        return LabPod(
            namespace: pod, number: try await pod.number, device: "\(name)\(host)",
            addresses: prefixes.map { $0.host(host) }, directory: directory)
    }

    /// Ends what runs in a pod, and takes its device and the bridge away. Its namespace goes with the pod's object.
    public func removePod(_ pod: LabPod) async throws {
        endProcesses(in: [pod.number])
        namespaces[pod.number] = nil
        try await run("ip link delete \(pod.device) && ip link delete docker0")
    }
}

/// One of a node's prefixes, as far as hosts in it are named.
private struct LabPrefix {
    private let text: String

    init(_ text: String) { self.text = text }

    private var isIPv6: Bool { text.contains(":") }
    var length: Substring { text.split(separator: "/").last ?? "24" }
    /// What an address in it needs to be usable at once.
    var flags: String { isIPv6 ? "nodad" : "" }

    /// The address of a host: the subnet's first address with another end.
    func host(_ number: Int) -> String {
        let first = text.prefix { $0 != "/" }
        return isIPv6
            ? "\(first)\(number)"
            : first.split(separator: ".").prefix(3).joined(separator: ".") + ".\(number)"
    }
}

/// A pod on a node.
public final class LabPod: LabHost, Sendable {
    /// Where it runs.
    public let namespace: NetworkNamespace.Lease
    /// Its address: of IPv4, and of IPv6 where it has that alone.
    public var address: String { addresses.first ?? "" }
    /// Its addresses, one of each family, IPv4 first.
    public let addresses: [String]
    /// The directory of its node.
    public let directory: String
    /// The node's end of its link.
    public let device: String
    fileprivate let number: UInt64

    fileprivate init(
        namespace: NetworkNamespace.Lease, number: UInt64, device: String, addresses: [String],
        directory: String
    ) {
        self.namespace = namespace
        self.number = number
        self.device = device
        self.addresses = addresses
        self.directory = directory
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
    /// The number that the kernel tells the namespace by, in `/proc/<process>/ns/net`.
    fileprivate var number: UInt64 {
        get async throws { try await run { namespaceNumber("thread-self") ?? 0 } }
    }
}

/// The number of a process's namespace; nil where it is gone.
private func namespaceNumber(_ process: String) -> UInt64? {
    var attributes = stat()
    return stat("/proc/\(process)/ns/net", &attributes) == 0 ? UInt64(attributes.st_ino) : nil
}

/// Ends at once what runs in namespaces: a process that went on would keep its namespace. The test's own threads in
/// them are no processes.
private func endProcesses(in namespaces: Set<UInt64>) {
    for _ in 0..<50 {
        let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        let ours = processes.compactMap { pid_t($0) }.filter { process in
            namespaceNumber("\(process)").map { namespaces.contains($0) } ?? false
        }
        guard !ours.isEmpty else { return }
        for process in ours { kill(process, SIGKILL) }
        usleep(2_000)
    }
}
