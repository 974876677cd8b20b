import ArgumentParser

/// A command that takes flags in Go's style, and each from the environment and a configuration file too.
protocol FlagTaking: AsyncParsableCommand {
    /// The flags that it declares.
    static var flags: [GoFlag] { get }
}

/// The words of the whole command line as ArgumentParser reads them: the subcommand's path, then its flags.
struct CommandLineWords {
    let words: [String]
    private let flags: FlagArguments?

    /// Finds the subcommand, `run` where none is named, and normalizes what follows for those that take flags.
    init(
        _ words: [String], environment: [String: String],
        readFile: (String) throws(CommandFailure) -> String
    ) throws(CommandFailure) {
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
            rest.first.map({ $0.hasPrefix("-") && !["-h", "-help", "--help"].contains($0) }) ?? true
        {
            path = ["run"]
            command = Run.self
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

    /// Where the values came from that an error names: the operator may look for them on the command line in vain.
    func notes(onError text: String) -> [String] {
        guard let flags else { return [] }
        return flags.origins.keys.sorted().filter { name in
            text.split(whereSeparator: { !($0.isLetter || $0.isNumber || $0 == "-") }).contains("--" + name)
        }.compactMap(flags.note(onFlag:))
    }
}
