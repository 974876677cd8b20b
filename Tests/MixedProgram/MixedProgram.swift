import FoundationEssentials
import Glibc
import Kit

/// `tools/test-mixed`: mixed traffic between real daemons, every byte of it checked: what came corrupt, what came
/// late, what was lost without a counter saying so. Runs in slices, over which the daemons go on; each slice has its
/// own seed, and is judged at its end.
@main
enum MixedProgram {
    private static let usage = """
        usage: tools/test-mixed [--seconds N] [--slice N] [--seed N] [--engine uring|mmsg|both] [--rate N]
                                [--kernel-path auto|off] [--twilld PATH] [--traffic PATH] [--twilld-flag FLAG]…
                                [--pause-file FILE]

          --seconds N      how long traffic runs for each engine (default 600)
          --slice N        seconds of a slice (default 20)
          --seed N         of content, sizes and order (default: drawn, and printed); slice k has seed N + k
          --engine NAME    default both, one after the other
          --rate N         malformed datagrams a second in all (default 10000)
          --kernel-path W  default off with each engine, and auto once more with the first
          --twilld PATH    the daemon (default $TWILL_TEST_BINARY, or .build/release/twilld)
          --traffic PATH   the generator (default Benchmarks/.build/release/traffic, else that of the debug build)
          --twilld-flag F  one more flag for each daemon, as --udp-gro=false; repeatable
          --pause-file F   no slice begins while there is such a file, so that others may measure on this machine

        In a slice, all at once: TCP streams and datagrams of every shape both ways between the pods of two nodes, and
        with a third node, which leaves and joins in every other pair of slices; iperf3 TCP and UDP, many flows, small
        and large; pings; malformed datagrams from peers and from a stranger. The underlay is plain and offloading in
        turn.
        """

    static func main() async {
        var arguments = ProgramArguments(usage: usage)
        var options = MixedOptions()
        options.seconds = arguments.number("--seconds", in: 1...10_000_000) ?? options.seconds
        options.sliceSeconds = arguments.number("--slice", in: 1...86_400) ?? options.sliceSeconds
        options.seed = arguments.number("--seed", in: 0...Int(UInt32.max) / 2) ?? options.seed
        options.rate = arguments.number("--rate", in: 10...10_000_000) ?? options.rate
        switch arguments.take("--engine") ?? "both" {
        case "both": break
        case "uring": options.engines = ["uring"]
        case "mmsg": options.engines = ["mmsg"]
        default: arguments.end("--engine needs uring, mmsg or both")
        }
        options.kernelPath = arguments.take("--kernel-path")
        options.daemon = arguments.take("--twilld") ?? options.daemon
        options.traffic = arguments.take("--traffic") ?? ""
        options.daemonFlags = arguments.takeAll("--twilld-flag")
        options.pauseFile = arguments.take("--pause-file")
        arguments.expectNoMore()
        arguments.expectRights(daemon: options.daemon)
        if options.traffic.isEmpty {
            do {
                options.traffic = try BenchmarkProgram.traffic.path(["release", "debug"])
            } catch { arguments.end("\(error)") }
        }
        guard access(options.traffic, X_OK) == 0 else { arguments.end("there is no \(options.traffic)") }
        let chosen = options
        exit(await Interruption.run { await run(chosen) })
    }

    private static func run(_ options: MixedOptions) async -> Int32 {
        var faults = 0
        for run in options.runs {
            let engine = run.engine
            var options = options
            options.kernelPath = run.kernelPath
            let flags = (["--kernel-path=\(run.kernelPath)"] + options.daemonFlags).map { ", " + $0 }.joined()
            say(
                "mixed traffic, engine \(engine)\(flags), \(options.seconds) s from seed \(options.seed), \(options.rate) malformed datagrams a second"
            )
            do {
                faults += try await self.run(options, engine)
            } catch {
                if Interruption.signal != 0 { return 1 }
                complain("✗ \(error)")
                tellHowToRepeat(options, engine)
                return 1
            }
        }
        say("mixed: \(faults) faults")
        return faults == 0 ? 0 : 1
    }

    private static func run(_ options: MixedOptions, _ engine: String) async throws -> Int {
        let mixed = try await Mixed(options, engine)
        do {
            try await mixed.run()
        } catch {
            if Interruption.signal == 0 { mixed.keepFiles() }
            throw error
        }
        if mixed.faults > 0 {
            mixed.keepFiles()
            tellHowToRepeat(options, engine)
        }
        return mixed.faults
    }

    private static func tellHowToRepeat(_ options: MixedOptions, _ engine: String) {
        complain(
            "repeat it: tools/test-mixed --seed \(options.seed) --engine \(engine) --seconds \(options.seconds)"
                + " --slice \(options.sliceSeconds) --rate \(options.rate)"
                + (options.kernelPath.map { " --kernel-path \($0)" } ?? "")
                + options.daemonFlags.map { " --twilld-flag \($0)" }.joined())
    }
}

/// What the program is told.
struct MixedOptions: Sendable {
    var seconds = 600
    var sliceSeconds = 20
    var seed = Int.random(in: 0..<32_768)
    var rate = 10_000
    var engines = ["uring", "mmsg"]
    /// What every run is with; nil: each engine without the kernel path, where the order of packets is the workers' alone,
    /// and the first engine with it.
    var kernelPath: String?
    var runs: [(engine: String, kernelPath: String)] {
        engines.map { ($0, kernelPath ?? "off") } + (kernelPath == nil ? [(engines[0], "auto")] : [])
    }
    var daemon = getenv("TWILL_TEST_BINARY").map { String(cString: $0) } ?? ".build/release/twilld"
    var traffic = ""
    var daemonFlags: [String] = []
    var pauseFile: String?
}
