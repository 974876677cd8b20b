import ArgumentParser
import Foundation

/// The measuring run.
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures candidates in turn and prints medians and ratios.")

    @Flag(help: "One round of one second for everything in the table: less than three minutes.")
    var quick = false

    @Option(help: "Rounds: each measures every candidate once.")
    var repeats: Int = 3

    @Option(help: "Seconds for each timed run.")
    var seconds: Double = 3

    @Option(
        help: "Only these candidates, separated by commas.",
        transform: { $0.split(separator: ",").map(String.init) })
    var only: [String]?

    @Option(
        help: "Only these measurements, separated by commas; `all` for every one.",
        transform: { $0.split(separator: ",").map(String.init) })
    var measure: [String] = Measurement.usual

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

    @Option(help: "The underlay's MTU in bytes.")
    var mtu = 1500

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
        for name in measure where name != "all" && !Measurement.all.contains(where: { $0.name == name }) {
            let names = Measurement.all.map(\.name).joined(separator: ", ")
            throw ValidationError("no measurement \"\(name)\"; there are: \(names)")
        }
    }

    func run() throws {
        guard getuid() == 0 else {
            throw CommandError(description: "network namespaces and TUN devices need root: run it with sudo")
        }
        let candidates = try chosenCandidates()
        let measurements = Measurement.all.filter { measure.contains("all") || measure.contains($0.name) }
        var session = Session(
            results: Results(
                machine: .current(),
                settings: Results.Settings(
                    underlays: underlay, mtu: mtu, seconds: seconds, rounds: repeats,
                    twilldFlags: twilldFlags.split(separator: " ").map(String.init),
                    commandLine: CommandLine.arguments),
                candidates: candidates, metrics: measurements.flatMap(\.metrics)),
            measurements: measurements)
        Interrupt.install()
        session.run()
        let table = TerminalTable(results: session.results, reference: reference)
        for underlay in underlay { print("\n" + table.text(underlay)) }
        for warning in Summary(results: session.results, reference: reference).warnings {
            print("! \(warning)")
        }
        print(try session.results.write(under: results, reference: reference) + "/report.html")
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
            .baseline(name: "baseline", batch: 1), .baseline(name: "mmsg-baseline", batch: 64),
        ]
        let files = try candidateFiles.map { try Candidate(path: $0) }
        let shipped = try Candidate.shipped()
        guard let only else {
            let installed = quick ? [] : shipped.filter(\.missingPackages.isEmpty)
            return [.veth, .vxlan, twill] + asked + forwarders + installed + files
        }
        let all =
            [.veth, .vxlan, twill] + asked + Candidate.twillVariants(program: twilld, flags: flags)
            + forwarders
            + shipped + files
        return try only.map { name in
            guard let candidate = all.first(where: { $0.name == name }) else {
                let names = all.map(\.name).joined(separator: ", ")
                throw ValidationError("no candidate \"\(name)\"; there are: \(names)")
            }
            guard candidate.missingPackages.isEmpty else {
                let packages = candidate.missingPackages.joined(separator: " ")
                throw ValidationError("\(name) is not installed: apt-get install \(packages)")
            }
            return candidate
        }
    }
}
