import EtcdAPI
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Glibc
import Host
import Leases

/// The connection to one server of a cluster at a time; a failure moves it on to the next.
actor EtcdConnection {
    typealias Client = GRPCClient<HTTP2ClientTransport.Posix>

    /// A connection in use.
    struct Link: Sendable {
        let number: Int
        let endpoint: EtcdEndpoint
        let client: Client
        /// What every request carries: a server without a leader refuses rather than answers from the past.
        var metadata: Metadata
    }

    // A server that does not even refuse costs this much before the next one is tried.
    static let requestTimeout = Duration.seconds(5)

    let endpoints: [EtcdEndpoint]
    private let configuration: EtcdConfiguration
    private var position = 0
    private var linkCount = 0
    private var link: Link?
    private var connecting: Task<Link, any Error>?
    private var running: Task<Void, any Error>?

    init(configuration: EtcdConfiguration) throws(LeaseStoreError) {
        self.configuration = configuration
        endpoints = try configuration.checkedEndpoints()
    }

    deinit { running?.cancel() }

    /// The options of a request that has one answer.
    static var options: CallOptions {
        var options = CallOptions.defaults
        options.timeout = requestTimeout
        options.waitForReady = false
        options.limitMessages()
        return options
    }

    /// Performs a request; where the server does not answer, `isRepeatable` ones go to each other one in turn.
    func perform<Output: Sendable>(
        isRepeatable: Bool, _ request: @Sendable (Link) async throws -> Output
    ) async throws(LeaseStoreError) -> Output {
        var failures: [String] = []
        var hasAuthenticatedAnew = false
        while true {
            let endpoint = endpoints[position]  // checked: always below their number
            do {
                let link = try await currentLink()
                do {
                    return try await request(link)
                } catch let error as RPCError
                    where error.mayBeStaleToken && configuration.credentials != nil
                    && !hasAuthenticatedAnew
                {
                    hasAuthenticatedAnew = true
                    drop(link.number, moveOn: false)
                    continue
                } catch let error as RPCError where error.isServerLost {
                    drop(link.number, moveOn: true)
                    throw error
                }
            } catch {
                let failure = LeaseStoreError(error, endpoint: endpoint)
                guard failure.kind == .unreachable, isRepeatable, failures.count &+ 1 < endpoints.count else {
                    throw LeaseStoreError(
                        failure.kind, (failures + [failure.description]).joined(separator: "; "))
                }
                failures.append(failure.description)
            }
        }
    }

    /// Gives up a connection that failed; the next request makes another.
    func drop(_ number: Int, moveOn: Bool) {
        guard linkCount == number, connecting != nil || running != nil else { return }
        // A connection that is being made learns by the number that it was given up.
        linkCount += 1
        running?.cancel()
        running = nil
        link = nil
        connecting = nil
        if moveOn { position = (position &+ 1) % endpoints.count }
    }

    /// Gives up the connection, if any, and keeps to the server.
    func drop() { drop(linkCount, moveOn: false) }

    func currentLink() async throws -> Link {
        if let link { return link }
        if let connecting { return try await connecting.value }
        let endpoint = endpoints[position]  // checked: always below their number
        linkCount += 1
        let number = linkCount
        let connecting = Task { try await self.makeLink(to: endpoint, number: number) }
        self.connecting = connecting
        do {
            let link = try await connecting.value
            if linkCount == number, running != nil {
                self.link = link
                self.connecting = nil
            }
            return link
        } catch {
            // Certificates that are wrong are wrong for each server.
            drop(number, moveOn: (error as? RPCError)?.isServerLost ?? !(error is LeaseStoreError))
            throw error
        }
    }

    private func makeLink(to endpoint: EtcdEndpoint, number: Int) async throws -> Link {
        let configuration = configuration
        let transport = try await onThread { () throws(LeaseStoreError) in
            try Self.transport(to: endpoint, configuration)
        }
        guard linkCount == number else { throw CancellationError() }
        let client = Client(transport: transport)
        running = Task { try await client.runConnections() }
        var link = Link(number: number, endpoint: endpoint, client: client, metadata: ["hasleader": "true"])
        if let token = try await Self.authenticate(link, configuration: configuration) {
            link.metadata.addString(token, forKey: "token")
        }
        return link
    }

    /// Makes the transport to an endpoint, for which the certificates are read anew: they may have been replaced.
    @available(*, noasync, message: "it blocks: use onThread")
    private static func transport(
        to endpoint: EtcdEndpoint, _ configuration: EtcdConfiguration
    ) throws(LeaseStoreError) -> HTTP2ClientTransport.Posix {
        do {
            return try .http2NIOPosix(
                target: endpoint.target, transportSecurity: configuration.security(of: endpoint),
                config: .defaults { config in
                    config.connection.keepalive = .init(
                        time: .seconds(30), timeout: .seconds(10), allowWithoutCalls: false)
                })
        } catch {
            // What can be wrong before anything is sent are the certificates.
            throw LeaseStoreError(
                .denied, "\(endpoint): check --etcd-cafile, --etcd-certfile and --etcd-keyfile: \(error)")
        }
    }

    private static func authenticate(_ link: Link, configuration: EtcdConfiguration) async throws -> String? {
        guard let (username, password) = configuration.credentials else { return nil }
        let request = Etcdserverpb_AuthenticateRequest.with {
            $0.name = username
            $0.password = password
        }
        do {
            return try await Etcdserverpb_Auth.Client(wrapping: link.client)
                .authenticate(request, metadata: link.metadata, options: options).token
        } catch let error as RPCError where error.message.contains("authentication is not enabled") {
            // As etcd's own client has it: a cluster about to get its users is not refused.
            return nil
        }
    }
}

