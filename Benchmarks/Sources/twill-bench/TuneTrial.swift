import Foundation

/// What one start of the daemon came to.
struct TuneTurn: Codable, Equatable {
    let score: Double
    /// Every metric that was measured, by name.
    let figures: [String: Double]
    /// Processors that programs outside of the lab kept busy meanwhile.
    let otherLoad: Double
}

/// Turns right after one another: only these are compared, as a machine's speed drifts.
struct TuneRound: Codable, Equatable {
    let byDefault: TuneTurn
    /// By what stood in the default's place.
    let byValue: [String: TuneTurn]

    /// What other programs may take without showing in the figures: agents and shells that do nothing in particular
    /// come to 0.03 to 0.1 processors, builds and other loads to 0.5 and more.
    static let toleratedLoad = 0.15

    /// Whether other programs disturbed a turn.
    var isDisturbed: Bool {
        ([byDefault] + byValue.values).contains { $0.otherLoad > TuneRound.toleratedLoad }
    }
}

/// How two settings compare, round by round.
struct Comparison: Equatable {
    /// The score over the default's, one a round.
    let ratios: [Double]

    /// A gain below this says nothing even where all rounds agree: such a one moves with the next kernel.
    static let leastGain = 0.02

    init(ratios: [Double]) { self.ratios = ratios }

    init(_ rounds: [TuneRound], _ value: String) {
        ratios = rounds.compactMap { round in
            round.byValue[value].map { $0.score / round.byDefault.score }
        }
    }

    /// nil without a round.
    var median: Double? { ratios.median }

    /// Half of what lies between the least and the greatest ratio.
    var spread: Double { ((ratios.max() ?? 0) - (ratios.min() ?? 0)) / 2 }

    /// Whether it is better beyond the spread: in every round, and in the middle by more than the rounds lie apart.
    /// One round has no spread, and so proves nothing.
    var isBetter: Bool {
        guard ratios.count > 1, let median, ratios.min()! > 1 else { return false }
        return median - 1 > max(spread, Comparison.leastGain)
    }

    /// `×1.05 ±0.02`
    var text: String {
        guard let median else { return "–" }
        return String(format: "×%.2f ±%.2f", median, spread)
    }
}

/// The search over one flag: what has been measured so far, and from that what is next.
///
/// All values are screened beside the default. The best of those that beat it is measured as often again, and
/// must beat it in these rounds alone: among thirty values chance lets one or two look better once.
struct TuneTrial: Codable {
    let flag: TunedFlag
    /// How many rounds each of the two parts has.
    let rounds: Int
    private(set) var screening: [TuneRound] = []
    private(set) var confirmation: [TuneRound] = []
    /// Why a value cannot be had, by value.
    private(set) var failures: [String: String] = [:]
    /// Rounds that were measured anew because other programs disturbed them.
    private(set) var repeatedRounds = 0

    init(_ flag: TunedFlag, rounds: Int) {
        self.flag = flag
        self.rounds = rounds
    }

    /// The values that are measured beside the default in the next round; nil once all is known.
    var nextValues: [String]? {
        if screening.count < rounds { return valuesLeft.isEmpty ? nil : valuesLeft }
        guard let promising, confirmation.count < rounds else { return nil }
        return [promising]
    }

    /// Takes in a round of what `nextValues` asked for; a disturbed one counts only where the machine does not
    /// become quiet.
    mutating func add(_ round: TuneRound) {
        if round.isDisturbed, repeatedRounds < rounds {
            repeatedRounds += 1
            return
        }
        if screening.count < rounds { screening.append(round) } else { confirmation.append(round) }
    }

    /// A value that failed once is not measured again, nor chosen.
    mutating func fail(_ value: String, _ message: String) { failures[value] = message }

    private var valuesLeft: [String] { flag.values.filter { failures[$0] == nil } }

    /// The best of those that beat the default in the screening.
    private var promising: String? {
        valuesLeft.filter { Comparison(screening, $0).isBetter }
            .max { Comparison(screening, $0).median! < Comparison(screening, $1).median! }
    }

    /// What is better than the default beyond the spread, twice; nil where nothing is, or not all is measured.
    var chosen: String? {
        guard nextValues == nil, let promising, Comparison(confirmation, promising).isBetter else {
            return nil
        }
        return promising
    }

    /// How a value compares in all rounds that it had.
    func comparison(_ value: String) -> Comparison { Comparison(screening + confirmation, value) }

    /// Turns that are still to come, as far as that is known: what will be confirmed is not.
    var turnsLeft: Int {
        guard let nextValues else { return 0 }
        let roundsLeft = screening.count < rounds ? rounds - screening.count : rounds - confirmation.count
        return roundsLeft * (nextValues.count + 1)
    }
}
