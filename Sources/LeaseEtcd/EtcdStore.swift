public import Leases

/// How to reach an etcd cluster.
public struct EtcdConfiguration: Sendable, Hashable {
    /// Client URLs, `http://HOST:PORT` or `https://HOST:PORT`; tried in turn.
    public var endpoints: [String]
    /// What every key begins with; flannel's is `/coreos.com/network`.
    public var prefix: String
    /// PEM files: the authorities that sign servers (nil: the system's), and the client's certificate and key.
    public var authorityFile: String?
    /// The client's certificate; with `keyFile` or not at all.
    public var certificateFile: String?
    /// The client's private key.
    public var keyFile: String?
    /// The user to authenticate as; nil for none.
    public var username: String?
    /// The user's password.
    public var password: String?

    /// Makes a configuration.
    public init(endpoints: [String], prefix: String = "/coreos.com/network") {
        self.endpoints = endpoints
        self.prefix = prefix
    }
}

/// A network's leases in etcd (v3 API), as flannel keeps them.
public struct EtcdStore {
    /// Checks the configuration and reads the files; connects at the first request, and again as needed.
    ///
    /// - Throws: `LeaseStoreError` of kind `.denied` that names a bad URL or file.
    public init(configuration: EtcdConfiguration) throws(LeaseStoreError) { fatalError() }

    /// Runs `body` with connections kept up; they are closed when it returns.
    public func withConnections<Result: Sendable>(
        _ body: (any LeaseStore) async throws -> Result
    ) async throws -> Result { fatalError() }
}
