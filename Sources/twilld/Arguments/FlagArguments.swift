import Health
import NodeDaemon

/// A command line in Go's style, brought into the one form that ArgumentParser reads without knowing Go:
/// `--name=value`, booleans spelled `true` or `false`.
///
/// Go's `flag` package takes one dash or two, `-name value` or `-name=value`, and booleans without a value;
/// flanneld's unit files are written that way. What a flag lacks on the command line comes from the environment, and
/// what is lacking there from the configuration file: the same values under the same names.
struct FlagArguments {
    /// Where a value was given.
    enum Origin: Equatable {
        case commandLine
        /// The variable's name.
        case environment(String)
        /// The file's path and the line, counted from 1.
        case file(String, line: Int)
    }

    /// What ArgumentParser gets.
    private(set) var normalized: [String] = []
    /// Where each flag's value came from, by the flag's name.
    private(set) var origins: [String: Origin] = [:]
    /// The configuration file; nil for none.
    private(set) var file: String?
    /// Each flag's values, by its name; empty ones are left out.
    private(set) var values: [String: [String]] = [:]

    /// Normalizes what stands after the subcommand's name.
    ///
    /// - Parameters:
    ///   - arguments: The words, without the program's name and the subcommand's.
    ///   - environment: The process's environment. An empty variable counts as none, as in flanneld.
    ///   - flags: The flags that the subcommand takes. Others pass through to ArgumentParser, which refuses
    /// them.
    ///   - readFile: Reads the file that `--config` names.
    init(
        _ arguments: some Sequence<String>, environment: [String: String], flags: [GoFlag],
        readFile: (String) throws(ExitFailure) -> String
    ) throws(ExitFailure) {
        let known = Dictionary(uniqueKeysWithValues: (flags + [GoFlag("config")]).map { ($0.name, $0) })
        var words = Array(arguments)[...]
        var path = environment[GoFlag("config").environmentName].flatMap { $0.isEmpty ? nil : $0 }
        var rest: [String] = []

        while let word = words.popFirst() {
            if word == "--" {
                rest += [word] + words
                break
            }
            guard let (name, inlineValue) = FlagArguments.split(word) else {
                rest.append(word)
                continue
            }
            guard let flag = known[name] else {
                // A letter after one dash is a command's own short option, as it is everywhere.
                let isShort = name.count == 1 && !word.hasPrefix("--")
                rest.append(
                    name == "h"
                        ? "--help" : isShort ? word : "--" + name + (inlineValue.map { "=" + $0 } ?? ""))
                continue
            }
            let value: String
            if flag.kind == .boolean {
                // In Go's style too the value of a boolean is no word of its own: it would end the flags there.
                if inlineValue == nil, let next = words.first, next == "true" || next == "false" {
                    throw ExitFailure(
                        .usage, "the value of --\(name) is written with an equals sign: --\(name)=\(next)")
                }
                value = try FlagArguments.boolean(inlineValue ?? "true", of: "--" + name)
            } else if let given = inlineValue ?? words.popFirst() {
                value = given
            } else {
                throw ExitFailure(.usage, "--\(name) needs a value: --\(name)=VALUE")
            }
            if name == "config" { path = value } else { add(flag, value, from: .commandLine) }
        }

        for flag in flags where origins[flag.name] == nil {
            guard let value = environment[flag.environmentName], !value.isEmpty else { continue }
            let checked =
                flag.kind == .boolean ? try FlagArguments.boolean(value, of: flag.environmentName) : value
            add(flag, checked, from: .environment(flag.environmentName))
        }

        file = path
        if let path {
            try addFile(try readFile(path), path: path, known: known)
        }
        normalized += rest
    }

    /// The sentence that says where a flag's value came from, where that is not the command line.
    func note(onFlag name: String) -> String? {
        switch origins[name] {
        case .environment(let variable): "--\(name) comes from the environment variable \(variable)"
        case .file(let path, let line): "--\(name) comes from \(path), line \(line)"
        case .commandLine, nil: nil
        }
    }

