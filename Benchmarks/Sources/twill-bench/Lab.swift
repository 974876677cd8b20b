import Foundation

/// How the veth between the nodes behaves; `tools/lab` says what each means.
enum Underlay: String, CaseIterable, Codable {
    case plain, offload
}

/// The two nodes of `tools/lab`, and commands in them.
struct Lab {
    /// What its namespaces and its folder are called.
    static let name = ProcessInfo.processInfo.environment["LAB"] ?? "twill-bench"
    static let folder = "/tmp/\(name)"
    static let script = repository + "/tools/lab"
    /// The checkout that this harness was built from.
    static let repository: String = {
        var parts = #filePath.split(separator: "/")
        parts.removeLast(4)
        return "/" + parts.joined(separator: "/")
    }()

    /// Where the kernel's tracepoints are, for perf.
    static let tracefs = "/sys/kernel/tracing"

    static func up(_ underlay: Underlay, mtu: Int) throws {
        setenv("LAB", name, 1)
        try output(of: [script, "up", "\(getpid())", "2", underlay.rawValue, "\(mtu)"])
        try output(of: [script, "vxlan", "2"])
    }

    static func down() throws {
        setenv("LAB", name, 1)
        try output(of: [script, "down"])
    }

    static func underlayAddress(_ node: Int) -> String { "172.20.32.\(100 + node)" }

    /// A node's share of the processors, as taskset takes it: an equal part of them, or one that it shares with
    /// other nodes where there are more nodes than processors.
    static func processors(ofNode node: Int) -> String {
        let count = ProcessInfo.processInfo.activeProcessorCount
        let share = max(count / 2, 1)
        let first = (node - 1) * share % count
        return share == 1 ? "\(first)" : "\(first)-\(first + share - 1)"
    }

    /// The words that run `command` on a node.
    static func command(on node: Int, _ command: [String]) -> [String] {
        ["ip", "netns", "exec", "\(name)-node\(node)"] + command
    }

    /// Runs a command on a node to its end.
    @discardableResult
    static func run(on node: Int, _ words: [String]) throws -> String {
        try output(of: command(on: node, words))
    }

    /// Starts a command on a node; its output lies in the lab's folder under `label`.
    static func start(on node: Int, _ words: [String], label: String) throws -> Child {
        let path = "\(folder)/\(label)-node\(node)"
        return try Child(
            command(on: node, words), outputPath: path + ".output", errorPath: path + ".error")
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
