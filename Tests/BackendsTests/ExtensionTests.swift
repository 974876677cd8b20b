import Addresses
import Glibc
import JSON
import LeaseTesting
import Netlink
import Reconciler
import Testing

@testable import Backends
@testable import Leases

/// alloc and extension as nodes agree on them, and an extension's commands as they are run.
@Suite("alloc and extension") struct ExtensionTests {
    // MARK: What nodes write

    @Test("alloc: a lease of no type, as flannel writes it; and whoever writes none is no stranger")
    func allocation() throws {
        let simulation = Simulation(
            seed: 410, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"alloc"}}"#)
        let first = simulation.addNode("198.18.9.1")
        let second = simulation.addNode("198.18.9.2")
        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.200","PublicIPv6":null}"#)
        simulation.put("10.66.201.0-24", #"{"PublicIP":"198.18.9.201","BackendType":"host-gw"}"#)
        simulation.run(for: .seconds(20))
        let key = try #require(second.subnet)
        #expect(simulation.entries[key]?.value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)
        #expect(Set(first.table.peers.map { "\($0.endpoint)" }) == ["198.18.9.2", "198.18.9.200"])
        #expect(first.table.skipped.map(\.reason) == ["its backend is host-gw, and this network's is alloc"])
    }

    @Test(
        "a node takes no subnet before what its backend needs first is done; then all stands in its first lease"
    )
    func firstThingsFirst() throws {
        let text = #"{"Network":"10.66.0.0/16","Backend":{"Type":"extension","PreStartupCommand":"mac"}}"#
        let backend = try NetworkConfiguration(parsing: text).backend
        let simulation = Simulation(seed: 411, network: text)
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(60))
        #expect(node.table.configuration != nil && node.subnet == nil && simulation.entries.isEmpty)
        // What was done for other commands counts for nothing.
        node.announce("198.18.9.1", preparation: BackendPreparation(ExtensionBackend(), nil))
        simulation.run(for: .seconds(60))
        #expect(node.subnet == nil && simulation.entries.isEmpty)
        node.announce(
            "198.18.9.1",
            preparation: BackendPreparation(
                backend, BackendAnnouncement(ExtensionData(output: "0a:\"58\" <1>"))))
        simulation.run(for: .seconds(1))
        let key = try #require(node.subnet)
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.1","PublicIPv6":null,"BackendType":"extension","#
                + #""BackendData":"0a:\"58\" \u003c1\u003e"}"#)
    }

    @Test(
        "a network that becomes an extension's: the lease is kept and renewed as it is until all is done for it"
    )
    func leaseMeanwhile() throws {
        let simulation = Simulation(seed: 412, network: #"{"Network":"10.66.0.0/16"}"#)
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(20))
        let key = try #require(node.subnet)
        let text = #"{"Network":"10.66.0.0/16","Backend":{"Type":"extension"}}"#
        simulation.setConfiguration(text)
        simulation.run(for: .seconds(3 * 86_400))
        #expect(node.subnet == key)
        #expect(simulation.entries[key]?.value == #"{"PublicIP":"198.18.9.1","PublicIPv6":null}"#)
        let backend = try NetworkConfiguration(parsing: text).backend
        node.announce("198.18.9.1", preparation: BackendPreparation(backend, nil))
        simulation.run(for: .seconds(1))
        #expect(
            simulation.entries[key]?.value
                == #"{"PublicIP":"198.18.9.1","PublicIPv6":null,"BackendType":"extension"}"#)
    }

    @Test("what another node's command printed is read as text, and anything else is named")
    func announced() throws {
        let simulation = Simulation(
            seed: 413, network: #"{"Network":"10.66.0.0/16","Backend":{"Type":"extension"}}"#)
        let node = simulation.addNode("198.18.9.1")
        let leases = [
            ("10.66.201.0-24", #"{"PublicIP":"198.18.9.3","BackendType":"extension","BackendData":"a\nb"}"#),
            ("10.66.202.0-24", #"{"PublicIP":"198.18.9.4","BackendType":"extension","BackendData":null}"#),
            ("10.66.203.0-24", #"{"PublicIP":"198.18.9.5","BackendType":"extension","BackendData":{"a":1}}"#),
        ]
        for (key, value) in leases { simulation.put(key, value) }
        simulation.run(for: .seconds(5))
        #expect(
            node.table.peers.map { ($0.announced?.value as? ExtensionData)?.output } == ["a\nb", nil])
        #expect(node.table.skipped.map(\.key) == ["10.66.203.0-24"])
        #expect(node.table.skipped.first?.reason.contains("text is needed") == true)
    }

    // MARK: Commands

    @Test(
        "variables are put into words as flanneld does; nothing is ever read as a command",
        arguments: [
            ("via$A", "via1"), ("${A}/24", "1/24"), ("$NONE", ""), ("a$", "a$"), ("$.x", "$.x"),
            ("${A", "${A"),
            ("$A$B", "1; reboot"), ("$A-$A", "1-1"), ("${}", ""), ("'$A'", "'1'"),
        ])
    func variables(word: String, result: String) {
        #expect(ExtensionCommand.expand(word, ["A": "1", "B": "; reboot"]) == result)
    }

    private static let machine = BackendMachine(environment: [
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FLANNELD_ETCD_PASSWORD": "secret", "OWN": "mine",
    ])

    private func command(_ text: String) throws -> ExtensionCommand {
        try #require(ExtensionCommand("SubnetAddCommand", text))
    }

    @Test("a command gets flanneld's standard input and environment, without flanneld's own flags")
    func oneCommand() throws {
        #expect(ExtensionCommand("PreStartupCommand", " \t\n") == nil)
        #expect(try command("cat").run(environment: Self.machine.environment, input: " a b ") == "a b")
        #expect(try command("printenv OWN").run(environment: Self.machine.environment) == "mine")
        #expect(Self.machine.environment["FLANNELD_ETCD_PASSWORD"] == nil)
        let missing = #expect(throws: ExtensionCommandError.self) {
            try command("no-such-program-here x").run(environment: [:])
        }
        #expect(missing?.description.contains("\"no-such-program-here\"") == true)
        let hung = #expect(throws: ExtensionCommandError.self) {
            try command("tail -f /dev/null").run(
                environment: Self.machine.environment, timeoutMilliseconds: 1000)
        }
        #expect(hung?.description.contains("did not end within 1 s") == true)
        let failed = #expect(throws: ExtensionCommandError.self) {
            try command("ls /no/such/file").run(environment: Self.machine.environment)
        }
        #expect(failed?.description.hasPrefix("SubnetAddCommand ended with status 2: ") == true)
        #expect(failed?.description.contains("/no/such/file") == true)
    }

    /// A directory with a script that writes down what it was called with, and fails where a file says so.
    private final class Notes {
        let directory: String

        init() throws {
            var template = Array("/tmp/twill-extension.XXXXXX".utf8CString)
            directory = String(cString: try #require(mkdtemp(&template)))
            let script = """
                #!/bin/sh
                read -r input
                echo "$1 $SUBNET $PUBLIC_IP $NETWORK $input${IPV6SUBNET:+ $IPV6SUBNET $PUBLIC_IPV6}" >> \(directory)/notes
                test ! -e \(directory)/fail-$1
                """
            let file = try #require(fopen("\(directory)/note", "w"))
            fputs(script, file)
            fclose(file)
            chmod("\(directory)/note", 0o755)
        }

        deinit { system("rm -r \(directory)") }

        var lines: [String] {
            guard let file = fopen("\(directory)/notes", "r") else { return [] }
            defer { fclose(file) }
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = fread(&bytes, 1, bytes.count, file)
            return String(decoding: bytes.prefix(count), as: UTF8.self).split(separator: "\n").map(
                String.init)
        }

        func backend() throws -> any Backend {
            try NetworkConfiguration(
                parsing: """
                    {"Network":"10.66.0.0/16","Backend":{"Type":"extension",
                     "PreStartupCommand":"\(directory)/note before","PostStartupCommand":"\(directory)/note after",
                     "SubnetAddCommand":"\(directory)/note add","SubnetRemoveCommand":"\(directory)/note remove"}}
                    """
            ).backend
        }
    }

    private func place(_ directory: String) throws -> BackendPlace {
        BackendPlace(
            network: .v4(try #require(IPv4Prefix("10.66.0.0/16"))),
            subnet: .v4(try #require(IPv4Prefix("10.66.28.0/24"))), tunnelName: "flannel0",
            alias: "twilld \(directory)", underlayName: "eth0", underlayIndex: 2,
            underlayAddress: .v4(IPv4Address(198, 18, 9, 2)), publicAddress: .v4(IPv4Address(198, 18, 9, 2)),
            mtu: 1500, queueLength: 1000, machine: Self.machine)
    }

    private func peer(_ number: Int, _ address: String, _ output: String? = nil) throws -> BackendPeer {
        BackendPeer(
            subnet: .v4(try #require(IPv4Prefix("10.66.\(number).0/24"))),
            address: try #require(IPAddress(address)),
            announced: output.map { BackendAnnouncement(ExtensionData(output: $0)) })
    }

    private func wait(_ what: String, _ condition: () -> Bool) async throws {
        for _ in 0..<3000 where !condition() { try await Task.sleep(for: .milliseconds(10)) }
        #expect(condition(), "\(what)")
    }

    @Test(
        "commands are run once for this node and each other one, and again for what changes; a failure is named"
    )
    func commandsOfNodes() async throws {
        let notes = try Notes()
        let backend = try notes.backend()
        #expect(
            "\(backend)" == "extension, commands: PreStartupCommand, PostStartupCommand, SubnetAddCommand, "
                + "SubnetRemoveCommand")
        let place = try place(notes.directory)
        let socket = try RouteSocket()
        func follow(_ peers: [BackendPeer]) throws -> any OwnedItem {
            let items = backend.desiredItems(in: place, peers: peers)
            let item = try #require(items.first as? any OwnedItem)
            if try item.deviation(in: NetworkState()) != nil {
                try item.update(in: NetworkState(), using: socket)
            }
            return item
        }
        let peers = [try peer(3, "198.18.9.3", "mac-3"), try peer(4, "198.18.9.4")]
        var item = try follow(peers)
        var expected = [
            "after 10.66.28.0/24 198.18.9.2 10.66.0.0/16 ", "add 10.66.3.0/24 198.18.9.3  mac-3",
            "add 10.66.4.0/24 198.18.9.4  ",
        ]
        try await wait("the first nodes") { notes.lines == expected }
        // Looked at again, nothing is run again.
        item = try follow(peers)
        item = try follow([try peer(3, "198.18.9.3", "mac-three")])
        expected += [
            "remove 10.66.3.0/24 198.18.9.3  mac-3", "remove 10.66.4.0/24 198.18.9.4  ",
            "add 10.66.3.0/24 198.18.9.3  mac-three",
        ]
        try await wait("one that announces something else, and one that goes") { notes.lines == expected }
        #expect(try item.deviation(in: NetworkState()) == nil)

        system("touch \(notes.directory)/fail-add")
        item = try follow([try peer(3, "198.18.9.3", "mac-three"), try peer(5, "198.18.9.5")])
        expected += ["add 10.66.5.0/24 198.18.9.5  "]
        func problem() -> String? {
            do { return try item.deviation(in: NetworkState()) } catch { return "\(error)" }
        }
        try await wait("a failure") { notes.lines == expected && problem() != nil }
        #expect(
            problem()?.contains("10.66.5.0/24 at 198.18.9.5: SubnetAddCommand ended with status 1") == true)
        // The network is another backend's.
        try item.delete(using: socket)
        expected += ["remove 10.66.3.0/24 198.18.9.3  mac-three", "remove 10.66.5.0/24 198.18.9.5  "]
        try await wait("the end") { notes.lines == expected }
    }

    @Test("in a network of both families a command is run once for a node, with what it has of each")
    func commandsOfBothFamilies() async throws {
        func side(_ subnet: String, _ address: String) throws -> BackendSide {
            BackendSide(subnet: try #require(IPPrefix(subnet)), address: try #require(IPAddress(address)))
        }
        let notes = try Notes()
        let backend = try notes.backend()
        let socket = try RouteSocket()
        var place = try place(notes.directory)
        place.ipv6 = try side("fd00:66:0:1c::/64", "fd20::2")
        var both = try peer(3, "198.18.9.3")
        both.ipv6 = try side("fd00:66:0:3::/64", "fd20::3")
        func follow(_ place: BackendPlace, _ peers: [BackendPeer]) throws -> any OwnedItem {
            let item = try #require(
                backend.desiredItems(in: place, peers: peers).first as? any OwnedItem)
            try item.update(in: NetworkState(), using: socket)
            return item
        }
        var item = try follow(place, [both, try peer(4, "198.18.9.4")])
        var expected = [
            "after 10.66.28.0/24 198.18.9.2 10.66.0.0/16  fd00:66:0:1c::/64 fd20::2",
            "add 10.66.3.0/24 198.18.9.3   fd00:66:0:3::/64 fd20::3", "add 10.66.4.0/24 198.18.9.4  ",
        ]
        try await wait("both families") { notes.lines == expected }
        // Of IPv6 the daemon wants the same thing, which it wants once.
        var second = place
        second.network = try #require(IPPrefix("fd00:66::/48"))
        (second.subnet, second.publicAddress, second.ipv6) = (
            try #require(place.ipv6).subnet, try #require(IPAddress("fd20::2")), nil
        )
        #expect(backend.desiredItems(in: second, peers: []).map(\.name) == [item.name])
        // The node has no IPv6 any more.
        place.ipv6 = nil
        item = try follow(place, [both])
        expected += [
            "remove 10.66.3.0/24 198.18.9.3   fd00:66:0:3::/64 fd20::3", "remove 10.66.4.0/24 198.18.9.4  ",
            "after 10.66.28.0/24 198.18.9.2 10.66.0.0/16 ", "add 10.66.3.0/24 198.18.9.3  ",
        ]
        try await wait("IPv4 alone") { notes.lines == expected }
        try item.delete(using: socket)
        expected += ["remove 10.66.3.0/24 198.18.9.3  "]
        try await wait("the end") { notes.lines == expected }
        // A network of IPv6 alone.
        item = try follow(second, [])
        expected += ["after   fd00:66::/48  fd00:66:0:1c::/64 fd20::2"]
        try await wait("IPv6 alone") { notes.lines == expected }
    }

    @Test("what PreStartupCommand prints is announced; where it fails, that is told and nothing is announced")
    func preparation() throws {
        let notes = try Notes()
        let backend = try notes.backend()
        #expect((try backend.prepare(on: Self.machine)?.value as? ExtensionData)?.output == "")
        #expect(notes.lines == ["before    "])
        system("touch \(notes.directory)/fail-before")
        let error = #expect(throws: ItemProblem.self) { try backend.prepare(on: Self.machine) }
        #expect(error?.problem.cause == "PreStartupCommand ended with status 1")
        #expect(error?.needsAnotherKernel == false)
    }
}
