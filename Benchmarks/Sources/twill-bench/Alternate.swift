import ArgumentParser
import Foundation

/// Measures two daemons that are up at once, in slices that take turns.
struct Alternate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compares two twillds in slices of a fraction of a second, for differences of about 1 %.",
        discussion: """
            Both are up at once, each with a network and a port of its own, and slices of one measurement go to the first, \
            the second, the second, the first, and so on: what changes the machine's speed for longer than a second \
            changes it for both. Both are started anew again and again, in either order, since one start of a \
            program lies in memory otherwise than the next; the interval is over the starts. What the starts came to \
            is added to a file, so that several runs count as one.
            """)

    @Option(help: ArgumentHelp("The daemon that ratios are taken to.", valueName: "file"))
    var first = Installation.current.twilld

    @Option(help: ArgumentHelp("The other one.", valueName: "file"))
    var second: String

    @Option(
        help: ArgumentHelp("Flags for both, in one word, separated by spaces.", valueName: "flags"))
    var twilldFlags = ""

    @Option(help: ArgumentHelp("The measurement; twill-bench run --help has their names.", valueName: "name"))
    var measure = "udp-64"

    @Option(help: ArgumentHelp("How long a slice takes.", valueName: "seconds"))
    var seconds = 0.25

    @Option(help: ArgumentHelp("Groups of four slices in one start.", valueName: "number"))
    var groups = 12

    @Option(help: ArgumentHelp("How often both are started.", valueName: "number"))
    var starts = 30

    @Option(
        help: ArgumentHelp(
            "What the starts come to is added to this file. Default: results/alternate-MEASUREMENT.json",
            valueName: "file"))
    var file: String?

    func validate() throws {
        guard seconds > 0 else { throw ValidationError("--seconds \(seconds): more than 0") }
        guard groups >= 1 else { throw ValidationError("--groups \(groups): 1 or more") }
        guard starts >= 0 else { throw ValidationError("--starts \(starts): 0 or more") }
    }

    private func measurement() throws -> Measurement {
        let named = Measurement.all.first { $0.name == measure && !$0.countsCopies }
        guard let named else {
            let names = Measurement.all.filter { !$0.countsCopies }.map(\.name).joined(separator: ", ")
            throw ValidationError("no measurement \"\(measure)\"; there are: \(names)")
        }
        return named
    }

    func run() throws {
        let measurement = try measurement()
        for program in [first, second] { try Prerequisites.check(twilld: program) }
        let path = file ?? Installation.current.results + "/alternate-\(measure).json"
        let settings = Alternation.Settings(
            first: first, second: second, twilldFlags: twilldFlags, measurement: measure, seconds: seconds,
            groups: groups)
        var alternation = try Alternation(path: path, settings: settings)
        Interrupt.install()
        try Lab.up(.plain)
        defer { try? Lab.down() }
        let servers = try Measurement.startServers()
        defer { for server in servers { server.stop() } }
        for start in 0..<starts where !Interrupt.isAsked.load(ordering: .relaxed) {
            ProgressLine.show("start \(start + 1) of \(starts)")
            guard let logarithms = try oneStart(start, measurement) else { break }
            alternation.add(logarithms)
            try alternation.write(to: path)
        }
        ProgressLine.end()
        print(alternation.text(measurement.metrics.filter(\.isJudgedInSlices)))
        print(path)
    }

    /// Both daemons are started, measured and stopped.
    ///
    /// - Returns: of each metric the logarithm of the second's figure over the first's, the mean of all groups; nil where
    ///   somebody asked to stop.
    private func oneStart(_ start: Int, _ measurement: Measurement) throws -> [String: Double]? {
        // Whoever begins has the lower port and the place in memory that comes with it.
        let isSwapped = start % 2 == 1
        let early = try RunningCandidate(candidate(isSwapped ? second : first, place: 0), turn: 2 * start)
        defer { early.stop() }
        let late = try RunningCandidate(candidate(isSwapped ? first : second, place: 1), turn: 2 * start + 1)
        defer { late.stop() }
        let (first, second) = isSwapped ? (late, early) : (early, late)
        // What comes first finds nothing in a cache.
        for running in [first, second] { _ = try measurement.run(running, seconds) }
        var sums: [String: Double] = [:]
        for group in 0..<groups {
            guard !Interrupt.isAsked.load(ordering: .relaxed) else { return nil }
            let order = group % 2 == 0 ? [first, second, second, first] : [second, first, first, second]
            for running in order {
                let sign = running.address == second.address ? 0.5 : -0.5
                for (metric, figure) in zip(measurement.metrics, try measurement.run(running, seconds)) {
                    sums[metric.name, default: 0] += sign * log(figure)
                }
            }
        }
        return sums.mapValues { $0 / Double(groups) }
    }

    private func candidate(_ program: String, place: Int) -> Candidate {
        let flags = twilldFlags.split(separator: " ").map(String.init)
        return .twill(
            name: place == 0 ? "early" : "late", program: program,
            flags: flags + ["--port=\(Lab.overlayPort + place)"],
            network: place == 0 ? "100.96.0.0/16" : "100.99.0.0/16")
    }
}

