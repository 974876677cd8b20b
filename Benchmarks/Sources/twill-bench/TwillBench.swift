import ArgumentParser
import Foundation

/// Measures twill beside what one would use instead, on this machine, in one run.
@main
struct TwillBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "twill-bench",
        abstract: "Measures twill beside its alternatives, on this machine, in the same run.",
        subcommands: [Run.self, Compare.self, Tune.self],
        defaultSubcommand: Run.self)
}
