import Foundation
import Synchronization

/// How the veth between the nodes behaves; `tools/lab` says what each means.
enum Underlay: String, CaseIterable, Codable {
    case plain, offload, wire
}

/// The nodes of `tools/lab`, and commands in them.
struct Lab {
    /// What its namespaces and its folder are called.
    static let name = ProcessInfo.processInfo.environment["LAB"] ?? "twill-bench"
    static let folder = "/tmp/\(name)"
    static let script = Installation.current.lab

    /// Where the kernel's tracepoints are.
    static let tracefs = "/sys/kernel/tracing"

    /// How the lab is made; there is one lab a process, and this is set before it goes up.
    struct Layout {
        /// Traffic goes from node 1 to the others.
        var nodes = 2
        /// The underlay's, bytes.
        fileprivate(set) var mtu = 1500
        /// Whether every process of a node stays on the node's share of the processors.
        var isPinned = false
        /// Whether traffic goes from pod to pod, each behind a bridge of its node, instead of from node to node.
        var hasPods = false
    }

    private static let storedLayout = Mutex(Layout())

    static var layout: Layout {
        get { storedLayout.withLock { $0 } }
        set { storedLayout.withLock { $0 = newValue } }
    }

    static func up(_ underlay: Underlay, mtu: Int = 1500) throws {
        setenv("LAB", name, 1)
        layout.mtu = mtu
        let nodes = "\(layout.nodes)"
        try output(of: [script, "up", "\(getpid())", nodes, underlay.rawValue, "\(mtu)"])
        try output(of: [script, "vxlan", nodes])
        guard layout.hasPods else { return }
        // Of a network for documentation (RFC 5737): each candidate gives them others.
        for node in 1...layout.nodes { try output(of: [script, "pod", "\(node)", "192.0.2.1/24", "\(mtu)"]) }
    }

    static func down() throws {
        setenv("LAB", name, 1)
        try output(of: [script, "down"])
    }

    /// The UDP port of every overlay in user space: flannel's.
    static let overlayPort = 8285

    static func underlayAddress(_ node: Int) -> String { "172.20.32.\(100 + node)" }

    /// The words that run `command` on a node.
    static func command(on node: Int, _ command: [String]) -> [String] {
        self.command(in: "\(name)-node\(node)", of: node, command)
    }

    /// The words that run `command` where a node's traffic begins and ends: in its pod, where there are any, or on the node
    /// itself.
    static func command(atEndOf node: Int, _ command: [String]) -> [String] {
        self.command(in: endNamespace(ofNode: node), of: node, command)
    }

    /// See `command(atEndOf:)`.
    private static func endNamespace(ofNode node: Int) -> String {
        "\(name)-node\(node)" + (layout.hasPods ? "-pod" : "")
    }

    private static func command(in namespace: String, of node: Int, _ command: [String]) -> [String] {
        let pin = layout.isPinned ? ["taskset", "--cpu-list", processors(ofNode: node)] : []
        return ["ip", "netns", "exec", namespace] + pin + command
    }

    /// The namespaces that belong to the lab.
    static var namespaces: [String] {
        (1...layout.nodes).flatMap { node in
            Set(["\(name)-node\(node)", endNamespace(ofNode: node)])
        }
    }

    /// A node's share of the processors, as taskset takes it: an equal part of them, or one that it shares with
    /// other nodes where there are more nodes than processors.
    static func processors(ofNode node: Int) -> String {
        let count = ProcessInfo.processInfo.activeProcessorCount
        let share = max(count / layout.nodes, 1)
        let first = (node - 1) * share % count
        return share == 1 ? "\(first)" : "\(first)-\(first + share - 1)"
    }

    /// Puts a node's bridge and the pod behind it into a candidate's subnet.
    ///
    /// - Parameters:
    ///   - bridge: the bridge's address; `pod` is the pod's.
    ///   - mtu: of both, bytes.
    static func movePod(on node: Int, bridge: String, pod: String, mtu: Int) throws {
        for device in ["docker0", "pod"] {
            try run(on: node, ["ip", "link", "set", device, "mtu", "\(mtu)"])
        }
        try run(on: node, ["ip", "address", "flush", "dev", "docker0"])
        try run(on: node, ["ip", "address", "add", "\(bridge)/24", "dev", "docker0"])
        try run(atEndOf: node, ["ip", "address", "flush", "dev", "eth0"])
        try run(atEndOf: node, ["ip", "link", "set", "eth0", "mtu", "\(mtu)"])
        try run(atEndOf: node, ["ip", "address", "add", "\(pod)/24", "dev", "eth0"])
        try run(
            atEndOf: node, ["ip", "route", "replace", "default", "via", bridge, "congctl", "cubic"])
    }

    /// Runs a command to its end where a node's traffic begins and ends.
    @discardableResult
    static func run(atEndOf node: Int, _ words: [String]) throws -> String {
        try output(of: command(atEndOf: node, words))
    }

    /// Runs a command on a node to its end.
    @discardableResult
    static func run(on node: Int, _ words: [String]) throws -> String {
        try output(of: command(on: node, words))
    }

    /// Bytes that a node's underlay interface has received, headers included.
    static func underlayBytesReceived(on node: Int) throws -> Double {
        let text = try run(on: node, ["cat", "/sys/class/net/eth0/statistics/rx_bytes"])
        return Double(text.trimmingCharacters(in: .whitespacesAndNewlines)) ?? .nan
    }

    /// What the kernel says of the interfaces between the nodes (`/proc/net/dev`); nil where one veth pair is all there is.
    static func portsOfUnderlay() throws -> String? {
        let namespace = "\(name)-underlay"
        guard FileManager.default.fileExists(atPath: "/run/netns/\(namespace)") else { return nil }
        return try output(of: ["ip", "netns", "exec", namespace, "cat", "/proc/net/dev"])
    }

    /// Starts a command on a node; its output lies in the lab's folder under `label`.
    static func start(on node: Int, _ words: [String], label: String) throws -> Child {
        try child(command(on: node, words), of: node, label)
    }

    /// The same where the node's traffic begins and ends.
    static func start(atEndOf node: Int, _ words: [String], label: String) throws -> Child {
        try child(command(atEndOf: node, words), of: node, label)
    }

    private static func child(_ words: [String], of node: Int, _ label: String) throws -> Child {
        let path = "\(folder)/\(label)-node\(node)"
        return try Child(words, outputPath: path + ".output", errorPath: path + ".error")
    }
}

/// Tries until `isDone`, for `seconds` at most.
func wait(seconds: Double, for what: String, until isDone: () throws -> Bool) throws {
    let deadline = Date.now.addingTimeInterval(seconds)
    while try !isDone() {
        guard Date.now < deadline else {
            throw CommandError(description: "waited \(Int(seconds)) s in vain for \(what)")
        }
        usleep(20_000)
    }
}
