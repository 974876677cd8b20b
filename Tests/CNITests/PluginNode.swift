import Glibc
import Host
import JSON
import NetworkNamespaces
import Testing

/// A node that the plugin is called on: its `subnet.env`, its directories, and plugins that are called by it.
final class PluginNode: Sendable {
    /// What the plugin said.
    struct Answer {
        let output: String
        let errors: String
        let status: Int32

        var json: JSONValue { JSONValue(parsing: output) ?? .null }
        var code: Int? { if case .integer(let code) = json["code"] { code } else { nil } }
        var message: String { json["msg"]?.text ?? "" }
        var details: String { json["details"]?.text ?? "" }
    }

    /// The built plugin: TWILL_TEST_CNI, or the one beside the tests.
    static let binary: String = {
        if let named = getenv("TWILL_TEST_CNI") { return String(cString: named) }
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &target, target.count)
        let tests = String(
            decoding: target.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return String(tests[..<(tests.lastIndex(of: "/") ?? tests.startIndex)]) + "/twill-cni"
    }()

    static let subnets = """
        FLANNEL_NETWORK=10.244.0.0/16
        FLANNEL_SUBNET=10.244.3.1/24
        FLANNEL_MTU=1472
        FLANNEL_IPMASQ=true

        """

    let directory: String

    /// - Parameter delegates: the names of the recorders that stand in `bin`.
    init(subnets: String? = PluginNode.subnets, delegates: [String] = ["bridge"]) throws {
        directory = "/tmp/twill-cni-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        try execute("mkdir -p \(directory)/bin")
        if let subnets { try write("subnet.env", subnets) }
        for name in delegates {
            try write("bin/\(name)", Self.recorder)
            chmod("\(directory)/bin/\(name)", 0o755)
        }
        try answer("VERSION", #"{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}"#)
        try answer("ADD", #"{"cniVersion":"1.0.0","ips":[]}"#)
    }

    deinit { _ = try? execute("rm -rf \(directory)") }

    /// A delegate that keeps what it is given, and says what it is told to.
    private static let recorder = """
        #!/bin/sh
        d=${0%/*}/..
        cat >"$d/seen.$CNI_COMMAND"
        env | grep '^[A-Z_]*=' | sort >"$d/variables.$CNI_COMMAND"
        echo "${0##*/} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >>"$d/calls"
        [ -f "$d/data/$CNI_CONTAINERID" ] && cp "$d/data/$CNI_CONTAINERID" "$d/kept.$CNI_COMMAND"
        echo "words of the delegate" >&2
        cat "$d/answer.$CNI_COMMAND" 2>/dev/null
        exit "$(cat "$d/status.$CNI_COMMAND" 2>/dev/null || echo 0)"

        """

    func write(_ name: String, _ text: String) throws {
        let file = open("\(directory)/\(name)", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        defer { close(file) }
        let bytes = Array(text.utf8)
        #expect(file >= 0 && Glibc.write(file, bytes, bytes.count) == bytes.count)
    }

    /// What a file holds; nil where there is none.
    func read(_ name: String) -> String? {
        (try? execute("cat \(directory)/\(name) 2>/dev/null"))
    }

    func exists(_ name: String) -> Bool { access("\(directory)/\(name)", F_OK) == 0 }

    /// What the recorders print for a command, and with which exit status.
    func answer(_ command: String, _ text: String, status: Int32 = 0) throws {
        try write("answer.\(command)", text)
        try write("status.\(command)", "\(status)")
    }

    /// Which delegates were called, with what, in order.
    var calls: [String] { read("calls")?.split(separator: "\n").map(String.init) ?? [] }

    /// A configuration with this node's paths, and `more` members.
    func configuration(_ more: String = "", version: String = "1.0.0", name: String = "cbr0") -> String {
        """
        {"cniVersion":"\(version)","name":"\(name)","type":"flannel","subnetFile":"\(directory)/subnet.env",\
        "dataDir":"\(directory)/data","statusSocket":"\(directory)/twilld.sock"\(more)}
        """
    }

    /// Calls the plugin; of the variables those of `environment` alone, where they are given.
    func call(
        _ command: String, _ input: String, container: String = "c1", interface: String = "eth0",
        namespace: String = "/proc/self/ns/net", path: String? = nil, environment: [String: String]? = nil,
        binary: String = PluginNode.binary
    ) throws -> Answer {
        let variables =
            environment ?? [
                "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": interface,
                "CNI_NETNS": namespace, "CNI_PATH": path ?? "/nowhere:\(directory)/bin",
                "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p",
            ]
        let call = "\(directory)/call-\(UInt32.random(in: 0...UInt32.max))"
        try write(String(call.dropFirst(directory.utf8.count + 1)), input)
        let words = variables.map { "'\($0.key)=\($0.value)'" }.joined(separator: " ")
        let status = try execute(
            "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \(words) \(binary) <\(call) >\(call).out 2>\(call).err; echo $?"
        )
        let name = String(call.dropFirst(directory.utf8.count + 1))
        return Answer(
            output: read(name + ".out") ?? "", errors: read(name + ".err") ?? "",
            status: Int32(status.prefix { $0.isNumber }) ?? -1)
    }
}
