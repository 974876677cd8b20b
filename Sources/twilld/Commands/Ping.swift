import ArgumentParser
import NodeDaemon

/// `twilld ping`: whether the other nodes are reached.
struct Ping: FlagTaking {
    static let flags = StatusSocketFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "ping",
        abstract: "Try the way to other nodes: the host, the tunnel, full packets; say what is broken.",
        discussion: """
            Each peer gets a few echo requests over the underlay and through the tunnel, packets of full size, and one \
            empty datagram on its UDP port, which its daemon counts as drop_inbound_too_short. Peers that run flanneld \
            answer as those that run twilld do. It takes two seconds, and less than ten where something is broken. The \
            exit status is \(ExitStatus.checkFailed.rawValue) where a peer is not reached as it should be.
            """)

    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Print the findings as JSON.")
    var json = false

    @Argument(
        help: ArgumentHelp(
            "A peer's name, subnet or underlay address, or the address of a pod on it; none for all peers.",
            valueName: "peer"))
    var peers: [String] = []

    func run() async throws {
        let reports = try await PeerDiagnosis(StatusClient(socketPath: socket.statusSocket)).reports(
            of: peers)
        if json {
            try printDocument(DoctorDocument(peers: reports))
        } else if reports.isEmpty {
            print("this node has no peers")
        } else {
            for report in reports { print(report.text) }
        }
        if reports.contains(where: { !$0.isGood }) { throw ExitCode(ExitStatus.checkFailed.rawValue) }
    }
}

/// `twilld doctor`: what is wrong with this node, the worst first.
struct DoctorCommand: FlagTaking {
    static let flags = UnderlayFlags.flags + StatusSocketFlag.flags + KubernetesModeFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Look at everything: machine, daemon, store, rules, the way to each peer; the worst first.",
        discussion: """
            It runs check and ping, and adds what the running daemon calls problems. The exit status is \
            \(ExitStatus.checkFailed.rawValue) where a line says FAIL or a peer is not reached as it should be.
            """)

    @OptionGroup(title: "Underlay, where no daemon runs") var underlay: UnderlayFlags
    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesModeFlag
    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Print the findings as JSON.")
    var json = false

    @Flag(help: "Give what is well a line each, too.")
    var all = false

    func run() async throws {
        let client = StatusClient(socketPath: socket.statusSocket)
        let report = await Doctor(
            client, underlay: underlay.options, isOfKubernetes: kubernetes.isGivenOrInPod
        ).report()
        if json {
            try printDocument(report.document)
        } else {
            print(report.text(showsAll: all), terminator: "")
        }
        if report.hasFailed { throw ExitCode(ExitStatus.checkFailed.rawValue) }
    }
}
