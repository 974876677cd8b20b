import CLinux
import Glibc
import Synchronization

/// A program run to its end, in the network namespace of the calling thread, which waits for it.
///
/// Foundation's `Process` and swift-subprocess start children on threads of their own, and so in the namespace that
/// those are in.
package struct ChildProcess: Sendable {
    /// Bounds of all runs, in one place. A program that hangs costs its caller `timeoutMilliseconds` once and then
    /// nothing for `pauseMilliseconds`: 5 s in 65, whatever number of calls there were to be.
    package enum Limits {
        /// How long a program may take. Those that twill runs need milliseconds, seconds with 100,000 rules.
        package static let timeoutMilliseconds = 5000
        /// For how long a program that did not end in time is not started again.
        static let pauseMilliseconds = 60_000
        /// How much a program may print in bytes, unless the caller says more.
        package static let outputBytes = 4 << 20
        /// How long a killed program is waited for. One that sleeps in the kernel does not end before that does.
        static let killMilliseconds = 200
    }

    /// Where programs are looked for after `PATH`, which a service manager may leave without the system's.
    private static let systemDirectories = ["/usr/local/sbin", "/usr/sbin", "/sbin"]

    /// What earlier runs left for later ones.
    private struct Past {
        /// Until when each program, by its path, is not started, since it did not end in time.
        var pauses: [String: ContinuousClock.Instant] = [:]
        /// Killed children that had not ended yet.
        var unreaped: [pid_t] = []
    }
    private static let past = Mutex(Past())

    /// What a program left.
    package struct Result: Sendable {
        /// The exit status; 128 + N where signal N ended it.
        package var status: Int32
        /// What it printed.
        package var output: String
        /// What it printed as errors.
        package var errors: String
    }

    /// The program's path.
    package let path: String

    /// Finds a program by its name, or by its path where that has a slash; nil where this machine does not have it.
    @available(*, noasync, message: "it blocks: use onThread")
    package init?(_ name: String) {
        guard !name.contains("/") else {
            guard access(name, X_OK) == 0 else { return nil }
            path = name
            return
        }
        let searchPath = getenv("PATH").map { String(cString: $0) } ?? ""
        let directories = searchPath.split(separator: ":").map { String($0) } + ChildProcess.systemDirectories
        let candidates: [String] = directories.map { "\($0)/\(name)" }
        guard let found = candidates.first(where: { access($0, X_OK) == 0 }) else { return nil }
        path = found
    }

    /// Runs the program with `input` as its standard input, and gives what it left, whatever its exit status.
    ///
    /// - Parameters:
    ///   - arguments: its arguments, without its name.
    ///   - input: what it reads from its standard input.
    ///   - environment: its variables; nil for the few that twill's own programs need.
    ///   - outputLimit: how many bytes it may print; one that prints more is ended.
    ///   - timeoutMilliseconds: how long it may take; one that takes longer is killed.
    /// - Throws: `ChildProcessError` where it cannot be run, prints too much, or does not end in time.
    @available(*, noasync, message: "it blocks: use onThread")
    package func run(
        _ arguments: [String], input: String = "", environment: [String: String]? = nil,
        outputLimit: Int = Limits.outputBytes, timeoutMilliseconds: Int = Limits.timeoutMilliseconds
    ) throws(ChildProcessError) -> Result {
        try refuseWhatHung()
        ChildProcess.waitForChildren()
        var streams: [Int32] = []
        defer { for stream in streams where stream >= 0 { close(stream) } }
        // Own input, the child's, own output, the child's, own errors, the child's.
        for _ in 0..<3 { streams += try streamPair() }
        let child = try spawn(
            arguments, environment ?? ChildProcess.environment, streams: [streams[1], streams[3], streams[5]])
        for index in [1, 3, 5] {
            close(streams[index])
            streams[index] = -1
        }
        var exchange = Exchange(
            input: Array(input.utf8), own: [streams[0], streams[2], streams[4]], outputLimit: outputLimit)
        // The exchange closes what it is given.
        for index in [0, 2, 4] { streams[index] = -1 }
        let deadline = ContinuousClock.now + .milliseconds(timeoutMilliseconds)
        switch exchange.run(until: deadline) {
        case .ended: break
        case .tooLong:
            end(child)
            ChildProcess.past.withLock {
                $0.pauses[path] = ContinuousClock.now + .milliseconds(Limits.pauseMilliseconds)
            }
            throw ChildProcessError(
                description: "\(path) did not end within \(timeoutMilliseconds / 1000) s and was killed",
                kind: .hung)
        case .tooMuch:
            end(child)
            throw ChildProcessError(
                description: "\(path) printed more than \(outputLimit >> 20) MiB", kind: .outputTooLarge)
        }
        guard let status = ChildProcess.exitStatus(of: child, until: deadline) else {
            end(child)
            throw ChildProcessError(description: "\(path) closed its streams and did not end", kind: .hung)
        }
        return Result(
            status: status, output: String(decoding: exchange.output, as: UTF8.self),
            errors: String(decoding: exchange.errors, as: UTF8.self))
    }

    private func refuseWhatHung() throws(ChildProcessError) {
        let now = ContinuousClock.now
        let path = path
        let isPaused = ChildProcess.past.withLock { past in
            past.unreaped.removeAll { waitpid($0, nil, WNOHANG) != 0 }
            guard let pause = past.pauses[path] else { return false }
            if now >= pause { past.pauses[path] = nil }
            return now < pause
        }
        guard isPaused else { return }
        throw ChildProcessError(
            description: """
                \(path) did not end in time; it is not started again for \(Limits.pauseMilliseconds / 1000) s
                """,
            kind: .hung)
    }

    /// Messages are compared: no translations of them.
    private static let environment = ["LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin"]

    private func spawn(
        _ arguments: [String], _ variables: [String: String], streams: [Int32]
    ) throws(ChildProcessError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, stream) in streams.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, stream, Int32(clamping: number))
        }
        // The daemon's threads block signals that a child must not, and ignore some that it must not.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        for signal in [SIGPIPE, SIGHUP, SIGCHLD, SIGTERM, SIGINT] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var words: [UnsafeMutablePointer<CChar>?] = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var environment: [UnsafeMutablePointer<CChar>?] =
            variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for variable in environment { free(variable) } }
        var child = pid_t()
        let code = posix_spawn(&child, path, &actions, &attributes, &words, &environment)
        guard code == 0 else { throw ChildProcessError(call: "cannot run \(path)", code: code) }
        return child
    }

    /// Kills a child; where it does not end soon, a later run reaps it.
    private func end(_ child: pid_t) {
        kill(child, SIGKILL)
        let deadline = ContinuousClock.now + .milliseconds(Limits.killMilliseconds)
        if ChildProcess.exitStatus(of: child, until: deadline) == nil {
            ChildProcess.past.withLock { $0.unreaped.append(child) }
        }
    }

    /// The child's exit status; nil where it has not ended by `deadline`.
    private static func exitStatus(of child: pid_t, until deadline: ContinuousClock.Instant) -> Int32? {
        while true {
            var status: Int32 = 0
            let ended = waitpid(child, &status, WNOHANG)
            if ended == child {
                let signal = status & 0x7F
                return signal == 0 ? status >> 8 & 0xFF : 128 + signal
            }
            guard ended == 0 || errno == EINTR, ContinuousClock.now < deadline else { return nil }
            usleep(500)
        }
    }

    /// Who started this process may have ignored SIGCHLD, which is inherited: the kernel would then throw every
    /// child's exit status away.
    private static func waitForChildren() {
        var action = sigaction()
        guard sigaction(SIGCHLD, nil, &action) == 0 else { return }
        if unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1 {
            signal(SIGCHLD, SIG_DFL)
        }
    }

    /// Connected streams, own and child's, closed in children. Sockets rather than pipes, since writing to one can do
    /// without SIGPIPE.
    private func streamPair() throws(ChildProcessError) -> [Int32] {
        var pair: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0
        else {
            throw ChildProcessError(call: "cannot run \(path): socketpair", code: errno)
        }
        return pair
    }
}

