import Fuzz
import Glibc

/// `twill-fuzz [--seconds S] [--executions N] [--seed N] [--target NAME]… [--input HEX] [--list]
/// [--write-seeds DIRECTORY] [--coverage ARGUMENT…]`:
/// docs/robustness.md.
@main
enum FuzzProgram {
    private struct Options {
        var seconds = 30.0
        var executions: Int?
        var seed: UInt64 = 1
        var names: [String] = []
        var input: [UInt8]?
        var seedDirectory: String?
        var coverage: [String]?
    }

    static func main() {
        let options = options(CommandLine.arguments.dropFirst())
        let known = fuzzTargets
        for name in options.names where !known.contains(where: { $0.name == name }) {
            end("there is no target \(name); there are \(known.map(\.name).joined(separator: ", "))")
        }
        let targets = options.names.isEmpty ? known : known.filter { options.names.contains($0.name) }
        if let arguments = options.coverage {
            runWithCoverage(targets[0], seeds: options.seedDirectory, arguments)
        }
        do {
            if let input = options.input {
                for target in targets { try FuzzDriver.run(target, input: input) }
                print("the input holds")
                return
            }
            print("seed \(options.seed)")
            let driver = FuzzDriver(targets, seed: options.seed)
            let counts =
                if let executions = options.executions {
                    try driver.run(
                        executions: executions, least: targets.count > 1 ? min(100_000, executions) : 0)
                } else {
                    try driver.run(seconds: options.seconds)
                }
            print(table(of: counts))
        } catch {
            print("\(error)")
            exit(1)
        }
    }

    private static func options(_ arguments: some Collection<String>) -> Options {
        var options = Options()
        var rest = Array(arguments)[...]
        while let word = rest.popFirst() {
            if word == "--coverage" {
                options.coverage = Array(rest)
                return options
            }
            if word == "--list" {
                fuzzTargets.forEach { print($0.name) }
                exit(0)
            }
            guard let value = rest.popFirst() else { end("\(word) needs a value") }
            switch word {
            case "--seconds": options.seconds = Double(value) ?? 0
            case "--executions": options.executions = Int(value)
            case "--seed": options.seed = UInt64(value) ?? 0
            case "--target": options.names.append(value)
            case "--write-seeds": options.seedDirectory = value
            case "--input": options.input = bytes(value)
            default: end("there is no \(word)")
            }
        }
        return options
    }

    private static func bytes(_ hex: String) -> [UInt8] {
        let digits = hex.compactMap(\.hexDigitValue)
        return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    private static func end(_ message: String) -> Never {
        print("twill-fuzz: \(message)")
        exit(64)
    }

    private static func runWithCoverage(
        _ target: NamedFuzzTarget, seeds directory: String?, _ arguments: [String]
    ) -> Never {
        #if COVERAGE
            if let directory { writeSeeds(of: target, to: directory) }
            exit(runLibFuzzer(target, arguments))
        #else
            end("--coverage needs a build by tools/fuzz --coverage")
        #endif
    }
}
