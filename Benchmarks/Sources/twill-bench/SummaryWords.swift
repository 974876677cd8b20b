import Foundation

/// What the reports say in sentences.
extension Summary {
    /// The machine, the settings, and what decides about wake-ups: a paragraph each.
    var conditions: [String] {
        let machine = results.machine
        let settings = results.settings
        let flags =
            settings.twilldFlags.isEmpty ? "" : ", twilld \(settings.twilldFlags.joined(separator: " "))"
        let whole = String(
            format: """
                Linux \(machine.kernel), \(machine.processor), \(machine.processors) processors, %.0f GiB\
                \(machine.virtualization.map { ", \($0)" } ?? ""), commit \(machine.commit). \
                \(settings.nodes) nodes in network namespaces on this machine, \
                \(settings.hasPods == true ? "traffic from pod to pod behind bridges, " : "")MTU \(settings.mtu), processes \
                \(settings.isPinned ? "pinned" : "not pinned"). TCP \(settings.congestionControl). \
                \(settings.roundsInWords) of \(settings.seconds.brief) s\(flags).
                """, machine.memoryGiB)
        let stolen =
            results.stolenShare.map { String(format: " Time that the host took: %.1f %%.", $0 * 100) } ?? ""
        let others =
            results.othersProcessors.map {
                String(format: " Processors that other programs had: %.2f.", $0)
            } ?? ""
        let commandLine = machine.kernelCommandLine.map { ["Kernel command line: \($0)"] } ?? []
        return [whole, machine.idleConditions + stolen + others] + commandLine
    }

    /// How twill stands beside the reference, a sentence an underlay; none where one of them was not measured.
    var inShort: [String] {
        guard let subject = results.candidates.first(where: { $0.name.hasPrefix("twill") }),
            subject.name != reference
        else { return [] }
        return results.settings.underlays.compactMap { underlay in
            var words: [Standing: [String]] = [:]
            for metric in metrics(underlay) where metric.isHeadline {
                let ratios = results.ratios(metric, subject.name, to: reference, underlay)
                guard let standing = Standing(ratios, metric), let median = ratios.median else { continue }
                words[standing, default: []].append(metric.title + String(format: " ×%.2f", median))
            }
            let parts = Standing.allCases.compactMap { standing in
                words[standing].map { "\(standing.rawValue) in \($0.joined(separator: ", "))" }
            }
            guard !parts.isEmpty else { return nil }
            let doubt = results.settings.rounds == 1 ? " One round: chance may have made any of it." : ""
            return "In short, on \(underlay): \(subject.name) beside \(reference) is "
                + "\(parts.joined(separator: "; ")).\(doubt)"
        }
    }

    /// How a candidate stands to the reference in a figure.
    enum Standing: String, CaseIterable {
        case better, worse
        case level = "level, or not to be told,"

        /// The share that a ratio must differ by.
        private static let leastShare = 0.05

        /// Better or worse in every round, and in the middle by more than `leastShare`; nil without a round.
        init?(_ ratios: [Double], _ metric: Metric) {
            guard let median = ratios.median else { return nil }
            let isMore = median > 1 + Self.leastShare && ratios.allSatisfy { $0 > 1 }
            let isLess = median < 1 - Self.leastShare && ratios.allSatisfy { $0 < 1 }
            guard isMore || isLess else {
                self = .level
                return
            }
            self = isMore == metric.moreIsBetter ? .better : .worse
        }
    }

    /// `[8.9, 9.8]`; empty with one round.
    func interval(_ figure: Figure, _ metric: Metric) -> String {
        figure.interval.map { "[\(metric.format($0.low)), \(metric.format($0.high))]" } ?? ""
    }

    /// `[0.997, 1.004]`, of the ratio to the reference; empty with one round.
    func ratioInterval(_ figure: Figure) -> String {
        figure.ratioInterval.map { "[\($0.low.asRatio), \($0.high.asRatio)]" } ?? ""
    }

    /// What stands in brackets beside a median, in words.
    var meaningOfIntervals: String {
        let rounds = results.settings.rounds
        guard let probability = (0..<rounds).map(Double.init).medianInterval?.probability else {
            return "One round: how far chance moves a figure is not known."
        }
        let share = String(format: "%.0f %%", probability * 100)
        return rounds >= 6
            ? "In brackets: the \(share) interval of the median, or of the ratio's, by the order of the rounds alone."
            : "In brackets: what the rounds span, an interval of \(share) for the median (95 % takes six rounds)."
    }
}

extension Results.Settings {
    /// `Medians of 3 interleaved rounds`
    var roundsInWords: String { rounds == 1 ? "One round" : "Medians of \(rounds) interleaved rounds" }
}

extension Double {
    /// A ratio: three decimals where it is near one, where the third says something.
    var asRatio: String {
        String(format: (0.9...1.1).contains(self) ? "%.3f" : self < 10 ? "%.2f" : "%.0f", self)
    }

    /// Without needless decimals.
    var brief: String { String(format: "%g", self) }
}
