import Addresses
package import Health
package import Leases
package import Logging
import Synchronization

/// A node of a test network: a keeper on a store, and what it published and logged.
package final class TestNode: Sendable {
    package struct Overdue: Error, CustomStringConvertible { package let description: String }

    private struct State {
        var network = KnownNetwork()
        var ownLease: OwnLease?
        var lost: LeaseLost?
    }

    /// Apart from the node, which the task that fills it must not keep alive.
    private final class Observed: Sendable {
        let state = Mutex(State())
    }

    package let keeper: LeaseKeeper
    package let log = RecordedLog()
    private let observed = Observed()
    private let running: Mutex<Task<Void, Never>?> = Mutex(nil)

    package var table: PeerTable { observed.state.withLock { PeerTable($0.network, ownLease: $0.ownLease) } }
    package var lost: LeaseLost? { observed.state.withLock { $0.lost } }

    package init(
        _ publicAddress: String, store: any LeaseStore, identity: NodeIdentity = .random(),
        port: UInt16? = nil,
        configure: (inout LeaseOptions) -> Void = { _ in }
    ) {
        var options = LeaseOptions(identity: identity)
        configure(&options)
        let logger = Logger(label: publicAddress) { [log] _ in log }
        keeper = LeaseKeeper(
            store: store,
            announcement: NodeAnnouncement(publicAddress: IPv4Address(publicAddress)!, port: port),
            options: options, logger: logger)
        let task = Task { [keeper, observed] in
            await withTaskGroup { group in
                group.addTask {
                    for await network in keeper.networks {
                        observed.state.withLock { $0.network = network }
                    }
                }
                group.addTask {
                    for await lease in keeper.subnets { observed.state.withLock { $0.ownLease = lease } }
                }
                group.addTask {
                    do throws(LeaseLost) {
                        try await keeper.run()
                    } catch {
                        observed.state.withLock { $0.lost = error }
                    }
                }
            }
        }
        running.withLock { $0 = task }
    }

    deinit { running.withLock { $0?.cancel() } }

    /// Ends the node as a clean stop does.
    package func stop() async {
        let task = running.withLock { $0 }
        task?.cancel()
        await task?.value
    }

    /// Waits until the table is as told; the limit only keeps a broken test from hanging.
    @discardableResult
    package func wait(
        for what: String, until isThere: (PeerTable) -> Bool
    ) async throws -> PeerTable {
        for _ in 0..<3_000 {
            let table = table
            if isThere(table) { return table }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw Overdue(
            description: "\(what); the table is \(table); the log is\n\(log.lines.joined(separator: "\n"))")
    }

    package func subnet() async throws -> LeaseSubnet {
        try await wait(for: "a lease") { $0.ownLease != nil && $0.isStoreConnected }.ownLease!.subnet
    }
}

/// Waits until something is so; the limit only keeps a broken test from hanging.
package func eventually(_ what: String, isSo: () async throws -> Bool) async throws {
    for _ in 0..<1_500 {
        if try await isSo() { return }
        try await Task.sleep(for: .milliseconds(40))
    }
    throw TestNode.Overdue(description: what)
}

/// A log that tests read.
package final class RecordedLog: LogHandler, Sendable {
    private let recorded = Mutex<[String]>([])

    package var lines: [String] { recorded.withLock { $0 } }

    package var logLevel: Logger.Level {
        get { .trace }
        set {}
    }
    package var metadata: Logger.Metadata {
        get { [:] }
        set {}
    }
    package subscript(metadataKey _: String) -> Logger.Metadata.Value? {
        get { nil }
        set {}
    }

    package func log(event: LogEvent) {
        let fields = (event.metadata ?? [:]).map { "\($0)=\($1)" }.sorted().joined(separator: " ")
        recorded.withLock { $0.append("\(event.level) \(event.message) \(fields)") }
    }

    /// How many lines are of the event and contain all the words.
    package func count(of event: EventName, _ words: String...) -> Int {
        lines.count { line in line.contains(" \(event) ") && words.allSatisfy(line.contains) }
    }
}
