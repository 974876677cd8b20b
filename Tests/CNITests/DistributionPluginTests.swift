import Glibc
import JSON
import NetworkNamespaces
import Testing

/// Whether the distribution's plugins are to be called here. Where they must (`TWILL_CI=1`), always.
private let pluginsAreExpected =
    namespacesAreExpected && (access("/usr/lib/cni/bridge", X_OK) == 0 || getenv("TWILL_CI") != nil)

/// The plugins of the distribution in the place of the recorders, in network namespaces.
@Suite(.enabled(if: pluginsAreExpected, "needs root and containernetworking-plugins"))
struct DistributionPluginTests {
    private static let plugins = "/usr/lib/cni"

    /// A node and its pods.
    private final class Network: Sendable {
        let node: PluginNode
        let host: NetworkNamespace.Lease

        init() async throws {
            node = try PluginNode(delegates: [])
            host = try await NetworkNamespace.make()
        }

        func configuration(_ more: String = "", version: String = "1.0.0", delegate: String = "") -> String {
            node.configuration(
                #","ipam":{"dataDir":"\#(node.directory)/nets"},"delegate":{"hairpinMode":true,"isDefaultGateway":true\#(delegate)}"#
                    + more, version: version)
        }

        func call(
            _ command: String, _ pod: Pod, _ configuration: String? = nil
        ) async throws -> PluginNode.Answer {
            let input = configuration ?? self.configuration()
            return try await host.run { [node] in
                try node.call(
                    command, input, container: pod.container, namespace: pod.path,
                    path: DistributionPluginTests.plugins)
            }
        }
    }

    private final class Pod: Sendable {
        let container: String
        let namespace: NetworkNamespace.Lease
        /// Its namespace, for as long as this object is.
        let path: String

        init(_ container: String) async throws {
            self.container = container
            namespace = try await NetworkNamespace.make()
            path = try await namespace.run { "/proc/\(getpid())/task/\(threadID())/ns/net" }
        }

        func run(_ command: String) async throws -> String {
            try await namespace.run { try execute(command) }
        }
    }

    private func address(_ answer: PluginNode.Answer) -> String? {
        guard case .array(let addresses) = answer.json["ips"] else { return nil }
        return addresses.first?["address"]?.text.map { String($0.prefix { $0 != "/" }) }
    }

