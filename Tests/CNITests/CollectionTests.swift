import Glibc
import JSON
import NetworkNamespaces
import Testing

/// GC: what is left of attachments that are gone is taken away, and nothing else.
@Suite struct CollectionTests {
    private func collect(_ node: PluginNode, valid: String) throws -> PluginNode.Answer {
        try node.call(
            "",
            node.configuration(
                #","ipam":{"dataDir":"\#(node.directory)/nets"},"cni.dev/valid-attachments":[\#(valid)]"#,
                version: "1.1.0"), environment: ["CNI_COMMAND": "GC", "CNI_PATH": node.directory + "/bin"])
    }

    private func add(
        _ node: PluginNode, _ container: String, interface: String = "eth0", name: String = "cbr0"
    ) throws {
        let configuration = node.configuration(
            #","ipam":{"dataDir":"\#(node.directory)/nets"}"#, version: "1.1.0", name: name)
        #expect(try node.call("ADD", configuration, container: container, interface: interface).status == 0)
    }

    @Test("kept files of containers that are gone: DEL by the delegate, of others nothing")
    func files() throws {
        let node = try PluginNode()
        for container in ["c1", "c2", "c3"] { try add(node, container) }
        try add(node, "c4", name: "second")
        let kept = node.read("data/c2")
        try node.write("data/c5", "{")
        unlink(node.directory + "/calls")
        let answer = try collect(
            node, valid: #"{"containerID":"c1","ifname":"eth0"},{"containerID":"c3","ifname":"net7"}"#)
        #expect(answer.status == 0 && answer.output == "", "\(answer.output)")
        #expect(node.calls.filter { $0.contains("DEL") } == ["bridge DEL c2 eth0", "bridge DEL c5 eth0"])
        #expect(node.read("kept.DEL") == "{")
        #expect(try execute("ls -A \(node.directory)/data") == "c1\nc3\nc4\n")
        #expect(kept != nil && node.read("variables.DEL")?.contains("CNI_NETNS=\n") == true)
        // The delegate's own GC comes after, with the attachments that there are.
        #expect(node.calls.last == "bridge GC  ")
        let seen = JSONValue(parsing: node.read("seen.GC") ?? "")
        #expect(
            seen?["cni.dev/valid-attachments"]?.encoded
                == #"[{"containerID":"c1","ifname":"eth0"},{"containerID":"c3","ifname":"net7"}]"#)
    }

    @Test("addresses that nobody holds")
    func addresses() throws {
        let node = try PluginNode()
        try add(node, "c1")
        unlink(node.directory + "/calls")
        try execute("mkdir -p \(node.directory)/nets/cbr0 \(node.directory)/nets/other")
        for (address, text) in [
            ("10.244.3.2", "c1\r\neth0"), ("10.244.3.3", "c1\r\nnet1"), ("10.244.3.4", "gone\r\neth0"),
            ("10.244.3.5", "c1"), ("10.244.3.6", "old"), ("10.244.3.7", ""),
            ("10.244.3.8", "../../x\r\neth0"),
            ("fd00::9", "gone\r\nnet2"), ("last_reserved_ip.0", "10.244.3.9"), ("lock", ""),
        ] {
            try node.write("nets/cbr0/\(address)", text)
        }
        try node.write("nets/other/10.244.3.4", "gone\r\neth0")
        usleep(20_000)  // older than the call by the clock of files, whose steps are of some milliseconds
        let answer = try collect(node, valid: #"{"containerID":"c1","ifname":"eth0"}"#)
        #expect(answer.status == 0, "\(answer.output)")
        #expect(
            node.calls.filter { $0.contains("DEL") } == [
                "bridge DEL c1 net1", "bridge DEL gone eth0", "bridge DEL gone net2", "bridge DEL old eth0",
            ])
        // The recorder frees nothing; what names nobody is freed here.
        #expect(
            try execute("ls -A \(node.directory)/nets/cbr0")
                == "10.244.3.2\n10.244.3.3\n10.244.3.4\n10.244.3.5\n10.244.3.6\nfd00::9\nlast_reserved_ip.0\nlock\n"
        )
        #expect(node.exists("data/c1"), "an interface of it is valid")
    }

    @Test("what was made since the call began stays")
    func recent() throws {
        let node = try PluginNode()
        try add(node, "c1")
        try execute(
            "mkdir -p \(node.directory)/nets/cbr0; touch -d '+1 hour' \(node.directory)/data/c1 \(node.directory)/nets/cbr0/10.244.3.7"
        )
        #expect(try collect(node, valid: "").status == 0)
        #expect(node.calls.filter { $0.contains("DEL") }.isEmpty)
        #expect(node.exists("data/c1") && node.exists("nets/cbr0/10.244.3.7"))
    }

    @Test("a DEL that fails is told, keeps its file, and holds up no other")
    func failure() throws {
        let node = try PluginNode()
        for container in ["c1", "c2"] { try add(node, container) }
        usleep(20_000)
        try node.answer("DEL", #"{"code":9,"msg":"no"}"#, status: 1)
        let answer = try collect(node, valid: "")
        #expect(answer.status == 1 && answer.output == #"{"code":9,"msg":"no"}"#)
        #expect(node.calls.filter { $0.contains("DEL") }.count == 2)
        #expect(node.exists("data/c1") && node.exists("data/c2"))
        try node.answer("DEL", "")
        #expect(try collect(node, valid: "").status == 0)
        #expect(try execute("ls -A \(node.directory)/data") == "")
    }

    @Test("a delegate that does not know GC is not asked for it")
    func oldDelegate() throws {
        let node = try PluginNode()
        try node.answer("VERSION", #"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#)
        #expect(try collect(node, valid: "").status == 0)
        #expect(node.calls == ["bridge VERSION  "])
    }
}
