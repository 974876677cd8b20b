import ArgumentParser
import Foundation

/// Searches the daemon's tuning flags.
struct Tune: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Searches the tuning flags of twilld on this machine; writes the best set as its config file.",
        discussion: """
            One flag at a time from the defaults, every value in turn with the default. What beats the default in \
            every round, by more than the rounds lie apart, is measured as often again; what beats it again is \
            kept, and all that is kept runs beside the defaults at the end. Ctrl-C keeps what was found; the same \
            command with --resume goes on from there.
            """)

    @Option(
        name: .customLong("for"),
        help: ArgumentHelp("What to make better.", valueName: "throughput|latency|pps"))
    var goal = TuneGoal.throughput

    @Option(help: ArgumentHelp("The underlay between the two nodes.", valueName: "plain|offload"))
    var underlay = Underlay.plain

    @Option(help: ArgumentHelp("How long each timed run takes.", valueName: "seconds"))
    var seconds: Double = 1

    @Option(help: ArgumentHelp("Rounds of each flag: at least 2, as one has no spread.", valueName: "rounds"))
    var repeats = 3

    @Option(
        help: ArgumentHelp(
            "Only these flags of twilld, as twilld run --help has them, without their dashes.",
            valueName: "flag,…"),
        transform: { $0.split(separator: ",").map(String.init) })
    var only: [String]?

    @Option(help: ArgumentHelp("The daemon to tune.", valueName: "file"))
    var twilld = Installation.current.twilld

    @Option(
        help: ArgumentHelp(
            "The configuration file; every raw figure goes into FILE.json. Default: results/tune-GOAL.conf",
            valueName: "file"))
    var output: String?

    @Flag(help: "Go on with the search that FILE.json holds, if it is there.")
    var resume = false

    func validate() throws {
        guard repeats >= 2 else { throw ValidationError("--repeats \(repeats): 2 or more") }
        guard seconds > 0 else { throw ValidationError("--seconds \(seconds): more than 0") }
    }

    func run() throws {
        try Prerequisites.check(twilld: twilld)
        let path = output ?? Installation.current.results + "/tune-\(goal.rawValue).conf"
        var search = TuneSearch(try startingRecord(path + ".json"))
        Interrupt.install()
        var failure: (any Error)?
        do { try search.run() } catch { failure = error }
        try FileManager.default.createDirectory(
            at: URL(fileURLWithPath: path).deletingLastPathComponent(), withIntermediateDirectories: true)
        try search.record.write(to: path + ".json")
        let report = TuneReport(record: search.record)
        try report.configuration().write(toFile: path, atomically: true, encoding: .utf8)
        ProgressLine.note("")
        print("score: \(goal.scoreMeaning); over the default's, median ± half the range of the rounds\n")
        print(report.table)
        for failure in report.failures { print("! \(failure)") }
        if let together = report.tableTogether { print("\n\(together)") }
        if let disturbance = report.disturbance { print("\n! \(disturbance)") }
        print("\n\(report.verdict)\n\(path)")
        if failure is Interruption { throw ExitCode(128 + SIGINT) }
        if let failure { throw failure }
    }

    /// A new record, or that of the file.
    private func startingRecord(_ path: String) throws -> TuneRecord {
        let flags = TunedFlag.all(
            defaults: try TunedFlag.defaults(of: twilld),
            processors: ProcessInfo.processInfo.activeProcessorCount)
        let names = flags.map(\.name)
        for name in only ?? [] where !names.contains(name) {
            throw ValidationError("no flag \"\(name)\" to tune; there are: \(names.joined(separator: ", "))")
        }
        let settings = TuneRecord.Settings(
            goal: goal, underlay: underlay, seconds: seconds, rounds: repeats, twilld: twilld,
            flags: flags.filter { only?.contains($0.name) ?? true })
        guard resume, FileManager.default.fileExists(atPath: path) else {
            return TuneRecord(machine: .current(), settings: settings)
        }
        let record = try TuneRecord(path: path)
        guard record.settings == settings else {
            throw CommandError(
                description: "\(path) holds a search with other settings or another twilld; "
                    + "leave --resume out to search anew")
        }
        return record
    }
}

extension Underlay: ExpressibleByArgument {}
