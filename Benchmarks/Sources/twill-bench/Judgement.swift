import Foundation

/// What got better and what got worse from one run to another, beyond what chance does (ADR 86).
///
/// A figure of a candidate is divided by the reference's of the same round, so that what changed for both, as a
/// slower hour of the machine, cancels. The logarithms of these ratios are compared by a t test that asks whether the
/// change is greater than `leastShare`, and as many figures are judged at once, their probabilities are held to
/// Holm's rule: the chance that anything at all is said of two runs of the same program is `falseAlarmShare`.
struct Judgement {
    enum Verdict { case better, worse, level }

    /// One figure of a candidate in both runs.
    struct Row {
        let underlay: Underlay
        let candidate: String
        let metric: Metric
        /// Medians of the rounds.
        let old: Double
        let new: Double
        /// The change as a share of the old figure, with its 95 % interval; in the metric's unit where a figure is
        /// zero, of which nothing is a share.
        let change: Change
        var verdict = Verdict.level
        fileprivate let probability: Double
    }

    struct Change {
        let middle: Double
        let low: Double
        let high: Double
        let isShare: Bool
    }

    /// All rows that could be judged, in the order of the reports.
    private(set) var rows: [Row] = []

    /// A change that is not certainly greater says nothing: two runs are minutes or days apart.
    static let leastShare = 0.05
    /// How often two runs of one program may be told apart.
    static let falseAlarmShare = 0.05
    /// Rounds that a run must have: two lie as close together by chance as one likes.
    static let leastRounds = 3
    /// What is counted (copies, calls, memory) repeats better than this, as a share, only by chance.
    private static let leastCountedNoise = 0.02

    /// - Parameter reference: the candidate that ratios are taken to; figures that it lacks are compared as they are.
    init(from old: Results, to new: Results, reference: String) {
        let before = RoundFigures(old)
        let after = RoundFigures(new)
        var series: [Series] = []
        for underlay in new.settings.underlays {
            for metric in new.metrics
            where metric.isJudged && old.metrics.contains(where: { $0.name == metric.name }) {
                for candidate in new.candidates where candidate.start != nil && candidate.name != reference {
                    let place = RoundFigures.Place(
                        underlay: underlay, candidate: candidate.name, metric: metric.name)
                    series += [Series(place, metric, before, after, reference)].compactMap(\.self)
                }
            }
        }
        let timedNoise = series.filter { !$0.metric.isCounted && $0.isLogarithmic }.map(\.noise).median ?? 0
        rows = series.map { $0.judged(typicalNoise: timedNoise) }
        holdToHolmsRule()
    }

    /// The least probable row is held to the share of false alarms divided by the number of rows, the next to that
    /// divided by one less, and so on to the first that is too probable.
    private mutating func holdToHolmsRule() {
        let order = rows.indices.sorted { rows[$0].probability < rows[$1].probability }
        for (place, index) in order.enumerated() {
            guard rows[index].probability <= Self.falseAlarmShare / Double(order.count - place) else {
                return
            }
            // The medians are what a reader sees: what they do not show is not said.
            let row = rows[index]
            guard row.metric.format(row.old) != row.metric.format(row.new),
                (row.new > row.old) == (row.change.middle > 0)
            else { continue }
            rows[index].verdict = (row.new > row.old) == row.metric.moreIsBetter ? .better : .worse
        }
    }
}

extension Metric {
    /// What is measured, behind the measurement's name and a dot.
    var quantity: Substring { name.split(separator: ".", maxSplits: 1).last ?? "" }

    /// Whether it says how good a candidate is. All others say why, and are in the reports.
    var isJudged: Bool { Self.judgedQuantities.contains(String(quantity)) }

    private static let judgedQuantities: Set = [
        "throughput", "cpu", "delivered", "p50", "p99", "rate", "cost", "resident", "kernel", "user",
        "syscalls",
        "small-syscalls", "round-trips", "ndr", "pdr", "fixed-cpu",
    ]

    /// Whether it is a count, which a slower machine does not change.
    var isCounted: Bool { name.hasPrefix("copies.") || name.hasPrefix("memory.") }
}

/// The figures of a run by where they belong and by round.
private struct RoundFigures {
    struct Place: Hashable {
        let underlay: Underlay
        var candidate: String
        let metric: String
    }

    private var figures: [Place: [Int: Double]] = [:]

    init(_ results: Results) {
        for sample in results.samples where sample.value.isFinite {
            let place = Place(underlay: sample.underlay, candidate: sample.candidate, metric: sample.metric)
            figures[place, default: [:]][sample.round] = sample.value
        }
    }

