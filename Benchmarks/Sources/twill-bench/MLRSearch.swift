/// The load up to which no more is lost than allowed, by the rule of RFC 9971 (Multiple Loss Ratio search): a load is
/// judged by several trials of full length of which a share may lose more, and all goals learn from all trials.
struct MLRSearch {
    /// What is looked for.
    struct Goal {
        /// The share of packets that a good trial may lose.
        let lossRatio: Double
        /// The share of a load's trials that may be bad.
        var exceedRatio = 0.5
        /// Trials that judge a load.
        var trials = 3
        /// How close together the bounds lie at the end, as a share of the upper one.
        var width = 0.03

        /// No packet lost, and half a percent: the non-drop rate and the partial drop rate of FD.io.
        static let nonDrop = Goal(lossRatio: 0)
        static let partialDrop = Goal(lossRatio: 0.005)
    }

    enum Bound { case lower, upper }

    /// Loss ratios of all trials, by load in packets a second.
    private var lossRatios: [Double: [Double]] = [:]

    /// What a load's trials so far make of it; nil while the rest could still turn it.
    static func bound(_ lossRatios: [Double], _ goal: Goal) -> Bound? {
        let allowed = goal.exceedRatio * Double(goal.trials)
        let bad = lossRatios.filter { $0 > goal.lossRatio }.count
        if Double(bad) > allowed { return .upper }
        let left = max(goal.trials - lossRatios.count, 0)
        return Double(bad + left) <= allowed ? .lower : nil
    }

    /// The conditional throughput at the goal, packets a second: what gets across at the highest load that fulfils
    /// it, in its worst trial that still counts. 0 where no load does.
    ///
    /// - Parameters:
    ///   - maximumLoad: the load that is tried first, packets a second.
    ///   - minimumLoad: below it nothing is looked for.
    ///   - trial: offers a load and returns the share of packets that were lost of it.
    mutating func conditionalThroughput(
        _ goal: Goal, maximumLoad: Double, minimumLoad: Double, trial: (_ load: Double) throws -> Double
    ) rethrows -> Double {
        if try decide(maximumLoad, goal, trial) == .lower { return throughput(at: maximumLoad, goal) }
        while true {
            let upper = known(.upper, goal).min() ?? maximumLoad
            let lower = known(.lower, goal).filter { $0 < upper }.max()
            if let lower, upper - lower <= goal.width * upper { return throughput(at: lower, goal) }
            let next = lower.map { ($0 + upper) / 2 } ?? upper / 2
            guard next >= minimumLoad else { return 0 }
            _ = try decide(next, goal, trial)
        }
    }

    private func known(_ bound: Bound, _ goal: Goal) -> [Double] {
        lossRatios.filter { MLRSearch.bound($0.value, goal) == bound }.map(\.key)
    }

    private mutating func decide(
        _ load: Double, _ goal: Goal, _ trial: (_ load: Double) throws -> Double
    ) rethrows -> Bound {
        while true {
            if let bound = MLRSearch.bound(lossRatios[load] ?? [], goal) { return bound }
            lossRatios[load, default: []].append(try trial(load))
        }
    }

    private func throughput(at load: Double, _ goal: Goal) -> Double {
        // Trials that were not needed any more could all have been bad: those that count are the best of all planned.
        let ordered = (lossRatios[load] ?? []).sorted()
        let counted = Int((Double(goal.trials) * (1 - goal.exceedRatio)).rounded(.up))
        return load * (1 - ordered[min(counted, ordered.count) - 1])
    }
}
