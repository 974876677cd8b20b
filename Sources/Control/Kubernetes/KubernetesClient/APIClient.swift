import AsyncHTTPClient
import FoundationEssentials
import Glibc
import Health
internal import JSON
internal import KubernetesNodes
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// How long things may take.
package struct APITimes: Sendable {
    /// A request of which the answer is small.
    package var request = Duration.seconds(15)
    /// A whole list, or a page of it; a connection that says nothing ends sooner.
    package var list = Duration.seconds(300)
    /// How long a connection may be silent; a watch has a bookmark each minute.
    package var silence = Duration.seconds(100)
    /// How long a connection may take to come about.
    package var connect = Duration.seconds(5)
    /// How often `net-conf.json` is looked at.
    package var fileInterval = Duration.seconds(5)

    /// Makes the usual ones.
    package init() {}
}

/// Asks one API server, over HTTP/1.1: with HTTP/2 a connection that dies silently takes every later request with it
/// until the kernel gives up (docs/adr/0081).
actor APIClient {
    private static let pageLimit = 500
    private static let statusLimit = 64 << 10
    private static let objectLimit = JSONSplitter.objectLimit

    private let access: APIAccess
    private let keys: AnnotationKeys
    private let files: ClusterFiles
    private let times: APITimes
    /// Told of each answer's clock.
    private let clocks: @Sendable (APIFailure.Clocks) async -> Void
    private var group: MultiThreadedEventLoopGroup?
    private var current: (client: HTTPClient, material: TLSMaterial)?
    /// Whether the certificates' files are to be read before the next request: something failed that another
    /// certificate may mend.
    private var isMaterialInDoubt = true
    private var retired: [HTTPClient] = []

    init(
        access: APIAccess, keys: AnnotationKeys, files: ClusterFiles, times: APITimes,
        clocks: @escaping @Sendable (APIFailure.Clocks) async -> Void
    ) {
        self.access = access
        self.keys = keys
        self.files = files
        self.times = times
        self.clocks = clocks
    }

    /// Ends all connections. Nothing may be asked any more, or be under way.
    func close() async {
        for client in retired + (current.map { [$0.client] } ?? []) { try? await client.shutdown() }
        retired = []
        current = nil
        try? await group?.shutdownGracefully()
        group = nil
    }

    // MARK: What is asked

    /// The name of the node that a pod is on.
    func nodeName(ofPod pod: String, namespace: String) async throws(APIFailure) -> String {
        let object = try await object(
            .GET, "/api/v1/namespaces/\(Self.escaped(namespace))/pods/\(Self.escaped(pod))")
        guard let name = object.nodeName else {
            throw APIFailure(.malformed, "the pod \(namespace)/\(pod) is on no node")
        }
        return name
    }

    func node(_ name: String) async throws(APIFailure) -> NodeRecord {
        try record(try await object(.GET, "/api/v1/nodes/\(Self.escaped(name))"))
    }

    func patch(_ patch: NodePatch, node name: String) async throws(APIFailure) -> NodeRecord {
        let body = patch.json(keys: keys, time: time(nil))
        return try record(
            try await object(.PATCH, "/api/v1/nodes/\(Self.escaped(name))/status", body: Array(body.utf8)))
    }

    /// A page of the list of nodes, read as it comes: no more than one node of it is in memory at a time.
    func nodes(_ version: ListVersion, continuing token: String?) async throws(APIFailure) -> NodePage {
        var query = "limit=\(Self.pageLimit)"
        switch (token, version) {
        case (let token?, _): query += "&continue=\(Self.escaped(token))"
        case (nil, .cached): query += "&resourceVersion=0"
        case (nil, .notOlder(let version)):
            query += "&resourceVersion=\(Self.escaped(version))&resourceVersionMatch=NotOlderThan"
        case (nil, .consistent): break
        }
        let keys = keys
        return try await answer(to: .GET, "/api/v1/nodes?\(query)", isLarge: true, limit: times.list) {
            response in
            var splitter = JSONSplitter(.elements(of: "items"))
            var nodes: [NodeRecord] = []
            for try await piece in response.body {
                for object in try splitter.take(Array(piece.readableBytesView)) {
                    if let record = NodeRecord(try APIObject(reading: object, keys: keys)) {
                        nodes.append(record)
                    }
                }
            }
            guard splitter.isComplete else { throw APIFailure(.unreachable, "the list of nodes was cut off") }
            let rest = try APIObject(reading: splitter.rest, keys: keys)
            guard let version = rest.resourceVersion else {
                throw APIFailure(.malformed, "what came is no list of nodes")
            }
            return NodePage(nodes: nodes, version: version, continueToken: rest.continueToken)
        }
    }

    /// Watches the nodes until the server ends it.
    ///
    /// - Parameters:
    ///   - opened: called when the server took the watch on.
    ///   - told: called with what each piece tells, which may be nothing.
    nonisolated func watch(
        after version: String, timeoutSeconds: Int, opened: @Sendable () async -> Void,
        told: @Sendable ([WatchEvent]) async -> Void
    ) async throws(APIFailure) {
        let query =
            "watch=true&allowWatchBookmarks=true&resourceVersion=\(Self.escaped(version))"
            + "&timeoutSeconds=\(timeoutSeconds)"
        let response = try await response(to: .GET, "/api/v1/nodes?\(query)", isLarge: false, body: nil)
        await opened()
        do {
            var splitter = JSONSplitter(.sequence)
            for try await piece in response.body {
                let objects = try splitter.take(Array(piece.readableBytesView))
                if !objects.isEmpty {
                    await told(try objects.compactMap { try WatchEvent(reading: $0, keys: keys) })
                }
            }
            guard splitter.isComplete else { throw APIFailure(.unreachable, "the watch was cut off") }
        } catch {
            throw await failure(of: error)
        }
    }

    private func record(_ object: APIObject) throws(APIFailure) -> NodeRecord {
        guard let record = NodeRecord(object) else { throw APIFailure(.malformed, "what came is no Node") }
        return record
    }

    private func object(
        _ method: HTTPMethod, _ path: String, body: [UInt8]? = nil
    ) async throws(APIFailure) -> APIObject {
        let keys = keys
        return try await answer(to: method, path, isLarge: false, body: body, limit: times.request) {
            response in
            try APIObject(reading: try await Self.bytes(of: response, limit: Self.objectLimit), keys: keys)
        }
    }

    // MARK: One request

    /// Asks, and reads the answer within a time.
    private nonisolated func answer<Answer: Sendable>(
        to method: HTTPMethod, _ path: String, isLarge: Bool, body: [UInt8]? = nil, limit: Duration,
        reading: @escaping @Sendable (HTTPClientResponse) async throws -> Answer
    ) async throws(APIFailure) -> Answer {
        do {
            return try await withThrowingTaskGroup(of: Answer?.self) { group in
                group.addTask {
                    try await reading(try await self.response(to: method, path, isLarge: isLarge, body: body))
                }
                group.addTask {
                    try await Task.sleep(for: limit)
                    return nil
                }
                defer { group.cancelAll() }
                guard let first = try await group.next(), let answer = first else {
                    throw APIFailure(.unreachable, "no answer within \(limit.components.seconds) s")
                }
                return answer
            }
        } catch {
            throw await failure(of: error)
        }
    }

    /// Asks, and waits for the head of the answer.
    ///
    /// - Throws: what an answer means that is no success.
    private func response(
        to method: HTTPMethod, _ path: String, isLarge: Bool, body: [UInt8]?
    ) async throws(APIFailure) -> HTTPClientResponse {
        let client = try await client()
        var request = HTTPClientRequest(
            url: access.server.url(host: access.serverName ?? access.server.host) + path)
        request.method = method
        request.headers.add(name: "Accept", value: "application/json")
        request.headers.add(name: "User-Agent", value: "twilld")
        if isLarge { request.headers.add(name: "Accept-Encoding", value: "gzip") }
        if let body {
            request.headers.add(name: "Content-Type", value: "application/strategic-merge-patch+json")
            request.body = .bytes(body)
        }
        if let authorization = try await authorization() {
            request.headers.add(name: "Authorization", value: authorization)
        }
        do {
            let response = try await client.execute(
                request, timeout: .nanoseconds(Int64(clamping: times.request.nanoseconds)))
            let clocks = Self.clocks(of: response)
            if let clocks { await self.clocks(clocks) }
            if (200..<300).contains(response.status.code) { return response }
            let bytes = try await Self.bytes(of: response, limit: Self.statusLimit)
            throw APIFailure(
                code: Int(clamping: response.status.code), status: try? APIObject(reading: bytes, keys: keys),
                retryAfterHeader: response.headers.first(name: "Retry-After"), clocks: clocks)
        } catch {
            throw await failure(of: error)
        }
    }

    private func authorization() async throws(APIFailure) -> String? {
        if let token = access.token { return "Bearer \(try await files.secret(token))" }
        guard let username = access.username else { return nil }
        return "Basic \(Data("\(username):\(access.password ?? "")".utf8).base64EncodedString())"
    }

    private static func bytes(of response: HTTPClientResponse, limit: Int) async throws -> [UInt8] {
        Array(try await response.body.collect(upTo: limit).readableBytesView)
    }

    private static func clocks(of response: HTTPClientResponse) -> APIFailure.Clocks? {
        response.headers.first(name: "Date").flatMap { WallTime.seconds(httpDate: $0) }
            .map { APIFailure.Clocks(local: time(nil), server: $0) }
    }

    // MARK: The connection

    private func client() async throws(APIFailure) -> HTTPClient {
        if let current, !isMaterialInDoubt { return current.client }
        let material = try await files.material(access)
        // Somebody else may have been here meanwhile.
        if let current, current.material == material {
            isMaterialInDoubt = false
            return current.client
        }
        var configuration = HTTPClient.Configuration(
            tlsConfiguration: try material.configuration(verifies: access.verifies),
            redirectConfiguration: .disallow,
            timeout: .init(
                connect: .nanoseconds(Int64(clamping: times.connect.nanoseconds)),
                read: .nanoseconds(Int64(clamping: times.silence.nanoseconds))),
            decompression: .enabled(limit: .none))
        configuration.httpVersion = .http1Only
        configuration.connectionPool.retryConnectionEstablishment = false
        if let name = access.serverName { configuration.dnsOverride = [name: access.server.host] }
        let group = group ?? MultiThreadedEventLoopGroup(numberOfThreads: 1)
        self.group = group
        if let current { retired.append(current.client) }
        let client = HTTPClient(eventLoopGroupProvider: .shared(group), configuration: configuration)
        current = (client, material)
        isMaterialInDoubt = false
        return client
    }

    /// What an error means, and what follows from it for the next request.
    private func failure(of error: any Error) async -> APIFailure {
        let failure = APIFailure(error, server: access.server)
        switch failure.kind {
        case .certificate, .unauthorized, .credentials, .unreachable: isMaterialInDoubt = true
        default: break
        }
        return failure
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."),
                UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                result.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let digits = String(byte, radix: 16, uppercase: true)
                result += "%" + (byte < 0x10 ? "0" : "") + digits
            }
        }
        return result
    }
}

extension Duration {
    fileprivate var nanoseconds: Int128 { attoseconds / 1_000_000_000 }
}
