import Foundation

/// A command that could not be started or did not end well: what it was and its last words.
struct CommandError: Error, CustomStringConvertible {
    let description: String
}

/// A process that the harness started. Its output goes to a file, so that a daemon never waits for a reader.
struct Child {
    let processIdentifier: pid_t
    let arguments: [String]
    /// Where standard output and standard error go.
    let outputPath: String
    let errorPath: String

    /// Starts `arguments[0]`, found in PATH.
    init(_ arguments: [String], outputPath: String, errorPath: String) throws {
        self.arguments = arguments
        self.outputPath = outputPath
        self.errorPath = errorPath
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        let flags = O_WRONLY | O_CREAT | O_TRUNC
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, outputPath, flags, 0o644)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, errorPath, flags, 0o644)
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        words.append(nil)
        defer { for word in words { free(word) } }
        var identifier: pid_t = 0
        let status = posix_spawnp(&identifier, arguments[0], &actions, nil, words, environ)
        guard status == 0 else {
            throw CommandError(description: "start \(arguments[0]): \(String(cString: strerror(status)))")
        }
        processIdentifier = identifier
    }

    /// The exit status where it has ended, as often as asked until `stop` or `wait`; a signal counts as 128 and its
    /// number.
    func exitStatusIfEnded() -> Int32? {
        var information = siginfo_t()
        let options = WEXITED | WNOHANG | WNOWAIT
        guard waitid(P_PID, id_t(processIdentifier), &information, options) == 0,
            information.si_signo == SIGCHLD
        else { return nil }
        let status = information._sifields._sigchld.si_status
        return information.si_code == CLD_EXITED ? status : 128 + status
    }

    func wait() -> Int32 {
        var status: Int32 = 0
        while waitpid(processIdentifier, &status, 0) < 0, errno == EINTR {}
        return Child.exitStatus(status)
    }

    /// Asks the process to end, and makes it after `seconds`; false where it had to be made.
    @discardableResult
    func stop(within seconds: Double = 3) -> Bool {
        let deadline = Date.now.addingTimeInterval(seconds)
        var isAsked = false
        while Date.now < deadline {
            // Its number may be another process's once it was waited for.
            if waitpid(processIdentifier, nil, WNOHANG) != 0 { return true }
            if !isAsked { kill(processIdentifier, SIGTERM) }
            isAsked = true
            usleep(5000)
        }
        kill(processIdentifier, SIGKILL)
        _ = wait()
        return false
    }

    /// What it said of its end: the line that ArgumentParser begins with "Error:", or else the last line that it wrote
    /// to standard error, or else to standard output.
    var lastWords: String {
        for path in [errorPath, outputPath] {
            let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
            let lines = text.split(separator: "\n")
            if let line = lines.first(where: { $0.hasPrefix("Error: ") }) ?? lines.last {
                return String(line)
            }
        }
        return "said nothing"
    }

    private static func exitStatus(_ status: Int32) -> Int32 {
        status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F
    }
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// - Parameter check: called now and then while the command runs; where it throws, the command is ended.
@discardableResult
func output(of arguments: [String], while check: (() throws -> Void)? = nil) throws -> String {
    let path = NSTemporaryDirectory() + "twill-bench-\(getpid())-output"
    defer {
        unlink(path)
        unlink(path + ".error")
    }
    let child = try Child(arguments, outputPath: path, errorPath: path + ".error")
    if let check {
        while child.exitStatusIfEnded() == nil {
            do { try check() } catch {
                child.stop()
                throw error
            }
            usleep(50_000)
        }
    }
    let status = child.wait()
    guard status == 0 else {
        let command = arguments.joined(separator: " ")
        throw CommandError(description: "\(command): exit \(status): \(child.lastWords)")
    }
    return try String(contentsOfFile: path, encoding: .utf8)
}
