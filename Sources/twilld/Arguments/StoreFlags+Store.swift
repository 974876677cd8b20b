import LeaseDirectory
import LeaseEtcd
import Leases

extension StoreFlags {
    /// Opens the store that the flags name, for as long as `body` runs.
    func withStore<Result: Sendable>(
        _ body: @Sendable (any LeaseStore) async throws -> Result
    ) async throws -> Result {
        if let leaseDir { return try await body(try DirectoryStore(path: leaseDir) as! any LeaseStore) }
        var configuration = EtcdConfiguration(endpoints: endpoints, prefix: etcdPrefix)
        configuration.authorityFile = etcdCafile
        configuration.certificateFile = etcdCertfile
        configuration.keyFile = etcdKeyfile
        configuration.username = etcdUsername
        configuration.password = etcdPassword
        return try await EtcdStore(configuration: configuration).withConnections(body)
    }
}

extension CommandFailure {
    /// What a store's refusal means for the exit status.
    init(_ error: LeaseStoreError) {
        let status: ExitStatus =
            switch error.kind {
            case .unreachable: .temporary
            case .denied: .configuration
            case .historyLost, .failed: .system
            }
        self.init(status, error.description)
    }
}
