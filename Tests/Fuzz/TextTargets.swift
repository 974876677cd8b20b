import Addresses
import Backends
import FoundationEssentials
import Glibc
import Leases
import Node
import Telemetry

func bytes(_ texts: String...) -> [[UInt8]] { texts.map { Array($0.utf8) } }

/// What numbers are replaced by in texts.
let oddNumbers = bytes(
    "-1", "0", "00", "+1", "33", "256", "65535", "65536", "4294967296", "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808", "18446744073709551616", "1e5", "1e999", "-0", "1.5", "0x10", "\u{660}")

/// What JSON is spoilt with.
private let oddJSON =
    oddNumbers
    + bytes(
        "null", "true", "\"\"", "[]", "{}", "[[[[[[[[", "{\"a\":", "\"\\ud800\"", "\\u0000", ",", "\"", "}",
        "]", "\u{FEFF}",
        "\u{1B}[2J", "\n", "\u{0}", "\u{2028}")

/// Addresses and prefixes of texts: what is taken is what the C library takes, and prints to what reads the same.
final class AddressTextTarget: FuzzTarget {
    let maximumBytes = 128
    let words = oddNumbers + bytes(".", ":", "::", "/", "-", "/32", "/0", "-24", "ffff:", " ", "%eth0")
    let seeds = bytes(
        "10.66.28.0/24", "10.66.28.0-24", "255.255.255.255", "0.0.0.0/0", "fd00:12:13::-56", "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "1:2:3:4:5:6:7:8", "::/0", "127.0.0.1")

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let text = text(bytes)
        var word: UInt32 = 0
        let isIPv4 = !bytes.contains(0) && inet_pton(AF_INET, text, &word) == 1
        let ipv4 = IPv4Address(text)
        try hold((ipv4 != nil) == isIPv4, "IPv4 \(ipv4.map { "\($0)" } ?? "none")")
        if let ipv4 {
            try hold(ipv4.bits == UInt32(bigEndian: word), "another address: \(ipv4)")
            try hold(IPv4Address("\(ipv4)") == ipv4, "\(ipv4) reads as another")
        }
        if let ipv6 = IPv6Address(text) {
            try hold(IPv6Address("\(ipv6)") == ipv6, "\(ipv6) reads as another")
        }
        if let address = IPAddress(text) {
            try hold(IPAddress("\(address)") == address, "\(address) reads as another")
        }
        for separator: Character in ["/", "-"] {
            if let prefix = IPv4Prefix(text, separator: separator) {
                try hold((0...32).contains(prefix.length) && prefix.contains(prefix.last), "\(prefix)")
                try hold(IPv4Prefix("\(prefix)") == prefix, "\(prefix) reads as another")
            }
            if let prefix = IPv6Prefix(text, separator: separator) {
                try hold((0...128).contains(prefix.length), "\(prefix)")
                try hold(IPv6Prefix("\(prefix)") == prefix, "\(prefix) reads as another")
            }
        }
        if let identity = NodeIdentity(text) {
            try hold(NodeIdentity("\(identity)") == identity, "\(identity) reads as another")
            try hold("\(identity)".utf8.count == 8, "\(identity) has other than eight digits")
        }
    }
}

/// Keys of leases: `10.66.28.0-24`, `10.12.13.0-24&fd00:12:13::-56`.
final class LeaseKeyTarget: FuzzTarget {
    let maximumBytes = 256
    let words = oddNumbers + bytes("&", "-", "10.66.28.0-24", "fd00::-64", "/", "~")
    let seeds = bytes(
        "10.66.28.0-24", "10.12.13.0-24&fd00:12:13::-56", "0.0.0.0-0", "255.255.255.255-32&::-0")

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let subnet = LeaseSubnet(key: text(bytes)) else { return }
        try hold(
            LeaseSubnet(key: subnet.key) == subnet,
            "\(subnet) has the key \(subnet.key), which reads as another")
        try hold(subnet.overlaps(subnet) && !(subnet < subnet), "\(subnet) is not itself")
        if subnet.ipv6 == nil {
            try hold(subnet.key.utf8.elementsEqual(bytes), "\(subnet) came of another key")
        }
    }
}

