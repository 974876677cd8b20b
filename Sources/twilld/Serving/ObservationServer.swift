import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix

/// An HTTP answer.
struct HTTPAnswer: Sendable, Equatable {
    var status: HTTPResponseStatus
    var contentType = "text/plain; charset=utf-8"
    var body: String
}

/// What can be asked of the daemon, each a path. Answers come from the server's thread, at once.
protocol Observable: Sendable {
    /// The answer to a GET of `path`; nil where nothing has that path.
    func answer(path: String) -> HTTPAnswer?
}

/// Answers GET requests over HTTP/1.1, on a port and on a unix socket, on one thread of its own: the packet threads
/// never wait for it. Each connection carries one request and lives ten seconds at most.
final class ObservationServer: Sendable {
    private static let connectionLimitSeconds: Int64 = 10

    /// What the port answers. `/status` names every node's address and is for the unix socket alone.
    static let portPaths: Set<String> = ["/healthz", "/readyz", "/metrics"]

    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let observable: any Observable

    // Beside packet threads that take every CPU there is, an answer would wait for its turn several times over. Its work
    // is some milliseconds for each question.
    private static let nice: Int32 = -10

    init(_ observable: any Observable) {
        self.observable = observable
        // Of the calling thread alone (setpriority(2), notes); where the right is lacking, answers take longer.
        group.next().execute {
            setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, ObservationServer.nice)
        }
    }

    /// Listens on a TCP port.
    ///
    /// - Returns: the port, which the kernel chose where `port` is 0.
    @discardableResult
    func listen(host: String, port: UInt16) async throws(CommandFailure) -> UInt16 {
        do {
            let channel = try await bootstrap(paths: ObservationServer.portPaths).bind(
                host: host, port: Int(port)
            ).get()
            return channel.localAddress?.port.flatMap(UInt16.init(exactly:)) ?? port
        } catch {
            throw CommandFailure(
                .temporary,
                "/healthz and /metrics can't listen on \(host):\(port): \(error); free the port, or choose another "
                    + "with --healthz-port (0: none)")
        }
    }

    /// Listens on a unix socket. One that a daemon left behind when it was killed is replaced; one that takes
    /// connections is another daemon's, however long that one needs to answer.
    func listen(socketPath path: String) async throws(CommandFailure) {
        do {
            let connection = try await ClientBootstrap(group: group).connect(unixDomainSocketPath: path).get()
            connection.close(promise: nil)
            throw CommandFailure(
                .temporary, "another twilld answers at \(path); choose another --status-socket")
        } catch let failure as CommandFailure {
            throw failure
        } catch let error as IOError where error.errnoCode == ENOENT {
        } catch let error as IOError where error.errnoCode == ECONNREFUSED {
            unlink(path)
        } catch {
            throw CommandFailure(
                .temporary,
                "who listens at \(path) can't be found out: \(error); choose another --status-socket")
        }
        do {
            try FileManager.default.createDirectory(
                at: URL(filePath: path).deletingLastPathComponent(), withIntermediateDirectories: true)
            _ = try await bootstrap(paths: ObservationServer.portPaths.union(["/status"])).bind(
                unixDomainSocketPath: path
            ).get()
            // What it tells is for the node's administrators: addresses of all nodes among it.
            chmod(path, 0o600)
        } catch {
            throw CommandFailure(.configuration, "the status socket \(path) can't be made: \(error)")
        }
    }

    /// Ends all connections and listeners, and removes the socket.
    func stop(removing path: String?) async {
        if let path { unlink(path) }
        try? await group.shutdownGracefully()
    }

    private func bootstrap(paths: Set<String>) -> ServerBootstrap {
        let observable = observable
        return ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(
                        withPipeliningAssistance: false, withErrorHandling: false)
                    try channel.pipeline.syncOperations.addHandler(
                        RequestHandler(observable, paths: paths))
                    channel.eventLoop.scheduleTask(in: .seconds(ObservationServer.connectionLimitSeconds)) {
                        channel.close(promise: nil)
                    }
                }
            }
    }
}

/// Answers the first request of a connection and closes it.
private final class RequestHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let observable: any Observable
    private let paths: Set<String>
    private var head: HTTPRequestHead?

    init(_ observable: any Observable, paths: Set<String>) {
        self.observable = observable
        self.paths = paths
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): if self.head == nil { self.head = head }
        case .body: break
        case .end:
            guard let head else { return }
            RequestHandler.send(answer(head), isBodyWanted: head.method != .HEAD, on: context.channel)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func answer(_ head: HTTPRequestHead) -> HTTPAnswer {
        guard head.method == .GET || head.method == .HEAD else {
            return HTTPAnswer(status: .methodNotAllowed, body: "only GET and HEAD\n")
        }
        let path = String(head.uri.prefix { $0 != "?" })
        return (paths.contains(path) ? observable.answer(path: path) : nil)
            ?? HTTPAnswer(status: .notFound, body: "there are \(paths.sorted().joined(separator: ", "))\n")
    }

    private static func send(_ answer: HTTPAnswer, isBodyWanted: Bool, on channel: any Channel) {
        var headers = HTTPHeaders()
        headers.add(name: "Content-Type", value: answer.contentType)
        headers.add(name: "Content-Length", value: String(answer.body.utf8.count))
        headers.add(name: "Connection", value: "close")
        let head = HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers)
        channel.write(HTTPServerResponsePart.head(head), promise: nil)
        if isBodyWanted {
            channel.write(
                HTTPServerResponsePart.body(.byteBuffer(channel.allocator.buffer(string: answer.body))),
                promise: nil)
        }
        channel.writeAndFlush(HTTPServerResponsePart.end(nil)).whenComplete { _ in channel.close(promise: nil)
        }
    }
}
