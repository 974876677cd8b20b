import CLinux
import Glibc

/// A program run to its end, in the network namespace of the calling thread, which waits for it.
///
/// Foundation's `Process` and swift-subprocess start children on threads of their own, and so in the namespace that
/// those are in.
struct ChildProcess {
    /// How long a program may take. Those that twill runs need milliseconds, and wait for a lock for 5 seconds.
    private static let timeoutMilliseconds: Int32 = 15_000

    /// Where programs are looked for after `PATH`, which a service manager may leave without the system's.
    private static let systemDirectories = ["/usr/local/sbin", "/usr/sbin", "/sbin"]

    /// What a program left.
    struct Result {
        /// The exit status; 128 + N where signal N ended it.
        var status: Int32
        var output: String
        var errors: String
    }

    /// The program's path.
    let path: String

    /// Finds a program; nil where this machine does not have it.
    init?(_ name: String) {
        let searchPath = getenv("PATH").map { String(cString: $0) } ?? ""
        let directories = searchPath.split(separator: ":").map { String($0) } + ChildProcess.systemDirectories
        let candidates: [String] = directories.map { "\($0)/\(name)" }
        guard let found = candidates.first(where: { access($0, X_OK) == 0 }) else { return nil }
        path = found
    }

    /// Runs the program with `input` as its standard input, and gives what it left, whatever its exit status.
    func run(_ arguments: [String], input: String = "") throws(ChildProcessError) -> Result {
        let (ownInput, childInput) = try streamPair()
        let (ownOutput, childOutput) = try streamPair()
        let (ownErrors, childErrors) = try streamPair()
        defer { for stream in [ownOutput, ownErrors] { close(stream) } }
        let spawned = Swift.Result { () throws(ChildProcessError) in
            try spawn(arguments, streams: [childInput, childOutput, childErrors])
        }
        for stream in [childInput, childOutput, childErrors] { close(stream) }
        // What is written to a program that has ended is lost: its exit status tells.
        var rest = Array(input.utf8)[...]
        while !rest.isEmpty {
            let sent = rest.withUnsafeBytes { send(ownInput, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if sent <= 0 { break }
            rest = rest.dropFirst(sent)
        }
        close(ownInput)
        let child = try spawned.get()
        guard let texts = readToEnd([ownOutput, ownErrors]) else {
            kill(child, SIGKILL)
            _ = exitStatus(of: child)
            throw ChildProcessError(
                description: "\(path) did not end within \(ChildProcess.timeoutMilliseconds / 1000) s")
        }
        return Result(status: exitStatus(of: child), output: texts[0], errors: texts[1])
    }

    private func spawn(_ arguments: [String], streams: [Int32]) throws(ChildProcessError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, stream) in streams.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, stream, Int32(clamping: number))
        }
        // The daemon's threads block signals that a child must not.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))

        var words: [UnsafeMutablePointer<CChar>?] = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        // Messages are compared: no translations of them.
        var environment: [UnsafeMutablePointer<CChar>?] = [
            strdup("LC_ALL=C"), strdup("PATH=/usr/sbin:/usr/bin"), nil,
        ]
        defer { for variable in environment { free(variable) } }
        var child = pid_t()
        let code = posix_spawn(&child, path, &actions, &attributes, &words, &environment)
        guard code == 0 else { throw ChildProcessError(call: "cannot run \(path)", code: code) }
        return child
    }

    /// Reads the streams until the child has closed them all; nil where that takes too long.
    private func readToEnd(_ streams: [Int32]) -> [String]? {
        var contents = [[UInt8]](repeating: [], count: streams.count)
        var waits = streams.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        let clock = ContinuousClock()
        let deadline = clock.now + .milliseconds(Int(ChildProcess.timeoutMilliseconds))
        while waits.contains(where: { $0.fd >= 0 }) {
            guard clock.now < deadline else { return nil }
            // The remaining time is not worth its arithmetic: no program that works is anywhere near the limit.
            guard poll(&waits, nfds_t(bitPattern: waits.count), ChildProcess.timeoutMilliseconds) != 0 else {
                return nil
            }
            for index in waits.indices where waits[index].fd >= 0 && waits[index].revents != 0 {
                let count = read(waits[index].fd, &chunk, chunk.count)
                if count > 0 {
                    contents[index] += chunk.prefix(count)
                } else if count == 0 || errno != EINTR {
                    waits[index].fd = -1  // poll passes it over
                }
            }
        }
        return contents.map { String(decoding: $0, as: UTF8.self) }
    }

    private func exitStatus(of child: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        let signal = status & 0x7F
        return signal == 0 ? status >> 8 & 0xFF : 128 + signal
    }

    /// Connected streams, closed in children. Sockets rather than pipes, since writing to one can do without SIGPIPE.
    private func streamPair() throws(ChildProcessError) -> (own: Int32, child: Int32) {
        var pair: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0
        else {
            throw ChildProcessError(call: "cannot run \(path): socketpair", code: errno)
        }
        return (pair[0], pair[1])
    }
}

/// A program could not be run, or refused; the description says which and why.
public struct ChildProcessError: Error, Hashable, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}

extension ChildProcessError {
    fileprivate init(call: String, code: Int32) {
        description = "\(call): \(String(cString: strerror(code)))"
    }

    /// A program that ended with an error.
    init(_ process: ChildProcess, _ arguments: [String], _ result: ChildProcess.Result) {
        let words = result.errors.split(whereSeparator: \.isNewline).joined(separator: "; ")
        description =
            "\(process.path) \(arguments.joined(separator: " ")) failed (\(result.status)): \(words)"
    }
}

extension ChildProcess {
    /// Runs the program and throws where it ends with an error.
    @discardableResult
    func check(_ arguments: [String], input: String = "") throws(ChildProcessError) -> String {
        let result = try run(arguments, input: input)
        guard result.status == 0 else { throw ChildProcessError(self, arguments, result) }
        return result.output
    }
}
