import FoundationEssentials
import Glibc
import Kit

/// `tools/test-upgrade`: numbered datagrams and TCP flows between the pods of two nodes while a node's daemon is
/// restarted, upgraded, killed and changed: what was lost, what came twice or out of order, and for how long nothing came.
@main
enum UpgradeProgram {
    private static let usage = """
        usage: tools/test-upgrade [--times N] [--seconds N] [--rate N] [--event NAME]… [--peer forwarder|PATH] [--twilld PATH]
               [--twilld-flag FLAG]…

          --times N        how often each event is played (default 5)
          --seconds N      how long traffic flows around each (default 4)
          --rate N         numbered datagrams a second (default 100000)
          --event NAME     one of those below; repeatable (default: all)
          --peer WHAT      whom it speaks to: a forwarder as flannel's is, which hears of no other port, or another twilld,
                           such as one of the release before (default: its own like)
          --twilld PATH    the daemon (default $TWILL_TEST_BINARY, or .build/release/twilld)
          --twilld-flag F  one more flag for each daemon; repeatable

        Events: \(UpgradeEvent.allCases.map(\.rawValue).joined(separator: ", ")).
        None may double or reorder datagrams or reset a TCP flow, and planned ones may lose none, but to a forwarder that drops them
        itself; where they do, the exit status is 1. What the others lose, and for how long nothing comes, is printed.
        """

    static func main() async {
        // The stand-in for systemd is this program, too.
        ServiceKeeper.runIfAsked()
        var arguments = ProgramArguments(usage: usage)
        var options = UpgradeOptions()
        options.times = arguments.number("--times", in: 1...10_000) ?? options.times
        options.seconds = arguments.number("--seconds", in: 1...600) ?? options.seconds
        options.rate = arguments.number("--rate", in: 100...1_000_000) ?? options.rate
        options.daemon = arguments.take("--twilld") ?? options.daemon
        options.peer = arguments.take("--peer")
        options.daemonFlags = arguments.takeAll("--twilld-flag")
        let names = arguments.takeAll("--event")
        for name in names where UpgradeEvent(rawValue: name) == nil {
            arguments.end("--event \(name): there is none")
        }
        if !names.isEmpty { options.events = names.compactMap(UpgradeEvent.init(rawValue:)) }
        arguments.expectNoMore()
        arguments.expectRights(daemon: options.daemon)
        let chosen = options
        exit(await Interruption.run { await run(chosen) })
    }

    private static func run(_ options: UpgradeOptions) async -> Int32 {
        var hasFailed = false
        say(UpgradeResult.heading)
        for event in options.events {
            var results: [UpgradeResult] = []
            for _ in 0..<options.times {
                do {
                    results.append(try await Upgrade.play(event, options))
                } catch let missing as NoProgram {
                    complain("\(event.rawValue) is not played: \(missing.description)")
                    break
                } catch {
                    if Interruption.signal == 0 { complain("✗ \(event.rawValue): \(error)") }
                    return 1
                }
            }
            if results.isEmpty { continue }
            say(UpgradeResult.line(of: results, for: event))
            if results.contains(where: { event.isPlanned ? !$0.isClean : $0.isWrong }) { hasFailed = true }
        }
        if hasFailed {
            complain(
                "✗ datagrams came twice or out of order, a flow was reset, or a planned event lost datagrams")
        }
        return hasFailed ? 1 : 0
    }
}

/// What the program is told.
struct UpgradeOptions: Sendable {
    var times = 5
    var seconds = 4
    var rate = 100_000
    var events = UpgradeEvent.allCases
    var daemon = getenv("TWILL_TEST_BINARY").map { String(cString: $0) } ?? ".build/release/twilld"
    var daemonFlags: [String] = []
    /// `forwarder`, or the path of another daemon.
    var peer: String?

    var peerIsForwarder: Bool { peer == "forwarder" }
}

