import Foundation

/// Everything that a tuning search measured and found, and from which it can go on.
struct TuneRecord: Codable {
    /// The shape of the file; another is refused.
    static let currentFormat = 1

    var format = TuneRecord.currentFormat
    let machine: Machine
    let settings: Settings
    var trials: [TuneTrial]
    /// The found set as a whole beside the defaults.
    private(set) var together: [TuneRound] = []
    /// Rounds of these that were measured anew because other programs disturbed them.
    private(set) var repeatedRoundsTogether = 0
    /// Why the found set as a whole cannot be had.
    var togetherFailure: String?

    /// What is measured; a search goes on only with the same.
    struct Settings: Codable, Equatable {
        let goal: TuneGoal
        let underlay: Underlay
        let seconds: Double
        let rounds: Int
        let twilld: String
        let flags: [TunedFlag]

        /// The found set has twice the rounds of a flag: it is what the file is judged by.
        var roundsTogether: Int { 2 * rounds }
    }

    /// The key of the found set in `together`.
    static let foundKey = "found"

    init(machine: Machine, settings: Settings) {
        self.machine = machine
        self.settings = settings
        trials = settings.flags.map { TuneTrial($0, rounds: settings.rounds) }
    }

    /// The flags that beat their defaults, in the order of the search.
    var found: [(trial: TuneTrial, value: String)] {
        trials.compactMap { trial in trial.chosen.map { (trial, $0) } }
    }

    /// Whether every flag has been searched.
    var isSearched: Bool { trials.allSatisfy { $0.nextValues == nil } }

    /// Whether nothing is left to measure.
    var isComplete: Bool {
        isSearched && (found.isEmpty || togetherFailure != nil || together.count >= settings.roundsTogether)
    }

    var comparisonTogether: Comparison { Comparison(together, TuneRecord.foundKey) }

    /// Turns that are still to come, as far as that is known.
    var turnsLeft: Int {
        let ofFlags = trials.reduce(0) { $0 + $1.turnsLeft }
        return isComplete ? 0 : ofFlags + 2 * (settings.roundsTogether - together.count)
    }

    /// Takes in a round of the found set; see `TuneTrial.add`.
    mutating func addTogether(_ round: TuneRound) {
        if round.isDisturbed, repeatedRoundsTogether < settings.roundsTogether {
            repeatedRoundsTogether += 1
        } else {
            together.append(round)
        }
    }

    // MARK: On disk

    /// Reads what `write` wrote.
    init(path: String) throws {
        let data = try bytes(ofFile: path)
        do {
            self = try JSONDecoder().decode(TuneRecord.self, from: data)
        } catch {
            throw decodingFailure(error, path, "record of twill-bench tune")
        }
        guard format == TuneRecord.currentFormat else {
            throw CommandError(
                description:
                    "\(path) has format \(format), this twill-bench reads \(TuneRecord.currentFormat)")
        }
    }

    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try encoder.encode(self).write(to: URL(fileURLWithPath: path), options: .atomic)
    }
}
