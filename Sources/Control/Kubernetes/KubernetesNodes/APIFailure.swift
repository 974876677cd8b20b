import Health

/// Why a request to the API server has no answer that is of use.
package struct APIFailure: Error, Sendable, Hashable {
    /// What kind of failure, as far as something else is done about it.
    package enum Kind: Sendable, Hashable {
        /// No connection, or one that died.
        case unreachable
        /// The TLS handshake failed: a certificate of either side.
        case certificate
        /// Something on this machine: a kubeconfig, a token's file, a certificate's.
        case credentials
        /// 401.
        case unauthorized
        /// 403.
        case forbidden
        /// 404.
        case notFound
        /// 409: the object is another version than the request was about.
        case conflict
        /// 410: what the request goes on from is too old.
        case gone
        /// 422: the object is another one than the request was about.
        case invalid
        /// 429.
        case throttled
        /// 504 for a version that the server does not have yet: it was restored from before.
        case versionTooLarge
        /// 5xx, and anything else.
        case failed
        /// What came is no answer of an API server.
        case malformed
    }

    package var kind: Kind
    /// The server's words, or the system's, printable.
    package var message: String
    /// How long the server wants not to be asked.
    package var retryAfter: Duration?
    /// This machine's time and the server's, in seconds of the Unix epoch, where the server said its own.
    package var clocks: Clocks?

    /// Two clocks at one moment.
    package struct Clocks: Sendable, Hashable {
        package var local: Int
        package var server: Int

        /// Makes a pair.
        package init(local: Int, server: Int) {
            self.local = local
            self.server = server
        }
    }

    /// Makes a failure.
    package init(_ kind: Kind, _ message: String, retryAfter: Duration? = nil, clocks: Clocks? = nil) {
        self.kind = kind
        self.message = message.printable
        self.retryAfter = retryAfter
        self.clocks = clocks
    }

    /// What an answer means that is no success.
    ///
    /// - Parameters:
    ///   - code: HTTP's, or that of a Status in a watch.
    ///   - status: the Status object; nil where the body was none.
    ///   - retryAfterHeader: `Retry-After`, in seconds; the Status's word counts where there is none.
    ///   - clocks: this machine's time beside the server's; nil where the answer had none.
    package init(code: Int, status: APIObject?, retryAfterHeader: String? = nil, clocks: Clocks? = nil) {
        let seconds = retryAfterHeader.flatMap { Int($0) } ?? status?.retryAfterSeconds
        let kind: Kind =
            switch code {
            case 401: .unauthorized
            case 403: .forbidden
            case 404: .notFound
            case 409: .conflict
            case 410: .gone
            case 422: .invalid
            case 429: .throttled
            case 504 where status?.causes.contains("ResourceVersionTooLarge") ?? false: .versionTooLarge
            default: status == nil && code < 500 ? .malformed : .failed
            }
        let words = status?.message ?? status?.reason ?? "no reason is given"
        self.init(
            kind, "\(code): \(words.prefix(300))",
            retryAfter: seconds.map { .seconds(min(max($0, 0), Self.longestRetryAfterSeconds)) },
            clocks: clocks)
    }

    // A server that asks for more is asked again all the same.
    private static let longestRetryAfterSeconds = 300
}
