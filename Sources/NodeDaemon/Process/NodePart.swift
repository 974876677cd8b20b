import ServiceLifecycle
import Synchronization

/// One of the parts of a node that a `ServiceGroup` starts in order and stops in the reverse order. The first of them
/// to end, by itself or because the group is told to stop, ends the node.
struct NodePart: Service, CustomStringConvertible {
    /// What the part is called.
    let description: String
    /// Is told of the first end of a part.
    let ending: NodeEnding
    /// What the part does until its task is cancelled.
    let body: @Sendable () async throws -> Void
    /// Is called before that task is cancelled, or after it ended by itself.
    var stop: @Sendable () async -> Void = {}

    func run() async {
        await withTaskGroup(of: Result<Void, any Error>?.self) { group in
            group.addTask {
                do { return .success(try await body()) } catch { return .failure(error) }
            }
            group.addTask {
                try? await gracefulShutdown()
                return nil
            }
            let ended = await group.next() ?? nil
            // Who is cancelled by whoever runs the node ends as one that is told to stop.
            ending.begin(with: Task.isCancelled ? .success(()) : ended ?? .success(()))
            await stop()
            group.cancelAll()
        }
    }
}

/// How a node ends: what ended first says it, and it is announced once, before anything is stopped.
final class NodeEnding: Sendable {
    private let kept = Mutex<Result<Void, any Error>?>(nil)
    private let announce: @Sendable (Result<Void, any Error>) -> Void

    /// - Parameter announce: is called once, on the thread of the part that ended first.
    init(announce: @escaping @Sendable (Result<Void, any Error>) -> Void) { self.announce = announce }

    /// What ended the node; nil while it runs.
    var result: Result<Void, any Error>? { kept.withLock { $0 } }

    /// Notes what ended the node, unless something else did before.
    func begin(with result: Result<Void, any Error>) {
        let isFirst = kept.withLock { kept in
            defer { if kept == nil { kept = result } }
            return kept == nil
        }
        if isFirst { announce(result) }
    }
}