extension Metric {
    /// Those of which a ratio says which daemon is better; of counts that may be 0 there is none.
    fileprivate var isJudgedInSlices: Bool { isJudged || quantity == "daemon-cpu" }
}

/// What all starts of two daemons came to.
struct Alternation: Codable {
    /// What must be the same for starts to count together.
    struct Settings: Codable, Equatable {
        var first: String
        var second: String
        var twilldFlags: String
        var measurement: String
        var seconds: Double
        var groups: Int
    }

    let settings: Settings
    /// Of each start and metric the logarithm of the second's figure over the first's.
    private(set) var starts: [[String: Double]] = []

    init(settings: Settings) { self.settings = settings }

    /// Those of the file, where it is there.
    init(path: String, settings: Settings) throws {
        guard FileManager.default.fileExists(atPath: path) else {
            self.init(settings: settings)
            return
        }
        do {
            self = try JSONDecoder().decode(Alternation.self, from: try bytes(ofFile: path))
        } catch {
            throw decodingFailure(error, path, "record of an alternation")
        }
        guard self.settings == settings else {
            throw CommandError(
                description: "\(path) holds starts of other settings or daemons; name another --file")
        }
    }

    /// Adds a start. Figures of 0, and what is none, have no ratio.
    mutating func add(_ logarithms: [String: Double]) { starts.append(logarithms.filter(\.value.isFinite)) }

    func write(to path: String) throws {
        try FileManager.default.createDirectory(
            at: URL(fileURLWithPath: path).deletingLastPathComponent(), withIntermediateDirectories: true)
        try JSONEncoder().encode(self).write(to: URL(fileURLWithPath: path), options: .atomic)
    }

    /// The second's figure over the first's, with the interval that holds it with a probability of 95 % where the starts are
    /// a sample of all starts; nil where fewer than two have it.
    func ratio(_ metric: String) -> (middle: Double, low: Double, high: Double)? {
        let values = starts.compactMap { $0[metric] }
        guard values.count >= 2 else { return nil }
        let count = Double(values.count)
        let mean = values.reduce(0, +) / count
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / (count - 1)
        let bound = StudentDistribution(degreesOfFreedom: values.count - 1).bound(containing: 0.95)
        let reach = bound * (variance / count).squareRoot()
        return (exp(mean), exp(mean - reach), exp(mean + reach))
    }

    /// A line for each metric.
    func text(_ metrics: [Metric]) -> String {
        let slices = starts.count * settings.groups * 4
        let lines = metrics.compactMap { metric -> String? in
            guard let ratio = ratio(metric.name) else { return nil }
            let title = "\(metric.title), \(metric.unit)".padding(toLength: 34, withPad: " ", startingAt: 0)
            return title
                + String(format: "×%.4f  95 %% interval %.4f to %.4f", ratio.middle, ratio.low, ratio.high)
        }
        return """
            \(settings.second) over \(settings.first)
            \(starts.count) starts of \(settings.groups) groups of four: \(slices) slices of \(settings.seconds) s
            \(lines.isEmpty ? "no ratio: it takes two starts" : lines.joined(separator: "\n"))
            """
    }
}