/// What happens while packets flow.
enum UpgradeEvent: String, CaseIterable, Sendable {
    /// Nothing.
    case quiet
    /// Another process of the same program takes over.
    case restart
    /// One of another build does, and one of the first build again.
    case upgrade
    /// A new one ends at each step of the hand-over, as one that is killed does.
    case failedHandOver = "failed-hand-over"
    /// A new one has the descriptors, and falls silent with them.
    case silentHandOver = "silent-hand-over"
    /// The port is another one, by SIGHUP.
    case port
    /// The number of workers is, from one to two and back.
    case workers
    /// The tuning is.
    case tuning
    /// SIGTERM and a new start at once, with a service manager that keeps descriptors.
    case restartByStore = "restart-by-store"
    /// SIGKILL with one.
    case killWithStore = "kill-with-store"
    /// SIGKILL without, and a new start at once.
    case killWithout = "kill-without"
    /// SIGTERM, the end, and then a new start, as flanneld is restarted.
    case stopAndStart = "stop-and-start"
    /// The same where the network's backend is VXLAN: the kernel forwards, whatever becomes of the daemon.
    case vxlan = "vxlan-stop-and-start"
    /// The same with a forwarder as flannel's is in the place of the daemon; flanneld's own start comes on top of it.
    case forwarder = "flannel-forwarder"

    /// Whether nothing may be lost.
    var isPlanned: Bool {
        switch self {
        case .quiet, .restart, .upgrade, .failedHandOver, .silentHandOver, .port, .workers, .tuning, .vxlan:
            true
        case .restartByStore, .killWithStore, .killWithout, .stopAndStart, .forwarder: false
        }
    }
}

/// What one playing came to.
struct UpgradeResult {
    var traffic: NumberedTraffic.Report
    var resets: Int
    /// Datagrams that the peer's own socket had no room for, where the peer is a forwarder: what comes in a burst after a
    /// pause is more than it is made for (ADR 16).
    var droppedByForwarder = 0

    /// Something that nothing may do.
    var isWrong: Bool { traffic.duplicated > 0 || traffic.reordered > 0 || resets > 0 }

    var isClean: Bool { traffic.lost <= droppedByForwarder && !isWrong }

    static let heading =
        "\("event".padded(20)) \("times".padded(5))     sent     lost (median, most)    twice  reordered  resets"
        + "   longest gap, ms (least, median, 9 of 10, most)"

    static func line(of results: [UpgradeResult], for event: UpgradeEvent) -> String {
        func spread(_ values: [Double], _ digits: Int) -> String {
            let sorted = values.sorted()
            let format = { (value: Double) in
                digits == 0 ? "\(Int(value))" : "\((value * 10).rounded() / 10)"
            }
            return "\(format(sorted[sorted.count / 2])), \(format(sorted[sorted.count - 1]))"
        }
        func distribution(_ values: [Double]) -> String {
            let sorted = values.sorted()
            return [0, sorted.count / 2, sorted.count * 9 / 10, sorted.count - 1]
                .map { "\((sorted[$0] * 10).rounded() / 10)" }.joined(separator: ", ")
        }
        func sum(_ value: (UpgradeResult) -> Int) -> String { "\(results.reduce(0) { $0 + value($1) })" }
        return [
            event.rawValue.padded(20), "\(results.count)".padded(5), sum { $0.traffic.sent }.padded(9),
            spread(results.map { Double($0.traffic.lost) }, 0).padded(22),
            sum { $0.traffic.duplicated }.padded(6),
            sum { $0.traffic.reordered }.padded(10), sum(\.resets).padded(8),
            distribution(results.map(\.traffic.longestGapMilliseconds)),
        ].joined(separator: " ")
    }
}

extension String {
    fileprivate func padded(_ width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - count))
    }
}

/// Something is not as it ought to be.
struct UpgradeFailure: Error, CustomStringConvertible {
    let description: String
}
