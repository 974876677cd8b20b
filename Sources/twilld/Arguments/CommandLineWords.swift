import ArgumentParser
import Health
import NodeDaemon

/// A command that takes flags in Go's style, and each from the environment and a configuration file too.
protocol FlagTaking: AsyncParsableCommand {
    /// The flags that it declares.
    static var flags: [GoFlag] { get }
}

/// The words of the whole command line as ArgumentParser reads them: the subcommand's path, then its flags.
struct CommandLineWords {
    let words: [String]
    /// What asks for something of all commands together: help, and the dump that the manual pages are made from.
    private static let ofAllCommands: Set = ["-h", "-help", "--help", "--experimental-dump-help"]
    private let flags: FlagArguments?

    /// The file that `--config` or its variable names; nil for none.
    var configurationFile: String? { flags?.file }

    /// Each flag's values, wherever they were given.
    var values: [String: [String]] { flags?.values ?? [:] }

    /// Finds the subcommand, `run` where none is named, and normalizes what follows for those that take
    /// flags.
    init(
        _ words: [String], environment: [String: String],
        readFile: (String) throws(ExitFailure) -> String
    ) throws(ExitFailure) {
        var path: [String] = []
        var command: any ParsableCommand.Type = Twilld.self
        var rest = words[...]
        while let word = rest.first,
            let next = command.configuration.subcommands.first(where: { $0.configuration.commandName == word }
            )
        {
            path.append(word)
            command = next
            rest.removeFirst()
        }
        if path.isEmpty,
            rest.first.map({ $0.hasPrefix("-") && !CommandLineWords.ofAllCommands.contains($0) }) ?? true
        {
            path = ["run"]
            command = Run.self
        }
        if let word = rest.first, !word.hasPrefix("-"), word != "help",
            !command.configuration.subcommands.isEmpty
        {
            throw CommandLineWords.unknown(word, after: path, of: command)
        }
        guard let taking = command as? any FlagTaking.Type else {
            self.words = path + rest.map { $0 == "-help" ? "--help" : $0 }
            flags = nil
            return
        }
        let flags = try FlagArguments(rest, environment: environment, flags: taking.flags, readFile: readFile)
        self.words = path + flags.normalized
        self.flags = flags
    }

    /// What to say of a word that is no command: the one that was probably meant.
    private static func unknown(
        _ word: String, after path: [String], of command: any ParsableCommand.Type
    ) -> ExitFailure {
        let names = command.configuration.subcommands.compactMap { $0.configuration.commandName } + ["help"]
        // Of other programs it is a command.
        let meant = path.isEmpty && word == "version" ? "--version" : word.nearest(among: names)
        let guess = meant.map { "did you mean \($0)? " } ?? ""
        let place = (["twilld"] + path).joined(separator: " ")
        return ExitFailure(
            .usage, "there is no command \"\(word.printable)\"; \(guess)the commands are in: \(place) --help")
    }

    /// Where the values came from that an error names: the operator may look for them on the command line in
    /// vain.
    func notes(onError text: String) -> [String] {
        guard let flags else { return [] }
        return flags.origins.keys.sorted().filter { text.names(flag: $0) }.compactMap(flags.note(onFlag:))
    }

    /// Whether an error is about a value of the configuration file, and so not about the command line.
    func isOfFile(error text: String) -> Bool { flags?.isOfFile(text) ?? false }
}
