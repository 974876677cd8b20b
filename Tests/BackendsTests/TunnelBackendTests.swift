import Addresses
import Glibc
import LeaseTesting
import Netlink
import Reconciler
import Testing

@testable import Backends
@testable import Leases

/// ipip and wireguard as nodes agree on them, and what wireguard makes of its peers; without the kernel, which may have
/// neither.
@Suite("ipip and wireguard") struct TunnelBackendTests {
    private static let keys = [
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
        "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
    ].map { WireGuardKey(base64: $0)! }

    private func configuration(_ type: String, _ members: String = "") throws -> NetworkConfiguration {
        try NetworkConfiguration(
            parsing: "{\"Network\":\"10.66.0.0/16\",\"Backend\":{\"Type\":\"\(type)\"\(members)}}")
    }

    // MARK: What nodes write

    @Test("ipip: 20 bytes, nothing announced but its name, as flannel writes it")
    func ipip() throws {
        let backend = try configuration("ipip").backend
        #expect(backend.overhead(over: .ipv4) == 20 && backend.mtu(over: .ipv4) == nil && backend.port == 0)
        let simulation = Simulation(
            seed: 420, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"IPIP","DirectRouting":true}}"#)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(20))
        let key = try #require(second.subnet)
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"BackendType":"ipip"}"#)
        #expect(first.table.peers.map { "\($0.endpoint)" } == ["198.18.9.2"])
        let taken = try #require(first.table.configuration).backend
        #expect("\(taken)" == "ipip, direct routing")
    }

    @Test(
        "wireguard: 80 bytes whatever the family, as flannel leaves them; Backend.MTU is the outer packet's")
    func sizes() throws {
        let backend = try configuration("wireguard", #","MTU":1400,"ListenPort":51000"#).backend
        #expect(backend.overhead(over: .ipv4) == 80 && backend.overhead(over: .ipv6) == 80)
        #expect(backend.mtu(over: .ipv4) == 1320 && backend.port == 51_000)
        #expect(WireGuardBackend().mtu(over: .ipv4) == nil && WireGuardBackend().port == 51_820)
    }

    @Test("wireguard: a node's first lease has its key; a node without one, or with what is none, is named")
    func announcement() throws {
        let text = #"{"Network":"10.66.0.0/16","Backend":{"Type":"wireguard"}}"#
        let backend = try NetworkConfiguration(parsing: text).backend
        let simulation = Simulation(seed: 421, network: text)
        let node = simulation.addNode("198.18.9.1")
        simulation.put("10.66.201.0-24", #"{"PublicIP":"198.18.9.3","BackendType":"wireguard"}"#)
        simulation.put(
            "10.66.202.0-24",
            #"{"PublicIP":"198.18.9.4","BackendType":"wireguard","BackendData":{"PublicKey":"no key"}}"#)
        simulation.put(
            "10.66.203.0-24",
            #"{"PublicIP":"198.18.9.5","BackendType":"wireguard","BackendData":{"PublicKey":"\#(Self.keys[1].base64)","Port":51000}}"#
        )
        simulation.put(
            "10.66.204.0-24",
            #"{"PublicIP":"198.18.9.6","BackendType":"wireguard","BackendData":{"publickey":"\#(Self.keys[2].base64)"}}"#
        )
        simulation.run(for: .seconds(20))
        #expect(node.subnet == nil)
        node.announce(
            "198.18.9.1",
            preparation: BackendPreparation(
                backend, BackendAnnouncement(WireGuardData(publicKey: Self.keys[0], port: 51_820))))
        simulation.run(for: .seconds(1))
        let key = try #require(node.subnet)
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.1","PublicIPv6":null,"BackendType":"wireguard","#
                + #""BackendData":{"PublicKey":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=","Port":51820}}"#
        )
        #expect(
            node.table.peers.map { "\($0.endpoint)" }.filter { $0 != "198.18.9.1:51820" }
                == ["198.18.9.5:51000", "198.18.9.6:51820"])
        let reasons = node.table.skipped.map(\.reason)
        #expect(node.table.skipped.map(\.key) == ["10.66.201.0-24", "10.66.202.0-24"])
        #expect(
            reasons.first?.contains("no PublicKey") == true && reasons.last?.contains("no key of") == true)
    }

    @Test(
        "each key is another backend where it is another, a wrong one is named, and a secret is never repeated"
    )
    func keysOfConfigurations() throws {
        let secret = Self.keys[0].base64
        let pairs = [
            "listenport": ("51820", "51000"), "mtu": ("1400", "1401"),
            "psk": ("\"\(secret)\"", "\"\(Self.keys[1].base64)\""),
            "persistentkeepaliveinterval": ("0", "25"),
        ]
        #expect(WireGuardBackend.keys == Set(pairs.keys).union(["mode", "listenportv6"]))
        for (key, (one, other)) in pairs {
            let first = try configuration("wireguard", ",\"\(key)\":\(one)")
            #expect(first != (try configuration("wireguard", ",\"\(key)\":\(other)")), "\(key)")
        }
        #expect(try configuration("wireguard", #","ListenPortV6":51001"#) == configuration("wireguard"))
        for mode in ["separate", "auto", "ipv4"] {
            #expect(try configuration("wireguard", ",\"Mode\":\"\(mode)\"") == configuration("wireguard"))
        }
        let withSecret = try configuration("wireguard", ",\"PSK\":\"\(secret)\"").backend
        #expect("\(withSecret)" == "wireguard, port 51820, PSK")
        for (members, words) in [
            (#","Mode":"Auto""#, "separate, auto, ipv4 or ipv6"), (#","Mode":"ipv6""#, "IPv6 addresses"),
            (#","PSK":"swordfish""#, "wg genpsk"), (#","PSK":7"#, "no text"),
            (#","MTU":600"#, "656 to 65535"),
            (#","ListenPort":70000"#, "ListenPort"), (#","ListenPortV6":70000"#, "ListenPortV6"),
            (#","PersistentKeepaliveInterval":-1"#, "seconds"),
        ] {
            let error = #expect(throws: NetworkConfigurationError.self) {
                try configuration("wireguard", members)
            }
            #expect(error?.description.contains(words) == true, "\(members)")
            #expect(error?.description.contains("swordfish") == false)
        }
        #expect(IPIPBackend.keys == ["directrouting"])
        #expect(
            try configuration("ipip", #","DirectRouting":true"#)
                != configuration("ipip", #","DirectRouting":false"#))
        let error = #expect(throws: NetworkConfigurationError.self) {
            try configuration("ipip", #","DirectRouting":"yes""#)
        }
        #expect(error?.description.contains("DirectRouting") == true)
    }

    // MARK: Peers of wireguard

    private func peer(_ number: Int, _ key: Int, port: UInt16? = nil) throws -> BackendPeer {
        BackendPeer(
            subnet: .v4(try #require(IPv4Prefix("10.66.\(number).0/24"))),
            address: try #require(IPAddress("198.18.9.\(number)")),
            announced: BackendAnnouncement(WireGuardData(publicKey: Self.keys[key], port: port)))
    }

    private func items(_ peers: [BackendPeer], secret: WireGuardKey? = nil) -> WireGuardPeers {
        WireGuardPeers(
            interfaceName: "flannel-wg", publicKey: Self.keys[0], keyFile: "/nonexistent", port: 51_820,
            peers: peers, usualPort: 51_820, presharedKey: secret, keepaliveSeconds: 25)
    }

    private func there(_ number: Int, _ key: Int, _ endpoint: String, handshake: Int64 = 0) throws
        -> WireGuardPeer
    {
        var peer = WireGuardPeer(
            key: Self.keys[key],
            endpoint: Endpoint(address: try #require(IPAddress(endpoint)), port: 51_820),
            keepaliveSeconds: 25,
            allowedPrefixes: [.v4(try #require(IPv4Prefix("10.66.\(number).0/24")))])
        peer.lastHandshake = handshake
        return peer
    }

    @Test("exactly the peers that there are: what is right is left, what is gone goes first")
    func peers() throws {
        let item = items([try peer(3, 1), try peer(4, 2, port: 51_000)])
        var device = WireGuardDevice()
        device.peers = [try there(3, 1, "198.18.9.3")]
        var added = try there(4, 2, "198.18.9.4")
        added.endpoint?.port = 51_000
        #expect(item.changes(to: device, now: 1000) == [.set(added)])
        device.peers = [try there(3, 1, "198.18.9.3"), added]
        #expect(item.changes(to: device, now: 1000) == [])
        let other = items([try peer(4, 1)])
        #expect(
            other.changes(to: device, now: 1000)
                == [.remove(Self.keys[2]), .set(try there(4, 1, "198.18.9.4"))])
        #expect(items([try peer(3, 1)], secret: Self.keys[2]).changes(to: device, now: 1000).count == 2)
    }

    @Test(
        "a peer that proved who it is a moment ago is left where it sends from; one that has not is sent to its lease's"
    )
    func roaming() throws {
        let item = items([try peer(3, 1)])
        var device = WireGuardDevice()
        let life = WireGuardPeers.handshakeLifeSeconds
        device.peers = [try there(3, 1, "203.0.113.9", handshake: 1000)]
        #expect(item.changes(to: device, now: 1000 + life - 1) == [])
        #expect(item.changes(to: device, now: 1000 + life) == [.set(try there(3, 1, "198.18.9.3"))])
    }

    @Test("a key that two nodes have, or this one, is one peer's at most")
    func clashes() throws {
        let item = items([try peer(3, 1), try peer(4, 1), try peer(5, 0)])
        #expect(item.changes(to: WireGuardDevice(), now: 1000) == [.set(try there(3, 1, "198.18.9.3"))])
    }

    // MARK: The key

    @Test("the key is made once, where flanneld keeps it, and nobody but root reads it")
    func keyFile() throws {
        var template = Array("/tmp/twill-wgkey.XXXXXX".utf8CString)
        let directory = String(cString: try #require(mkdtemp(&template)))
        defer { system("rm -r \(directory)") }
        let file = WireGuardKeyFile(path: "\(directory)/new/wgkey")
        #expect(try file.read() == nil)
        let key = try file.secret()
        #expect(try file.secret() == key && file.read() == key)
        #expect(key.bytes[0] & 7 == 0 && key.bytes[31] & 192 == 64)
        var status = stat()
        stat(file.path, &status)
        #expect(status.st_mode & 0o777 == 0o400)
        system("echo nonsense > \(directory)/bad; mkdir \(directory)/folder")
        for (name, words) in [("bad", "no private key"), ("folder", "cannot be read")] {
            let error = #expect(throws: ItemProblem.self) {
                try WireGuardKeyFile(path: "\(directory)/\(name)").secret()
            }
            #expect(error?.problem.cause.contains(words) == true && error?.needsAnotherKernel == false)
        }
        // As flanneld writes it, without an end of the line.
        system("printf %s \(Self.keys[0].base64) > \(directory)/flannel")
        #expect(try WireGuardKeyFile(path: "\(directory)/flannel").secret() == Self.keys[0])
        #expect(BackendMachine(environment: ["WIREGUARD_KEY_FILE": "/etc/k"]).keyFile == "/etc/k")
        #expect(BackendMachine().keyFile == "/run/flannel/wgkey")
    }
}
