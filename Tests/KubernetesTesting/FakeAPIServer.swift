import Foundation
package import Kit
package import KubernetesNodes
package import NIOCore
package import NIOHTTP1
import NIOPosix
import NIOSSL
package import Synchronization

/// An API server of nodes in the test's process: lists in pages, watches with bookmarks, patches, and does wrong what
/// it is told to.
package final class FakeAPIServer: Sendable {
    /// Something that is done in the place of the next answer to a request of a kind.
    package enum Fault: Sendable {
        case status(Int, message: String = "told to", headers: [String: String] = [:], details: String? = nil)
        /// 200, and then these bytes and the end.
        case body(String)
        /// Nothing, for ever.
        case silence
        /// The connection ends in the middle.
        case cut(after: String)
    }

    package enum Kind: Sendable { case pod, node, list, page, watch, patch }

    package struct Request: Sendable {
        package var kind: Kind
        package var method: String
        package var uri: String
        package var headers: HTTPHeaders
        package var body: String
    }

    package struct State {
        package var nodes: [String: NodeRecord] = [:]
        package var version = 100
        package var faults: [(kind: Kind, fault: Fault)] = []
        package var requests: [Request] = []
        package var watchers: [ObjectIdentifier: Watcher] = [:]
        /// Every live connection, to be ended at once.
        package var channels: [ObjectIdentifier: any Channel] = [:]
        package var token: String?
        package var clockOffset = 0
        package var bytesSent = 0
        /// Bytes of other things in each node.
        package var filling = 0
        package var pieceLength: Int?
    }

    package struct Watcher: Sendable {
        package var channel: any Channel
        /// The version up to which it knows the nodes.
        package var version: Int
    }

    package let state = Mutex(State())
    package let port: Int
    private let isRunning = Mutex(true)
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let channel: any Channel
    private let keys: AnnotationKeys
    private let owner: Owner

    /// - Parameter certificates: nil: without TLS.
    package init(
        certificates: Certificates?, asksForCertificate: Bool = false, host: String = "127.0.0.1",
        port: Int = 0
    ) throws {
        keys = try AnnotationKeys(prefix: "flannel.alpha.coreos.com")
        var context: NIOSSLContext?
        if let certificates {
            var configuration = TLSConfiguration.makeServerConfiguration(
                certificateChain: try NIOSSLCertificate.fromPEMFile(certificates["server.pem"])
                    .map { .certificate($0) },
                privateKey: .privateKey(try NIOSSLPrivateKey(file: certificates["server.key"], format: .pem)))
            if asksForCertificate {
                configuration.certificateVerification = .noHostnameVerification
                configuration.trustRoots = .file(certificates["authority.pem"])
            }
            context = try NIOSSLContext(configuration: configuration)
        }
        let owner = Owner()
        self.owner = owner
        channel = try ServerBootstrap(group: group)
            .childChannelInitializer { [context] channel in
                channel.eventLoop.makeCompletedFuture {
                    if let context {
                        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
                    }
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                    try channel.pipeline.syncOperations.addHandler(Handler(owner: owner))
                }
            }
            .withBoundSocket(try Self.boundSocket(host: host, port: port)).wait()
        self.port = channel.localAddress?.port ?? 0
        owner.server.withLock { $0 = self }
    }

    /// A socket with an address, which no program that is started from here inherits: NIO's own would be, and the port
    /// would never be free again.
    private static func boundSocket(host: String, port: Int) throws -> CInt {
        let descriptor = socket(
            host.contains(":") ? AF_INET6 : AF_INET, CInt(SOCK_STREAM.rawValue) | O_CLOEXEC, 0)
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "socket") }
        var reuses: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuses, socklen_t(MemoryLayout<CInt>.size))
        let outcome = try SocketAddress(ipAddress: host, port: port).withSockAddr { address, size in
            bind(descriptor, address, socklen_t(size))
        }
        guard outcome == 0 else {
            let error = IOError(errnoCode: errno, reason: "bind")
            close(descriptor)
            throw error
        }
        return descriptor
    }

    /// Lets the handlers find the server, which is made after them.
    package final class Owner: Sendable {
        package let server = Mutex<FakeAPIServer?>(nil)
    }

    /// Ends the server. What is said to it after that is said to nobody.
    package func stop() {
        guard
            isRunning.withLock({ wasRunning in
                defer { wasRunning = false }
                return wasRunning
            })
        else { return }
        try? channel.close().wait()
        cutAll()
        owner.server.withLock { $0 = nil }
        try? group.syncShutdownGracefully()
    }

    /// Ends every connection at once.
    package func cutAll() {
        let channels = state.withLock { state in
            defer { state.watchers = [:] }
            return Array(state.channels.values)
        }
        for channel in channels { channel.close(mode: .all, promise: nil) }
    }

    package func requests(_ kind: Kind) -> [Request] {
        state.withLock { $0.requests.filter { $0.kind == kind } }
    }

    package func failNext(_ kind: Kind, _ fault: Fault, times: Int = 1) {
        state.withLock { for _ in 0..<times { $0.faults.append((kind, fault)) } }
    }

    // MARK: Nodes

    package func put(_ record: NodeRecord) {
        let watchers = state.withLock { state -> ([Watcher], NodeRecord, String) in
            state.version += 1
            var record = record
            record.resourceVersion = "\(state.version)"
            let type = state.nodes.updateValue(record, forKey: record.name) == nil ? "ADDED" : "MODIFIED"
            return (Array(state.watchers.values), record, type)
        }
        tell(watchers.0, watchers.2, json(watchers.1))
    }

    package func delete(_ name: String) {
        let (watchers, record) = state.withLock { state in
            state.version += 1
            var record = state.nodes.removeValue(forKey: name)
            record?.resourceVersion = "\(state.version)"
            return (Array(state.watchers.values), record)
        }
        if let record { tell(watchers, "DELETED", json(record)) }
    }

    package func change(_ name: String, _ body: (inout NodeRecord) -> Void) {
        guard var record = state.withLock({ $0.nodes[name] }) else { return }
        body(&record)
        put(record)
    }

    package func bookmark() {
        let (watchers, version) = state.withLock { (Array($0.watchers.values), $0.version) }
        tell(
            watchers, "BOOKMARK",
            #"{"kind":"Node","metadata":{"resourceVersion":"\#(version)"},"spec":{},"status":{}}"#)
    }

    /// Ends the watches as `timeoutSeconds` does.
    package func endWatches(with last: String = "") {
        let watchers = state.withLock { state in
            defer { state.watchers = [:] }
            return Array(state.watchers.values)
        }
        for watcher in watchers {
            if !last.isEmpty { send(last, on: watcher.channel) }
            watcher.channel.eventLoop.execute {
                watcher.channel.writeAndFlush(HTTPServerResponsePart.end(nil), promise: nil)
            }
        }
    }

    package func tell(_ watchers: [Watcher], _ type: String, _ object: String) {
        for watcher in watchers {
            send(#"{"type":"\#(type)","object":\#(object)}"# + "\n", on: watcher.channel)
        }
    }

    private func send(_ text: String, on channel: any Channel) {
        let pieceLength = state.withLock { state in
            state.bytesSent += text.utf8.count
            return state.pieceLength ?? text.utf8.count
        }
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let piece = ByteBuffer(bytes: rest.prefix(pieceLength))
            rest = rest.dropFirst(pieceLength)
            channel.eventLoop.execute {
                channel.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(piece)), promise: nil)
            }
        }
    }

    package func json(_ record: NodeRecord) -> String {
        let text = record.json(keys: keys)
        let filling = state.withLock { $0.filling }
        guard filling > 0 else { return text }
        let image =
            #"{"names":["registry.example.org/some/image@sha256:0123456789abcdef"],"sizeBytes":12345678}"#
        let images = Array(repeating: image, count: max(1, filling / image.utf8.count)).joined(separator: ",")
        return text.replacingOccurrences(of: #""status":{"#, with: #""status":{"images":[\#(images)],"#)
    }
}
