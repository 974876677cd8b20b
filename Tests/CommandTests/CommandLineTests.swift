import Addresses
import ArgumentParser
import Devices
import FoundationEssentials
import KubernetesNodes
import LeaseDirectory
import LeaseEtcd
import Logging
import Node
import Testing
import Worker

@testable import NodeDaemon
@testable import twilld

/// Parses a whole command line, as `main` does.
private func parse(_ words: [String], environment: [String: String] = [:]) throws -> any ParsableCommand {
    let line = try CommandLineWords(words, environment: environment) { path throws(ExitFailure) in
        throw ExitFailure(.configuration, "no \(path)")
    }
    return try Twilld.parseAsRoot(line.words)
}

private func parseRun(_ words: [String], environment: [String: String] = [:]) throws -> Run {
    try #require(try parse(words, environment: environment) as? Run)
}

/// The exit status that a command line ends with.
private func exitStatus(_ words: [String]) -> Int32? {
    do {
        var command = try parse(words)
        if !(command is any FlagTaking) { try command.run() }
        return nil
    } catch let failure as ExitFailure {
        return failure.status.rawValue
    } catch {
        return Twilld.exitCode(for: error).rawValue
    }
}

@Suite struct CommandLineTests {
    @Test func noSubcommandIsRun() throws {
        #expect(try parse([]) is Run)
        #expect(try parse(["run"]) is Run)
        #expect(try parse(["-ip-masq"]) is Run)
        #expect(try parse(["check"]) is Check)
    }

