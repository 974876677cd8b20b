import Glibc

/// Runs targets on inputs drawn from one seed, and tells at which rate. A failure ends the run with the input and the command
/// that repeats it.
public struct FuzzDriver {
    /// What a target was run for.
    public struct Count: Sendable {
        /// The target.
        public let name: String
        /// Inputs run.
        public internal(set) var executions = 0
        /// Time that it took.
        public internal(set) var seconds = 0.0
    }

    /// A failure, with what repeats it.
    public struct Failed: Error, CustomStringConvertible {
        /// The whole report.
        public let description: String
    }

    private final class Running {
        let name: String
        let target: any FuzzTarget
        var mutator: Mutator
        var count: Count

        /// Executions a second.
        var rate: Double { Double(count.executions) / max(count.seconds, 1e-9) }

        init(_ named: NamedFuzzTarget, seed: UInt64) {
            name = named.name
            target = named.make()
            // Each target has a sequence of its own, whatever others run beside it.
            mutator = Mutator(
                target, seed: named.name.utf8.reduce(seed) { ($0 ^ UInt64($1)) &* 0x0100_0000_01B3 })
            count = Count(name: named.name)
        }
    }

    private let running: [Running]
    private let seed: UInt64

    /// Makes a driver.
    ///
    /// - Parameters:
    ///   - targets: what is run, in this order.
    ///   - seed: decides all inputs.
    public init(_ targets: [NamedFuzzTarget], seed: UInt64) {
        self.seed = seed
        running = targets.map { Running($0, seed: seed) }
        CurrentInput.install()
    }

    /// Runs all targets in turn, for a time in all.
    public func run(seconds: Double) throws(Failed) -> [Count] {
        for one in running { try turn(one, seconds: seconds / Double(running.count)) }
        return running.map(\.count)
    }

    /// Runs all targets in turn until each has `least` executions, then those of quick inputs until the sum is reached.
    public func run(executions: Int, least: Int) throws(Failed) -> [Count] {
        while true {
            var chosen = running.filter { $0.count.executions < least }
            if chosen.isEmpty {
                guard running.reduce(0, { $0 + $1.count.executions }) < executions else { break }
                let quickest = running.map(\.rate).max() ?? 0
                chosen = running.filter { $0.rate * 4 >= quickest }
            }
            for one in chosen { try turn(one, seconds: 0.5) }
        }
        return running.map(\.count)
    }

    /// Runs one input on one target.
    public static func run(_ named: NamedFuzzTarget, input: [UInt8]) throws(Failed) {
        let target = named.make()
        CurrentInput.install()
        try execute(target, input, name: named.name, seed: nil, number: 0)
    }

    private func turn(_ one: Running, seconds: Double) throws(Failed) {
        let clock = ContinuousClock()
        let start = clock.now
        var batch = 1
        while clock.now - start < .seconds(seconds) {
            for _ in 0..<batch {
                let input = one.mutator.next()
                one.count.executions += 1
                try FuzzDriver.execute(
                    one.target, input, name: one.name, seed: seed, number: one.count.executions)
            }
            // The clock is asked seldom where inputs are quick.
            batch = min(batch * 2, 64)
        }
        one.count.seconds += (clock.now - start) / .seconds(1)
    }

    private static func execute(
        _ target: any FuzzTarget, _ input: [UInt8], name: String, seed: UInt64?, number: Int
    ) throws(Failed) {
        CurrentInput.set(input, name: name, seed: seed, number: number)
        do {
            try target.run(input)
        } catch {
            throw Failed(description: "\(name): \(error)\n" + CurrentInput.report())
        }
    }
}

/// A table of what was run: name, executions, rate.
public func table(of counts: [FuzzDriver.Count]) -> String {
    func padded(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.utf8.count)) + text
    }
    func row(_ name: String, _ executions: String, _ rate: String) -> String {
        name + padded(executions, 36 - name.utf8.count) + padded(rate, 14)
    }
    let executions = counts.reduce(0) { $0 + $1.executions }
    let rows = counts.map {
        row($0.name, "\($0.executions)", "\(Int(Double($0.executions) / max($0.seconds, 1e-9)))")
    }
    return ([row("target", "executions", "per second")] + rows + [row("in all", "\(executions)", "")])
        .joined(separator: "\n")
}
