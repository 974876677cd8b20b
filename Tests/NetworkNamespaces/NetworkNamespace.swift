import CLinux
import CNetworkNamespaces
import Glibc
import Synchronization

/// A network namespace that lasts as long as this object, for tests that ask the real kernel.
///
/// It has no name and no process: it belongs to a thread, which `run` lends. What is made on that thread (sockets,
/// child processes, further threads) is in the namespace, and nothing is left of it at the end.
public final class NetworkNamespace: Sendable {
    private typealias Job = @Sendable () -> Void

    private let jobs = Mutex<[Job]>([])
    private let isClosed = Atomic<Bool>(false)
    private let wake = eventfd(0, Int32(EFD_CLOEXEC))

    /// Makes a namespace, in which only `lo` is, up.
    public static func make() async throws -> Lease {
        let namespace = NetworkNamespace()
        namespace.start()
        let lease = Lease(namespace)
        try await lease.run {
            guard enter_new_network_namespace() == 0 else { throw CallFailure(call: "unshare(CLONE_NEWNET)") }
            try execute("ip link set lo up")
        }
        return lease
    }

    /// Keeps the namespace's thread; the thread ends with it.
    public final class Lease: Sendable {
        private let namespace: NetworkNamespace
        fileprivate init(_ namespace: NetworkNamespace) { self.namespace = namespace }
        deinit { namespace.close() }

        /// Keeps what is started here from now on to a share of the processors, as a machine of its own would have; to
        /// all of them where there are fewer than shares.
        ///
        /// - Parameter share: counted from 0.
        public func keep(toShare share: Int, of shares: Int) async throws {
            try await run {
                guard keep_to_share_of_cpus(Int32(clamping: share), Int32(clamping: shares)) == 0 else {
                    throw CallFailure(call: "sched_setaffinity")
                }
            }
        }

        /// Runs `body` on the namespace's thread.
        @discardableResult
        public func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value
        {
            try await withCheckedThrowingContinuation { continuation in
                namespace.enqueue { continuation.resume(with: Result(catching: body)) }
            }
        }
    }

    private func start() {
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<NetworkNamespace>.fromOpaque(argument!).takeRetainedValue().work()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0)
        pthread_detach(thread)
    }

    private func enqueue(_ job: @escaping Job) {
        jobs.withLock { $0.append(job) }
        eventfd_write(wake, 1)
    }

    private func close() {
        isClosed.store(true, ordering: .releasing)
        eventfd_write(wake, 1)
    }

    private func work() {
        while !isClosed.load(ordering: .acquiring) {
            var count: eventfd_t = 0
            eventfd_read(wake, &count)
            let ready = jobs.withLock { jobs in
                defer { jobs = [] }
                return jobs
            }
            for job in ready { job() }
        }
        Glibc.close(wake)
    }
}

/// Makes `io_uring_setup` fail on this thread and in what it starts, as `kernel.io_uring_disabled` (EPERM) or a container's
/// seccomp profile (EPERM, ENOSYS) does.
public func forbidUring(errorNumber: Int32) throws {
    guard forbid_io_uring(errorNumber) == 0 else { throw CallFailure(call: "prctl(PR_SET_SECCOMP)") }
}

/// A system call failed.
public struct CallFailure: Error, CustomStringConvertible {
    /// The call and its error.
    public let description: String
    init(call: String) { description = "\(call): \(String(cString: strerror(errno)))" }
}

/// A command failed.
public struct CommandFailure: Error, CustomStringConvertible {
    /// The command, its exit status and what it printed.
    public let description: String
}

/// The longest that a command may take: far more than any needs on a machine with much else to do. One that waits for what
/// never comes fails its test then, and not the whole run.
private let commandLimitSeconds = 300

/// Runs a shell command on this thread, and so in its network namespace, and gives what it printed, errors included.
///
/// - Throws: where its status is not 0, and where it, or what it left with its output, has not ended after five minutes: then
///   they are killed.
@discardableResult
public func execute(_ command: String) throws -> String {
    var ends: [Int32] = [-1, -1]
    guard twill_pipe(&ends) == 0 else { throw CallFailure(call: "pipe2") }
    let reader = ends[0]
    defer { close(reader) }
    let process: pid_t
    do {
        defer { close(ends[1]) }
        process = try spawnShell("exec 2>&1; \(command)", output: ends[1])
    }
    let output = read(reader, until: .now + .seconds(commandLimitSeconds))
    if output == nil { kill(-process, SIGKILL) }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0 && errno == EINTR {}
    guard let output else {
        throw CommandFailure(description: "\(command): it had not ended after \(commandLimitSeconds) s")
    }
    let text = String(decoding: output, as: UTF8.self)
    guard status == 0 else { throw CommandFailure(description: "\(command): status \(status): \(text)") }
    return text
}

/// Starts a shell as the first of a group of processes of its own.
private func spawnShell(_ command: String, output: Int32) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // The threads of a test block signals, and what they start would inherit that: SIGTERM would end nothing.
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))
    let words = ["sh", "-c", command].map { (word: String) in strdup(word) }
    defer { for word in words { free(word) } }
    var process: pid_t = 0
    let code = posix_spawn(&process, "/bin/sh", &actions, &attributes, words + [nil], environ)
    guard code == 0 else {
        errno = code
        throw CallFailure(call: "posix_spawn")
    }
    return process
}

/// Reads to the end; nil where that has not come in time.
private func read(_ descriptor: Int32, until deadline: ContinuousClock.Instant) -> [UInt8]? {
    var output: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let (seconds, _) = (deadline - .now).components
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let ready = poll(&polled, 1, Int32(max(0, seconds)) * 1000)
        if ready < 0 && errno == EINTR { continue }
        guard ready > 0 else { return nil }
        let count = Glibc.read(descriptor, &chunk, chunk.count)
        if count < 0 && errno == EINTR { continue }
        if count <= 0 { return output }
        output += chunk.prefix(count)
    }
}

/// Whether tests may make network namespaces here. Where they must (`TWILL_CI=1`), always: a missing right then fails
/// the test instead of passing it over.
public let namespacesAreExpected: Bool = {
    if getenv("TWILL_CI").map({ String(cString: $0) }) == "1" { return true }
    return geteuid() == 0 && access("/sbin/ip", X_OK) == 0
}()

/// Whether this kernel has devices of a kind that not every one has: `ipip` or `wireguard`.
public func kernelHasDevices(_ kind: String) -> Bool {
    // Without an address of its own an IPIP device would be the one that each namespace has already.
    let attributes = kind == "ipip" ? "ipip local 192.0.2.1" : kind
    return system("unshare --net ip link add name probe0 type \(attributes) 2>/dev/null") == 0
}
