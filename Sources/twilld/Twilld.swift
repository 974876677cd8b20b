import ArgumentParser
import FoundationEssentials
import Glibc
import Health
import Host
import NodeDaemon
import Synchronization

/// The program: a node network daemon, and the commands beside it.
@main
struct Twilld: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "twilld",
        abstract: "A node of a flannel network: takes a subnet, carries its packets to the other nodes.",
        discussion: """
            Without a subcommand, run: a flanneld unit file works with the binary's name changed. The flags of \
            run, and flanneld's style of writing them, are in: twilld run --help

            \(ExitStatus.helpText)
            """,
        version: Version.line,
        subcommands: [
            Run.self, Check.self, Status.self, Ping.self, DoctorCommand.self, CaptureCommand.self, Trace.self,
            BugReportCommand.self, Lease.self, Network.self, DockerOptions.self, Cleanup.self,
            Completion.self,
        ],
        defaultSubcommand: Run.self)

    /// How long the last lines may take to reach a standard error that takes nothing.
    static let lastLinesMilliseconds = 500
    /// How long a process that a service manager started lasts at least where it fails: the next one is started at once.
    private static let shortestFailure = Duration.seconds(1)
    private static let began = ContinuousClock.now
    /// What was given for each flag when this process began, by the one reading that it goes by.
    static let given = Mutex<[String: [String]]>([:])
    /// What the process before has left with systemd.
    static let inheritance = Inheritance()

    @MainActor static func main() async {
        _ = began
        ProcessMemory.returnLarge()
        EarlySignals.hold()
        StandardStreams.fillClosed()
        takeUp()
        let words = Array(CommandLine.arguments.dropFirst())
        let line: CommandLineWords
        do throws(ExitFailure) {
            line = try await onThread { () throws(ExitFailure) in
                try CommandLineWords(
                    words, environment: ProcessInfo.processInfo.environment, readFile: readConfigurationFile)
            }
        } catch {
            await onThread { inheritance.putBack() }
            end(error)
        }
        given.withLock { $0 = line.values }
        do {
            var command = try parseAsRoot(line.words)
            if !(command is Run) { EarlySignals.release() }
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            LogWriter.standardError.flush(milliseconds: lastLinesMilliseconds)
        } catch {
            await onThread { inheritance.putBack() }
            if let failure = error as? ExitFailure { end(failure) }
            let text = fullMessage(for: error)
            for note in line.notes(onError: text) {
                StandardError.writeFailure("note: \(note.printableLines)")
            }
            if line.isOfFile(error: text) { end(ExitFailure(.configuration, message(for: error))) }
            LogWriter.standardError.flush(milliseconds: lastLinesMilliseconds)
            exit(withError: error)
        }
    }

    /// First of all, since packets wait: on the main thread, where nothing else does yet. Another one would have to be made.
    private static func takeUp() { inheritance.takeUp() }

    private static func end(_ failure: ExitFailure) -> Never {
        StandardError.writeFailure("twilld: \(failure.message.printableLines)")
        LogWriter.standardError.flush(milliseconds: lastLinesMilliseconds)
        let rest = shortestFailure - (ContinuousClock.now - began)
        if ProcessInfo.processInfo.environment["NOTIFY_SOCKET"] != nil, rest > .zero {
            usleep(UInt32(clamping: rest.components.attoseconds / 1_000_000_000_000))
        }
        Glibc.exit(failure.status.rawValue)
    }

    @available(*, noasync, message: "it blocks: use onThread")
    static func readConfigurationFile(_ path: String) throws(ExitFailure) -> String {
        do {
            return try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw ExitFailure(
                .configuration,
                "the configuration file \(path) can't be read: \(plainWords(error))")
        }
    }
}

extension String {
    /// The text with its lines, each printable.
    fileprivate var printableLines: String {
        split(separator: "\n", omittingEmptySubsequences: false).map { String($0).printable }
            .joined(separator: "\n")
    }
}
