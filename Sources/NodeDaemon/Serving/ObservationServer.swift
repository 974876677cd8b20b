import FoundationEssentials
import Glibc
import Host
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

    /// Begins a capture; nil where one goes on.
    func capture(_ request: CaptureRequest) -> Capture?
}

/// Answers GET requests over HTTP/1.1, on a port and on a unix socket, on one thread of its own: the packet threads
/// never wait for it. Each connection carries one request.
final class ObservationServer: Sendable {
    /// What a client may take, whoever it is.
    enum Limits {
        /// Connections at a time on the port: a kubelet, some Prometheus servers and a person need a few. Each may
        /// hold an answer of some 100 KB that is not read, 6 MB in all. One more takes the place of the one that is
        /// open the longest, so that idle ones keep nobody out.
        static let portConnections = 64
        /// The same on the unix socket, whose answers are up to some megabytes with thousands of nodes.
        static let socketConnections = 16
        /// What is read of a request, its head and whatever follows; a request of Prometheus has some 300
        /// bytes.
        static let requestBytes = 16 * 1024
        /// How long a connection may be open.
        static let seconds: Int64 = 10
        /// How often what was captured is sent on.
        static let captureMilliseconds: Int64 = 10
        /// How long no connection is taken where the process has no descriptor left for one.
        static let pauseMilliseconds: Int64 = 100
    }

    /// What the port answers. `/status` names every node's address and is for the unix socket alone.
    static let portPaths: Set<String> = ["/healthz", "/readyz", "/metrics"]

    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let observable: any Observable

    // Beside packet threads that take every CPU there is, an answer would wait for its turn several times over. Its
    // work is some milliseconds for each question.
    private static let nice: Int32 = -10

    init(_ observable: any Observable) {
        self.observable = observable
        // Of the calling thread alone (setpriority(2), notes); where the right is lacking, answers take
        // longer.
        group.next().execute {
            setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, ObservationServer.nice)
        }
    }

    /// Listens on a TCP port.
    ///
    /// - Returns: the port, which the kernel chose where `port` is 0.
    @discardableResult
    func listen(host: String, port: UInt16) async throws(ExitFailure) -> UInt16 {
        do {
            // A name is looked up, which may take seconds.
            let address = try await onThread {
                try SocketAddress.makeAddressResolvingHost(host, port: Int(port))
            }
            let channel = try await bootstrap(
                paths: ObservationServer.portPaths, connections: Limits.portConnections
            ).bind(to: address).get()
            return channel.localAddress?.port.flatMap(UInt16.init(exactly:)) ?? port
        } catch {
            let isDenied =
                (error as? IOError).map { $0.errnoCode == EACCES || $0.errnoCode == EPERM } ?? false
            throw ExitFailure(
                isDenied ? .permission : .temporary,
                "/healthz and /metrics can't listen on \(host):\(port): \(plainWords(error))")
        }
    }

    /// Listens on a unix socket that was made for it.
    func listen(_ socket: StatusSocket) async throws(ExitFailure) {
        do {
            _ = try await bootstrap(
                paths: ObservationServer.portPaths.union(["/status", CaptureRequest.path]),
                connections: Limits.socketConnections
            ).withBoundSocket(socket.descriptor).get()
        } catch {
            close(socket.descriptor)
            throw ExitFailure(.system, "the status socket can't be used: \(plainWords(error))")
        }
    }

    /// Ends all connections and listeners.
    func stop() async { try? await group.shutdownGracefully() }

    private func bootstrap(paths: Set<String>, connections: Int) -> ServerBootstrap {
        let observable = observable
        return ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ConnectionGate(limit: connections))
                }
            }
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(RequestLimit())
                    try pipeline.configureHTTPServerPipeline(
                        withPipeliningAssistance: false, withErrorHandling: false)
                    let end = channel.eventLoop.scheduleTask(in: .seconds(Limits.seconds)) {
                        channel.close(promise: nil)
                    }
                    try pipeline.addHandler(
                        RequestHandler(observable, paths: paths, staysOpen: { end.cancel() }))
                    // The task holds the channel and all that belongs to it.
                    channel.closeFuture.whenComplete { _ in end.cancel() }
                }
            }
    }
}

