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

    init(results: Results, measurements: [Measurement]) {
        self.results = results
        self.measurements = measurements
    }

    private var settings: Results.Settings { results.settings }

    /// Seconds to start and stop a candidate, about.
    private static let turnOverheadSeconds = 1.0

    private var turnSeconds: Double {
        measurements.reduce(Self.turnOverheadSeconds) { $0 + $1.estimatedSeconds(settings.seconds) }
    }

    /// Measures until all is done or somebody interrupts; leaves no namespace, device or process behind.
    mutating func run() {
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
    }

    private mutating func runRounds(_ underlay: Underlay) {
        for round in 1...settings.rounds {
            for candidate in results.candidates {
                guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
                turn += 1
                do {
                    try runTurn(candidate, round: round, underlay)
                } catch {
                    guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
                    fail(candidate, round, underlay, "\(error)")
                }
            }
        }
    }

    private mutating func fail(_ candidate: Candidate, _ round: Int, _ underlay: Underlay, _ message: String)
    {
        results.failures.append(
            Failure(underlay: underlay, round: round, candidate: candidate.name, message: message))
        ProgressLine.note("\(candidate.name): \(message)")
    }

    private mutating func runTurn(_ candidate: Candidate, round: Int, _ underlay: Underlay) throws {
        showProgress("\(underlay) · round \(round) · \(candidate.name) · start")
        let running = try RunningCandidate(candidate, turn: turn)
        defer { running.stop() }
        for measurement in measurements {
            guard !Interrupt.isAsked.load(ordering: .relaxed) else { return }
            showProgress("\(underlay) · round \(round) · \(candidate.name) · \(measurement.name)")
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

    private func showProgress(_ what: String) {
        let turns = settings.underlays.count * settings.rounds * results.candidates.count
        let left = Double(turns - turn + 1) * turnSeconds
        let progress = String(format: "%3d/%d", turn, turns)
        ProgressLine.show("\(progress)  \(ProgressLine.timeLeft(seconds: left))  \(what)")
    }
}
