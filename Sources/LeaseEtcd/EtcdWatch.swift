import EtcdAPI
import GRPCCore
public import Leases
import Synchronization

extension EtcdStore {
    /// Watches everything under the prefix; a stream that has gone quiet is asked for a sign of life.
    public func watch(after revision: Int64) -> AsyncThrowingStream<StoreUpdate, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do throws(LeaseStoreError) {
                    try await connection.perform(isRepeatable: false) { link in
                        try await EtcdWatch(store: self, link: link, continuation: continuation)
                            .run(after: revision)
                    }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }
}

/// One watch on one connection.
private struct EtcdWatch: Sendable {
    // A sign of life is asked for every 10 s; after 15 s without any the stream counts as dead.
    private static let signInterval = Duration.seconds(10)
    private static let quietLimit = Duration.seconds(15)

    let store: EtcdStore
    let link: EtcdConnection.Link
    let continuation: AsyncThrowingStream<StoreUpdate, any Error>.Continuation
    let heard = LastHeard()

    /// When the server was last heard.
    final class LastHeard: Sendable {
        private let instant = Mutex(ContinuousClock.now)
        var deadline: ContinuousClock.Instant { instant.withLock { $0 } + EtcdWatch.quietLimit }
        func touch() { instant.withLock { $0 = .now } }
    }

    func run(after revision: Int64) async throws {
        try await withThrowingTaskGroup { group in
            group.addTask { try await stream(after: revision) }
            group.addTask { try await watchdog() }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func watchdog() async throws {
        while heard.deadline > .now { try await Task.sleep(until: heard.deadline) }
        throw RPCError(
            code: .unavailable, message: "the watch heard nothing for \(Self.quietLimit.components.seconds) s"
        )
    }

    private func stream(after revision: Int64) async throws {
        let range = store.keyRange
        var options = CallOptions.defaults
        options.waitForReady = false
        options.maxResponseMessageBytes = EtcdConnection.options.maxResponseMessageBytes
        try await Etcdserverpb_Watch.Client(wrapping: link.client).watch(
            metadata: link.metadata, options: options,
            requestProducer: { writer in
                try await writer.write(
                    .with {
                        $0.createRequest = .with {
                            $0.key = range.first
                            $0.rangeEnd = range.end
                            $0.startRevision = revision + 1
                        }
                    })
                while true {
                    try await Task.sleep(for: Self.signInterval)
                    try await writer.write(.with { $0.progressRequest = .init() })
                }
            },
            onResponse: { response in
                for try await message in response.messages {
                    heard.touch()
                    try tell(message)
                }
            })
    }

    private func tell(_ response: Etcdserverpb_WatchResponse) throws {
        if response.canceled {
            if response.compactRevision > 0 {
                throw LeaseStoreError(
                    .historyLost, "\(link.endpoint): compacted up to revision \(response.compactRevision)")
            }
            // etcd says so to a token that is no longer valid too.
            let isDenied = response.cancelReason.contains("permission denied")
            throw RPCError(
                code: isDenied ? .permissionDenied : .aborted,
                message: "the watch was ended: \(response.cancelReason)")
        }
        guard let last = response.events.last else {
            continuation.yield(.alive(revision: response.header.revision))
            return
        }
        let events = response.events.compactMap { event in
            event.type == .delete ? store.event(deletionOf: event.kv.key) : store.event(put: event.kv)
        }
        continuation.yield(.changes(events, revision: last.kv.modRevision))
    }
}