    @Test(
        "a pod gets address, routes and MTU; two pods talk; DEL leaves nothing, with the namespace or without"
    )
    func podsTalk() async throws {
        let network = try await Network()
        let (first, second) = (try await Pod("c1"), try await Pod("c2"))
        let one = try await network.call("ADD", first)
        let two = try await network.call("ADD", second)
        #expect(one.status == 0 && two.status == 0, "\(one.output) \(two.output)")
        #expect(address(one) == "10.244.3.2" && address(two) == "10.244.3.3")
        let link = try await first.run("ip -o link show eth0; ip -o -4 address show eth0; ip route")
        for words in [
            "mtu 1472", "inet 10.244.3.2/24", "default via 10.244.3.1", "10.244.0.0/16 via 10.244.3.1",
        ] { #expect(link.contains(words), "\(link)") }
        _ = try await first.run("ping -c 1 -W 5 10.244.3.3")
        _ = try await second.run("ping -c 1 -W 5 10.244.3.1")
        let checked = network.configuration(#","prevResult":\#(one.output)"#)
        let check = try await network.call("CHECK", first, checked)
        #expect(check.status == 0 && check.output == "", "\(check.output)")
        #expect(try await network.call("ADD", first).status == 1)

        #expect(try await network.call("DEL", first).status == 0)
        #expect(try await network.call("CHECK", first, checked).status == 1)
        #expect(try await first.run("ip -o link").contains("eth0") == false)
        #expect(network.node.exists("nets/cbr0/10.244.3.2") == false)
        // A namespace that is gone.
        let answer = try await network.host.run { [node = network.node, input = network.configuration()] in
            try node.call("DEL", input, container: "c2", namespace: "/run/netns/gone", path: Self.plugins)
        }
        #expect(answer.status == 0, "\(answer.output)")
        #expect(try execute("ls \(network.node.directory)/nets/cbr0") == "last_reserved_ip.0\nlock\n")
        #expect(try execute("ls -A \(network.node.directory)/data") == "")
        #expect(try await network.call("DEL", first).status == 0)
    }

    @Test("an address whose kept configuration is lost is freed all the same")
    func lostFile() async throws {
        let network = try await Network()
        let pod = try await Pod("c1")
        #expect(try await network.call("ADD", pod).status == 0)
        unlink(network.node.directory + "/data/c1")
        unlink(network.node.directory + "/subnet.env")
        #expect(try await network.call("DEL", pod).status == 0)
        #expect(!network.node.exists("nets/cbr0/10.244.3.2"))
        #expect(try await pod.run("ip -o link").contains("eth0") == false)
    }

    @Test("twenty ADDs at once, and twenty DELs")
    func atOnce() async throws {
        let network = try await Network()
        var pods: [Pod] = []
        for number in 1...20 { pods.append(try await Pod("c\(number)")) }
        try network.node.write("configuration", network.configuration())
        let directory = network.node.directory
        func all(_ command: String) async throws -> String {
            let calls = pods.map {
                """
                (env CNI_COMMAND=\(command) CNI_CONTAINERID=\($0.container) CNI_IFNAME=eth0 CNI_NETNS=\($0.path) \
                CNI_PATH=\(Self.plugins) \(PluginNode.binary) <\(directory)/configuration >\(directory)/\($0.container).out \
                && echo well) &
                """
            }
            return try await network.host.run { try execute(calls.joined(separator: "\n") + "\nwait") }
        }
        #expect(try await all("ADD") == String(repeating: "well\n", count: 20))
        var addresses: Set<String> = []
        for pod in pods {
            let output = network.node.read(pod.container + ".out") ?? ""
            addresses.formUnion([address(.init(output: output, errors: "", status: 0))].compactMap(\.self))
        }
        #expect(addresses.count == 20)
        _ = try await pods[0].run("ping -c 1 -W 5 \(addresses.max() ?? "")")
        #expect(try await all("DEL") == String(repeating: "well\n", count: 20))
        #expect(try execute("ls \(directory)/nets/cbr0") == "last_reserved_ip.0\nlock\n")
        #expect(try execute("ls -A \(directory)/data") == "")
        #expect(try await network.host.run { try execute("ip -o link") }.contains("veth") == false)
    }

    @Test("an ADD after one that failed")
    func afterAFailure() async throws {
        let network = try await Network()
        let pod = try await Pod("c1")
        let bad = network.configuration(delegate: #","mtu":"x""#)
        let failed = try await network.call("ADD", pod, bad)
        #expect(failed.status == 1 && failed.message.contains("cannot unmarshal"), "\(failed.output)")
        // Not every runtime calls DEL in between.
        let answer = try await network.call("ADD", pod)
        #expect(answer.status == 0 && address(answer) == "10.244.3.2", "\(answer.output)")
        #expect(try await network.call("DEL", pod).status == 0)
        #expect(!network.node.exists("nets/cbr0/10.244.3.2"))
    }

    @Test("a bridge with the address of a subnet that the node had before is named, with what to do")
    func foreignBridge() async throws {
        let network = try await Network()
        let pod = try await Pod("c1")
        #expect(try await network.call("ADD", pod).status == 0)
        #expect(try await network.call("DEL", pod).status == 0)
        try network.node.write(
            "subnet.env", PluginNode.subnets.replacing("10.244.3.1/24", with: "10.244.5.1/24"))
        let answer = try await network.call("ADD", pod)
        #expect(answer.status == 1 && answer.code == 102)
        #expect(
            answer.message
                == "cni0 has the address 10.244.3.1/24, which is outside of this node's subnet 10.244.5.0/24: "
                + "run twilld cleanup --cni, then restart the pods")
        #expect(answer.details.contains("already has an IP address different from 10.244.5.1/24"))
        #expect(try await network.call("DEL", pod).status == 0)
        // What the sentence asks for cures it; so does the bridge's own forceAddress.
        #expect(
            try await network.call("ADD", pod, network.configuration(delegate: #","forceAddress":true"#))
                .status == 0)
        #expect(try await network.call("DEL", pod).status == 0)
        try await network.host.run { _ = try execute("ip link delete cni0") }
        #expect(address(try await network.call("ADD", pod))?.hasPrefix("10.244.5.") == true)
    }

    @Test("a chain with portmap: the list's result goes through, and back at DEL")
    func chain() async throws {
        let network = try await Network()
        let pod = try await Pod("c1")
        let runtime =
            #","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#
        let added = try await network.call("ADD", pod, network.configuration(runtime))
        #expect(added.status == 0)
        let portmap = """
            {"cniVersion":"1.0.0","name":"cbr0","type":"portmap","capabilities":{"portMappings":true}\(runtime),\
            "prevResult":\(added.output)}
            """
        func map(_ command: String) async throws -> PluginNode.Answer {
            try await network.host.run { [node = network.node, pod] in
                try node.call(
                    command, portmap, container: pod.container, namespace: pod.path, path: Self.plugins,
                    binary: Self.plugins + "/portmap")
            }
        }
        let mapped = try await map("ADD")
        #expect(mapped.status == 0 && address(mapped) == "10.244.3.2", "\(mapped.output)")
        let rules = "iptables-save -t nat | grep -c 'to-destination 10.244.3.2:80' || true"
        #expect(try await network.host.run { try execute(rules) } == "1\n")
        #expect(try await map("DEL").status == 0)
        #expect(try await network.call("DEL", pod, network.configuration(runtime)).status == 0)
        #expect(try await network.host.run { try execute(rules) } == "0\n")
    }

    @Test("GC frees what a lost container holds, by the delegate")
    func collection() async throws {
        let network = try await Network()
        let (kept, lost) = (try await Pod("kept"), try await Pod("lost"))
        #expect(try await network.call("ADD", kept).status == 0)
        #expect(try await network.call("ADD", lost).status == 0)
        #expect(try execute("ls -A \(network.node.directory)/data") == "kept\nlost\n")
        let configuration = network.configuration(
            #","cni.dev/valid-attachments":[{"containerID":"kept","ifname":"eth0"}]"#, version: "1.1.0")
        let answer = try await network.call("GC", kept, configuration)
        #expect(answer.status == 0 && answer.output == "", "\(answer.output)")
        #expect(
            try execute("ls \(network.node.directory)/nets/cbr0") == "10.244.3.2\nlast_reserved_ip.0\nlock\n")
        #expect(try execute("ls -A \(network.node.directory)/data") == "kept\n")
    }
}
