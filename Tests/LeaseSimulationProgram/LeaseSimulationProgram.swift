import Glibc
import LeaseTesting

/// `twill-lease-simulation [--deck hours|agreement|soak] [--fault NAME] [--seed N] [--seeds N] [--nodes N] [--hours N]
/// [--events N] [--print]`: lease machines on a simulated store through disturbances. The same seed gives the same
/// story to the byte; `--print` prints it, and without it the last line's digest stands for it.
///
/// The deck `hours` has hours of disturbances of its own, and a store that lies. The deck `agreement` asks whether all
/// nodes have what the store has a while after its last change, whatever the watches did; `--fault` takes one fault of
/// the watches alone. The deck `soak` is that of `tools/soak`: of its seed and number of nodes it plays what lease
/// machines see.
@main
enum LeaseSimulationProgram {
    private enum Deck: String, CaseIterable {
        case hours, agreement, soak
    }

    private struct Options {
        var seed: UInt64 = 1
        var seeds: UInt64 = 1
        var nodes: Int?
        var hours = 100
        var deck = Deck.hours
        var fault: WatchFault?
        var events = 100
        var prints = false
    }

    static func main() {
        let options = options(CommandLine.arguments.dropFirst())
        var failures = 0
        for seed in options.seed..<options.seed + max(1, options.seeds) {
            let listener: ((String) -> Void)? = options.prints ? { print($0) } : nil
            let violations =
                switch options.deck {
                case .hours: hours(seed, options, listener)
                case .agreement: agreement(seed, options, listener)
                case .soak: soak(seed, options, listener)
                }
            for violation in violations { print("seed \(seed): \(violation)") }
            failures += violations.count
        }
        exit(failures == 0 ? 0 : 1)
    }

    private static func hours(_ seed: UInt64, _ options: Options, _ listener: ((String) -> Void)?) -> [String]
    {
        let nodes = min(options.nodes ?? 5, 6)
        let outcome = LeaseScenario(seed: seed, nodeCount: nodes, hours: options.hours).run(
            listener: listener)
        let digest = String(outcome.simulation.story.digest, radix: 16)
        print(
            "seed \(seed): \(nodes) nodes, \(options.hours) hours, \(outcome.steps) steps, digest \(digest)")
        return outcome.violations
    }

    private static func agreement(
        _ seed: UInt64, _ options: Options, _ listener: ((String) -> Void)?
    ) -> [String] {
        let nodes = min(options.nodes ?? 5, 6)
        let outcome = AgreementScenario(
            seed: seed, nodeCount: nodes, hours: options.hours, fault: options.fault
        ).run(listener: listener)
        let digest = String(outcome.simulation.story.digest, radix: 16)
        print(
            "seed \(seed): \(nodes) nodes, \(options.hours) hours, \(outcome.rounds) rounds, digest \(digest)"
        )
        return outcome.violations
    }

    private static func soak(_ seed: UInt64, _ options: Options, _ listener: ((String) -> Void)?) -> [String]
    {
        let nodes = max(3, options.nodes ?? 3)
        let outcome = SoakReplay(seed: seed, nodeCount: nodes, cards: options.events).run(listener: listener)
        let digest = String(outcome.simulation.story.digest, radix: 16)
        print(
            "seed \(seed): \(nodes) nodes, \(outcome.cards) events, \(outcome.steps) steps, digest \(digest)")
        return outcome.violations
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
            case "--nodes": options.nodes = max(1, min(number(word), 9))
            case "--hours": options.hours = number(word)
            case "--events": options.events = number(word)
            case "--deck":
                options.deck = named(word, words.popFirst())
            case "--fault": options.fault = named(word, words.popFirst())
            case "--print": options.prints = true
            default:
                end(
                    "\(word) is no option: --deck, --fault, --seed, --seeds, --nodes, --hours, --events, --print"
                )
            }
        }
        return options
    }

    private static func named<Name: RawRepresentable & CaseIterable>(
        _ option: String, _ word: String?
    ) -> Name where Name.RawValue == String {
        if let word, let name = Name(rawValue: word) { return name }
        end("\(option) needs one of \(Name.allCases.map(\.rawValue).joined(separator: ", "))")
    }

    private static func end(_ message: String) -> Never {
        print("twill-lease-simulation: \(message)")
        exit(64)
    }
}
