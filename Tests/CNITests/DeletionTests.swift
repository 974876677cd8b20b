import Glibc
import JSON
import NetworkNamespaces
import Testing

/// DEL succeeds whatever is missing, and calls the delegate whatever is missing.
@Suite struct DeletionTests {
    private let rebuilt =
        #"{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#

    @Test("twice, and without an ADD: the delegate is called each time")
    func twice() throws {
        let node = try PluginNode()
        _ = try node.call("ADD", node.configuration())
        for _ in 0..<3 {
            let answer = try node.call("DEL", node.configuration())
            #expect(answer.status == 0 && answer.output == "")
            #expect(node.read("seen.DEL") == rebuilt)
        }
        #expect(node.calls == ["bridge ADD c1 eth0"] + Array(repeating: "bridge DEL c1 eth0", count: 3))
        #expect(try execute("ls -A \(node.directory)/data") == "")
    }

    @Test("a file that is broken", arguments: ["", "{", "[]", #"{"name":"cbr0"}"#, #"{"type":7}"#])
    func brokenFile(_ text: String) throws {
        let node = try PluginNode()
        try execute("mkdir \(node.directory)/data")
        try node.write("data/c1", text)
        #expect(try node.call("DEL", node.configuration()).status == 0)
        #expect(node.read("seen.DEL") == rebuilt && !node.exists("data/c1"))
    }

    @Test("what is no file in its place")
    func noFile() throws {
        let node = try PluginNode()
        try execute("mkdir -p \(node.directory)/data/c1 && mkfifo \(node.directory)/data/c2")
        for container in ["c1", "c2"] {
            #expect(try node.call("DEL", node.configuration(), container: container).status == 0)
        }
        #expect(node.calls == ["bridge DEL c1 eth0", "bridge DEL c2 eth0"])
    }

    @Test("neither a file nor a subnet: host-local gets a range in which nobody is")
    func noSubnet() throws {
        let node = try PluginNode(subnets: nil)
        #expect(try node.call("DEL", node.configuration()).status == 0)
        #expect(
            node.read("seen.DEL")
                == #"{"cniVersion":"1.0.0","ipam":{"ranges":[[{"subnet":"192.0.2.0/24"}]],"type":"host-local"},"name":"cbr0","type":"bridge"}"#
        )
    }

    @Test("a kept configuration does without the subnet")
    func keptWithoutSubnet() throws {
        let node = try PluginNode()
        _ = try node.call("ADD", node.configuration())
        unlink(node.directory + "/subnet.env")
        #expect(try node.call("DEL", node.configuration()).status == 0)
        #expect(node.read("seen.DEL") == rebuilt)
    }

    @Test("without a namespace, and without the delegate where there is nothing of an ADD")
    func noNamespace() throws {
        let node = try PluginNode()
        let variables = [
            "CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0",
            "CNI_PATH": node.directory + "/bin",
        ]
        #expect(try node.call("", node.configuration(), environment: variables).status == 0)
        #expect(node.calls == ["bridge DEL c1 eth0"])
        _ = try node.call("ADD", node.configuration())
        unlink(node.directory + "/bin/bridge")
        #expect(try node.call("DEL", node.configuration()).code == 100)
        #expect(try node.call("DEL", node.configuration(), container: "c2").status == 0)
        #expect(node.exists("data/c1"))
    }

    @Test(
        "what no ADD would be done for can be taken away",
        arguments: [
            #","ipam":{"routes":7}"#, #","delegate":{"name":"x"}"#, #","delegate":{"type":7}"#,
            #","delegate":{"ipam":{}}"#,
        ])
    func refusedConfiguration(_ more: String) throws {
        let node = try PluginNode()
        let configuration = node.configuration(more)
        #expect(try node.call("ADD", configuration).code == 7)
        let answer = try node.call("DEL", configuration)
        #expect(answer.status == 0 && node.calls == ["bridge DEL c1 eth0"], "\(answer.output)")
        #expect(node.read("seen.DEL")?.contains(#""name":"cbr0""#) == true)
    }

    @Test("two networks with one directory take nothing of each other away")
    func twoNetworks() throws {
        let node = try PluginNode()
        _ = try node.call("ADD", node.configuration(name: "second"), interface: "net1")
        #expect(try node.call("DEL", node.configuration()).status == 0)
        #expect(node.read("seen.DEL") == rebuilt && node.exists("data/c1"))
        #expect(try node.call("DEL", node.configuration(name: "second"), interface: "net1").status == 0)
        #expect(node.read("seen.DEL")?.contains(#""name":"second""#) == true && !node.exists("data/c1"))
    }
}