    subscript(_ place: Place) -> [Int: Double] { figures[place] ?? [:] }
}

/// A figure in all rounds of both runs, as the test sees it.
private struct Series {
    let underlay: Underlay
    let candidate: String
    let metric: Metric
    private let oldMedian: Double
    private let newMedian: Double
    /// Logarithms of ratios or of figures, or figures.
    private let old: [Double]
    private let new: [Double]
    let isLogarithmic: Bool

    /// nil where one of the runs has too few rounds of it.
    init?(
        _ place: RoundFigures.Place, _ metric: Metric, _ before: RoundFigures, _ after: RoundFigures,
        _ reference: String
    ) {
        let (oldFigures, newFigures) = (before[place], after[place])
        guard let oldMedian = Array(oldFigures.values).median, let newMedian = Array(newFigures.values).median
        else {
            return nil
        }
        self.metric = metric
        (underlay, candidate) = (place.underlay, place.candidate)
        (self.oldMedian, self.newMedian) = (oldMedian, newMedian)
        isLogarithmic = (Array(oldFigures.values) + newFigures.values).allSatisfy { $0 > 0 }
        guard isLogarithmic else {
            (old, new) = (Array(oldFigures.values), Array(newFigures.values))
            guard min(old.count, new.count) >= Judgement.leastRounds else { return nil }
            return
        }
        var ofReference = place
        ofReference.candidate = reference
        let oldRatios = Self.logarithms(oldFigures, over: metric.isCounted ? [:] : before[ofReference])
        let newRatios = Self.logarithms(newFigures, over: metric.isCounted ? [:] : after[ofReference])
        if min(oldRatios.count, newRatios.count) >= Judgement.leastRounds, !metric.isCounted {
            (old, new) = (oldRatios, newRatios)
        } else {
            (old, new) = (oldFigures.values.map { log($0) }, newFigures.values.map { log($0) })
        }
        guard min(old.count, new.count) >= Judgement.leastRounds else { return nil }
    }

    private static func logarithms(_ figures: [Int: Double], over reference: [Int: Double]) -> [Double] {
        figures.compactMap { round, figure in
            reference[round].flatMap { $0 > 0 ? log(figure / $0) : nil }
        }
    }

    /// The standard deviation of a round, from both runs.
    var noise: Double {
        let squares = [old, new].reduce(0) { sum, values in
            values.reduce(sum) { $0 + pow($1 - mean(values), 2) }
        }
        return (squares / Double(degreesOfFreedom)).squareRoot()
    }

    private var degreesOfFreedom: Int { old.count + new.count - 2 }

    private func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(values.count) }

    /// - Parameter typicalNoise: that of the middle row. No row counts as quieter: among many rows of few rounds,
    ///   some lie close together by chance.
    func judged(typicalNoise: Double) -> Judgement.Row {
        let lastDecimal = pow(10, -Double(metric.decimals))
        let leastNoise =
            !isLogarithmic
            ? lastDecimal
            : metric.isCounted ? Judgement.leastCountedNoise(oldMedian, lastDecimal) : typicalNoise
        let error =
            max(noise, leastNoise, .leastNonzeroMagnitude)
            * (1 / Double(old.count) + 1 / Double(new.count)).squareRoot()
        let change = mean(new) - mean(old)
        let leastChange =
            isLogarithmic
            ? log(1 + Judgement.leastShare)
            : max(lastDecimal, Judgement.leastShare * max(abs(oldMedian), abs(newMedian)))
        let distribution = StudentDistribution(degreesOfFreedom: degreesOfFreedom)
        let reach = distribution.bound(containing: 0.95) * error
        func shown(_ value: Double) -> Double { isLogarithmic ? exp(value) - 1 : value }
        return Judgement.Row(
            underlay: underlay, candidate: candidate, metric: metric, old: oldMedian, new: newMedian,
            change: Judgement.Change(
                middle: shown(change), low: shown(change - reach), high: shown(change + reach),
                isShare: isLogarithmic),
            probability: distribution.tailProbability(max(abs(change) - leastChange, 0) / error))
    }
}

extension Judgement {
    /// A count's least noise as a logarithm: also half of what its last decimal shows.
    fileprivate static func leastCountedNoise(_ figure: Double, _ lastDecimal: Double) -> Double {
        max(leastCountedNoise, lastDecimal / 2 / max(abs(figure), lastDecimal))
    }
}
