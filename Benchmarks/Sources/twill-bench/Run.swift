import ArgumentParser
import Foundation

/// The measuring run.
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures candidates in turn and prints medians and ratios.")

    @Flag(help: "One round of one second for everything in the table, on two underlays: some five minutes.")
    var quick = false

    @Option(
        name: [.customLong("repeats"), .customLong("repeat")],
        help: ArgumentHelp("Rounds: each measures every candidate once.", valueName: "rounds"))
    var repeats: Int = 3

    @Option(help: ArgumentHelp("How long each timed run takes.", valueName: "seconds"))
    var seconds: Double = 3

    @Option(
        help: ArgumentHelp(
            """
            Only these candidates or groups of them. Candidates: veth, vxlan, twill, twill-no-kernel-path, \
            baseline, mmsg-baseline, floor, floor-short, floor-cut, vxlan-mtu-9000, twill-mtu-9000, vxlan-in-twill, wireguard-go, \
            fastd, nebula, and what --variant and --candidate name. \
            Groups: all, engines, offloads, workers, scale, mtu-9000.
            """, valueName: "name,…"),
        transform: { $0.split(separator: ",").map(String.init) })
    var only: [String]?

    @Option(
        help: ArgumentHelp(
            """
            Only these measurements or groups of them. Measurements: \(Run.measurementNames). \
            Groups: all; usual, which is what is measured without this option; known, under names of the trade.
            """, valueName: "name,…"),
        transform: { $0.split(separator: ",").map(String.init) })
    var measure: [String]?

    @Option(
        help: ArgumentHelp("Numbers of TCP streams, separated by commas.", valueName: "number,…"),
        transform: { text in
            try text.split(separator: ",").map {
                guard let number = Int($0), (1...128).contains(number) else {
                    throw ValidationError("\($0): 1 to 128")
                }
                return number
            }
        })
    var streams: [Int] = [1, 4, 16]

    @Option(
        help: ArgumentHelp(
            "Only these underlays: plain, offload, wire. Without it the first two with --quick, else all.",
            valueName: "name,…"),
        transform: { text in
            try text.split(separator: ",").map {
                guard let underlay = Underlay(rawValue: String($0)) else {
                    throw ValidationError("\($0): plain, offload or wire")
                }
                return underlay
            }
        })
    var underlay: [Underlay]?

    @Option(
        help: ArgumentHelp(
            "Nodes; TCP goes from the first to all others at once, everything else to the second.",
            valueName: "number"))
    var nodes = 2

    @Option(help: ArgumentHelp("The underlay's MTU.", valueName: "bytes"))
    var mtu = 1500

    @Option(
        help: ArgumentHelp(
            """
            Measure with the guest's halt polling at the kernel's default of 200 µs, off, or once with each, and set \
            it back at the end; or as the machine has it, which is what --quick does. Otherwise it is both where the \
            machine has the parameter. It is one setting for the whole machine.
            """, valueName: "default|off|both|as-is"),
        transform: { text in
            if text == "both" { return HaltPolling.Setting.allCases }
            if text == "as-is" { return [] }
            guard let setting = HaltPolling.Setting(rawValue: text) else {
                throw ValidationError("\(text): default, off, both or as-is")
            }
            return [setting]
        })
    var haltPoll: [HaltPolling.Setting]?

    @Flag(help: "Keep each node's processes on the node's share of the processors.")
    var pin = false

    @Flag(
        help: ArgumentHelp(
            """
            From pod to pod, each in a namespace behind a bridge of its node, as a cluster's traffic goes, instead of from \
            node to node.
            """))
    var pods = false

    @Option(help: ArgumentHelp("The daemon to measure.", valueName: "file"))
    var twilld = Installation.current.twilld

    @Option(
        help: ArgumentHelp(
            "More flags for every twilld, in one word, separated by spaces.", valueName: "flags"))
    var twilldFlags = ""

    @Option(
        name: .customLong("variant"),
        help: ArgumentHelp(
            "One more twill, to compare with: other flags, or another program and flags; repeatable.",
            valueName: "name=[program] flags"))
    var variants: [String] = []

    @Option(
        name: .customLong("candidate"),
        help: ArgumentHelp("A file that describes any other program; repeatable.", valueName: "file"))
    var candidateFiles: [String] = []

    @Option(help: ArgumentHelp("The candidate that ratios are taken to.", valueName: "candidate"))
    var reference = "vxlan"

    @Option(
        help: ArgumentHelp(
            "The folder under which results.json, report.md and report.html go into one of their own.",
            valueName: "folder"))
    var results = Installation.current.results

    private static let measurementNames = Measurement.all.map(\.name).joined(separator: ", ")

    mutating func validate() throws {
        if quick {
            repeats = 1
            seconds = 1
        }
        guard repeats >= 1 else { throw ValidationError("--repeats \(repeats): 1 or more") }
        guard seconds > 0 else { throw ValidationError("--seconds \(seconds): more than 0") }
        guard (2...32).contains(nodes) else { throw ValidationError("--nodes \(nodes): 2 to 32") }
        guard nodes == 2 || !underlays.contains(.wire) || underlay == nil else {
            throw ValidationError("--underlay wire: joins two nodes")
        }
        guard (576...9000).contains(mtu) else { throw ValidationError("--mtu \(mtu): 576 to 9000") }
        let all = Measurement.all(streams: streams)
        let groups = Measurement.groups(streams: streams)
        for name in measure ?? [] where groups[name] == nil && !all.contains(where: { $0.name == name }) {
            let names = (all.map(\.name) + groups.keys.sorted()).joined(separator: ", ")
            throw ValidationError("no measurement \"\(name)\"; there are: \(names)")
        }
    }

    func run() throws {
        let candidates = try chosenCandidates()
        try Prerequisites.check(
            twilld: candidates.contains { $0.start?.first == twilld } ? twilld : nil)
        var remarks: [String] = []
        let measurements = chosenMeasurements(&remarks)
        Lab.layout = Lab.Layout(nodes: nodes, isPinned: pin, hasPods: pods)
        Interrupt.install()
        let polling = HaltPolling()
        let settings = haltPoll ?? (quick ? [] : HaltPolling.Setting.allCases)
        guard !settings.isEmpty, polling.nanoseconds != nil else {
            if haltPoll?.isEmpty == false {
                remarks.append("--halt-poll sets nothing: this machine has no \(polling.path).")
            }
            return try measure(candidates, measurements, remarks, suffix: "")
        }
        for setting in settings where !Interrupt.isAsked.load(ordering: .relaxed) {
            try polling.with(setting) {
                try measure(candidates, measurements, remarks, suffix: "-halt-poll-\(setting.rawValue)")
            }
        }
    }

    /// Those that are measured on. A wire joins two nodes, and carries no frame larger than a page.
    private var underlays: [Underlay] {
        underlay ?? Underlay.allCases.filter { $0 != .wire || (!quick && nodes == 2 && mtu <= 1500) }
    }

    /// Measures, prints and writes one run.
    private func measure(
        _ candidates: [Candidate], _ measurements: [Measurement], _ remarks: [String], suffix: String
    ) throws {
        var session = Session(
            results: Results(
                machine: .current(),
                settings: Results.Settings(
                    underlays: underlays, nodes: nodes, mtu: mtu, isPinned: pin, hasPods: pods,
                    seconds: seconds, rounds: repeats,
                    twilldFlags: twilldFlags.split(separator: " ").map(String.init),
                    commandLine: CommandLine.arguments),
                candidates: candidates, metrics: measurements.flatMap(\.metrics), remarks: remarks),
            measurements: measurements)
        session.run()
        ProgressLine.end()
        let summary = Summary(results: session.results, reference: reference)
        let text = TerminalReport(summary: summary).text(width: Terminal.width)
        print(Terminal.isColoured ? Terminal.coloured(text) : text)
        print(
            "\n" + (try session.results.write(under: results, reference: reference, suffix: suffix))
                + "/report.html")
    }

    private func chosenMeasurements(_ remarks: inout [String]) -> [Measurement] {
        let groups = Measurement.groups(streams: streams)
        let names = (measure ?? ["usual"]).flatMap { groups[$0] ?? [$0] }
        let chosen = Measurement.all(streams: streams).filter { names.contains($0.name) }
        guard chosen.contains(where: \.countsCopies), let obstacle = Prerequisites.obstacleToCounting else {
            return chosen
        }
        remarks.append("Copies and operations are not counted: \(obstacle).")
        return chosen.filter { !$0.countsCopies }
    }
}
