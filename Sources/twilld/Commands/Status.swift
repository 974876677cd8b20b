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
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Print the status document as JSON.")
    var json = false

    @Flag(help: "Show it again every two seconds.")
    var watch = false

    @Flag(help: "Look up the names of peers that tell none (reverse DNS, /etc/hosts).")
    var resolve = false

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
        var names = PeerNames(isAsked: resolve)
        guard watch else {
            print(text(of: try client.status(), &names), terminator: "")
            return
        }
        let isTerminal = isatty(STDOUT_FILENO) == 1
        var hasAnswered = false
        while true {
            let page: String
            do throws(ExitFailure) {
                page = text(of: try client.status(), &names)
                hasAnswered = true
            } catch {
                // A daemon that is started again is back within a second or two. One that was never there is not.
                guard hasAnswered, error.status == .unavailable else { throw error }
                page = "\(error.message)\nwaiting for it …\n"
            }
            // Home and clear, as on every terminal since the VT100.
            if isTerminal { print("\u{1B}[H\u{1B}[2J", terminator: "") }
            print(page)
            fflush(nil)
            sleep(Status.watchSeconds)
        }
    }

    private func text(of status: NodeStatus, _ names: inout PeerNames) -> String {
        names.complete(status).text(peerLimit: peers, columns: Status.columns)
    }

    /// Of the terminal; 80 where the output is none.
    private static var columns: Int {
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col >= 40 else { return 80 }
        return Int(size.ws_col)
    }
}

/// The names of peers, looked up once each.
private struct PeerNames {
    /// Whether anything is looked up.
    let isAsked: Bool
    private var known: [String: String?] = [:]

    init(isAsked: Bool) { self.isAsked = isAsked }

    /// Gives the peers of a status that have no name theirs.
    @available(*, noasync, message: "it blocks: use onThread")
    mutating func complete(_ status: NodeStatus) -> NodeStatus {
        guard isAsked else { return status }
        var status = status
        for (index, peer) in status.peers.enumerated() where peer.name == nil {
            let address = String(
                peer.endpoint.prefix(upTo: peer.endpoint.lastIndex(of: ":") ?? peer.endpoint.endIndex))
            if known[address] == nil { known[address] = .some(HostName.of(address: address)) }
            status.peers[index].name = known[address] ?? nil
        }
        return status
    }
}
