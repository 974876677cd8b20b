import AsyncHTTPClient
import Glibc
internal import JSON
internal import KubernetesNodes
import NIOCore
import NIOPosix
import NIOSSL

extension APIFailure {
    /// What an error of the client's means.
    init(_ error: any Error, server: APIServerAddress) {
        switch error {
        case let failure as APIFailure: self = failure
        case let error as JSONError: self.init(.malformed, "what came is no JSON: \(error)")
        case let error as JSONStreamError: self.init(.malformed, "what came is no JSON: \(error)")
        case is NIOTooManyBytesError: self.init(.malformed, "an answer is too long")
        case let error as NIOConnectionError:
            let cause = error.connectionErrors.first.map { Self.words(on: $0.error) } ?? "no address answers"
            self.init(.unreachable, error.connectionErrors.isEmpty ? Self.resolving(error, server) : cause)
        case let error as NIOSSLError: self.init(certificate: "\(error)")
        case let error as NIOSSLExtraError: self.init(certificate: "\(error)")
        case let error as BoringSSLError: self.init(certificate: "\(error)")
        case let error as HTTPClientError: self.init(error)
        case is CancellationError: self.init(.unreachable, "it was given up")
        default: self.init(.unreachable, Self.words(on: error))
        }
    }

    private init(_ error: HTTPClientError) {
        switch error {
        case .connectTimeout, .getConnectionFromPoolTimeout:
            self.init(.unreachable, "no connection within the time: nothing answers there")
        case .tlsHandshakeTimeout: self.init(.unreachable, "the TLS handshake did not end in time")
        case .readTimeout: self.init(.unreachable, "the connection is silent")
        case .deadlineExceeded: self.init(.unreachable, "no answer in time")
        case .remoteConnectionClosed: self.init(.unreachable, "the connection was closed")
        case .cancelled: self.init(.unreachable, "it was given up")
        default: self.init(.unreachable, "\(error)")
        }
    }

    /// A certificate that was not good enough, for one of the sides; it is judged by this machine's clock.
    private init(certificate detail: String) {
        self.init(
            .certificate,
            "TLS: \(detail.prefix(300)); this machine's clock says \(WallTime.text(time(nil)))")
    }

    private static func words(on error: any Error) -> String {
        (error as? IOError).map { String(cString: strerror($0.errnoCode)) } ?? "\(error)"
    }

    private static func resolving(_ error: NIOConnectionError, _ server: APIServerAddress) -> String {
        "the name \(server.host) is not to be resolved"
    }
}
