import Host

/// One command of an extension, as flanneld runs it since v0.28.2: words between blanks, in each of which `$NAME` and
/// `${NAME}` stand for variables. No shell reads it, so that nothing that another node announces is ever read as a command;
/// who needs a shell names a script.
struct ExtensionCommand: Sendable, Hashable {
    /// How long one may take, in milliseconds. Then it is killed, as is what it started in its own streams.
    static let timeoutMilliseconds = 30_000
    /// How many bytes one may print: it goes into a lease.
    static let outputBytes = 64 << 10
    /// What to do about one that fails.
    static let remedy =
        "put the command right in the network's configuration, or what it needs on this machine"

    /// The key that it stands under.
    let name: String
    /// The words, variables not yet put in; at least one.
    let words: [String]

    /// Reads a command; nil where there is none, or only blanks.
    init?(_ name: String, _ text: String) {
        words = text.unicodeScalars.split { $0.properties.isWhitespace }.map { String($0) }
        guard !words.isEmpty else { return nil }
        self.name = name
    }

    /// Runs it to its end.
    ///
    /// - Parameters:
    ///   - environment: all its variables.
    ///   - input: a line that it can read from its standard input.
    ///   - timeoutMilliseconds: how long it may take.
    /// - Returns: what it printed, but as errors, without blanks around it.
    /// - Throws: which command, and how it failed.
    @available(*, noasync, message: "it blocks: use onThread")
    func run(
        environment: [String: String], input: String = "", timeoutMilliseconds: Int = timeoutMilliseconds
    ) throws(ExtensionCommandError) -> String {
        let words = words.map { ExtensionCommand.expand($0, environment) }
        guard let program = words.first.flatMap({ ChildProcess($0) }) else {
            throw ExtensionCommandError(
                "\(name) names \"\(words.first ?? "")\", and there is no such program")
        }
        let result: ChildProcess.Result
        do throws(ChildProcessError) {
            result = try program.run(
                Array(words.dropFirst()), input: input + "\n", environment: environment,
                outputLimit: ExtensionCommand.outputBytes,
                timeoutMilliseconds: timeoutMilliseconds)
        } catch {
            throw ExtensionCommandError("\(name) failed: \(error)")
        }
        guard result.status == 0 else {
            let said = (result.errors + result.output).split(whereSeparator: \.isNewline)
                .joined(separator: "; ")
            throw ExtensionCommandError(
                "\(name) ended with status \(result.status)" + (said.isEmpty ? "" : ": \(said.prefix(300))"))
        }
        return ExtensionCommand.trimmed(result.output)
    }

    private static func trimmed(_ text: String) -> String {
        let isBlank = { (scalar: Unicode.Scalar) in scalar.properties.isWhitespace }
        let scalars = text.unicodeScalars.drop(while: isBlank)
        return String(scalars.dropLast(scalars.reversed().prefix(while: isBlank).count))
    }

    /// A word with its variables put in; one that there is not is empty. `$` before anything else stands for itself.
    static func expand(_ word: String, _ environment: [String: String]) -> String {
        var result = ""
        var rest = Substring(word)
        while !rest.isEmpty {
            let plain = rest.prefix { $0 != "$" }
            result += plain
            rest = rest.dropFirst(plain.count)
            guard rest.first == "$" else { continue }
            rest = rest.dropFirst()
            let inBraces = rest.dropFirst().prefix { $0 != "}" }
            if rest.first == "{", rest.dropFirst(inBraces.count &+ 1).first == "}" {
                result += environment[String(inBraces)] ?? ""
                rest = rest.dropFirst(inBraces.count &+ 2)
                continue
            }
            let name = rest.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
            if name.isEmpty { result += "$" } else { result += environment[String(name)] ?? "" }
            rest = rest.dropFirst(name.count)
        }
        return result
    }
}

/// A command failed: which, and how.
struct ExtensionCommandError: Error, Hashable, CustomStringConvertible {
    /// A clause for the operator.
    let description: String

    init(_ description: String) { self.description = description }
}
