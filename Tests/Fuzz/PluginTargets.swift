import CNI
import JSON

/// What the CNI plugin reads on its standard input: what is taken makes a configuration for the delegate that reads
/// as it was written.
final class PluginInputTarget: FuzzTarget {
    let maximumBytes = 2048
    let words =
        oddNumbers
        + bytes(
            "\"cniVersion\":\"1.1.0\"", "\"name\":", "\"delegate\":{", "\"ipam\":{",
            "\"routes\":[{\"dst\":\"10.0.0.0/8\"}]",
            "\"type\":", "\"ranges\":[]", "\"runtimeConfig\":{}", "\"prevResult\":{}", "null", "[", "{", "}",
            "\\ud800",
            "\\u0000", "\"cni.dev/valid-attachments\":[{\"containerID\":\"a\",\"ifname\":\"eth0\"}]", "../",
            "1e999")
    let seeds = bytes(
        #"{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}}"#,
        #"{"cniVersion":"1.1.0","name":"cbr0","subnetFile":"/x","dataDir":"/y","ipam":{"routes":[{"dst":"fd00::/48","gw":"::1"}]}}"#,
        #"{"name":"n","Delegate":{"type":"ptp","mtu":null,"x":[1.5e-9,-0.0,"<>&"]},"runtimeConfig":{"portMappings":[]}}"#
    )
    private let subnets: NodeSubnets

    init() {
        guard
            let subnets = try? NodeSubnets(
                text:
                    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1\nFLANNEL_IPMASQ=true"
            )
        else { fatalError("a subnet.env as flannel writes it is not taken") }
        self.subnets = subnets
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let text = text(bytes)
        if let value = JSONValue(parsing: text) {
            let encoded = value.encoded
            try hold(JSONValue(parsing: encoded)?.encoded == encoded, "\(encoded) reads as another")
        }
        let configuration: PluginConfiguration
        do { configuration = try PluginConfiguration(parsing: text) } catch {
            try hold([.decoding, .version, .configuration].contains(error.code), "code \(error.code)")
            try hold(JSONValue(parsing: error.json(version: .newest)) != nil, "\(error) is no JSON")
            return
        }
        try hold(Attachment.isContainer(configuration.name), "the name \(configuration.name) was taken")
        guard let made = try? DelegateConfiguration(configuration, subnets: subnets) else { return }
        let again = DelegateConfiguration(kept: made.json)
        try hold(again?.json == made.json && again?.type == made.type, "\(made.json) reads as another")
        try hold(again?.network == configuration.name, "\(made.json) has another name")
        try hold(JSONValue(parsing: made.json)?.encoded == made.json, "\(made.json) is written in two ways")
    }
}

/// `subnet.env` as the plugin reads it: all of it or nothing.
final class PluginSubnetsTarget: FuzzTarget {
    let maximumBytes = 1024
    let words =
        oddNumbers
        + bytes(
            "FLANNEL_NETWORK=", "FLANNEL_SUBNET=", "FLANNEL_MTU=", "FLANNEL_IPMASQ=",
            "FLANNEL_IPV6_NETWORK=fd00::/48\n",
            "FLANNEL_IPV6_SUBNET=fd00::1/64\n", ",", "/0", "/32", "/128", "\r\n", "\n", "'", "\"", "true",
            "export ", "#")
    let seeds = bytes(
        "FLANNEL_NETWORK=10.66.0.0/16,10.67.0.0/16\nFLANNEL_SUBNET=10.66.28.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
        "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
    )

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let subnets = try? NodeSubnets(text: text(bytes)) else { return }
        try hold((1...2).contains(subnets.subnets.count), "\(subnets.subnets.count) subnets")
        try hold(
            !subnets.networks.isEmpty && Set(subnets.networks).count == subnets.networks.count,
            "networks are none, or twice there")
        guard let configuration = try? PluginConfiguration(parsing: #"{"name":"n"}"#),
            let made = try? DelegateConfiguration(configuration, subnets: subnets)
        else { throw FuzzFailure("\(subnets) makes no configuration") }
        try hold(JSONValue(parsing: made.json)?.encoded == made.json, "\(made.json) reads as another")
        for subnet in subnets.subnets { try hold(made.json.contains("\"\(subnet)\""), "\(subnet) is lost") }
    }
}
