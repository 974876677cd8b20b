import CLinux
import Glibc
import Host

/// A plugin as a child process: as a runtime starts one, with the whole environment, a file to read from, a pipe to
/// write to, and the standard error of this process.
///
/// `Host.ChildProcess` is not for plugins: it gives them sockets, which `/dev/stdin` of a script cannot be opened
/// on, an environment of its own, and five seconds.
enum PluginProcess {
    /// What a plugin may print, in bytes; a result has some hundred.
    private static let outputLimit = 4 << 20

    /// How a plugin ended.
    struct End {
        /// What waitpid(2) told.
        private let code: Int32
        let output: String

        init(code: Int32, output: String) {
            self.code = code
            self.output = output
        }

        private var signal: Int32 { code & 0x7F }
        /// The exit status; 128 + N where signal N ended it.
        var status: Int32 { signal == 0 ? code >> 8 & 0xFF : 128 | signal }
        /// For a sentence: `ended with status 2`.
        var words: String {
            guard signal != 0 else { return "ended with status \(status)" }
            let name = strsignal(signal).map { String(cString: $0) }
            return "was ended by \(name ?? "signal \(signal)")"
        }
    }

    /// Runs the program at `path` to its end, however long that takes: the runtime, which knows how long it waits,
    /// ends this process.
    static func run(
        _ path: String, input: String, environment: [String: String]
    ) throws(SystemError) -> End {
        // A file in memory: there is nobody to write to whom the plugin could keep waiting.
        let source = twill_memory_file("stdin")
        guard source >= 0 else { throw SystemError(path, code: errno) }
        defer { close(source) }
        let bytes = Array(input.utf8)
        guard write(source, bytes, bytes.count) == bytes.count, lseek(source, 0, SEEK_SET) == 0 else {
            throw SystemError(path, code: errno)
        }
        var ends: [Int32] = [-1, -1]
        guard twill_pipe(&ends) == 0 else { throw SystemError(path, code: errno) }
        // checked: there are two.
        let (reading, writing) = (ends[0], ends[1])
        defer { close(reading) }
        let child: pid_t
        do throws(SystemError) {
            defer { close(writing) }
            child = try spawn(path, input: source, output: writing, environment: environment)
        } catch {
            throw error
        }
        let output = read(reading, of: child)
        var code: Int32 = 0
        while waitpid(child, &code, 0) < 0 {
            guard errno == EINTR else { throw SystemError(path, code: errno) }
        }
        return End(code: code, output: output)
    }

    private static func spawn(
        _ path: String, input: Int32, output: Int32, environment: [String: String]
    ) throws(SystemError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
        var words: [UnsafeMutablePointer<CChar>?] = [strdup(path), nil]
        var variables: [UnsafeMutablePointer<CChar>?] =
            environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for word in words + variables { free(word) } }
        // Whoever started this process may have blocked signals, or ignored the end of children.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        signal(SIGCHLD, SIG_DFL)
        var child = pid_t()
        let code = posix_spawn(&child, path, &actions, &attributes, &words, &variables)
        guard code == 0 else { throw SystemError(path, code: code) }
        return child
    }

    /// What the child prints until it closes its output; ends it where that is too much.
    private static func read(_ descriptor: Int32, of child: pid_t) -> String {
        var output: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { break }
            output += chunk.prefix(count)
            guard output.count <= outputLimit else {
                kill(child, SIGKILL)
                return ""
            }
        }
        return String(decoding: output, as: UTF8.self)
    }
}
