import Foundation
import Synchronization

/// Whether somebody asked to stop; the session ends after the measurement that runs.
enum Interrupt {
    static let isAsked = Atomic<Bool>(false)

    static func install() {
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number) { _ in Interrupt.isAsked.store(true, ordering: .relaxed) }
        }
    }
}

/// Runs every measurement on every candidate, round by round, and keeps what came out.
struct Session {
    private(set) var results: Results
    private let measurements: [Measurement]
    private var turn = 0
    private var starts = 0
    /// How long each candidate's turns took, seconds.
    private var turnSeconds: [String: [Double]] = [:]
    /// Processor time of other programs during turns, and how long these were, seconds.
    private var othersSeconds = 0.0
    private var measuredSeconds = 0.0

    init(results: Results, measurements: [Measurement]) {
        self.results = results
        self.measurements = measurements
    }

    private var settings: Results.Settings { results.settings }

    /// Seconds to start and stop a candidate, about.
    private static let startSeconds = 1.0

    /// Measures until all is done or somebody interrupts; leaves no namespace, device or process behind.
    mutating func run() {
        let before = StolenTime.now()
        for underlay in settings.underlays where !Interrupt.isAsked.load(ordering: .relaxed) {
            var servers: [Child] = []
            do {
                try Lab.up(underlay, mtu: settings.mtu)
                servers = try Measurement.startServers()
                runRounds(underlay)
            } catch {
                ProgressLine.note("\(underlay): \(error)")
                results.failures.append(
                    Failure(underlay: underlay, round: 0, candidate: "lab", message: "\(error)"))
            }
            for server in servers { server.stop() }
            do { try Lab.down() } catch { ProgressLine.note("take down the lab: \(error)") }
        }
        results.stolenShare = StolenTime.now().share(since: before)
        if measuredSeconds > 0 { results.othersProcessors = othersSeconds / measuredSeconds }
        if Interrupt.isAsked.load(ordering: .relaxed) {
            results.remarks.append("The run was interrupted: this is what had been measured.")
        }
    }

    private mutating func runRounds(_ underlay: Underlay) {
        for round in 1...settings.rounds {
            for candidate in results.candidates where candidate.runs(on: underlay) {
                guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
                turn += 1
                let start = Date.now
                let others = OtherLoad.now()
                do {
                    let withoutCounting = measurements.filter { !$0.countsCopies }
                    try runTurn(candidate, withoutCounting, round: round, underlay)
                    let counting = measurements.filter(\.countsCopies)
                    try runTurn(candidate, counting, round: round, underlay)
                } catch {
                    guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
                    fail(candidate, round, underlay, "\(error)")
                }
                let elapsed = Date.now.timeIntervalSince(start)
                turnSeconds[candidate.name, default: []].append(elapsed)
                othersSeconds += others.processors() * elapsed
                measuredSeconds += elapsed
            }
        }
    }

    private mutating func fail(_ candidate: Candidate, _ round: Int, _ underlay: Underlay, _ message: String)
    {
        results.failures.append(
            Failure(underlay: underlay, round: round, candidate: candidate.name, message: message))
        ProgressLine.note("\(candidate.name): \(message)")
    }

    private mutating func runTurn(
        _ candidate: Candidate, _ measurements: [Measurement], round: Int, _ underlay: Underlay
    ) throws {
        guard let first = measurements.first, !Interrupt.isAsked.load(ordering: .relaxed) else { return }
        showProgress(candidate, "start", round, underlay)
        starts += 1
        let running = try RunningCandidate(candidate, turn: starts, countsCopies: first.countsCopies)
        defer { running.stop() }
        for measurement in measurements {
            guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
            showProgress(candidate, measurement.name, round, underlay)
            let values: [Double]
            do {
                values = try measurement.run(running, settings.seconds)
            } catch {
                guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
                // A candidate that has ended cannot be measured any further; one that lives goes on.
                try running.checkAlive()
                fail(candidate, round, underlay, "\(measurement.name): \(error)")
                continue
            }
            for (metric, value) in zip(measurement.metrics, values) {
                results.samples.append(
                    Sample(
                        underlay: underlay, round: round, candidate: candidate.name, metric: metric.name,
                        value: value))
            }
        }
        try running.checkAlive()
    }

    // MARK: Progress

    private func showProgress(_ candidate: Candidate, _ what: String, _ round: Int, _ underlay: Underlay) {
        let all = settings.underlays.flatMap { underlay in
            (1...settings.rounds).flatMap { _ in results.candidates.filter { $0.runs(on: underlay) } }
        }
        let turns = all.count
        // This turn counts whole: what is said is never too little.
        let left = all.dropFirst(turn - 1).reduce(0) { $0 + expectedSeconds($1) }
        let progress = String(format: "%3d/%d", turn, turns)
        ProgressLine.show(
            "\(progress)  \(ProgressLine.timeLeft(seconds: left))  "
                + "\(underlay) · round \(round) · \(candidate.name) · \(what)")
    }

    /// How long a turn of a candidate takes: what its turns took so far, or else what its measurements should take.
    private func expectedSeconds(_ candidate: Candidate) -> Double {
        if let took = turnSeconds[candidate.name] { return took.reduce(0, +) / Double(took.count) }
        let starts = measurements.contains(where: \.countsCopies) ? 2.0 : 1.0
        return measurements.reduce(starts * Self.startSeconds) {
            $0 + $1.estimatedSeconds(settings.seconds)
        }
    }
}

/// Time that the machine's host gave to others, and time in all, of all processors.
private struct StolenTime {
    private let stolen: Double
    private let total: Double

    static func now() -> StolenTime {
        // proc_stat(5): user nice system idle iowait irq softirq steal.
        let line = contents("/proc/stat").split(separator: "\n").first ?? ""
        let fields = line.split(separator: " ").dropFirst().prefix(8).compactMap { Double($0) }
        return StolenTime(stolen: fields.last ?? 0, total: fields.reduce(0, +))
    }

    func share(since earlier: StolenTime) -> Double {
        total > earlier.total ? (stolen - earlier.stolen) / (total - earlier.total) : 0
    }
}
