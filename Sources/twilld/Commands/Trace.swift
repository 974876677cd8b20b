import ArgumentParser
import Glibc
import Host
import NodeDaemon
import Telemetry

/// `twilld trace`: where the time of packets goes.
struct Trace: FlagTaking {
    static let flags = StatusSocketFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract:
            "Time packets for some seconds: how long they wait in the daemon, and how long it takes them on.",
        discussion: """
            Each worker follows one packet a millisecond in each direction, always; this shows the difference between \
            two moments. Percentiles are the bounds of buckets that double. The same is in the metrics.
            """)

    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Option(help: ArgumentHelp("For how long.", valueName: "number"))
    var seconds = 5

    @Flag(help: "Print it as JSON.")
    var json = false

    func validate() throws {
        if !(1...3_600).contains(seconds) {
            throw ValidationError("--seconds is \(seconds); it is 1 to 3600")
        }
    }

    func run() async throws {
        let client = StatusClient(socketPath: socket.statusSocket)
        let before = try await onThread { () throws(ExitFailure) in try client.status() }
        try await Task.sleep(for: .seconds(seconds))
        let after = try await onThread { () throws(ExitFailure) in try client.status() }
        let trace = TimeTrace(from: before, to: after)
        if json { try printDocument(trace) } else { print(trace.text, terminator: "") }
    }
}
