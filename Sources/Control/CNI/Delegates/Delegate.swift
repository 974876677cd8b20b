import Glibc
import Host
import JSON
import Processes

/// The plugin that carries it out, found in `CNI_PATH`.
struct Delegate {
    /// Its name, for messages.
    let type: String
    /// Where it is.
    let path: String

    /// Finds a delegate.
    ///
    /// - Throws: code 7 for a name that can be none, and for this plugin itself; 100 where there is no such plugin.
    init(_ type: String, in directories: [String]) throws(CNIError) {
        guard !type.isEmpty, !type.contains("/"), !type.utf8.contains(0) else {
            throw CNIError(.configuration, "delegate.type is no name of a plugin: \(type)")
        }
        let found = directories.map { "\($0)/\(type)" }.first { Self.isPlainFile($0) }
        guard let found else {
            throw CNIError(
                .noDelegate, "there is no plugin \(type) in \(directories.joined(separator: ", "))",
                details: "the CNI plugins of the distribution have it (containernetworking-plugins)")
        }
        // It would call itself without end.
        if let file = FileIdentity(path: found), file == FileIdentity(path: "/proc/self/exe") {
            throw CNIError(.configuration, "delegate.type is \(type), which is this plugin itself")
        }
        self.type = type
        path = found
    }

    private static func isPlainFile(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    }

    /// Calls the delegate.
    ///
    /// - Parameter environment: all its variables.
    /// - Returns: what it printed, where it ended well.
    /// - Throws: its own error, as it printed it; `CNIError` where it has none.
    func call(_ json: String, environment: [String: String]) throws(Refusal) -> String {
        let ended: PluginProcess.End
        do throws(SystemError) {
            ended = try PluginProcess.run(path, input: json, environment: environment)
        } catch {
            throw .own(CNIError(.noDelegate, "cannot run the plugin \(type): \(error)"))
        }
        if ended.status == 0 { return ended.output }
        if case .integer = JSONValue(parsing: ended.output)?["code"] {
            throw .delegates(ended.output)
        }
        let words = ended.output.split(whereSeparator: \.isNewline).prefix(3).joined(separator: "; ")
        throw .own(
            CNIError(
                .brokenDelegate, "the plugin \(type) \(ended.words) without an error that can be read",
                details: words.isEmpty ? "its errors are in the runtime's log" : String(words.prefix(500))))
    }

    /// Whether the delegate speaks a version of the specification: it is asked for those that it does.
    func speaks(_ version: CNIVersion, environment: [String: String]) throws(Refusal) -> Bool {
        var environment = environment
        environment["CNI_COMMAND"] = Invocation.Command.version.rawValue
        let question = JSONValue.object([]).setting("cniVersion", to: .string("\(version)")).encoded
        guard
            case .array(let versions) = JSONValue(parsing: try call(question, environment: environment))?[
                "supportedVersions"]
        else { return false }
        return versions.contains(.string("\(version)"))
    }
}

/// Why there is no result: the delegate's own error, which is passed on to the byte, or the plugin's.
enum Refusal: Error {
    case delegates(String)
    case own(CNIError)
}