    private mutating func add(_ flag: GoFlag, _ value: String, from origin: Origin) {
        origins[flag.name] = origin
        if flag.kind != .repeatable {
            normalized.removeAll { $0.hasPrefix("--\(flag.name)=") }
            values[flag.name] = nil
        }
        // An empty value is what a unit file's `-public-ip=${PUBLIC_IP}` gives where nothing is set: the
        // default.
        if !value.isEmpty {
            normalized.append("--\(flag.name)=\(value)")
            values[flag.name, default: []].append(value)
        }
    }

    /// Adds the flags of a configuration file: `name = value` a line, `#` comments, the names of the command
    /// line.
    private mutating func addFile(_ text: String, path: String, known: [String: GoFlag])
        throws(ExitFailure)
    {
        let given = Set(origins.keys)
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
            .enumerated()
        {
            let content = line.trimmingSpaces
            if content.isEmpty || content.hasPrefix("#") { continue }
            let place = "\(path), line \(index + 1)"
            let halves = content.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard halves.count == 2 else {
                throw ExitFailure(
                    .configuration, "\(place): \"\(content)\" is not of the form name = value")
            }
            let name = String(halves[0].trimmingSpaces)
            let value = String(halves[1].trimmingSpaces)
            guard name != "config", let flag = known[name] else {
                // The file is the daemon's: another command takes from it what it has itself.
                if Run.flags.contains(where: { $0.name == name }) { continue }
                let guess = name.nearest(among: Run.flags.map(\.name)).map { "did you mean \($0)? " } ?? ""
                throw ExitFailure(
                    .configuration,
                    "\(place): there is no flag \"\(name.printable)\"; \(guess)see twilld run --help")
            }
            if given.contains(name) { continue }
            add(
                flag,
                flag.kind == .boolean
                    ? try FlagArguments.boolean(value, of: "\(place): \(name)", .configuration) : value,
                from: .file(path, line: index + 1))
        }
    }

    /// Whether an error is about a value of the configuration file.
    func isOfFile(_ text: String) -> Bool {
        origins.contains { name, origin in
            guard case .file = origin else { return false }
            return text.names(flag: name)
        }
    }

    /// Name and inline value of `-name`, `--name`, `-name=value`, `--name=value`; nil where the word is no
    /// flag.
    private static func split(_ word: String) -> (name: String, value: String?)? {
        let body = word.hasPrefix("--") ? word.dropFirst(2) : word.dropFirst(1)
        guard word.hasPrefix("-"), !body.isEmpty, !body.hasPrefix("-"), !body.hasPrefix("=") else {
            return nil
        }
        guard let equals = body.firstIndex(of: "=") else { return (String(body), nil) }
        return (String(body[..<equals]), String(body[body.index(after: equals)...]))
    }

    /// Go's spellings of a boolean (`strconv.ParseBool`), as `true` or `false`.
    private static func boolean(
        _ text: String, of name: String, _ status: ExitStatus = .usage
    ) throws(ExitFailure) -> String {
        switch text {
        case "1", "t", "T", "true", "TRUE", "True": "true"
        case "0", "f", "F", "false", "FALSE", "False", "": "false"
        default: throw ExitFailure(status, "\(name) takes true or false, not \"\(text)\"")
        }
    }
}

extension String {
    /// Whether the text names a flag with its dashes.
    func names(flag: String) -> Bool {
        split(whereSeparator: { !($0.isLetter || $0.isNumber || $0 == "-" || $0 == "_") }).contains(
            "--" + flag)
    }
}

extension Substring {
    /// The text without spaces and tabs at either end.
    fileprivate var trimmingSpaces: Substring {
        func isSpace(_ character: Character) -> Bool { character == " " || character == "\t" }
        guard let last = lastIndex(where: { !isSpace($0) }) else { return "" }
        return self[...last].drop(while: isSpace)
    }
}