/// Keeps the number of open connections of a listener within its limit, and lets it rest where the process has no
/// descriptors left: the kernel would tell of the same waiting connection again and again.
private final class ConnectionGate: ChannelDuplexHandler {
    typealias InboundIn = any Channel
    typealias InboundOut = any Channel
    typealias OutboundIn = any Channel
    typealias OutboundOut = any Channel

    private let limit: Int
    /// The oldest first.
    private var open: [any Channel] = []
    private var isResting = false

    init(limit: Int) { self.limit = limit }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let connection = unwrapInboundIn(data)
        if open.count >= limit { open.removeFirst().close(promise: nil) }
        open.append(connection)
        connection.closeFuture.assumeIsolated().whenComplete { [weak self] _ in
            self?.open.removeAll { $0 === connection }
        }
        context.fireChannelRead(data)
    }

    func read(context: ChannelHandlerContext) {
        if !isResting { context.read() }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard !isResting, let error = error as? IOError,
            [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(error.errnoCode)
        else { return }
        isResting = true
        if !open.isEmpty { open.removeFirst().close(promise: nil) }
        context.eventLoop.assumeIsolated().scheduleTask(
            in: .milliseconds(ObservationServer.Limits.pauseMilliseconds)
        ) { [weak self] in
            self?.isResting = false
            context.read()
        }
    }
}

/// Ends a connection that sends more than a request has.
private final class RequestLimit: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private var bytes = 0

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        bytes += unwrapInboundIn(data).readableBytes
        guard bytes <= ObservationServer.Limits.requestBytes else { return context.close(promise: nil) }
        context.fireChannelRead(data)
    }
}

/// Answers the first request of a connection and closes it.
private final class RequestHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let observable: any Observable
    private let paths: Set<String>
    private let staysOpen: () -> Void
    private var head: HTTPRequestHead?
    private var hasAnswered = false
    private var capture: Capture?

    /// - Parameter staysOpen: called where the answer has no end.
    init(_ observable: any Observable, paths: Set<String>, staysOpen: @escaping () -> Void) {
        self.observable = observable
        self.paths = paths
        self.staysOpen = staysOpen
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): if self.head == nil { self.head = head }
        case .body: break
        case .end:
            guard let head, !hasAnswered else { return }
            hasAnswered = true
            let parts = head.uri.split(separator: "?", maxSplits: 1)
            if head.method == .GET, parts.first == CaptureRequest.path[...],
                paths.contains(CaptureRequest.path)
            {
                return beginCapture(parts.count > 1 ? parts[1] : "", context)
            }
            RequestHandler.send(answer(head), isBodyWanted: head.method != .HEAD, on: context.channel)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    // MARK: Captures

    private func beginCapture(_ query: Substring, _ context: ChannelHandlerContext) {
        func refuse(_ status: HTTPResponseStatus, _ words: String) {
            RequestHandler.send(
                HTTPAnswer(status: status, body: words + "\n"), isBodyWanted: true, on: context.channel)
        }
        let request: CaptureRequest
        do throws(CaptureRequest.Malformed) { request = try CaptureRequest(query: query) } catch {
            return refuse(.badRequest, error.description)
        }
        guard let capture = observable.capture(request) else {
            return refuse(.conflict, "another capture goes on: end that one first")
        }
        self.capture = capture
        staysOpen()
        // Without a length and in no pieces: the answer ends with the connection.
        let head = HTTPResponseHead(
            version: .http1_0, status: .ok,
            headers: HTTPHeaders([("Content-Type", capture.contentType), ("Connection", "close")]))
        context.writeAndFlush(wrapOutboundOut(.head(head)), promise: nil)
        sendCaptured(context)
    }

    private func sendCaptured(_ context: ChannelHandlerContext) {
        guard let capture else { return }
        // Who does not read misses what comes meanwhile, and is told how much.
        if context.channel.isWritable {
            let bytes = capture.next()
            if !bytes.isEmpty {
                let buffer = context.channel.allocator.buffer(bytes: bytes)
                context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(buffer))), promise: nil)
            }
        }
        context.eventLoop.assumeIsolated().scheduleTask(
            in: .milliseconds(ObservationServer.Limits.captureMilliseconds)
        ) { [weak self] in self?.sendCaptured(context) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        capture = nil
        context.fireChannelInactive()
    }

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
