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
        let scalars = text.unicodeScalars
        let isBlank = { (scalar: Unicode.Scalar) in scalar.properties.isWhitespace }
        guard let first = scalars.firstIndex(where: { !isBlank($0) }),
            let last = scalars.lastIndex(where: { !isBlank($0) })
        else { return "" }
        return String(scalars[first...last])
    }

    /// A word with its variables put in; one that there is not is empty. `$` before anything else stands for itself.
    static func expand(_ word: String, _ environment: [String: String]) -> String {
        var result = ""
        var rest = Substring(word)
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            rest = rest[rest.index(after: dollar)...]
            if rest.first == "{", let end = rest.firstIndex(of: "}") {
                result += environment[String(rest[..<end].dropFirst())] ?? ""
                rest = rest[rest.index(after: end)...]
                continue
            }
            let name = rest.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
            if name.isEmpty { result += "$" } else { result += environment[String(name)] ?? "" }
            rest = rest[name.endIndex...]
        }
        return result + rest
    }
}

/// A command failed: which, and how.
struct ExtensionCommandError: Error, Hashable, CustomStringConvertible {
    /// A clause for the operator.
    let description: String

    init(_ description: String) { self.description = description }
}
