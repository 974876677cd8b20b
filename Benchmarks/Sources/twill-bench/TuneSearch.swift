import Foundation

/// Somebody asked to stop; what has been measured is kept.
struct Interruption: Error {}

/// Measures what a tuning record still lacks.
struct TuneSearch {
    private(set) var record: TuneRecord
    private let measurements: [Measurement]
    private let metrics: [Metric]
    private var turn = 0
    /// How long the turns of this run took in all.
    private var turnsSeconds = 0.0

    init(_ record: TuneRecord) {
        self.record = record
        measurements = record.settings.goal.measurements
        metrics = measurements.flatMap(\.metrics)
    }

    private static let mtu = 1500
    /// Seconds to start and stop the daemons, about.
    private static let turnOverheadSeconds = 1.0

    /// Measures until all is known; throws `Interruption` where somebody asked to stop. Leaves no namespace,
    /// device or process behind.
    mutating func run() throws {
        defer {
            do { try Lab.down() } catch { ProgressLine.note("take down the lab: \(error)") }
        }
        try Lab.up(record.settings.underlay, mtu: TuneSearch.mtu)
        let servers = try Measurement.startServers()
        defer { for server in servers { server.stop() } }
        for index in record.trials.indices {
            while let values = record.trials[index].nextValues { try measure(values, of: index) }
        }
        while !record.isComplete { try measureTogether() }
    }

    /// One round of a flag: the default, then each value.
    private mutating func measure(_ values: [String], of index: Int) throws {
        let flag = record.trials[index].flag
        let byDefault = try takeTurn("\(flag.name) \(flag.defaultValue) (default)", flags: [])
        var byValue: [String: TuneTurn] = [:]
        for value in values {
            do {
                byValue[value] = try takeTurn("\(flag.name) \(value)", flags: ["--\(flag.name)=\(value)"])
            } catch let error where !(error is Interruption) {
                record.trials[index].fail(value, "\(error)")
            }
        }
        record.trials[index].add(TuneRound(byDefault: byDefault, byValue: byValue))
    }

    /// One round of the defaults and of the found set, which the daemon reads from a file.
    private mutating func measureTogether() throws {
        let byDefault = try takeTurn("the defaults", flags: [])
        // On each node the daemon has processors of its own: those go on the command line.
        let perNode = record.found.filter { $0.value == Candidate.processorsPlaceholder }
        let others = record.found.filter { $0.value != Candidate.processorsPlaceholder }
        let path = "\(Lab.folder)/found.conf"
        try others.map { "\($0.trial.flag.name) = \($0.value)\n" }.joined()
            .write(toFile: path, atomically: true, encoding: .utf8)
        do {
            let found = try takeTurn(
                "the found set",
                flags: ["--config=\(path)"] + perNode.map { "--\($0.trial.flag.name)=\($0.value)" })
            record.addTogether(
                TuneRound(byDefault: byDefault, byValue: [TuneRecord.foundKey: found]))
        } catch let error where !(error is Interruption) {
            record.togetherFailure = "\(error)"
        }
    }

    /// Starts the daemons with `flags`, measures, and stops them again.
    private mutating func takeTurn(_ label: String, flags: [String]) throws -> TuneTurn {
        try stopIfAsked()
        showProgress(label)
        turn += 1
        let began = Date.now
        defer { turnsSeconds += Date.now.timeIntervalSince(began) }
        do {
            let running = try RunningCandidate(
                .twill(name: "twill", program: record.settings.twilld, flags: flags), turn: turn)
            defer { running.stop() }
            var figures: [String: Double] = [:]
            let load = OtherLoad.now()
            for measurement in measurements {
                let values = try measurement.run(running, record.settings.seconds)
                for (metric, value) in zip(measurement.metrics, values) { figures[metric.name] = value }
                try stopIfAsked()
            }
            let otherLoad = load.processors()
            try running.checkAlive()
            guard let score = record.settings.goal.score(figures, of: metrics) else {
                throw CommandError(description: "carried nothing in one of its measurements")
            }
            // JSON has no infinity.
            return TuneTurn(score: score, figures: figures.filter { $0.value.isFinite }, otherLoad: otherLoad)
        } catch {
            // A signal from the terminal reaches the daemons and the load too: that they ended says nothing.
            try stopIfAsked()
            throw error
        }
    }

    private func stopIfAsked() throws {
        if Interrupt.isAsked.load(ordering: .relaxed) { throw Interruption() }
    }

    private func showProgress(_ label: String) {
        let estimate = measurements.reduce(TuneSearch.turnOverheadSeconds) {
            $0 + $1.estimatedSeconds(record.settings.seconds)
        }
        let seconds = turn == 0 ? estimate : turnsSeconds / Double(turn)
        let left = ProgressLine.timeLeft(seconds: Double(record.turnsLeft) * seconds)
        ProgressLine.show("\(left)  \(record.settings.goal) · \(label)")
    }
}
