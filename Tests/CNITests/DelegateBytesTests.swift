import NetworkNamespaces
import Testing

/// What the delegate gets, to the byte, for each documented option of flannel's plugin.
@Suite struct DelegateBytesTests {
    struct Option: Sendable, CustomTestStringConvertible {
        let testDescription: String
        /// Members of the configuration beside the usual ones.
        var more = ""
        var version: String? = "0.3.1"
        var subnets = PluginNode.subnets
        /// What the delegate gets.
        let bytes: String
    }

    private static let ranges = #""ranges":[[{"subnet":"10.244.3.0/24"}]]"#
    private static let routes = #""routes":[{"dst":"10.244.0.0/16"}]"#
    private static let usualAddresses = #""ipam":{\#(ranges),\#(routes),"type":"host-local"}"#

    static let options: [Option] = [
        Option(
            testDescription: "nothing but a name",
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,\#(usualAddresses),"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "kube-flannel's delegate",
            more:
                #","delegate":{"hairpinMode":true,"isDefaultGateway":true},"runtimeConfig":{"portMappings":[]}"#,
            bytes:
                #"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,\#(usualAddresses),"isDefaultGateway":true,"isGateway":true,"mtu":1472,"name":"cbr0","runtimeConfig":{"portMappings":[]},"type":"bridge"}"#
        ),
        Option(
            testDescription: "the daemon does not masquerade, so the bridge does",
            subnets: PluginNode.subnets.replacing("IPMASQ=true", with: "IPMASQ=false"),
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":true,\#(usualAddresses),"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "delegate: ipMasq, mtu, isGateway and bridge are left",
            more: #","delegate":{"ipMasq":true,"mtu":1300,"isGateway":false,"bridge":"br0"}"#,
            bytes:
                #"{"bridge":"br0","cniVersion":"0.3.1","ipMasq":true,\#(usualAddresses),"isGateway":false,"mtu":1300,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "delegate: a null is a value",
            more: #","delegate":{"mtu":null}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,\#(usualAddresses),"isGateway":true,"mtu":null,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "delegate.type: no bridge, and so no isGateway",
            more: #","delegate":{"type":"ptp"}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,\#(usualAddresses),"mtu":1472,"name":"cbr0","type":"ptp"}"#
        ),
        Option(
            testDescription: "unknown keys pass through, numbers and signs as they are",
            more:
                #","delegate":{"vlan":7,"promiscMode":1.50,"x":{"b":"<é&\u2028\u00e9\n>","a":[1e3,null,true]}}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,\#(usualAddresses),"isGateway":true,"mtu":1472,"name":"cbr0","promiscMode":1.5,"type":"bridge","vlan":7,"x":{"a":[1000,null,true],"b":"\u003cé\u0026\u2028é\n\u003e"}}"#
        ),
        Option(
            testDescription: "ipam: type, dataDir, resolvConf; subnet and ranges are the node's",
            more:
                #","ipam":{"type":"host-local","dataDir":"/run/x","resolvConf":"/etc/r","ranges":[[{"subnet":"1.2.3.0/24"}]]}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{"dataDir":"/run/x",\#(ranges),"resolvConf":"/etc/r",\#(routes),"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "ipam.routes: those of the networks are added",
            more: #","ipam":{"routes":[{"dst":"192.168.0.0/16","gw":"10.244.3.9"},{"dst":"0.0.0.0/0"}]}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{\#(ranges),"routes":[{"dst":"192.168.0.0/16","gw":"10.244.3.9"},{"dst":"0.0.0.0/0"},{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "ipam.type: another one gets ranges and routes too",
            more: #","ipam":{"type":"whereabouts"}"#,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{\#(ranges),\#(routes),"type":"whereabouts"},"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "both families, several networks, one of them twice",
            subnets: """
                FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16,10.244.7.7/16
                FLANNEL_SUBNET=10.244.3.1/24
                FLANNEL_IPV6_NETWORK=fd00:10:0::/48
                FLANNEL_IPV6_SUBNET=fd00:10:0:3::1/64
                FLANNEL_MTU=1450
                FLANNEL_IPMASQ=true
                """,
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}],[{"subnet":"fd00:10:0:3::/64"}]],"routes":[{"dst":"10.244.0.0/16"},{"dst":"10.245.0.0/16"},{"dst":"fd00:10::/48"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "IPv6 alone",
            subnets:
                "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n",
            bytes:
                #"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{"ranges":[[{"subnet":"fd00::/64"}]],"routes":[{"dst":"fd00::/48"}],"type":"host-local"},"isGateway":true,"mtu":1400,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "no cniVersion: the delegate gets none", version: nil,
            bytes:
                #"{"ipMasq":false,\#(usualAddresses),"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
        Option(
            testDescription: "args, capabilities, prevResult and dns are the plugin's own; keys in any case",
            more:
                #","ARGS":{"cni":{"ips":["10.244.3.9"]}},"capabilities":{"portMappings":true},"prevResult":{"ips":[]},"dns":{},"Delegate":{"hairpinMode":true}"#,
            bytes:
                #"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,\#(usualAddresses),"isGateway":true,"mtu":1472,"name":"cbr0","type":"bridge"}"#
        ),
    ]

    @Test("option of flannel's plugin", arguments: options)
    func option(_ option: Option) throws {
        let node = try PluginNode(subnets: option.subnets, delegates: ["bridge", "ptp"])
        var configuration = node.configuration(option.more, version: option.version ?? "")
        if option.version == nil { configuration.replace(#""cniVersion":"","#, with: "") }
        let answer = try node.call("ADD", configuration)
        #expect(answer.status == 0 && answer.output == #"{"cniVersion":"1.0.0","ips":[]}"#)
        #expect(node.read("seen.ADD") == option.bytes)
        #expect(node.read("kept.ADD") == option.bytes, "not kept before the call")
        #expect(node.read("data/c1") == option.bytes)
        // DEL gets the same, and takes away what was kept.
        #expect(try node.call("DEL", configuration).status == 0)
        #expect(node.read("seen.DEL") == option.bytes)
        #expect(!node.exists("data/c1"))
    }

    @Test("the delegate has every variable of the plugin, and its words come to the runtime's log")
    func surroundings() throws {
        let node = try PluginNode()
        let answer = try node.call("ADD", node.configuration())
        #expect(answer.errors.contains("words of the delegate"))
        let variables = node.read("variables.ADD") ?? ""
        for line in [
            "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net",
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=p", "CNI_PATH=/nowhere:\(node.directory)/bin",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        ] {
            #expect(variables.contains(line + "\n"), "\(line) is missing")
        }
        let mode = try execute("stat -c %a \(node.directory)/data/c1")
        #expect(mode == "600\n")
        #expect(try execute("ls -A \(node.directory)/data") == "c1\n")
    }
}
