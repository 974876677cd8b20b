import ArgumentParser
import FoundationEssentials
import Glibc

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
        version: Version.text,
        subcommands: [
            Run.self, Check.self, Status.self, Lease.self, Network.self, DockerOptions.self, Cleanup.self,
        ],
        defaultSubcommand: Run.self)

    static func main() async {
        let words = Array(CommandLine.arguments.dropFirst())
        let line: CommandLineWords
        do throws(CommandFailure) {
            line = try CommandLineWords(
                words, environment: ProcessInfo.processInfo.environment, readFile: readConfigurationFile)
        } catch {
            end(error)
        }
        do {
            var command = try parseAsRoot(line.words)
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch let failure as CommandFailure {
            end(failure)
        } catch {
            for note in line.notes(onError: fullMessage(for: error)) { StandardError.write("note: \(note)") }
            exit(withError: error)
        }
    }

    private static func end(_ failure: CommandFailure) -> Never {
        StandardError.write("twilld: \(failure.message)")
        Glibc.exit(failure.status.rawValue)
    }

    private static func readConfigurationFile(_ path: String) throws(CommandFailure) -> String {
        do {
            return try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw CommandFailure(
                .configuration,
                "the configuration file \(path) can't be read: \(String(cString: strerror(errno)))")
        }
    }
}
