import Addresses
import Backends
import Leases
import Testing

@Suite("Lease keys and values")
struct LeaseTextTests {
    @Test("keys both ways", arguments: ["10.66.28.0-24", "10.12.13.0-24&fd00:12:13::-56", "10.0.0.4-30"])
    func keys(key: String) throws {
        #expect(try #require(LeaseSubnet(key: key)).key == key)
    }

    @Test(
        "what is no key",
        arguments: [
            "", "10.66.28.0", "10.66.28.0/24", "10.66.28.0-33", "10.66.28.7-24", "10.66.28.0-24&",
            "10.66.28.0-24-",
            "10.66.28.0-24&fd00::1-64", "10.66.28.0-24&fd00::-64&fd01::-64", "a-24", "10.66.028.0-24",
            "10.66.28.0-024",
        ])
    func noKeys(key: String) {
        #expect(LeaseSubnet(key: key) == nil)
    }

    @Test("values are written as flannel writes them")
    func written() {
        let address = IPv4Address("198.18.9.2")!
        let plain = LeaseValue(publicAddress: address, backend: UDPBackend.self)
        #expect(plain.json == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)
        #expect(
            LeaseValue(
                publicAddress: address, publicIPv6Address: IPv6Address("fd00::2"), backend: UDPBackend.self,
                data: UDPData(port: 9000)
            ).json
                == #"{"PublicIP":"198.18.9.2","PublicIPv6":"fd00::2","BackendData":{"Port":9000}}"#)
    }

    @Test("a host's name stands behind what flannel writes, and what is no such name is nowhere")
    func hostNames() throws {
        let address = IPv4Address("198.18.9.2")!
        let json = #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"TwillHost":"node-1.a_b"}"#
        let named = LeaseValue(publicAddress: address, backend: UDPBackend.self, hostName: "node-1.a_b")
        #expect(named.json == json)
        #expect(try LeaseValue(parsing: json) == named)
        for bad in ["", "a b", "x\u{1B}[2J", "\"", "ü", String(repeating: "a", count: 65)] {
            let value = LeaseValue(publicAddress: address, backend: UDPBackend.self, hostName: bad)
            #expect(value.hostName == nil && !value.json.contains("TwillHost"), "\(bad)")
        }
        for text in [#""a\u001b[2Jb""#, "7", "null", "{}", #""""#] {
            let read = try LeaseValue(parsing: #"{"PublicIP":"198.18.9.2","TwillHost":\#(text)}"#)
            #expect(read.hostName == nil, "\(text)")
        }
    }

    @Test("values are read in flannel's forms, old and new, with fields that twill does not know")
    func read() throws {
        let address = IPv4Address("198.18.9.2")!
        for json in [
            #"{"PublicIP":"198.18.9.2"}"#, #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#,
            #"{"publicip":"198.18.9.2","BackendType":"udp","BackendData":null,"BackendV6Data":{"x":[1,"y"]}}"#,
            #" {"PublicIP":"198.18.9.2","BackendType":"","BackendData":"text"} "#,
        ] {
            #expect(
                try LeaseValue(parsing: json) == LeaseValue(publicAddress: address, backend: UDPBackend.self))
        }
        #expect(
            try LeaseValue(parsing: #"{"PublicIP":"198.18.9.2","BackendData":{"Port":9000,"More":1}}"#)
                == LeaseValue(
                    publicAddress: address, backend: UDPBackend.self, data: UDPData(port: 9000)))
    }

    @Test(
        "what is wrong with a value is said",
        arguments: [
            ("nonsense", "no JSON object"), ("[]", "no JSON object"), ("{}", "no PublicIP"),
            (#"{"PublicIP":7}"#, "PublicIP is 7"), (#"{"PublicIP":"host"}"#, "PublicIP is \"host\""),
            (#"{"PublicIP":"0.0.0.0"}"#, "no other node"), (#"{"PublicIP":"127.0.0.1"}"#, "no other node"),
            (#"{"PublicIP":"224.0.0.1"}"#, "no other node"),
            (#"{"PublicIP":"198.18.9.2","BackendType":"ipsec"}"#, "BackendType is \"ipsec\""),
            (#"{"PublicIP":"198.18.9.2","BackendData":{"Port":0}}"#, "BackendData.Port is 0"),
            (#"{"PublicIP":"198.18.9.2","BackendData":{"Port":"x"}}"#, "BackendData.Port is \"x\""),
            (#"{"PublicIP":"198.18.9.2","PublicIPv6":"x"}"#, "PublicIPv6 is \"x\""),
        ])
    func wrong(json: String, words: String) {
        let error = #expect(throws: LeaseValueError.self) { try LeaseValue(parsing: json) }
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }

    @Test("identities both ways")
    func identities() throws {
        #expect(NodeIdentity(number: 0x00AB).description == "000000ab")
        #expect(NodeIdentity("000000ab\n") == NodeIdentity(number: 0xAB))
        #expect(NodeIdentity("xyz") == nil)
    }
}
