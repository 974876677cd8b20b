import Addresses
import Leases
import Testing

@Suite("Network configuration")
struct NetworkConfigurationTests {
    @Test("flannel's defaults")
    func defaults() throws {
        let configuration = try NetworkConfiguration(parsing: #"{"Network":"10.66.0.0/16"}"#)
        #expect(configuration.ipv4?.network == IPv4Prefix("10.66.0.0/16"))
        #expect(configuration.ipv4?.subnetLength == 24)
        #expect(configuration.ipv4?.subnetMinimum == IPv4Address("10.66.1.0"))
        #expect(configuration.ipv4?.subnetMaximum == IPv4Address("10.66.255.0"))
        #expect(configuration.backend.port == 8285)
        #expect(configuration.backend.mtu(over: .ipv4) == nil)
        #expect(configuration.ipv6 == nil)
        #expect(!configuration.enableNFTables)
    }

    @Test("keys and the backend's type in any case, host bits masked, unknown keys and nulls left alone")
    func tolerance() throws {
        let configuration = try NetworkConfiguration(
            parsing: """
                {"network":"10.66.7.9/16","SUBNETLEN":26,"subnetMin":"10.66.1.0","Extra":{"a":[1]},
                 "SubnetMax":null,"backend":{"type":"UDP","PORT":9000,"mtu":1400}}
                """)
        #expect(configuration.ipv4?.network == IPv4Prefix("10.66.0.0/16"))
        #expect(configuration.ipv4?.subnetLength == 26)
        #expect(configuration.ipv4?.subnetMinimum == IPv4Address("10.66.1.0"))
        #expect(configuration.ipv4?.subnetMaximum == IPv4Address("10.66.255.192"))
        #expect(configuration.backend.port == 9000)
        #expect(configuration.backend.mtu(over: .ipv4) == 1400)
    }

    @Test(
        "the node's prefix is /24 in a /22 or wider, else two bits longer",
        arguments: [("10.0.0.0/8", 24), ("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/28", 30)])
    func subnetLength(network: String, length: Int) throws {
        let configuration = try NetworkConfiguration(parsing: "{\"Network\":\"\(network)\"}")
        #expect(configuration.ipv4?.subnetLength == length)
    }

    @Test("both families")
    func bothFamilies() throws {
        let configuration = try NetworkConfiguration(
            parsing: #"{"EnableIPv6":true,"Network":"10.12.0.0/16","IPv6Network":"fd00:12::/48"}"#)
        let ipv6 = try #require(configuration.ipv6)
        #expect(ipv6.subnetLength == 64)
        #expect(ipv6.subnetMinimum == IPv6Address("fd00:12:0:1::"))
        #expect(ipv6.subnetMaximum == IPv6Address("fd00:12:0:ffff::"))
    }

    @Test(
        "an error names the key, the value and the rule",
        arguments: [
            ("", "no JSON"), ("nonsense", "\"nonsense\""), ("[1]", "an object is needed"),
            ("{}", "Network is missing"),
            (#"{"Network":7}"#, "Network is 7: an IPv4 prefix is needed"),
            (#"{"Network":"10.66.0.0"}"#, "Network is \"10.66.0.0\": an IPv4 prefix is needed"),
            (#"{"Network":"10.66.0.0/29"}"#, "/28 or wider"),
            (#"{"Network":"0.0.0.0/0"}"#, "cannot be every address"),
            (#"{"Network":"10.66.0.0/16","SubnetLen":31}"#, "SubnetLen is 31: it must be 30 or less"),
            (#"{"Network":"10.66.0.0/16","SubnetLen":17}"#, "SubnetLen is 17: it must be 18 or more"),
            (
                #"{"Network":"10.66.0.0/16","SubnetLen":"24"}"#,
                "SubnetLen is \"24\": a whole number is needed"
            ),
            (
                #"{"Network":"10.66.0.0/16","SubnetMin":"10.67.0.0"}"#,
                "SubnetMin is \"10.67.0.0\": it must lie in Network"
            ),
            (#"{"Network":"10.66.0.0/16","SubnetMax":"10.66.9.7"}"#, "it must be the first address of a /24"),
            (
                #"{"Network":"10.66.0.0/16","SubnetMin":"10.66.9.0","SubnetMax":"10.66.8.0"}"#,
                "SubnetMin is \"10.66.9.0\": it is above SubnetMax, 10.66.8.0"
            ),
            (#"{"Network":"10.66.0.0/16","Backend":"udp"}"#, "Backend is \"udp\": an object is needed"),
            (
                #"{"Network":"10.66.0.0/16","Backend":{"Type":"ipsec"}}"#,
                "Backend.Type is \"ipsec\": twill has udp, vxlan"
            ),
            (
                #"{"Network":"10.66.0.0/16","Backend":{"Port":70000}}"#,
                "Backend.Port is 70000: a port is needed"
            ),
            (
                #"{"Network":"10.66.0.0/16","Backend":{"MTU":100}}"#,
                "Backend.MTU is 100: it must be 576 to 65507"
            ),
            (#"{"Network":"10.66.0.0/16","EnableIPv4":false}"#, "EnableIPv4 is false"),
            (#"{"Network":"10.66.0.0/16","EnableIPv6":1}"#, "EnableIPv6 is 1: true or false is needed"),
            (#"{"Network":"10.66.0.0/16","EnableIPv6":true}"#, "IPv6Network is missing"),
            (
                #"{"Network":"10.66.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/125"}"#,
                "IPv6Network is \"fd00::/125\": it must be /124 or wider"
            ),
        ])
    func errors(json: String, words: String) {
        let error = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration(parsing: json)
        }
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }
}
