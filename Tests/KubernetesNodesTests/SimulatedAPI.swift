import KubernetesNodes
import Seeded

/// The API server of a simulated cluster: its nodes with their versions, and what its watches tell.
final class SimulatedAPI {
    private(set) var nodes: [String: NodeRecord] = [:]
    private(set) var version = 100
    private var history: [(version: Int, event: WatchEvent)] = []
    private var compactedTo = 100
    /// What is told from now on, after it was written.
    var told: (WatchEvent) -> Void = { _ in }
    /// An earlier state, as a backup has it.
    private var backup: (nodes: [String: NodeRecord], version: Int)?
    var isDown = false

    func put(_ record: NodeRecord) {
        version += 1
        var record = record
        record.resourceVersion = "\(version)"
        nodes[record.name] = record
        note(.put(record))
    }

    func delete(_ name: String) {
        guard var record = nodes.removeValue(forKey: name) else { return }
        version += 1
        record.resourceVersion = "\(version)"
        note(.deleted(record))
    }

    func change(_ name: String, _ body: (inout NodeRecord) -> Void) {
        guard var record = nodes[name] else { return }
        let before = record
        body(&record)
        if record != before { put(record) }
    }

    private func note(_ event: WatchEvent) {
        history.append((version, event))
        told(event)
    }

    func compact() {
        compactedTo = version
        history = []
    }

    /// After it, versions go on by more than the cluster will ever make up for: so it is with backups, and where it
    /// is not, nobody can tell one history from the other.
    func backUp() {
        backup = (nodes, version)
        version += 100_000
    }

    /// The store is one of before: versions begin there anew, and watches of the future hear nothing.
    func restore() {
        guard let backup else { return }
        (nodes, version) = backup
        compactedTo = version
        history = []
    }

    // MARK: Answers

    func node(_ name: String) -> Result<NodeRecord, APIFailure> {
        nodes[name].map { .success($0) } ?? .failure(APIFailure(.notFound, "404: not found"))
    }

    /// A page of two nodes; a token is a version and the last name before it.
    func page(_ asked: ListVersion, continuing token: String?) -> Result<NodePage, APIFailure> {
        if case .notOlder(let than) = asked, token == nil, Int(than) ?? 0 > version {
            return .failure(
                APIFailure(.versionTooLarge, "504: Too large resource version", retryAfter: .seconds(1)))
        }
        let parts = token?.split(separator: "@") ?? []
        let listed = parts.first.flatMap { Int($0) } ?? version
        // Pages of a version that is not the newest would need its state: it counts as compacted.
        guard listed == version else { return .failure(APIFailure(.gone, "410: expired")) }
        let last = parts.count > 1 ? String(parts[1]) : ""
        let names = nodes.keys.sorted().filter { $0 > last }
        let page = names.prefix(2)
        let rest = names.count > 2 ? "\(version)@\(page.last ?? "")" : nil
        return .success(
            NodePage(nodes: page.compactMap { nodes[$0] }, version: "\(version)", continueToken: rest))
    }

    func patch(_ patch: NodePatch, node name: String) -> Result<NodeRecord, APIFailure> {
        guard var record = nodes[name] else { return .failure(APIFailure(.notFound, "404: not found")) }
        guard record.uid == patch.uid else {
            return .failure(APIFailure(.invalid, "422: field is immutable"))
        }
        if let annotations = patch.annotations {
            record.annotations.isManaged = annotations.isManaged
            record.annotations.backendType = annotations.backendType
            record.annotations.backendData = annotations.backendData
            record.annotations.publicIP = annotations.publicIP
        }
        if patch.clearsNetworkUnavailable { record.networkUnavailable = "False" }
        if record != nodes[name] { put(record) }
        return nodes[name].map { .success($0) } ?? .failure(APIFailure(.failed, "500"))
    }

    /// What a watch hears first; nil: it hears nothing, for ever.
    func since(_ version: Int) -> Result<[WatchEvent]?, APIFailure> {
        if version > self.version { return .success(nil) }
        if version < compactedTo { return .failure(APIFailure(.gone, "410: expired")) }
        return .success(history.filter { $0.version > version }.map(\.event))
    }
}
