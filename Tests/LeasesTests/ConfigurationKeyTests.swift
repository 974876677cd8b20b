import Backends
import Glibc
import Testing

@testable import Leases

/// A key that is read and means nothing is worse than an unknown one: nobody hears of it.
@Suite("Every key of the network configuration has an effect")
struct ConfigurationKeyTests {
    /// Two configurations that differ in one key. The compiler asks for those of a new key here.
    private func pair(_ key: NetworkConfiguration.Key) -> (String, String) {
        func both(_ one: String, _ other: String, _ rest: String = "") -> (String, String) {
            let common = key == .network ? rest : #""Network":"10.66.0.0/16""# + rest
            func text(_ value: String) -> String {
                "{\(common)\(common.isEmpty ? "" : ",")\"\(key.rawValue)\":\(value)}"
            }
            return (text(one), text(other))
        }
        let ipv6 = #","EnableIPv6":true,"IPv6Network":"fd00:12::/48""#
        return switch key {
        case .enableIPv4: both("true", "false")
        case .enableIPv6: both("true", "false", #","IPv6Network":"fd00:12::/48""#)
        case .enableNFTables: both("true", "false")
        case .network: both(#""10.66.0.0/16""#, #""10.77.0.0/16""#)
        case .subnetLength: both("24", "25")
        case .subnetMinimum: both(#""10.66.1.0""#, #""10.66.2.0""#)
        case .subnetMaximum: both(#""10.66.9.0""#, #""10.66.8.0""#)
        case .ipv6Network: both(#""fd00:12::/48""#, #""fd00:13::/48""#, #","EnableIPv6":true"#)
        case .ipv6SubnetLength: both("64", "60", ipv6)
        case .ipv6SubnetMinimum: both(#""fd00:12:0:1::""#, #""fd00:12:0:2::""#, ipv6)
        case .ipv6SubnetMaximum: both(#""fd00:12:0:9::""#, #""fd00:12:0:8::""#, ipv6)
        case .backend: both(#"{"Port":8285}"#, #"{"Port":9000}"#)
        }
    }

    @Test(
        "what is read of a key is another configuration where it is another",
        arguments: NetworkConfiguration.Key.allCases)
    func read(key: NetworkConfiguration.Key) throws {
        let (one, other) = pair(key)
        let first = try NetworkConfiguration(parsing: one)
        // Where the other one is refused, that is the effect.
        if let second = try? NetworkConfiguration(parsing: other) { #expect(first != second) }
        #expect(try NetworkConfiguration.remarks(on: one) == [])
    }

    @Test("each key of udp's is another backend where it is another")
    func udp() throws {
        let pairs = ["port": (8_285, 9_000), "mtu": (1_400, 1_401)]
        #expect(UDPBackend.keys == Set(pairs.keys))
        for (key, (one, other)) in pairs {
            func configuration(_ value: Int) throws -> NetworkConfiguration {
                try NetworkConfiguration(
                    parsing: "{\"Network\":\"10.66.0.0/16\",\"Backend\":{\"\(key)\":\(value)}}")
            }
            #expect(try configuration(one) != configuration(other), "\(key)")
        }
    }

    @Test("each key of vxlan's is another backend where it is another, but those of Windows'")
    func vxlan() throws {
        let pairs = [
            "vni": ("1", "2"), "port": ("8472", "4789"), "mtu": ("1400", "1401"), "gbp": ("false", "true"),
            "learning": ("false", "true"), "directrouting": ("false", "true"),
        ]
        #expect(VXLANBackend.keys == Set(pairs.keys).union(["macprefix", "name"]))
        func configuration(_ members: String) throws -> NetworkConfiguration {
            try NetworkConfiguration(
                parsing: "{\"Network\":\"10.66.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"\(members)}}")
        }
        for (key, (one, other)) in pairs {
            #expect(
                try configuration(",\"\(key)\":\(one)") != configuration(",\"\(key)\":\(other)"), "\(key)")
        }
        #expect(try configuration("") == configuration(#","MacPrefix":"0E-2A","Name":"flannel.4096""#))
        for (members, words) in [
            (#","VNI":16777216"#, "VNI"), (#","Port":-1"#, "Port"), (#","GBP":1"#, "GBP"),
            (#","DirectRouting":"yes""#, "DirectRouting"), (#","MTU":600"#, "626 to 65535"),
        ] {
            let error = #expect(throws: NetworkConfigurationError.self) { try configuration(members) }
            #expect(error?.description.contains(words) == true, "\(members)")
        }
    }

    @Test("whatever is read is used somewhere else in the sources")
    func used() throws {
        let configuration = try NetworkConfiguration(parsing: #"{"Network":"10.66.0.0/16"}"#)
        let properties = Mirror(reflecting: configuration).children.compactMap(\.label).map {
            $0 == "configuredBackend" ? "backend" : $0
        }
        #expect(properties.count > 3)
        let root = #filePath.replacing("Tests/LeasesTests/ConfigurationKeyTests.swift", with: "Sources")
        for property in properties + ["backend.port", "backend.mtu"] {
            let name = property.replacing(".", with: "\\.")
            let search =
                "grep -rnE --include='*.swift' '[cC]onfiguration[?!]?\\.\(name)\\b' \(root)"
                + " | grep -v NetworkConfiguration.swift | grep -qvE '^[^:]*:[0-9]+: *//'"
            #expect(system(search) == 0, "\(property) is read from the configuration, and used nowhere")
        }
    }
}
