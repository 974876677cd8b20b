import Foundation

/// Whether two runs can be judged against each other, and what a reader must know where they can.
struct Comparability {
    /// Why nothing can be said.
    private(set) var obstacles: [String] = []
    /// Why nothing can be said unless the reader asks for it all the same: others had the machine.
    private(set) var loads: [String] = []
    /// What differs, and is perhaps what one wants to compare.
    private(set) var cautions: [String] = []

    init(_ old: Results, _ new: Results) {
        for (name, results) in [("older", old), ("newer", new)] {
            let rounds = results.completeRounds
            if rounds < Judgement.leastRounds {
                let words = rounds == 1 ? "1 round" : "\(rounds) rounds"
                obstacles.append(
                    "The \(name) run has \(words): how far chance moves a figure is known from "
                        + "\(Judgement.leastRounds) on; measure with --repeats 5.")
            }
            loads += results.loadsByOthers.map { "In the \(name) run \($0)." }
            if !results.failures.isEmpty {
                cautions.append("The \(name) run has failures: see its report.")
            }
        }
        func same<Value: Equatable>(_ what: String, _ path: KeyPath<Results, Value?>, isNeeded: Bool) {
            guard let before = old[keyPath: path], let after = new[keyPath: path], before != after else {
                return
            }
            if isNeeded {
                obstacles.append("The runs differ in \(what): \(before), then \(after).")
            } else {
                cautions.append("The runs differ in \(what): \(before), then \(after).")
            }
        }
        same("the processor", \.machine.optionalProcessor, isNeeded: true)
        same("the number of processors", \.machine.optionalProcessors, isNeeded: true)
        same("the MTU", \.settings.optionalMTU, isNeeded: true)
        same("the number of nodes", \.settings.optionalNodes, isNeeded: true)
        same("halt polling", \.machine.haltPollNanoseconds, isNeeded: true)
        same("where traffic begins and ends", \.settings.optionalEnds, isNeeded: true)
        same("pinning", \.settings.optionalPinning, isNeeded: true)
        same("the kernel", \.machine.optionalKernel, isNeeded: false)
        same("the kernel's command line", \.machine.kernelCommandLine, isNeeded: false)
        same("seconds of a measurement", \.settings.optionalSeconds, isNeeded: false)
        if !old.settings.underlays.contains(where: new.settings.underlays.contains) {
            obstacles.append("The runs have no underlay in common.")
        }
    }
}

extension Results {
    /// Rounds that have a figure.
    var completeRounds: Int { Set(samples.map(\.round)).count }

    /// What other programs had of the machine, as far as the run noted it.
    var loadsByOthers: [String] {
        var loads: [String] = []
        if let processors = othersProcessors {
            if processors > TuneRound.toleratedLoad {
                loads.append(String(format: "other programs had %.2f processors", processors))
            }
        } else if machine.loadBefore > 0.5 {
            loads.append(
                String(format: "the machine was busy before it began, load %.1f", machine.loadBefore))
        }
        if let stolenShare, stolenShare > 0.05 {
            loads.append(String(format: "the host took %.0f %% of the machine's time", stolenShare * 100))
        }
        return loads
    }
}

extension Machine {
    fileprivate var optionalProcessor: String? { processor }
    fileprivate var optionalProcessors: Int? { processors }
    fileprivate var optionalKernel: String? { kernel }
}

extension Results.Settings {
    fileprivate var optionalMTU: Int? { mtu }
    fileprivate var optionalNodes: Int? { nodes }
    fileprivate var optionalEnds: String? { hasPods == true ? "pods behind bridges" : "nodes" }
    fileprivate var optionalPinning: Bool? { isPinned }
    fileprivate var optionalSeconds: Double? { seconds }
}