extension CallOptions {
    /// Takes messages of 64 MiB: a page of 1,000 leases is 0.2 MB, and etcd's values may be of 1.5 MiB each.
    ///
    /// grpc-swift-nio-transport (2.9) holds what a client receives to the limit for what it sends.
    mutating func limitMessages() {
        maxResponseMessageBytes = 64 << 20
        maxRequestMessageBytes = 64 << 20
    }
}

extension RPCError {
    /// Whether another server may do better.
    fileprivate var isServerLost: Bool {
        code == .unavailable || code == .deadlineExceeded || code == .unknown
    }

    /// Whether a new token may do better: etcd's ErrInvalidAuthToken, ErrAuthOldRevision, for a watch what it says to
    /// either, and ErrUserEmpty, which it says to a connection of before authentication was switched on.
    fileprivate var mayBeStaleToken: Bool {
        code == .unauthenticated || code == .permissionDenied
            || message.contains("revision of auth store is old") || message.contains("user name is empty")
    }
}

extension LeaseStoreError {
    /// What a request's failure means, with the server's name.
    init(_ error: any Error, endpoint: EtcdEndpoint) {
        guard let error = error as? RPCError else {
            if let error = error as? LeaseStoreError {
                self = error
            } else {
                self.init(.unreachable, "\(endpoint): \(plainWords(of: error))")
            }
            return
        }
        let message = plainWords(of: error)
        switch error.code {
        case .unavailable, .deadlineExceeded, .cancelled, .unknown:
            self.init(.unreachable, "\(endpoint): \(message)")
        case .unauthenticated, .permissionDenied:
            self.init(.denied, "\(endpoint): \(message)")
        case .invalidArgument where error.message.contains("auth") || error.message.contains("user name"):
            self.init(.denied, "\(endpoint): \(message); check --etcd-username and --etcd-password")
        default:
            self.init(.failed, "\(endpoint): \(message)")
        }
    }
}

/// What the transport says, in the system's words where it has the kernel's error number: it prints that as `(errno: 111)`,
/// behind the endpoint and the names of its own types.
private func plainWords(of error: any Error) -> String {
    let text: String
    if let error = error as? RPCError {
        let message = error.message.hasSuffix(".") ? String(error.message.dropLast()) : error.message
        text = message + (error.cause.map { ", \($0)" } ?? "")
    } else {
        text = "\(error)"
    }
    guard let number = text.matches(of: #/\(errno: (\d+)\)/#).last.flatMap({ Int32($0.1) }) else {
        return text
    }
    return String(cString: strerror(number))
}
