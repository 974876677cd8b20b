import ArgumentParser
import Foundation

/// The measuring run.
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures candidates in turn and prints medians and ratios.")

    @Flag(help: "One round of one second for everything in the table: less than three minutes.")
    var quick = false

    @Option(
        name: [.customLong("repeats"), .customLong("repeat")],
        help: "Rounds: each measures every candidate once.")
    var repeats: Int = 3

    @Option(help: "Seconds for each timed run.")
    var seconds: Double = 3

    @Option(
        help: """
            Only these candidates or groups of them, separated by commas; the groups are all, engines, offloads, \
            workers, scale.
            """,
        transform: { $0.split(separator: ",").map(String.init) })
    var only: [String]?

    @Option(
        help: "Only these measurements, separated by commas; `all` for every one.",
        transform: { $0.split(separator: ",").map(String.init) })
    var measure: [String]?

    @Option(
        help: "Numbers of TCP streams, separated by commas.",
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
        help: "Only these underlays, separated by commas: plain, offload.",
        transform: { text in
            try text.split(separator: ",").map {
                guard let underlay = Underlay(rawValue: String($0)) else {
                    throw ValidationError("\($0): plain or offload")
                }
                return underlay
            }
        })
    var underlay: [Underlay] = Underlay.allCases

    @Option(help: "Nodes; TCP goes from the first to all others at once, everything else to the second.")
    var nodes = 2

    @Option(help: "The underlay's MTU in bytes.")
    var mtu = 1500

    @Flag(help: "Keep each node's processes on the node's share of the processors.")
    var pin = false

    @Option(help: "The daemon to measure.")
    var twilld = Lab.repository + "/.build/release/twilld"

    @Option(help: "More flags for every twilld, in one word, separated by spaces.")
    var twilldFlags = ""

    @Option(
        name: .customLong("variant"),
        help: "One more twill as NAME=FLAGS, to compare with; repeatable.")
    var variants: [String] = []

    @Option(name: .customLong("candidate"), help: "A file that describes any other program; repeatable.")
    var candidateFiles: [String] = []

    @Option(help: "The candidate that ratios are taken to.")
    var reference = "vxlan"

    @Option(help: "The folder under which results.json, report.md and report.html go into one of their own.")
    var results = Lab.repository + "/results"

    mutating func validate() throws {
        if quick {
            repeats = 1
            seconds = 1
        }
        guard repeats >= 1 else { throw ValidationError("--repeats \(repeats): 1 or more") }
        guard seconds > 0 else { throw ValidationError("--seconds \(seconds): more than 0") }
        guard (2...32).contains(nodes) else { throw ValidationError("--nodes \(nodes): 2 to 32") }
        guard (576...9000).contains(mtu) else { throw ValidationError("--mtu \(mtu): 576 to 9000") }
        let all = Measurement.all(streams: streams)
        for name in measure ?? [] where name != "all" && !all.contains(where: { $0.name == name }) {
            let names = all.map(\.name).joined(separator: ", ")
            throw ValidationError("no measurement \"\(name)\"; there are: \(names)")
        }
    }

    func run() throws {
        let candidates = try chosenCandidates()
        try Prerequisites.check(
            twilld: candidates.contains { $0.start?.first == twilld } ? twilld : nil)
        var remarks: [String] = []
        let measurements = chosenMeasurements(&remarks)
        Lab.layout = Lab.Layout(nodes: nodes, isPinned: pin)
        var session = Session(
            results: Results(
                machine: .current(),
                settings: Results.Settings(
                    underlays: underlay, nodes: nodes, mtu: mtu, isPinned: pin, seconds: seconds,
                    rounds: repeats, twilldFlags: twilldFlags.split(separator: " ").map(String.init),
                    commandLine: CommandLine.arguments),
                candidates: candidates, metrics: measurements.flatMap(\.metrics), remarks: remarks),
            measurements: measurements)
        Interrupt.install()
        session.run()
        let summary = Summary(results: session.results, reference: reference)
        for underlay in underlay { print("\n" + TerminalTable(summary: summary).text(underlay)) }
        for warning in summary.warnings { print("! \(warning)") }
        print(try session.results.write(under: results, reference: reference) + "/report.html")
    }

    private func chosenMeasurements(_ remarks: inout [String]) -> [Measurement] {
        let names = measure ?? Measurement.usual(streams: streams)
        let chosen = Measurement.all(streams: streams).filter {
            names.contains("all") || names.contains($0.name)
        }
        guard chosen.contains(where: \.countsCopies), let obstacle = Prerequisites.obstacleToCounting else {
            return chosen
        }
        remarks.append("Copies and operations are not counted: \(obstacle).")
        return chosen.filter { !$0.countsCopies }
    }

    /// What `--only` names, or else what one would usually look at and whatever else is installed.
    private func chosenCandidates() throws -> [Candidate] {
        let flags = twilldFlags.split(separator: " ").map(String.init)
        let twill = Candidate.twill(name: "twill", program: twilld, flags: flags)
        let asked = try variants.map { variant in
            let parts = variant.split(separator: "=", maxSplits: 1)
            guard parts.count == 2 else { throw ValidationError("--variant \(variant): NAME=FLAGS") }
            let more = parts[1].split(separator: " ").map(String.init)
            return Candidate.twill(name: String(parts[0]), program: twilld, flags: flags + more)
        }
        let forwarders: [Candidate] = [
            .baseline(name: "baseline", batch: 1, mtu: mtu, nodes: nodes),
            .baseline(name: "mmsg-baseline", batch: 64, mtu: mtu, nodes: nodes),
        ]
        let floors = Candidate.floors(mtu: mtu)
        let files = try candidateFiles.map { try Candidate(path: $0) }
        let shipped = try Candidate.shipped()
        let installed = shipped.filter(\.missingPackages.isEmpty)
        guard let only else {
            return [.veth, .vxlan, twill] + asked + forwarders + (quick ? [] : installed) + files
        }
        let engines = Candidate.engines(program: twilld, flags: flags)
        let offloads = Candidate.offloads(program: twilld, flags: flags)
        let workers = Candidate.workers(program: twilld, flags: flags)
        let scale = Candidate.scale(mtu: mtu)
        let all =
            [.veth, .vxlan, twill] + asked + engines + offloads + workers + scale + forwarders + floors
            + shipped + files
        let groups = [
            "all": [.veth, .vxlan, twill] + asked + engines + offloads + forwarders + installed + files,
            "engines": engines, "offloads": offloads, "workers": workers, "scale": scale,
        ]
        return try only.flatMap { name in
            if let group = groups[name] { return group }
            guard let candidate = all.first(where: { $0.name == name }) else {
                let names = (all.map(\.name) + groups.keys.sorted()).joined(separator: ", ")
                throw ValidationError("no candidate \"\(name)\"; there are: \(names)")
            }
            guard candidate.missingPackages.isEmpty else {
                let packages = candidate.missingPackages.joined(separator: " ")
                throw ValidationError("\(name) is not installed: apt-get install \(packages)")
            }
            return [candidate]
        }
    }
}
