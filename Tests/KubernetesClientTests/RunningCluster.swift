import Addresses
import Foundation
import Health
import KubernetesClient
import Kit
import KubernetesNodes
import Leases
import Logging
import Synchronization
import KubernetesTesting
import Testing

/// A node with these annotations, as flannel's daemon on it leaves them; without an address, as the kubelet made it.
func node(_ name: String, _ cidr: String?, at address: String? = nil, uid: String? = nil) -> NodeRecord {
    var annotations = NodeAnnotations()
    if let address {
        annotations.isManaged = "true"
        annotations.backendType = ""
        annotations.backendData = "null"
        annotations.publicIP = address
    }
    return NodeRecord(
        name: name, uid: uid ?? "uid-\(name)", podCIDRs: cidr.map { [$0] } ?? [], annotations: annotations)
}

/// Times that a test can wait for.
var shortTimes: APITimes {
    var times = APITimes()
    times.request = .seconds(2)
    times.list = .seconds(5)
    times.silence = .seconds(1)
    times.connect = .seconds(2)
    times.fileInterval = .milliseconds(50)
    return times
}

/// The same, where a connection that says nothing is no matter of the test.
var patientTimes: APITimes {
    var times = shortTimes
    times.silence = .seconds(60)
    return times
}

/// A cluster's client that runs, with what it told last.
final class RunningCluster: Sendable {
    struct Told: Sendable {
        var network = KnownNetwork()
        var lease: OwnLease?
        var requests: NodeAddressRequests?
        var lines: [String] = []
        var lost: LeaseLost?
        var beats = 0
    }

    let cluster: KubernetesCluster
    let directory: String
    private let told: Box
    private let task: Task<Void, Never>

    final class Box: Sendable {
        let value = Mutex(Told())
    }

    /// - Parameters:
    ///   - options: what of the usual ones is to be another.
    ///   - directory: of the node's files; a new one where nil.
    init(
        _ server: FakeAPIServer, certificates: Certificates?, directory: String? = nil,
        times: APITimes = shortTimes,
        silenceLimit: Duration? = nil, options change: (inout KubernetesOptions) throws -> Void = { _ in }
    ) throws {
        let directory = try directory ?? RunningCluster.makeDirectory(certificates)
        var options = KubernetesOptions()
        options.nodeName = "own"
        options.apiURL = "\(certificates == nil ? "http" : "https")://127.0.0.1:\(server.port)"
        options.serviceAccountDirectory = directory
        options.stateDirectory = directory + "/state"
        options.networkConfigurationPath = directory + "/net-conf.json"
        try change(&options)
        let told = Box()
        let logger = Logger(label: "test") { _ in LineHandler(told: told) }
        let cluster = try KubernetesCluster(
            options: options, times: times, silenceLimit: silenceLimit, logger: logger,
            heartbeat: { told.value.withLock { $0.beats += 1 } })
        self.cluster = cluster
        self.directory = directory
        self.told = told
        task = Task {
            await withTaskGroup(of: Void.self) { group in
                group.addTask {
                    do throws(LeaseLost) { try await cluster.run() } catch {
                        told.value.withLock { $0.lost = error }
                    }
                }
                group.addTask {
                    for await network in cluster.networks { told.value.withLock { $0.network = network } }
                }
                group.addTask {
                    for await lease in cluster.subnets { told.value.withLock { $0.lease = lease } }
                }
                group.addTask {
                    for await requests in cluster.addressRequests {
                        told.value.withLock { $0.requests = requests }
                    }
                }
            }
        }
    }

    /// A directory with a token, the CA, and a network's configuration.
    static func makeDirectory(_ certificates: Certificates?) throws -> String {
        let directory = NSTemporaryDirectory() + "kubernetes-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try "first\n".write(toFile: directory + "/token", atomically: true, encoding: .utf8)
        if let certificates {
            try FileManager.default.copyItem(
                atPath: certificates["authority.pem"], toPath: directory + "/ca.crt")
        }
        try #"{"Network":"10.244.0.0/16"}"#.write(
            toFile: directory + "/net-conf.json", atomically: true, encoding: .utf8)
        return directory
    }

    func now() -> Told { told.value.withLock { $0 } }
    var peers: [String] { now().network.peers.map { "\($0.subnet) \($0.endpoint)" } }

    /// Waits for something, as long as a busy machine needs.
    func wait(
        _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation, until isSo: (Told) -> Bool
    ) async throws {
        for _ in 0..<3000 {
            if isSo(now()) { return }
            try await Task.sleep(for: .milliseconds(10))
        }
        try #require(isSo(now()), what, sourceLocation: sourceLocation)
    }

    /// Waits until the server has a watch of the node's.
    func waitForWatch(_ server: FakeAPIServer) async throws {
        try await wait("a watch") { _ in server.state.withLock { !$0.watchers.isEmpty } }
    }

    func announce(_ last: UInt8 = 1) async {
        await cluster.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, last)))
    }

    func stop() async {
        task.cancel()
        await task.value
    }

    /// Keeps the log's lines.
    struct LineHandler: LogHandler {
        let told: Box
        var metadata = Logger.Metadata()
        var logLevel = Logger.Level.debug
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let fields = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
            told.value.withLock { $0.lines.append("\(event.message) \(fields.joined(separator: " "))") }
        }
    }
}

/// Runs a test with a server and what it has to do with.
func withServer(
    tls: Bool = false, _ body: (FakeAPIServer, Certificates?) async throws -> Void
) async throws {
    let certificates = tls ? try Certificates.shared.get() : nil
    let server = try FakeAPIServer(certificates: certificates)
    server.put(node("own", "10.244.0.0/24"))
    server.put(node("a", "10.244.1.0/24", at: "198.18.9.2"))
    let result = await Result { () async throws in try await body(server, certificates) }
    server.stop()
    try result.get()
}

extension Result where Failure == any Error {
    init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
