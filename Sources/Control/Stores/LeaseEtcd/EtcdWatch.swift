import EtcdAPI
import FoundationEssentials
import GRPCCore
public import Leases
import Synchronization

extension EtcdStore {
    /// Watches the leases and the configuration; a stream that has gone quiet is asked for a sign of life.
    public func watch(after position: StorePosition) -> AsyncThrowingStream<StoreUpdate, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do throws(LeaseStoreError) {
                    try await connection.perform(isRepeatable: false) { link in
                        try await EtcdWatch(store: self, link: link, continuation: continuation)
                            .run(after: position.number)
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
        let ranges = [store.leaseRange, (store.configurationKey, Data())]
        guard (0..<Int64.max).contains(revision) else {
            throw LeaseStoreError(.historyLost, "\(link.endpoint): there is no revision after \(revision)")
        }
        var options = CallOptions.defaults
        options.waitForReady = false
        options.limitMessages()
        try await Etcdserverpb_Watch.Client(wrapping: link.client).watch(
            metadata: link.metadata, options: options,
            requestProducer: { writer in
                // One stream for both: its signs of life and its end are theirs.
                for (first, end) in ranges {
                    try await writer.write(
                        .with {
                            $0.createRequest = .with {
                                $0.key = first
                                $0.rangeEnd = end
                                $0.startRevision = revision &+ 1
                            }
                        })
                }
                while true {
                    try await Task.sleep(for: Self.signInterval)
                    try await writer.write(.with { $0.progressRequest = .init() })
                }
            },
            onResponse: { response in
                var progress = EtcdWatchProgress(after: revision)
                for try await message in response.messages {
                    heard.touch()
                    try tell(message, after: &progress)
                }
            })
    }

    private func tell(_ response: Etcdserverpb_WatchResponse, after progress: inout EtcdWatchProgress) throws
    {
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
        guard let update = store.update(of: response, since: progress.leases) else { return }
        if case .changes(let events, _) = update {
            try progress.advance(
                by: response.events.map(\.kv.modRevision), of: events, from: "\(link.endpoint)")
        }
        continuation.yield(update)
    }
}

/// Up to which revisions the two watches of a stream have told.
struct EtcdWatchProgress {
    /// Of the leases.
    private(set) var leases: Int64
    /// Of the network's configuration.
    private(set) var configuration: Int64

    /// Nothing told yet.
    ///
    /// - Parameter revision: which both are to begin after.
    init(after revision: Int64) {
        leases = revision
        configuration = revision
    }

    /// Takes note of a response's changes.
    ///
    /// - Parameters:
    ///   - revisions: those of the changes.
    ///   - events: what they say.
    ///   - endpoint: who told them.
    /// - Throws: `LeaseStoreError` where one is of a revision that was told before, or that was to be begun after: a
    ///   member that lags behind, or was asked for a revision of the future, tells old changes (etcd-io/etcd#15271,
    ///   #20221). They are not believed; the watch is begun again, after a pause, and the store is read.
    mutating func advance(
        by revisions: [Int64], of events: [StoreEvent], from endpoint: String
    ) throws(LeaseStoreError) {
        guard let first = revisions.min(), let last = revisions.max() else { return }
        let isOfLeases = events.contains { if case .configuration = $0 { false } else { true } }
        let told = isOfLeases ? leases : configuration
        guard first > told else {
            throw LeaseStoreError(
                .failed, "\(endpoint): the watch told a change of revision \(first) after revision \(told)")
        }
        if isOfLeases { leases = last } else { configuration = last }
    }
}

extension EtcdStore {
    /// What a watch's response says, which is not the end of the watch; nil where that is nothing.
    ///
    /// Two watches share a stream, and one may be ahead of the other: what the configuration's says does not move the
    /// position from which both are resumed, so that no lease is passed over.
    func update(of response: Etcdserverpb_WatchResponse, since position: Int64) -> StoreUpdate? {
        guard let last = response.events.last else {
            return (0..<Int64.max).contains(response.header.revision)
                ? .alive(StorePosition(revision: response.header.revision)) : nil
        }
        let events = response.events.compactMap { event in
            event.type == .delete ? self.event(deletionOf: event.kv.key) : self.event(put: event.kv)
        }
        let isOfLeases = events.contains { if case .configuration = $0 { false } else { true } }
        guard (1..<Int64.max).contains(last.kv.modRevision) else { return nil }
        return .changes(
            events, upTo: StorePosition(revision: isOfLeases ? last.kv.modRevision : position))
    }
}
