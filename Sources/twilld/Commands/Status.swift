import ArgumentParser
import Glibc
import Host
import NodeDaemon
import Telemetry

/// `twilld status`: what a running daemon knows.
struct Status: FlagTaking {
    static let flags = StatusSocketFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what the running daemon knows: node, lease, peers, traffic, what was dropped and why."
    )

    @OptionGroup var socket: StatusSocketFlag

    @Flag(help: "Print the status document as JSON.")
    var json = false

    @Flag(help: "Show it again every two seconds.")
    var watch = false

    @Option(help: ArgumentHelp("How many peers are listed.", valueName: "number"))
    var peers = 50

    private static let watchSeconds: UInt32 = 2

    func validate() throws {
        if json && watch { throw ValidationError("--json and --watch don't go together") }
        if peers < 0 { throw ValidationError("--peers is negative") }
    }

    func run() async throws { try await onThread { try show() } }

    @available(*, noasync, message: "it blocks: use onThread")
    private func show() throws {
        let client = StatusClient(socketPath: socket.statusSocket)
        if json {
            print(try client.statusText(), terminator: "")
            return
        }
        guard watch else {
            print(try client.status().text(peerLimit: peers), terminator: "")
            return
        }
        let isTerminal = isatty(STDOUT_FILENO) == 1
        while true {
            let status = try client.status()
            // Home and clear, as on every terminal since the VT100.
            if isTerminal { print("\u{1B}[H\u{1B}[2J", terminator: "") }
            print(status.text(peerLimit: peers))
            fflush(nil)
            sleep(Status.watchSeconds)
        }
    }
}
