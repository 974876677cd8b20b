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

/// Runs a shell command on this thread, and so in its network namespace, and gives what it printed, errors included.
@discardableResult
public func execute(_ command: String) throws -> String {
    // The threads of a test block signals, and what they start would inherit that: SIGTERM would end nothing.
    var none = sigset_t()
    sigemptyset(&none)
    var before = sigset_t()
    pthread_sigmask(SIG_SETMASK, &none, &before)
    let pipe = popen("exec 2>&1; \(command)", "r")
    pthread_sigmask(SIG_SETMASK, &before, nil)
    guard let stream = pipe else { throw CallFailure(call: "popen") }
    var output: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = fread(&chunk, 1, chunk.count, stream)
        if count == 0 { break }
        output += chunk.prefix(count)
    }
    let status = pclose(stream)
    let text = String(decoding: output, as: UTF8.self)
    guard status == 0 else { throw CommandFailure(description: "\(command): status \(status): \(text)") }
    return text
}

/// Whether tests may make network namespaces here. Where they must (`TWILL_CI=1`), always: a missing right then fails
/// the test instead of passing it over.
public let namespacesAreExpected: Bool = {
    if getenv("TWILL_CI").map({ String(cString: $0) }) == "1" { return true }
    return geteuid() == 0 && access("/sbin/ip", X_OK) == 0
}()
