import FoundationEssentials
import Glibc
import NetworkNamespaces
import Testing

@testable import NodeDaemon
@testable import twilld

/// What people type by mistake, and whether the answer says what happened, to what, and what to do. What they tell a
/// daemon is in `DaemonMistakeTests`; what takes a second process in `WorldTests.StartTests` and `DaemonTests`.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2")) struct MistakeTests {
    /// A mistake, the exit status that it ends with, and words of the answer.
    struct Mistake: CustomTestStringConvertible {
        /// A shell command; TWILLD is the program, DIR a folder of the test's own with a store.
        var typed: String
        var status: Int
        var says: [String]

        init(_ typed: String, _ status: NodeDaemon.ExitStatus?, _ says: String...) {
            self.typed = typed
            self.status = status.map { Int($0.rawValue) } ?? 0
            self.says = says
        }

        var testDescription: String { typed }
    }

    private static let mistakes = [
        // Words of the command line.
        Mistake("TWILLD --ifcae eth0", .usage, "Did you mean '--iface'?"),
        Mistake("TWILLD statsu", .usage, #"no command "statsu""#, "did you mean status?"),
        Mistake("TWILLD version", .usage, #"no command "version"; did you mean --version?"#, "twilld --help"),
        Mistake("TWILLD lease lsit", .usage, "did you mean list?"),
        Mistake("TWILLD --ip-masq false", .usage, "--ip-masq=false"),
        Mistake("TWILLD --iface", .usage, "--iface needs a value: --iface=VALUE"),
        Mistake("TWILLD --engine io_uring", .usage, "auto", "uring", "mmsg"),
        Mistake("TWILLD --port 99999", .usage, "--port is 99999; it is 1 to 65535"),
        Mistake("TWILLD --healthz-port -1", .usage, "--healthz-port is -1; it is 1 to 65535"),
        Mistake("TWILLD --tun-name a-name-that-is-long", .usage, "1 to 15 bytes"),
        Mistake("FLANNELD_IP_MASQ=yes TWILLD", .usage, #"FLANNELD_IP_MASQ takes true or false, not "yes""#),
        Mistake(
            "FLANNELD_MTU=big TWILLD", .usage, "--mtu comes from the environment variable FLANNELD_MTU"),
        // The configuration file.
        Mistake(
            "echo 'bussy-poll = 50' >DIR/t.conf; TWILLD --config DIR/t.conf", .configuration,
            "t.conf, line 1",
            #"no flag "bussy-poll""#, "did you mean busy-poll?"),
        Mistake(
            "printf '# poll\\nbusy-poll = 5000\\n' >DIR/t.conf; TWILLD --config DIR/t.conf", .configuration,
            "t.conf, line 2", "--busy-poll is 5000; it is 0 to 1000"),
        Mistake(
            "echo 'ip-masq = maybe' >DIR/t.conf; TWILLD --config DIR/t.conf", .configuration,
            "t.conf, line 1", "true or false"),
        Mistake(
            "TWILLD --config DIR/nope.conf", .configuration, "DIR/nope.conf can't be read",
            "No such file or directory"),
        // The store.
        Mistake(
            "TWILLD lease list --etcd-endpoints http://127.0.0.1:1", .temporary,
            "http://127.0.0.1:1: Connection refused"),
        Mistake("TWILLD lease list", .temporary, "Connection refused", "no store was named", "--lease-dir"),
        Mistake(
            "TWILLD lease list --etcd-endpoints 127.0.0.1:1", .temporary, "127.0.0.1:1: Connection refused"),
        Mistake(
            "TWILLD lease list --etcd-endpoints ftp://10.9.0.5", .configuration,
            #""ftp://10.9.0.5" is no URL such as"#),
        Mistake(
            "TWILLD lease list --etcd-endpoints https://127.0.0.1:1 --etcd-cafile DIR/no.pem", .configuration,
            "DIR/no.pem: No such file or directory"),
        Mistake(
            "TWILLD lease list --lease-dir DIR/nope", .temporary, "DIR/nope is not there",
            "its name right"),
        Mistake(
            "TWILLD lease list --lease-dir DIR/store/config", .configuration, "is a file, not a directory"),
        // The network's configuration.
        Mistake(
            #"printf '{\n "Network": "10.1.0.0/16",\n}\n' | TWILLD network set --lease-dir DIR/store -"#,
            .configuration, "line 3, column 1"),
        Mistake(
            #"echo '{"Network":"10.1.0.0/16","Network":"10.2.0.0/16"}' | TWILLD network set --lease-dir DIR/store -"#,
            .configuration, "stands twice"),
        Mistake(
            #"echo '{"Network":"10.66.0.0/16","SubnetLenn":26,"Backend":{"Typ":"udp"}}' "#
                + "| TWILLD network set --lease-dir DIR/store -", nil, "SubnetLenn", "Typ"),
        Mistake(
            #"echo '{"Network":"10.66.0.0/16","Backend":{"Type":"ipsec"}}' | TWILLD network set --lease-dir DIR/store -"#,
            .configuration, #"Backend.Type is "ipsec""#, "flanneld"),
        Mistake(
            #"TWILLD network set --lease-dir DIR/store '{"Network":"10.66.0.0/16"}'"#, .usage,
            "echo '…' | twilld network set -"),
        Mistake(
            "TWILLD network set --lease-dir DIR/store DIR/nope.json", .usage, "DIR/nope.json can't be read",
            "No such file or directory"),
        // Leases.
        Mistake(
            "TWILLD lease reserve 10.66.28.1/24 --public-ip 10.0.0.1 --lease-dir DIR/store", .usage,
            "did you mean 10.66.28.0/24?"),
        Mistake(
            "TWILLD lease reserve 100.1.2.0/24 --public-ip 10.0.0.1 --lease-dir DIR/store", .configuration,
            "is no subnet of this network", "a /24 from"),
        // The machine.
        Mistake(
            "TWILLD status --status-socket DIR/none.sock", .unavailable, "DIR/none.sock", "is it running"),
        Mistake(
            "TWILLD check --iface eth0 --mtu 9000", .checkFailed, "an MTU of 9000 bytes does not fit", "1472"),
        Mistake(
            "TWILLD check --iface eth9", .checkFailed, "there is no such interface", "eth0 (198.18.78.1)"),
        Mistake(
            "TWILLD check --iface eth0 --etcd-endpoints http://127.0.0.1:1", .checkFailed,
            "FAIL  store", "Connection refused", "1 FAIL"),
        Mistake(
            "TWILLD check --iface eth0 --lease-dir DIR/store", nil, "ok    store", "10.66.0.0/16", "0 FAIL"),
        // What flannel's mk-docker-opts.sh takes.
        Mistake(
            #"printf 'FLANNEL_SUBNET=10.66.3.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n' >DIR/s; "#
                + "TWILLD docker-opts -f DIR/s -d DIR/docker -c -k OPTS; cat DIR/docker",
            nil, #"OPTS=" --bip=10.66.3.1/24 --ip-masq=false --mtu=1472 ""#),
        Mistake("TWILLD docker-opts -f DIR/none", .unavailable, "there is no DIR/none"),
        Mistake("TWILLD docker-opts -k 'a b'", .usage, "is no name of a variable"),
        Mistake("TWILLD --vmodule Leases", .usage, #"--vmodule is "Leases"; it is NAME=LEVEL"#),
        Mistake("TWILLD completion bash", nil, "complete -o filenames"),
        Mistake("TWILLD docker-opts --json -d DIR/docker", .usage, "--json and -d don't go together"),
    ]

    /// What only a programmer understands.
    static let swiftWords = [
        "Error(", "CocoaError", "NSCocoa", "userInfo", "errno:", "Optional(", "rawValue", "descriptor:ptr",
        "NIO",
        "RPCError", "Swift.",
    ]

    @Test(arguments: mistakes) func isAnsweredClearly(mistake: Mistake) async throws {
        let machine = try await TestMachine()
        let command = mistake.typed.replacing("TWILLD", with: RunningDaemon.binary).replacing(
            "DIR", with: machine.directory)
        let answer = try await machine.run("(\(command)); echo status $?")
        #expect(answer.hasSuffix("\nstatus \(mistake.status)\n"), "\(answer)")
        for words in mistake.says {
            let words = words.replacing("DIR", with: machine.directory)
            #expect(answer.contains(words), "\(words) is not in: \(answer)")
        }
        guard !mistake.typed.contains("completion") else { return }
        for words in Self.swiftWords { #expect(!answer.contains(words), "\(answer)") }
        // A look makes nothing.
        #expect(try await machine.run("ls \(machine.directory)").contains("nope") == false)
    }

    /// What programs read, of the commands that change something: the document's schema, and what was done.
    @Test(arguments: [
        (
            #"echo '{"Network":"10.66.0.0/16","Tyop":1}' | TWILLD network set --json --lease-dir DIR/store -"#,
            #"[1, "written", 1]"#, "[.schema, .action, (.remarks | length)]"
        ),
        (
            "TWILLD lease reserve 10.66.28.0/24 --public-ip 10.0.0.1 --lease-dir DIR/store --json",
            #"[1, "reserved", "10.66.28.0/24", "10.0.0.1"]"#, "[.schema, .action, .subnet, .publicAddress]"
        ),
        (
            "TWILLD lease reserve 10.66.28.0/24 --public-ip 10.0.0.1 --lease-dir DIR/store >/dev/null; "
                + "TWILLD lease release 10.66.28.0/24 --lease-dir DIR/store --json",
            #"[1, "released", "10.66.28.0/24"]"#, "[.schema, .action, .subnet]"
        ),
        (
            #"printf 'FLANNEL_SUBNET=10.66.3.1/24\nFLANNEL_MTU=1472\n' >DIR/s; TWILLD docker-opts -f DIR/s --json"#,
            #"[1, "--bip=10.66.3.1/24"]"#, "[.schema, .options[0]]"
        ),
        (
            #"echo FLANNEL_SUBNET=10.66.3.1/24 >DIR/s; TWILLD cleanup --json --subnet-file DIR/s --status-socket DIR/none"#,
            #"[1, ["DIR/s"], "10.66.3.0/24"]"#, "[.schema, .removed, .keptLease]"
        ),
        (
            "TWILLD cleanup --cni --json --cni-bridge none --subnet-file DIR/s", "[1, []]",
            "[.schema, .removed]"
        ),
        (
            "TWILLD bugreport --json --status-socket DIR/none DIR/report.tar",
            #"[1, "DIR/report.tar", true]"#,
            #"[.schema, .path, (.sections | contains(["version.txt"]))]"#
        ),
    ]) func whatIsDoneIsAlsoADocument(typed: String, document: String, filter: String) async throws {
        let machine = try await TestMachine()
        func filled(_ text: String) -> String {
            text.replacing("TWILLD", with: RunningDaemon.binary).replacing("DIR", with: machine.directory)
        }
        let answer = try await machine.run("(\(filled(typed))) | jq -c '\(filter)'")
        let expected = filled(document).replacing(", ", with: ",")
        #expect(answer.split(separator: "\n").map(String.init) == [expected], "\(answer)")
    }

    /// What is advised works.
    @Test func theAdviceOnAnEmptyStoreWorks() async throws {
        let machine = try await TestMachine(config: nil)
        let show = "\(RunningDaemon.binary) network show --lease-dir \(machine.directory)/store"
        let answer = try await machine.run("\(show) || true")
        let advice = try #require(answer.firstMatch(of: #/write one: (.*)/#)?.1)
        let command = advice.replacing(
            "twilld network set",
            with: "\(RunningDaemon.binary) network set --lease-dir \(machine.directory)/store")
        try await machine.run(String(command))
        #expect(try await machine.run(show).contains("10.66.0.0/16"))
    }

    /// `check` names who has the port that the daemon would want.
    @Test func aTakenPortIsNamedByTheCheck() async throws {
        let machine = try await TestMachine()
        let answer = try await machine.run(
            "python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                + #"s.bind(("198.18.78.1", 8285)); print("bound", flush=True); time.sleep(60)' >\#(machine.directory)/bound & "#
                + "holder=$!; until [ -s \(machine.directory)/bound ]; do sleep 0.1; done; "
                + "\(RunningDaemon.binary) check --iface eth0 || true; kill $holder")
        #expect(answer.contains("UDP 198.18.78.1:8285 is held by python3"), "\(answer)")
    }

    /// The processors that there are are named, where one that is not there was asked for.
    @Test func aProcessorThatIsNotThereIsAnsweredWithThoseThatAre() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start("--iface eth0 --cpus 777")
        #expect(try await daemon.exitStatus() == Int(NodeDaemon.ExitStatus.configuration.rawValue))
        let own =
            try execute("sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status")
            .split(whereSeparator: \.isNewline).first ?? ""
        #expect(daemon.log.contains("this process may use \(own)"), "\(daemon.log)")
    }
}