    @Test func defaultsAreFlanneldsOwn() throws {
        let options = try parseRun([]).options
        #expect(
            options.origin
                == .store(
                    .etcd(
                        EtcdConfiguration(
                            endpoints: ["http://127.0.0.1:4001", "http://127.0.0.1:2379"],
                            prefix: "/coreos.com/network"))))
        #expect(options.lease.subnetFile == "/run/flannel/subnet.env")
        #expect(options.lease.renewalMargin == .seconds(3600))
        #expect(options.rules.resyncInterval == .seconds(5))
        #expect(options.rules.acceptsForwarding)
        #expect(!options.rules.masquerades)
        #expect(!options.rules.hasBlackholeRoute)
        #expect(options.observation.healthHost == "0.0.0.0")
        #expect(options.observation.healthPort == 0)
        #expect(options.tunnel.interfaceName == "flannel0")
        #expect(!options.tunnel.acceptsAnySource)
    }

    @Test func aNodeWithoutFlagsIsANodeWithoutACommandLine() throws {
        let options = try parseRun(["-lease-dir=/d"]).options
        var expected = NodeOptions(origin: .store(.directory(path: "/d")))
        expected.take(environment: ProcessInfo.processInfo.environment)
        #expect(options == expected)
    }

    @Test func everyFlagOfTheTableIsDeclared() throws {
        let help = Run.helpMessage(columns: 400)
        for flag in Run.flags { #expect(help.contains("--\(flag.name) "), "\(flag.name)") }
    }

    @Test func everyDeclaredFlagIsInTheTable() throws {
        let names = Set(Run.flags.map(\.name) + ["config", "version", "help"])
        let declared = Run.helpMessage(columns: 400).split(separator: "\n").compactMap { line -> String? in
            line.hasPrefix("  --") ? String(line.dropFirst(4).prefix { $0 != " " }) : nil
        }
        #expect(declared.count > 30)
        for name in declared { #expect(names.contains(name), "\(name)") }
    }

    private static func leaves(_ command: any ParsableCommand.Type) -> [any ParsableCommand.Type] {
        let below = command.configuration.subcommands
        return below.isEmpty ? [command] : below.flatMap(leaves)
    }

    /// Each command that takes a flag of the daemon's takes its file too, and says so.
    @Test func everyCommandThatReadsTheFileSaysSo() throws {
        let commands = Self.leaves(Twilld.self).filter { $0 is any FlagTaking.Type }
        #expect(commands.count > 10)
        for command in commands {
            let help = Twilld.helpMessage(for: command, columns: 400)
            #expect(help.contains("  --config <file> "), "\(command)")
        }
    }

    /// Each command that is no daemon and no script has a form for programs.
    @Test func everyCommandHasJSON() {
        let commands = Self.leaves(Twilld.self).filter { $0 != Run.self && $0 != Completion.self }
        #expect(commands.count > 10)
        for command in commands {
            let help = Twilld.helpMessage(for: command, columns: 400)
            #expect(help.contains("  --json "), "\(command)")
        }
    }

    /// Command lines as unit files and init scripts in the wild have them.
    @Test(arguments: [
        """
        --etcd-endpoints=https://10.0.0.1:2379,https://10.0.0.2:2379 --etcd-cafile=/etc/ssl/ca.pem \
        --etcd-certfile=/etc/ssl/node.pem --etcd-keyfile=/etc/ssl/node.key --iface=eth1 --ip-masq
        """,
        "-etcd-endpoints http://127.0.0.1:2379 -etcd-prefix /coreos.com/network -iface 10.0.0.5 -v 4",
        "-etcd-endpoints=http://10.0.0.1:2379 -ip-masq=true -healthz-port 8471 -vmodule=network=10",
        """
        -public-ip= -iface-regex=^eth.*$ -iface-regex 192\\.168\\..* -subnet-lease-renew-margin=120 \
        -iptables-resync=30 -iptables-forward-rules=false -ip-blackhole-route -kube-subnet-mgr=false
        """,
    ])
    func flanneldCommandLinesParse(line: String) throws {
        _ = try parseRun(line.split(separator: " ").map(String.init))
    }

    @Test func everyFlagReachesTheOption() throws {
        var etcd = EtcdConfiguration(endpoints: ["http://h:1", "http://h:2"], prefix: "/p")
        etcd.authorityFile = "ca"
        etcd.certificateFile = "cert"
        etcd.keyFile = "key"
        etcd.username = "u"
        etcd.password = "w"
        var expected = NodeOptions(origin: .store(.etcd(etcd)))
        expected.underlay = UnderlayOptions(
            interfaces: ["eth0", "eth1"], interfacePatterns: ["^e"],
            reachableAddress: .v4(IPv4Address(192, 0, 2, 9)), publicAddress: IPv4Address(192, 0, 2, 1))
        expected.underlay.publicIPv6Address = IPv6Address("2001:db8::1")
        expected.lease.subnetFile = "/s"
        expected.lease.stateDirectory = "/t"
        expected.lease.renewalMargin = .seconds(7200)
        expected.take(environment: ProcessInfo.processInfo.environment)
        expected.lease.lossPolicy = .exit
        expected.rules.masquerades = true
        expected.rules.randomizesPorts = false
        expected.rules.acceptsForwarding = false
        expected.rules.hasBlackholeRoute = true
        expected.rules.resyncInterval = .seconds(30)
        expected.tunnel.interfaceName = "tun7"
        expected.tunnel.mtu = 1400
        expected.tunnel.port = 8299
        expected.tunnel.acceptsAnySource = true
        expected.tunnel.pathProbeInterval = nil
        expected.tuning.batch = 32
        expected.succession.takesOver = false
        expected.succession.stop = .remove
        expected.succession.waitsWhenTakenOver = true
        expected.observation.healthHost = "127.0.0.1"
        expected.observation.healthPort = 8471
        expected.observation.peerMetricsLimit = 7
        expected.observation.statusSocket = "/x"
        expected.observation.logVerbosity = LogVerbosity(
            .debug, places: [.init("network", .debug), .init("Lease*", .info)])
        let words =
            "-etcd-endpoints http://h:1,http://h:2 -etcd-prefix /p -etcd-cafile ca -etcd-certfile cert"
            + " -etcd-keyfile key -etcd-username u -etcd-password w -iface eth0 -iface=eth1 -iface-regex ^e"
            + " -iface-can-reach 192.0.2.9 -public-ip=192.0.2.1 -public-ipv6 2001:db8::1 -subnet-file /s"
            + " -state-dir /t -subnet-lease-renew-margin 120 -on-lease-loss=exit -ip-masq"
            + " -ip-masq-fully-random-disable -iptables-forward-rules=false -ip-blackhole-route"
            + " -iptables-resync 30 -tun-name tun7 -mtu 1400 -port 8299 -accept-any-source"
            + " -path-probe-interval 0 -batch 32 -healthz-ip 127.0.0.1 -healthz-port=8471 -metrics-peers 7"
            + " -status-socket /x -v 2 -vmodule=network=10,Lease*=0"
            + " -no-takeover -on-stop remove -when-taken-over=wait"
        #expect(try parseRun(words.split(separator: " ").map(String.init)).options == expected)
    }

    @Test(arguments: [
        (-1, Logger.Level.info), (0, .info), (1, .debug), (2, .debug), (10, .debug),
    ])
    func verbosityIsALevel(number: Int, level: Logger.Level) throws {
        #expect(try parseRun(["-v=\(number)"]).options.observation.logVerbosity.level == level)
    }

    @Test(arguments: [
        ["-nonsense"], ["-iface"], ["-ip-masq", "false"], ["--mtu=67"], ["--mtu=65508"], ["--mtu=big"],
        ["--public-ip=10.0.0"], ["--subnet-lease-renew-margin=0"], ["--subnet-lease-renew-margin=1440"],
        ["--tun-name=sixteen-bytes-xx"], ["--tun-name=a/b"], ["--vmodule=x"], ["--vmodule==1"],
        ["--vmodule=a=b"],
        ["--etcd-endpoints=,"], ["--on-lease-loss=cry"], ["--iptables-resync=-1"], ["--healthz-port=65536"],
        ["nonsense"], ["check", "--nonsense"], ["lease", "nonsense"],
    ])
    func badCommandLinesEndWithUsage(words: [String]) {
        #expect(exitStatus(words) == ExitStatus.usage.rawValue)
    }

    @Test(arguments: [
        ["--version"], ["-version"], ["--help"], ["-help"], ["run", "-help"], ["check", "-h"],
    ])
    func helpAndVersionEndWithZero(words: [String]) {
        #expect(exitStatus(words) == 0)
    }

    @Test func anErrorNamesTheVariableThatCausedIt() throws {
        let line = try CommandLineWords([], environment: ["FLANNELD_MTU": "big"]) { _ in "" }
        let error = #expect(throws: (any Error).self) { try Twilld.parseAsRoot(line.words) }
        let text = Twilld.fullMessage(for: try #require(error))
        #expect(line.notes(onError: text) == ["--mtu comes from the environment variable FLANNELD_MTU"])
    }

    /// Words that flanneld starts with, in this release or an old one.
    @Test(arguments: [
        (["-log_backtrace_at=main.go:1"], ["log_backtrace_at"]), (["-vmodule=network=10"], []),
        (["-logtostderr", "-alsologtostderr=true"], ["logtostderr", "alsologtostderr"]),
        (["-log_dir=/var/log", "-stderrthreshold", "INFO"], ["stderrthreshold", "log_dir"]),
        (["-etcd-username=u"], ["etcd-username"]), (["-etcd-keyfile=/k"], ["etcd-keyfile"]),
        (["-etcd-certfile=/c"], ["etcd-certfile"]), (["-etcd-password=p"], ["etcd-password"]),
        (["-etcd-username=u", "-etcd-password=p"], []), ([], []), (["-v=4"], []),
    ])
    func whatHasNoEffectIsTakenAndNamed(words: [String], flags: [String]) throws {
        let options = try parseRun(words).options
        let remarks = options.origin.remarks.map { String($0.dropFirst(2).prefix { $0 != " " }) }
        #expect(options.ineffective.compactMap(\.name) + remarks == flags)
    }

    @Test func takingOverIsTheDefaultAndTwoWordsForbidIt() throws {
        #expect(try parseRun([]).options.succession.takesOver)
        #expect(try parseRun(["-takeover"]).options.succession.takesOver)
        #expect(try !parseRun(["-takeover=false"]).options.succession.takesOver)
        #expect(try !parseRun(["-no-takeover"]).options.succession.takesOver)
    }

    @Test func noResyncIsTheShortest() throws {
        #expect(try parseRun(["-iptables-resync=0"]).options.rules.resyncInterval == .seconds(1))
        #expect(try parseRun(["-iptables-resync=30"]).options.rules.resyncInterval == .seconds(30))
    }

    @Test(arguments: [
        (["statsu"], "did you mean status?"), (["chekc"], "did you mean check?"),
        (["lease", "lst"], "did you mean list?"), (["network", "sett"], "did you mean set?"),
        (["version"], "twilld --help"), (["st\u{1b}[2Jatus"], "\\u{1b}"),
    ])
    func aMistypedCommandIsNamed(words: [String], text: String) {
        let failure = #expect(throws: ExitFailure.self) { try parse(words) }
        #expect(failure?.status == .usage)
        #expect(failure?.message.contains(text) == true, "\(failure?.message ?? "")")
    }

    @Test func kubernetesFlagsReachTheOption() throws {
        let run = try parseRun([
            "-kube-subnet-mgr", "-node-name=n", "-kube-api-url=https://h:1", "-kubeconfig-file=/k",
            "-kube-annotation-prefix=p.example", "-net-config-path=/n/net-conf.json",
            "-set-node-network-unavailable=false", "-state-dir=/s", "-on-lease-loss=exit", "-cni-conf-dir=/d",
        ])
        var expected = KubernetesOptions()
        expected.nodeName = "n"
        expected.apiURL = "https://h:1"
        expected.kubeconfigFile = "/k"
        expected.annotationPrefix = "p.example"
        expected.networkConfigurationPath = "/n/net-conf.json"
        expected.setsNodeNetworkUnavailable = false
        expected.stateDirectory = "/s"
        expected.lossPolicy = .exit
        #expect(run.kubernetes.options(lease: run.lease.options, environment: [:]) == expected)
        #expect(
            run.options.containerNetwork
                == ContainerNetworkOptions(source: "/n/cni-conf.json", directory: "/d"))
        // A pod's environment; the flag goes before it.
        let pod = ["NODE_NAME": "e", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "EVENT_QUEUE_DEPTH": "5000"]
        let options = try #require(run.kubernetes.options(lease: run.lease.options, environment: pod))
        #expect(options.nodeName == "n" && options.serviceHost == "10.96.0.1" && options.remarks.count == 1)
        let plain = try parseRun(["-kube-subnet-mgr"])
        #expect(plain.kubernetes.options(lease: plain.lease.options, environment: pod)?.nodeName == "e")
        #expect(
            plain.options.containerNetwork
                == ContainerNetworkOptions(
                    source: "/etc/kube-flannel/cni-conf.json", directory: "/etc/cni/net.d"))
        #expect(plain.options.origin.isCluster)
    }

    @Test func withoutKubernetesNoListIsWritten() throws {
        #expect(try parseRun(["-lease-dir=/d"]).options.containerNetwork == nil)
        #expect(try parseRun(["-kube-subnet-mgr", "-cni-conf-dir=none"]).options.containerNetwork == nil)
        #expect(
            try parseRun(["-lease-dir=/d", "-cni-conf-dir=/c", "-cni-conf-source=/s"]).options
                .containerNetwork
                == ContainerNetworkOptions(source: "/s", directory: "/c"))
        #expect(try !parseRun(["-kube-subnet-mgr=false"]).options.origin.isCluster)
    }

    @Test func aStoreBesideAClusterHasNoEffect() throws {
        let options = try parseRun(["-kube-subnet-mgr", "-lease-dir=/d", "-etcd-endpoints=http://h:1"])
            .options
        #expect(options.ineffective.compactMap(\.name) == ["lease-dir", "etcd-endpoints"])
    }

    /// Where there is no store, the command that does the same is named.
    @Test(arguments: [
        (["lease", "list"], "kubectl get nodes"),
        (["lease", "release", "10.244.1.0/24"], "kubectl delete node"),
        (["lease", "reserve", "10.244.1.0/24", "--public-ip=10.0.0.1"], "podCIDR"),
        (["network", "show"], "net-conf.json"), (["network", "set", "/etc/passwd"], "net-conf.json"),
    ])
    func commandsOfAStoreNameWhatAClusterHas(words: [String], text: String) async throws {
        var command = try #require(
            try parse(words, environment: ["FLANNELD_KUBE_SUBNET_MGR": "true"]) as? any AsyncParsableCommand)
        let failure = await #expect(throws: ExitFailure.self) { try await command.run() }
        #expect(failure?.status == .usage)
        #expect(failure?.message.contains(text) == true, "\(failure?.message ?? "")")
    }

    @Test func tuningFlagsReachTheDataPlane() throws {
        let words =
            "-workers 3 -cpus 0,1 -ring-entries 2048 -sq-poll -minimum-wait 50 -busy-poll 20 -batch 32"
            + " -super-packet-batch 8 -receive-buffers 32 -receive-buffer-size 4096 -huge-pages"
            + " -socket-buffer 1048576 -queue-length 500 -tun-tso4=false -tun-uso=false -udp-gro=false"
            + " -kernel-path=auto -kernel-path-bytes 128"
        var expected = Tuning()
        expected.workers = .fixed(3)
        expected.cpus = [0, 1]
        expected.ringEntries = 2048
        expected.usesSubmissionPolling = true
        expected.minimumWaitMicroseconds = 50
        expected.busyPollMicroseconds = 20
        expected.batch = 32
        expected.superPacketBatch = 8
        expected.receiveBuffers = 32
        expected.receiveBufferBytes = 4096
        expected.usesHugePages = true
        expected.socketBufferBytes = 1 << 20
        expected.queueLength = 500
        expected.tunnelOffloads = [.checksum, .tcp6, .tcpECN]
        expected.usesCoalescing = false
        expected.kernelPath = .automatic
        expected.kernelPathBytes = 128
        #expect(try parseRun(words.split(separator: " ").map(String.init)).tuning.tuning == expected)
        #expect(try parseRun([]).tuning.tuning == Tuning())
        #expect(try parseRun(["-workers=auto"]).tuning.tuning.workers == .automatic)
        let withoutTSO = try parseRun(["-tun-tso4=false", "-tun-tso6=false"]).tuning.tuning
        #expect(withoutTSO.tunnelOffloads == [.checksum, .udp])
    }

    @Test(arguments: [
        ("-batch=65", "--batch is 65; it is 1 to 64"),
        ("-workers=65", "--workers is 65; it is auto, or 1 to 64"),
        ("-receive-buffers=12", "--receive-buffers is 12; it is a power of two"), ("-workers=some", "some"),
        (
            "-ring-entries=512",
            "--ring-entries 512 is too few for --batch 64, which needs 1024: raise the one or lower the other"
        ),
        (
            "-receive-buffer-size=2000",
            "--receive-buffer-size 2000 would lose what the kernel coalesces, up to 65507 bytes: raise it, or give "
                + "--udp-gro=false"
        ),
    ])
    func aTuningThatCannotWorkEndsTheCommandAndNamesTheFlag(word: String, text: String) throws {
        let error = try #require(#expect(throws: (any Error).self) { try parse([word]) })
        #expect(Twilld.exitCode(for: error).rawValue == 64)
        #expect(Twilld.message(for: error).contains(text), "\(Twilld.message(for: error))")
    }

    /// A number out of range is named by a flag that there is.
    @Test func everyTunedNumberHasAFlag() throws {
        for flag in TuningFlags.flags where flag.kind == .single {
            for value in ["-7", "99999999999"] {
                let error = try #require(
                    #expect(throws: (any Error).self) { try parse(["-\(flag.name)=\(value)"]) })
                #expect(Twilld.message(for: error).contains("--\(flag.name) "), "\(flag.name)")
            }
        }
    }

    @Test func commandsAreGuessedByTheirLetters() {
        #expect("status".distance(to: "status") == 0)
        #expect("statsu".distance(to: "status") == 1)
        #expect("".distance(to: "run") == 3)
        #expect("check".distance(to: "chick") == 1)
    }
}
