import Glibc
import LeaseTesting

/// `twill-lease-simulation [--seed N] [--seeds N] [--nodes N] [--hours N] [--print]`: lease machines on a simulated
/// store through hours of disturbances. The same seed gives the same story to the byte; `--print` prints it, and
/// without it the last line's digest stands for it.
@main
enum LeaseSimulationProgram {
    private struct Options {
        var seed: UInt64 = 1
        var seeds: UInt64 = 1
        var nodes = 5
        var hours = 100
        var prints = false
    }

    static func main() {
        let options = options(CommandLine.arguments.dropFirst())
        var failures = 0
        for seed in options.seed..<options.seed + max(1, options.seeds) {
            let scenario = LeaseScenario(seed: seed, nodeCount: options.nodes, hours: options.hours)
            let listener: ((String) -> Void)? = options.prints ? { print($0) } : nil
            let outcome = scenario.run(listener: listener)
            for violation in outcome.violations { print("seed \(seed): \(violation)") }
            failures += outcome.violations.count
            print(
                "seed \(seed): \(options.nodes) nodes, \(options.hours) hours, \(outcome.steps) steps, digest "
                    + String(outcome.simulation.story.digest, radix: 16))
        }
        exit(failures == 0 ? 0 : 1)
    }

    private static func options(_ words: ArraySlice<String>) -> Options {
        var options = Options()
        var words = words
        func number<Number: FixedWidthInteger>(_ name: String) -> Number {
            guard let word = words.popFirst(), let value = Number(word), value >= 0 else {
                end("\(name) needs a number")
            }
            return value
        }
        while let word = words.popFirst() {
            switch word {
            case "--seed": options.seed = number(word)
            case "--seeds": options.seeds = number(word)
            case "--nodes": options.nodes = max(1, min(number(word), 6))
            case "--hours": options.hours = number(word)
            case "--print": options.prints = true
            default: end("\(word) is no option: --seed, --seeds, --nodes, --hours, --print")
            }
        }
        return options
    }

    private static func end(_ message: String) -> Never {
        print("twill-lease-simulation: \(message)")
        exit(64)
    }
}