/// Values of leases.
final class LeaseValueTarget: FuzzTarget {
    let maximumBytes = 2048
    let words =
        oddJSON
        + bytes(
            "\"PublicIP\":", "\"BackendData\":", "\"Port\":", "\"BackendType\":", "\"udp\"", "\"vxlan\"",
            "\"0.0.0.0\"", "\"127.0.0.1\"",
            "\"224.0.0.1\"", "\"255.255.255.255\"", "\"PublicIPv6\":")
    var seeds: [[UInt8]] {
        let address = IPv4Address(bits: 0xC612_0902)
        let values = [
            LeaseValue(publicAddress: address, backend: UDPBackend.self),
            LeaseValue(
                publicAddress: address, backend: UDPBackend.self, data: UDPData(port: 8285)),
            LeaseValue(
                publicAddress: address, publicIPv6Address: IPv6Address(high: 0xFD00 << 48, low: 1),
                backend: UDPBackend.self),
        ]
        return values.map { Array($0.json.utf8) }
            + bytes(
                #"{"PublicIP":"10.0.0.1","BackendType":"udp","BackendData":{"Port":8285,"VtepMAC":"aa:bb"},"x":[1,2,{"y":null}]}"#,
                #"{"publicip":"10.0.0.1"}"#)
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let value = try? LeaseValue(parsing: text(bytes)) else { return }
        let addresses = [
            value.publicAddress.map { IPAddress.v4($0) }, value.publicIPv6Address.map { .v6($0) },
        ].compactMap(\.self)
        try hold(!addresses.isEmpty && addresses.allSatisfy(\.isReachable), "\(addresses) were taken")
        try hold(value.port != 0, "port 0 was taken")
        try hold((try? LeaseValue(parsing: value.json)) == value, "\(value.json) reads as another")
    }
}

/// Network configurations.
final class ConfigurationTarget: FuzzTarget {
    let maximumBytes = 2048
    let words =
        oddJSON
        + bytes(
            "\"Network\":", "\"SubnetLen\":", "\"SubnetMin\":", "\"SubnetMax\":", "\"Backend\":", "\"MTU\":",
            "\"Port\":", "\"Type\":",
            "\"EnableIPv6\":", "\"IPv6Network\":", "\"IPv6SubnetLen\":", "\"0.0.0.0/0\"", "\"0.0.0.0/1\"",
            "\"255.255.255.240/28\"",
            "\"224.0.0.0/4\"", "\"::/0\"", "\"10.66.0.0/16\"", "\"10.66.255.0\"", "true", "false")
    let seeds = bytes(
        #"{"Network":"10.66.0.0/16"}"#,
        #"{"Network":"10.66.0.0/16","SubnetLen":24,"SubnetMin":"10.66.1.0","SubnetMax":"10.66.250.0","Backend":{"Type":"udp","Port":8285,"MTU":1472}}"#,
        #"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:12::/48","Backend":{"Type":"vxlan"}}"#,
        #"{"Network":"10.66.0.0/16","EnableIPv4":true,"EnableIPv6":true,"IPv6Network":"fd00:12::/48","IPv6SubnetLen":64,"EnableNFTables":true}"#,
        #"{"Network":"10.0.0.0/28","SubnetLen":30}"#)

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let network = try? NetworkConfiguration(parsing: text(bytes)) else { return }
        try hold(!network.networks.isEmpty, "a network of no family was taken")
        if let ipv4 = network.ipv4 {
            try hold((1...28).contains(ipv4.network.length), "\(ipv4.network) was taken")
            try hold(
                ipv4.subnetLength >= ipv4.network.length + 2 && ipv4.subnetLength <= 30,
                "subnets of \(ipv4.subnetLength) bits in \(ipv4.network)")
            try hold(ipv4.subnetMinimum <= ipv4.subnetMaximum, "SubnetMin is above SubnetMax")
            for address in [ipv4.subnetMinimum, ipv4.subnetMaximum] {
                try hold(ipv4.network.contains(address), "\(address) is not in \(ipv4.network)")
                guard network.ipv6 == nil else { continue }
                let subnet = LeaseSubnet(ipv4: IPv4Prefix(address, length: ipv4.subnetLength))
                try hold(network.admits(subnet), "\(subnet) is not admitted")
            }
        }
        if let ipv6 = network.ipv6 {
            for address in [ipv6.subnetMinimum, ipv6.subnetMaximum] {
                try hold(ipv6.network.contains(address), "\(address) is not in \(ipv6.network)")
                guard network.ipv4 == nil else { continue }
                let subnet = LeaseSubnet(ipv6: IPv6Prefix(address, length: ipv6.subnetLength))
                try hold(network.admits(subnet), "\(subnet) is not admitted")
            }
        }
        try hold(network.backend.port != 0, "port 0 was taken")
        if let mtu = network.backend.mtu(over: .ipv4) {
            try hold((576...65_507).contains(mtu), "MTU \(mtu) was taken")
        }
    }
}

/// `subnet.env`, written by whichever daemon was there before.
final class SubnetFileTarget: FuzzTarget {
    let maximumBytes = 1024
    let words =
        oddNumbers
        + bytes(
            "FLANNEL_NETWORK=", "FLANNEL_SUBNET=", "FLANNEL_MTU=", "FLANNEL_IPMASQ=", "255.255.255.255/32",
            "0.0.0.0/0", "\r\n", "\n", "=",
            "'", "\"", "true", "FLANNEL_IPV6_NETWORK=fd00::/48\n")
    var seeds: [[UInt8]] {
        let network = IPv4Prefix(IPv4Address(bits: 0x0A42_0000), length: 16)
        let subnet = IPv4Prefix(IPv4Address(bits: 0x0A42_1C00), length: 24)
        return [
            Array(
                SubnetFile(ipv4: .init(network: network, subnet: subnet), mtu: 1472, masquerades: true).text
                    .utf8),
            Array(
                SubnetFile(ipv4: .init(network: network, subnet: subnet), mtu: -1, masquerades: false).text
                    .utf8),
        ] + bytes("FLANNEL_SUBNET=\"10.66.28.1/24\"\n")
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let values = SubnetFileValues(text: text(bytes))
        _ = values.dockerOptions
        guard let network = values.network, let subnet = values.subnet, let mtu = values.mtu,
            let masquerades = values.masquerades
        else { return }
        let file = SubnetFile(
            ipv4: .init(network: network, subnet: subnet), mtu: mtu, masquerades: masquerades)
        let again = SubnetFileValues(text: file.text)
        try hold(
            again.network == network && again.mtu == mtu && again.masquerades == masquerades,
            "\(file.text) reads as another")
    }
}

/// What the daemon's status socket answers, as `twilld status` reads and shows it.
final class StatusTarget: FuzzTarget {
    let maximumBytes = 8192
    let words = oddJSON + bytes("\"uptimeSeconds\":", "1e300", "-1e300", "\"value\":")
    var seeds: [[UInt8]] {
        var status = NodeStatus(
            version: "1.2.3", processIdentifier: 42, uptimeSeconds: 100, isReady: true,
            state: "carrying packets",
            store: .init(name: "directory /var/lib/twill", isConnected: true, reconnects: 0))
        status.underlay = .init(interface: "eth0", address: "10.0.0.2", endpoint: "192.0.2.2:8285", mtu: 1500)
        status.tunnel = .init(interface: "flannel0", network: "10.66.0.0/16", mtu: 1472)
        status.lease = .init(
            subnet: "10.66.28.0/24", isReservation: false, ageSeconds: 90_000, expirySeconds: 3_661)
        status.peers = [
            .init(
                subnet: "10.66.29.0/24", endpoint: "10.0.0.3:8285",
                traffic: .init(
                    sent: .init(packets: 7, bytes: 7_000, packetsPerSecond: 1, bytesPerSecond: 1_000),
                    received: .init(packets: 9, bytes: 1_234_567, packetsPerSecond: 0, bytesPerSecond: 0),
                    lastReceivedSeconds: 61))
        ]
        status.counters = [.init(name: "packets_sent", value: 5, meaning: "", perSecond: 5)]
        return [(try? JSONEncoder().encode(status)).map(Array.init) ?? []]
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let status = try? JSONDecoder().decode(NodeStatus.self, from: Data(bytes)) else { return }
        try hold(!status.text().isEmpty, "nothing is shown")
    }
}
