import CNI
import Glibc
import Host
import JSON
import NetworkNamespaces
import Testing

/// The plugin's own answers, by a recorder in the place of the delegate.
@Suite struct AnswerTests {
    @Test("VERSION answers in the caller's version, and needs nothing")
    func versions() throws {
        let node = try PluginNode()
        for (input, version) in [
            (#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (#"{"cniVersion":"9.9"}"#, "1.1.0"), ("", "1.1.0"),
            ("{", "1.1.0"),
        ] {
            let answer = try node.call("VERSION", input, environment: ["CNI_COMMAND": "VERSION"])
            #expect(
                answer.output
                    == #"{"cniVersion":"\#(version)","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
                    + "\n")
            #expect(answer.status == 0)
        }
        #expect(node.calls.isEmpty)
    }

    @Test("the name by which the plugin is called changes nothing")
    func secondName() throws {
        let node = try PluginNode()
        symlink(PluginNode.binary, node.directory + "/flannel")
        let answer = try node.call("ADD", node.configuration(), binary: node.directory + "/flannel")
        #expect(answer.status == 0 && node.calls == ["bridge ADD c1 eth0"])
    }

    @Test("install puts the plugin under both its names, in the place of what runs there")
    func install() throws {
        let node = try PluginNode()
        let directory = node.directory + "/opt"
        try execute(
            "mkdir \(directory) && cp /bin/sleep \(directory)/flannel && echo old >\(directory)/twill-cni")
        try execute(
            "\(directory)/flannel 60 & child=$!; umask 077; \(PluginNode.binary) install \(directory); kill $child"
        )
        #expect(
            try execute("ls -A \(directory); stat -c %a \(directory)/*") == "flannel\ntwill-cni\n755\n755\n")
        for name in ["flannel", "twill-cni"] {
            try execute("cmp \(PluginNode.binary) \(directory)/\(name)")
            #expect(try node.call("VERSION", "", binary: "\(directory)/\(name)").status == 0)
        }
        let failure = try execute("\(PluginNode.binary) install \(directory)/none || echo $?")
        #expect(
            failure
                == "twill-cni: cannot install the plugin: \(directory)/none/twill-cni: No such file or directory\n1\n"
        )
        #expect(try execute("\(PluginNode.binary) install || echo $?").hasSuffix("64\n"))
    }

    struct Fault: Sendable, CustomTestStringConvertible {
        var command = "ADD"
        var input: String?
        var more = ""
        var version = "1.0.0"
        var variables: [String: String] = [:]
        var missing = ""
        let code: Int
        let words: String
        var testDescription: String { words }
    }

    static let faults: [Fault] = [
        Fault(input: "", code: 6, words: "the end"),
        Fault(input: "{", code: 6, words: "line 1, column 2"),
        Fault(input: "[]", code: 6, words: "an object is needed"),
        Fault(input: String(repeating: "[", count: 100_000), code: 6, words: "nested deeper than 64 levels"),
        Fault(
            input: #"{"name":""# + String(repeating: "x", count: 3 << 20), code: 6,
            words: "longer than 2097152 bytes"),
        Fault(input: #"{"cniVersion":"1.0.0"}"#, code: 7, words: "no name"),
        Fault(input: #"{"cniVersion":"1.0.0","name":"../x"}"#, code: 7, words: "name is none: ../x"),
        Fault(input: #"{"cniVersion":"2.0.0","name":"x"}"#, code: 1, words: "cniVersion is 2.0.0"),
        Fault(input: #"{"cniVersion":3,"name":"x"}"#, code: 6, words: "cniVersion is 3"),
        Fault(more: #","delegate":[]"#, code: 6, words: "delegate is an array"),
        Fault(more: #","dataDir":1"#, code: 6, words: "dataDir is 1"),
        Fault(more: #","delegate":{"name":"x"}"#, code: 7, words: "delegate has name"),
        Fault(more: #","delegate":{"ipam":{}}"#, code: 7, words: "delegate has ipam"),
        Fault(more: #","delegate":{"type":1}"#, code: 7, words: "delegate.type is 1"),
        Fault(more: #","delegate":{"type":"../bin/bridge"}"#, code: 7, words: "no name of a plugin"),
        Fault(more: #","delegate":{"type":""}"#, code: 7, words: "no name of a plugin"),
        Fault(more: #","delegate":{"type":"absent"}"#, code: 100, words: "no plugin absent in /nowhere, "),
        Fault(more: #","ipam":{"routes":1}"#, code: 7, words: "ipam.routes is 1"),
        Fault(more: #","ipam":{"routes":[{"dst":"x"}]}"#, code: 7, words: "whose dst is no prefix"),
        Fault(command: "ADDITION", code: 4, words: "CNI_COMMAND is ADDITION"),
        Fault(missing: "CNI_COMMAND", code: 4, words: "CNI_COMMAND is missing"),
        Fault(
            variables: ["CNI_PATH": ""], missing: "CNI_NETNS", code: 4,
            words: "CNI_NETNS, CNI_PATH are missing"),
        Fault(variables: ["CNI_CONTAINERID": ""], code: 4, words: "CNI_CONTAINERID is missing"),
        Fault(variables: ["CNI_CONTAINERID": "../../etc/x"], code: 4, words: "CNI_CONTAINERID is none"),
        Fault(variables: ["CNI_CONTAINERID": ".."], code: 4, words: "CNI_CONTAINERID is none: .."),
        Fault(variables: ["CNI_IFNAME": "a/b"], code: 4, words: "CNI_IFNAME is none"),
        Fault(variables: ["CNI_IFNAME": "a234567890123456"], code: 4, words: "CNI_IFNAME is none"),
        Fault(command: "CHECK", version: "0.3.1", code: 1, words: "cniVersion 0.3.1 has no CHECK"),
        Fault(command: "STATUS", code: 1, words: "cniVersion 1.0.0 has no STATUS"),
        Fault(command: "GC", code: 1, words: "cniVersion 1.0.0 has no GC"),
        Fault(command: "CHECK", code: 7, words: "no prevResult"),
        Fault(command: "GC", version: "1.1.0", code: 7, words: "no cni.dev/valid-attachments"),
        Fault(
            command: "GC", more: #","cni.dev/valid-attachments":[{"containerID":"../x","ifname":"eth0"}]"#,
            version: "1.1.0", code: 6, words: "where containerID and ifname are needed"),
    ]

    @Test("what is wrong is told on the standard output, by a code of the specification", arguments: faults)
    func fault(_ fault: Fault) throws {
        let node = try PluginNode()
        var variables = [
            "CNI_COMMAND": fault.command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/x",
            "CNI_PATH": "/nowhere:\(node.directory)/bin",
        ]
        variables.merge(fault.variables) { $1 }
        variables[fault.missing] = nil
        let answer = try node.call(
            "", fault.input ?? node.configuration(fault.more, version: fault.version), environment: variables)
        #expect(answer.status == 1 && answer.code == fault.code, "\(answer.output)")
        #expect(answer.message.contains(fault.words), "\(answer.output)")
        #expect(answer.json["cniVersion"]?.text != nil)
        #expect(node.calls.isEmpty && !node.exists("data"))
    }

    @Test("a node without a subnet: try again later, and whom to look at")
    func noSubnet() throws {
        let node = try PluginNode(subnets: nil)
        for text in [
            nil, "", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUB",
            PluginNode.subnets.replacing("1472", with: "x"),
        ] {
            if let text { try node.write("subnet.env", text) }
            let answer = try node.call("ADD", node.configuration())
            #expect(answer.status == 1 && answer.code == 11, "\(answer.output)")
            #expect(answer.message.contains("\(node.directory)/subnet.env"))
            #expect(answer.details == "check the twill pod of this node")
        }
        #expect(node.calls.isEmpty && !node.exists("data"))
        // The runtime then calls DEL.
        #expect(try node.call("DEL", node.configuration()).status == 0)
    }

    @Test("the delegate's error is passed on to the byte")
    func delegatesError() throws {
        let node = try PluginNode()
        let error = #"{ "cniVersion": "1.0.0", "code": 137, "msg": "of <its> own", "more": 1 }"# + "\n"
        try node.answer("ADD", error, status: 3)
        try node.answer("DEL", error, status: 1)
        let answer = try node.call("ADD", node.configuration())
        #expect(answer.output == error && answer.status == 1)
        // What is kept stays until a DEL succeeds.
        #expect(try node.call("DEL", node.configuration()).output == error)
        #expect(node.exists("data/c1"))
        try node.answer("DEL", "")
        #expect(try node.call("DEL", node.configuration()).output == "")
        #expect(!node.exists("data/c1"))
    }

    @Test("a delegate without a result or an error that can be read")
    func brokenDelegate() throws {
        let node = try PluginNode()
        for (text, status, words) in [
            ("", 0, "ended well and printed no result"), ("oops", 0, "printed no result"),
            ("panic: x", 2, "ended with status 2"), (#"{"code":"7"}"#, 1, "ended with status 1"),
        ] {
            try node.answer("ADD", text, status: Int32(status))
            let answer = try node.call("ADD", node.configuration())
            #expect(
                answer.status == 1 && answer.code == 101 && answer.message.contains(words), "\(answer.output)"
            )
        }
        try node.write("bin/bridge", "#!/bin/sh\nkill -9 $$\n")
        #expect(try node.call("ADD", node.configuration()).message.contains("was ended by Killed"))
        try node.write("bin/bridge", "#!/nowhere\n")
        #expect(try node.call("ADD", node.configuration()).code == 100)
        try node.write("bin/bridge", "#!/bin/sh\nexec yes\n")
        #expect(try node.call("ADD", node.configuration()).code == 101)
    }

    @Test("the plugin does not call itself")
    func itself() throws {
        let node = try PluginNode(delegates: [])
        symlink(PluginNode.binary, node.directory + "/bin/flannel")
        let answer = try node.call("ADD", node.configuration(#","delegate":{"type":"flannel"}"#))
        #expect(answer.code == 7 && answer.message.contains("this plugin itself"))
    }

    @Test("a large configuration comes to the delegate whole")
    func largeConfiguration() throws {
        let node = try PluginNode()
        let long = String(repeating: "0123456789", count: 50_000)
        #expect(try node.call("ADD", node.configuration(#","delegate":{"x":"\#(long)"}"#)).status == 0)
        #expect(node.read("seen.ADD")?.contains(long) == true)
        #expect(try node.call("DEL", node.configuration()).status == 0)
        #expect(node.read("seen.DEL") == node.read("seen.ADD"))
    }

    @Test("CHECK looks for the routes as ADD made them: by the gateway of the address")
    func checkRoutes() throws {
        let node = try PluginNode()
        let result =
            #"{"ips":[{"gateway":"fd00::1"},{"gateway":"10.244.3.1"}],"routes":[{"dst":"10.244.0.0/16"},{"dst":"fd00::/48"},{"dst":"0.0.0.0/0","gw":"10.244.3.9"}]}"#
        #expect(try node.call("CHECK", node.configuration(#","prevResult":\#(result)"#)).status == 0)
        #expect(
            JSONValue(parsing: node.read("seen.CHECK") ?? "")?["prevResult"]?["routes"]?.encoded
                == #"[{"dst":"10.244.0.0/16","gw":"10.244.3.1"},{"dst":"fd00::/48","gw":"fd00::1"},{"dst":"0.0.0.0/0","gw":"10.244.3.9"}]"#
        )
    }

    @Test("CHECK asks the delegate, with what ADD gave it and what came of that")
    func check() throws {
        let node = try PluginNode()
        _ = try node.call("ADD", node.configuration(#","delegate":{"mtu":1300}"#, version: "0.4.0"))
        let configuration = node.configuration(#","prevResult":{"ips":[1]}"#, version: "1.0.0")
        let answer = try node.call("CHECK", configuration)
        #expect(answer.status == 0 && answer.output == "")
        let seen = JSONValue(parsing: node.read("seen.CHECK") ?? "")
        #expect(seen?["mtu"] == .integer(1300) && seen?["prevResult"]?.encoded == #"{"ips":[1]}"#)
        #expect(seen?["cniVersion"] == .string("1.0.0"))
        try node.answer("CHECK", #"{"code":9,"msg":"gone"}"#, status: 1)
        #expect(try node.call("CHECK", configuration).output == #"{"code":9,"msg":"gone"}"#)
        // Without the file: by what the node is now.
        #expect(try node.call("CHECK", configuration, container: "other").code == 9)
        #expect(JSONValue(parsing: node.read("seen.CHECK") ?? "")?["mtu"] == .integer(1472))
    }
}
