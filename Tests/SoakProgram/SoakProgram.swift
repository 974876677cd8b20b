import FoundationEssentials
import Glibc
import Kit

/// `tools/soak`: keeps a network of real daemons and a real etcd under disturbances for minutes, with iperf3 across,
/// and looks after each whether everything healed: leases, peers, routes, rules, pings; at the end also packets'
/// destinations, memory, descriptors, etcd leases. What is done, in which order and to whom follows from the seed.
@main
enum SoakProgram {
    private static let usage = """
        usage: tools/soak [--minutes N] [--seed N] [--events N] [--nodes N] [--twilld PATH]

          --minutes N    how long to disturb (default 30)
          --seed N       what decides everything (default random; it is printed)
          --events N     end after so many events instead of after minutes: repeats a failure
          --nodes N      3 to 9 nodes (default 3)
          --twilld PATH  the daemon (default $TWILL_TEST_BINARY, or .build/release/twilld); a copy is used, so that builds do
                         not disturb

        twill-lease-simulation --deck soak --seed N --nodes N --events N plays the same on lease machines, in simulated time.
        """

    static func main() async {
        // The service manager of one of the nodes is this program, too.
        ServiceKeeper.runIfAsked()
        var arguments = ProgramArguments(usage: usage)
        var options = SoakOptions()
        options.minutes = arguments.number("--minutes", in: 1...100_000) ?? options.minutes
        options.seed = arguments.number("--seed", in: 0...Int.max) ?? options.seed
        options.events = arguments.number("--events", in: 1...1_000_000)
        options.nodes = arguments.number("--nodes", in: 3...9) ?? options.nodes
        options.daemon = arguments.take("--twilld") ?? options.daemon
        arguments.expectNoMore()
        arguments.expectRights(daemon: options.daemon)
        let chosen = options
        exit(await Interruption.run { await run(chosen) })
    }

    private static func run(_ options: SoakOptions) async -> Int32 {
        let length = options.events.map { "\($0) events" } ?? "\(options.minutes) minutes"
        say("soak: \(options.nodes) nodes, \(length), seed \(options.seed)")
        do {
            let soak = try await Soak(options)
            do {
                try await soak.run()
            } catch {
                if Interruption.signal == 0 { await soak.tell(error) }
                return 1
            }
        } catch {
            if Interruption.signal == 0 { complain("✗ the lab: \(error)") }
            return 1
        }
        return 0
    }
}

/// What a soak is told.
struct SoakOptions: Sendable {
    var minutes = 30
    var seed = Int.random(in: 0..<1_000_000)
    var events: Int?
    var nodes = 3
    var daemon = getenv("TWILL_TEST_BINARY").map { String(cString: $0) } ?? ".build/release/twilld"
}

/// Something is not as it ought to be.
struct SoakFailure: Error, CustomStringConvertible {
    let description: String
}