extension ChildProcess {
    /// What is written to a child and read from it, at the same time: neither waits for the other with a full buffer.
    private struct Exchange {
        enum End { case ended, tooLong, tooMuch }

        private var input: ArraySlice<UInt8>
        private var waits: [pollfd]
        private let outputLimit: Int
        private(set) var output: [UInt8] = []
        private(set) var errors: [UInt8] = []

        /// `own`: input, output, errors, which `run` closes.
        init(input: [UInt8], own: [Int32], outputLimit: Int) {
            self.input = input[...]
            self.outputLimit = outputLimit
            waits = [
                pollfd(fd: own[0], events: Int16(POLLOUT), revents: 0),
                pollfd(fd: own[1], events: Int16(POLLIN), revents: 0),
                pollfd(fd: own[2], events: Int16(POLLIN), revents: 0),
            ]
        }

        /// Goes on until the child has closed its streams.
        mutating func run(until deadline: ContinuousClock.Instant) -> End {
            defer { for index in waits.indices { end(index) } }
            if input.isEmpty { end(0) }
            var chunk = [UInt8](repeating: 0, count: 64 * 1024)
            while waits.contains(where: { $0.fd >= 0 && $0.events == Int16(POLLIN) }) {
                let rest = deadline - ContinuousClock.now
                guard rest > .zero else { return .tooLong }
                // A minute at most, and no less than a millisecond, which is what poll(2) counts in.
                let milliseconds =
                    rest < .seconds(60) ? rest.components.attoseconds / 1_000_000_000_000_000 : 0
                let timeout = Int32(
                    clamping: min(rest.components.seconds, 60) &* 1000 &+ max(1, milliseconds))
                guard poll(&waits, nfds_t(clamping: waits.count), timeout) > 0 else {
                    continue
                }
                if waits[0].fd >= 0, waits[0].revents != 0 { write() }
                for index in 1...2 where waits[index].fd >= 0 && waits[index].revents != 0 {
                    let count = recv(waits[index].fd, &chunk, chunk.count, 0)
                    if count > 0 {
                        if index == 1 { output += chunk.prefix(count) } else { errors += chunk.prefix(count) }
                        if output.count + errors.count > outputLimit { return .tooMuch }
                    } else if count == 0 || (errno != EINTR && errno != EAGAIN) {
                        end(index)
                    }
                }
            }
            return .ended
        }

