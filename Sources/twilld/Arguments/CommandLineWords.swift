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
        let nearest = names.map { ($0, distance(word, $0)) }.min { $0.1 < $1.1 }
        let guess = nearest.flatMap { $0.1 <= max(1, word.count / 3) ? "did you mean \($0.0)? " : nil } ?? ""
        let place = (["twilld"] + path).joined(separator: " ")
        return ExitFailure(
            .usage, "there is no command \"\(word.printable)\"; \(guess)the commands are in: \(place) --help")
    }

    /// How many letters must be added, removed, changed or swapped with their neighbour to make one word of
    /// the other.
    static func distance(_ left: String, _ right: String) -> Int {
        let (left, right) = (Array(left.prefix(40)), Array(right.prefix(40)))
        var rows = [Array(0...right.count)]
        for (i, letter) in left.enumerated() {
            var row = [i + 1]
            for (j, other) in right.enumerated() {
                var cost = min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (letter == other ? 0 : 1))
                if i > 0, j > 0, letter == right[j - 1], left[i - 1] == other {
                    cost = min(cost, rows[i - 1][j - 1] + 1)
                }
                row.append(cost)
            }
            rows.append(row)
        }
        return rows[left.count][right.count]
    }

    /// Where the values came from that an error names: the operator may look for them on the command line in
    /// vain.
    func notes(onError text: String) -> [String] {
        guard let flags else { return [] }
        return flags.origins.keys.sorted().filter { name in
            text.split(whereSeparator: { !($0.isLetter || $0.isNumber || $0 == "-") }).contains("--" + name)
        }.compactMap(flags.note(onFlag:))
    }
}
