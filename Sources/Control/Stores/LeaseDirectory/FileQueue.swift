import Dispatch
import Leases
import Synchronization

/// A thread for file work, which may block for as long as a server of files likes: nobody else waits for it longer than
/// `limit`.
///
/// Work is done one piece after another. While a piece does not come back, whoever asks is told so at once, and since when.
final class FileQueue: Sendable {
    private let queue = DispatchQueue(label: "twill.lease-directory")
    private let name: String
    private let limit: Duration
    private let hook: @Sendable () -> Void
    private let busy = Mutex<Busy?>(nil)

    private struct Busy {
        var since: ContinuousClock.Instant
        var sinceText: String
    }

    /// Makes a queue.
    ///
    /// - Parameters:
    ///   - name: of the store, for errors.
    ///   - limit: how long a piece of work is waited for.
    ///   - hook: called before each piece, on the thread; for tests.
    init(name: String, limit: Duration, hook: @escaping @Sendable () -> Void = {}) {
        self.name = name
        self.limit = limit
        self.hook = hook
    }

    /// Does a piece of work; it may be done later all the same where this throws that it did not come back.
    func run<Output: Sendable>(
        _ work: @escaping @Sendable () throws(LeaseStoreError) -> Output
    ) async throws(LeaseStoreError) -> Output {
        if let error = stuck { throw error }
        let answer = Answer<Output>()
        let timer = Task { [limit] in
            guard (try? await Task.sleep(for: limit)) != nil else { return }
            answer.give(
                .failure(self.stuck ?? LeaseStoreError(.unreachable, "\(self.name) is slow to answer")))
        }
        let result = await withCheckedContinuation { continuation in
            answer.wait(continuation)
            queue.async {
                self.busy.withLock { $0 = Busy(since: .now, sinceText: WallTime.now.description) }
                self.hook()
                let result = Result<Output, LeaseStoreError> { () throws(LeaseStoreError) in try work() }
                self.busy.withLock { $0 = nil }
                answer.give(result)
            }
        }
        timer.cancel()
        return try result.get()
    }

    /// What to tell while a piece of work has not come back for longer than the limit.
    private var stuck: LeaseStoreError? {
        busy.withLock { busy in
            guard let busy, busy.since + limit * 0.9 <= .now else { return nil }
            return LeaseStoreError(
                .unreachable,
                "\(name) has not answered since \(busy.sinceText): is it on a server of files that is away?")
        }
    }

    /// Resumes its waiter once, with what comes first.
    private final class Answer<Output: Sendable>: Sendable {
        private let continuation =
            Mutex<CheckedContinuation<Result<Output, LeaseStoreError>, Never>?>(nil)

        func wait(_ continuation: CheckedContinuation<Result<Output, LeaseStoreError>, Never>) {
            self.continuation.withLock { $0 = continuation }
        }

        func give(_ result: Result<Output, LeaseStoreError>) {
            let waiter = continuation.withLock { continuation in
                defer { continuation = nil }
                return continuation
            }
            waiter?.resume(returning: result)
        }
    }
}
