import ArgumentParser
import Foundation

/// Measures twill beside what one would use instead, on this machine, in one run.
@main
struct TwillBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "twill-bench",
        abstract: "Measures twill beside its alternatives, on this machine, in the same run.",
        discussion: """
            Without a subcommand it runs the measurements: see twill-bench run --help for their flags, and for the \
            names that --only and --measure take.
            """,
        version:
            "twill-bench, format \(Results.currentFormat) of results.json"
            + (Installation.current.checkout.map { ", of the checkout in \($0)" } ?? ", installed"),
        subcommands: [Run.self, Compare.self, Alternate.self, Tune.self, Profile.self],
        defaultSubcommand: Run.self)
}
