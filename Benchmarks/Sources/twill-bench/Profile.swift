import ArgumentParser
import Foundation

/// Where the processors' time goes while two twilld carry a load.
struct Profile: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says where the processors' time goes while two twilld carry a load, by perf's samples.",
        discussion: """
            Two nodes on this machine, traffic from the first to the second. Each sample counts once, in the first \
            row that fits from the innermost function outwards; \
            percent are of the whole machine's time. tools/profile \
            builds what is needed and calls this.
            """)

    @Option(
        help: ArgumentHelp(
            "TCP streams, or a flood of packets of 64 bytes.", valueName: "tcp-1|tcp-4|tcp-N|udp"))
    var load = "tcp-1"

    @Option(help: ArgumentHelp("The underlay between the two nodes.", valueName: "plain|offload"))
    var underlay = Underlay.plain

    @Option(help: ArgumentHelp("How long samples are taken.", valueName: "seconds"))
    var seconds = 4

    @Option(help: ArgumentHelp("The daemon.", valueName: "file"))
    var twilld = Installation.current.twilld

    @Option(help: ArgumentHelp("Functions in the list.", valueName: "number"))
    var functions = 20

    @Option(
        help: ArgumentHelp(
            "Keeps flame graphs (flame-sender.svg, flame-receiver.svg), folded stacks and perf.data there.",
            valueName: "folder"))
    var keep: String?

    @Argument(
        parsing: .postTerminator, help: ArgumentHelp("Flags for both twilld.", valueName: "twilld flags"))
    var flags: [String] = []

    private var streams: Int? {
        load.hasPrefix("tcp-")
            ? Int(load.dropFirst("tcp-".count)).flatMap { (1...128).contains($0) ? $0 : nil } : nil
    }

    func validate() throws {
        guard load == "udp" || streams != nil else {
            throw ValidationError("--load \(load): tcp-N with N from 1 to 128, or udp")
        }
        guard (1...60).contains(seconds) else { throw ValidationError("--seconds \(seconds): 1 to 60") }
    }

    func run() throws {
        try Prerequisites.check(twilld: twilld)
        if let obstacle = Prerequisites.obstacleToSampling { throw CommandError(description: obstacle) }
        Interrupt.install()
        try Lab.up(underlay)
        defer { do { try Lab.down() } catch { ProgressLine.note("take down the lab: \(error)") } }
        let servers = try Measurement.startServers()
        defer { for server in servers { server.stop() } }
        let running = try RunningCandidate(.twill(name: "twill", program: twilld, flags: flags), turn: 1)
        defer { running.stop() }
        let sampled = try sample(running)
        let report = ProfileReport(
            title: "\(load) on the \(underlay) underlay", samples: sampled.samples,
            transfer: sampled.transfer,
            processors: ProcessInfo.processInfo.activeProcessorCount)
        for line in report.warnings {
            print(Terminal.fold("! \(line)", width: Terminal.width, indent: 2).joined(separator: "\n"))
        }
        print(report.text(functions: functions))
        if let keep { try keepFiles(report, keep) }
    }

    private func sample(_ running: RunningCandidate) throws -> (
        samples: [ProfileSample], transfer: ProfileTransfer
    ) {
        let file = Self.recording
        let load = try startLoad(running)
        defer { load.stop() }
        usleep(1_000_000)
        let before = ProcessorTime.now(running)
        let packetsBefore = try Self.packets(on: 2)
        let bytesBefore = try Lab.underlayBytesReceived(on: 2)
        let start = Date.now
        try output(
            of: [
                "perf", "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", "1999", "-o", file, "sleep",
                "\(seconds)",
            ], while: running.checkAlive)
        let elapsed = Date.now.timeIntervalSince(start)
        let used = ProcessorTime.now(running).since(before)
        let transfer = ProfileTransfer(
            seconds: elapsed, packets: try Self.packets(on: 2) - packetsBefore,
            bytes: try Lab.underlayBytesReceived(on: 2) - bytesBefore, machineSeconds: used.machineSeconds,
            daemonSeconds: used.daemonSeconds)
        if let status = load.exitStatusIfEnded() {
            throw CommandError(
                description: "the load ended before the samples, status \(status): \(load.lastWords)")
        }
        let processes = ProfileProcesses(
            sender: running.daemons[0].processIdentifier, receiver: running.daemons[1].processIdentifier,
            load: Set(Self.loadProcesses()))
        // Ten thousand stacks are tens of MB of text: a file holds them, as with every command.
        let text = try output(of: ["perf", "script", "-i", file, "-F", "comm,pid,ip,sym,dso"])
        return (ProfileSample.parse(text, processes), transfer)
    }

    private static var recording: String { Lab.folder + "/perf.data" }

    private func startLoad(_ running: RunningCandidate) throws -> Child {
        if let streams {
            let words = ["-c", running.address, "-P", "\(streams)", "-t", "\(seconds + 30)"]
            return try Lab.start(on: 1, IperfReport.command(words), label: "load")
        }
        let words = [
            "send", "--to", "\(running.address):\(TrafficReport.port)", "--seconds", "\(seconds + 30)",
        ]
        return try Lab.start(on: 1, [sibling("traffic")] + words, label: "load")
    }

    /// Inner packets that have arrived at a node: those of its tunnel device, where TCP's are still merged, do not
    /// tell; its underlay's interface counts what the wire had.
    private static func packets(on node: Int) throws -> Double {
        let text = try Lab.run(on: node, ["cat", "/sys/class/net/eth0/statistics/rx_packets"])
        return Double(text.trimmingCharacters(in: .whitespacesAndNewlines)) ?? .nan
    }

    /// What runs in the lab's namespaces: the load's two ends and the daemons.
    private static func loadProcesses() -> [pid_t] {
        (1...2).flatMap { node in
            ((try? output(of: ["ip", "netns", "pids", "\(Lab.name)-node\(node)"])) ?? "").split(
                separator: "\n"
            )
            .compactMap { pid_t($0) }
        }
    }

    private func keepFiles(_ report: ProfileReport, _ folder: String) throws {
        let manager = FileManager.default
        try manager.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let recording = "\(folder)/perf.data"
        if manager.fileExists(atPath: recording) { try manager.removeItem(atPath: recording) }
        try manager.copyItem(atPath: Self.recording, toPath: recording)
        for (name, owner) in [("sender", ProfileSample.Owner.sender), ("receiver", .receiver)] {
            let graph = FlameGraph(stacks: report.stacks(of: owner))
            let title = "\(load) on \(underlay): twilld, \(name)"
            try Data(graph.svg(title: title).utf8).write(
                to: URL(fileURLWithPath: "\(folder)/flame-\(name).svg"))
            try Data(graph.folded.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name).folded"))
        }
        print("\nkept: \(folder)/flame-sender.svg, flame-receiver.svg, *.folded, perf.data")
    }
}
