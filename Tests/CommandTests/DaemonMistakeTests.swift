import FoundationEssentials
import Glibc
import NetworkNamespaces
import Testing

@testable import NodeDaemon

/// What people tell a daemon by mistake: what it answers, whether it ends or waits, and what it leaves in the store.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2")) struct DaemonMistakeTests {
    /// A mistake, and what must come of it.
    struct Mistake: CustomTestStringConvertible {
        /// What is wrong with the machine or the store: a shell command, in which DIR stands for the test's folder.
        var before = "true"
        /// The daemon's flags; DIR as above.
        var flags = ""
        /// Words of env(1) in front of the daemon.
        var wrapper = ""
        /// The status that it ends with; nil where it waits for somebody to mend it.
        var status: NodeDaemon.ExitStatus?
        /// Whether it has a subnet all the same.
        var takesLease = false
        /// Words of its log.
        var says: [String]

        var testDescription: String { "\(before): \(wrapper) \(flags)" }
    }

    /// A user without any right; and one with those of root but for the right to every file.
    private static let stranger = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    private static let boundByModes =
        "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search"

    private static let mistakes = [
        Mistake(
            flags: "--iface eth9",
            says: ["--iface=eth9: there is no such interface", "eth0 (198.18.78.1)"]),
        // No store was named, and none is where it usually is.
        Mistake(flags: "-lease-dir=", says: ["127.0.0.1:2379", "Connection refused"]),
        Mistake(flags: "-lease-dir= --etcd-endpoints 127.0.0.1:1", says: ["127.0.0.1:1: Connection refused"]),
        Mistake(flags: "--lease-dir DIR/nope", says: ["DIR/nope is not there"]),
        Mistake(flags: "--lease-dir DIR/store/config", says: ["is a file, not a directory"]),
        // The network's configuration.
        Mistake(
            before: #"echo '{"Network":"10.66.0.0/16","Backend":{"Type":"ipsec"}}' >DIR/store/config"#,
            says: [#"Backend.Type is \"ipsec\""#, "nodes of this network need flanneld"]),
        Mistake(
            before: #"printf '{"Network":"10.66.0.0/16",\n "SubnetLen":24,,}' >DIR/store/config"#,
            says: ["is no JSON", "line 2, column"]),
        Mistake(
            before:
                #"echo '{"Network":"10.66.0.0/16","SubnetLenn":26,"Backend":{"Typ":"udp"}}' >DIR/store/config"#,
            takesLease: true, says: ["unknown key", "SubnetLenn", "Typ"]),
        // The machine.
        Mistake(
            flags: "--mtu 9000", status: .configuration,
            says: ["an MTU of 9000 bytes does not fit", "the underlay's is 1500", "1472 at most"]),
        Mistake(
            flags: "--mtu 100", status: .configuration,
            says: ["an MTU of 100 bytes is too small", "576"]),
        // Rights.
        Mistake(wrapper: stranger, status: .permission, says: ["CAP_NET_ADMIN", "run as root"]),
        Mistake(
            before: "mkdir -m 500 DIR/state", wrapper: boundByModes, status: .configuration,
            says: ["the node's identity can't be kept in DIR/state", "Permission denied"]),
    ]

    @Test(arguments: mistakes) func isAnsweredClearly(mistake: Mistake) async throws {
        let machine = try await TestMachine()
        func filled(_ text: String) -> String { text.replacing("DIR", with: machine.directory) }
        try await machine.run(filled(mistake.before))
        let daemon = try await machine.start(filled(mistake.flags), environment: mistake.wrapper)
        let words = mistake.says.map(filled)
        _ = try await daemon.until("\(words)") {
            let log = daemon.log
            return words.allSatisfy { log.contains($0) } ? true : nil
        }
        if let status = mistake.status {
            #expect(try await daemon.exitStatus() == Int(status.rawValue), "\(daemon.log)")
        } else {
            if mistake.takesLease { _ = try await daemon.ready() }
            daemon.signal(SIGTERM)
            #expect(try await daemon.exitStatus() == 0, "\(daemon.log)")
        }
        for words in MistakeTests.swiftWords { #expect(!daemon.log.contains(words), "\(daemon.log)") }
        let leases = try await machine.run("ls \(machine.directory)/store/subnets")
        #expect(leases.isEmpty == !mistake.takesLease, "\(leases)")
        #expect(try await machine.run("ls \(machine.directory)").contains("nope") == false)
    }

    /// The tunnel's name is that of somebody's device, which stays as it is.
    @Test func aTunnelNameThatIsTakenIsNamed() async throws {
        let machine = try await TestMachine()
        try await machine.run("ip link add flannel0 type veth peer name other")
        let daemon = try await machine.start()
        #expect(try await daemon.exitStatus() == Int(NodeDaemon.ExitStatus.configuration.rawValue))
        #expect(
            daemon.log.contains("flannel0") && daemon.log.contains("taken by a device of another kind"),
            "\(daemon.log)")
        for words in MistakeTests.swiftWords { #expect(!daemon.log.contains(words), "\(daemon.log)") }
        #expect(try await machine.run("ip -d link show flannel0").contains("veth"))
    }
}