        private mutating func write() {
            let sent = input.withUnsafeBytes {
                send(waits[0].fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if sent < 0 && (errno == EAGAIN || errno == EINTR) { return }
            // What is written to a program that has ended is lost: its exit status tells.
            if sent > 0 { input = input.dropFirst(sent) }
            if sent <= 0 || input.isEmpty { end(0) }
        }

        private mutating func end(_ index: Int) {
            if waits[index].fd >= 0 { close(waits[index].fd) }
            waits[index].fd = -1  // poll passes it over
        }
    }
}

/// A program could not be run, or refused; the description says which and why.
public struct ChildProcessError: Error, Hashable, CustomStringConvertible {
    /// What sort of failure it is, where that matters to somebody.
    package enum Kind: Sendable, Hashable {
        case failed, hung, outputTooLarge
    }

    /// The message to the operator.
    public let description: String
    /// What sort of failure it is.
    package let kind: Kind

    init(description: String, kind: Kind = .failed) {
        self.description = description
        self.kind = kind
    }
}

extension ChildProcessError {
    fileprivate init(call: String, code: Int32) {
        let reason = String(cString: strerror(code))
        switch code {
        case EAGAIN, ENOMEM:
            self.init(description: "\(call): the machine has no processes or memory left (\(reason))")
        case EMFILE, ENFILE:
            self.init(description: "\(call): no file descriptors are left (\(reason))")
        default: self.init(description: "\(call): \(reason)")
        }
    }

    /// A program that ended with an error.
    package init(_ process: ChildProcess, _ arguments: [String], _ result: ChildProcess.Result) {
        let words = result.errors.split(whereSeparator: \.isNewline).joined(separator: "; ")
        self.init(
            description:
                "\(process.path) \(arguments.joined(separator: " ")) failed (\(result.status)): \(words)")
    }
}

extension ChildProcess {
    /// Runs the program and throws where it ends with an error.
    @discardableResult
    @available(*, noasync, message: "it blocks: use onThread")
    package func check(_ arguments: [String], input: String = "") throws(ChildProcessError) -> String {
        let result = try run(arguments, input: input)
        guard result.status == 0 else { throw ChildProcessError(self, arguments, result) }
        return result.output
    }
}
