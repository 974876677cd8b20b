import LeaseDirectory
import LeaseEtcd
import Leases

extension StoreFlags {
    /// Opens the store that the flags name; it connects at the first request.
    func open() throws(CommandFailure) -> any LeaseStore {
        if let leaseDir { return DirectoryStore(path: leaseDir) }
        var configuration = EtcdConfiguration(endpoints: endpoints, prefix: etcdPrefix)
        configuration.authorityFile = etcdCafile
        configuration.certificateFile = etcdCertfile
        configuration.keyFile = etcdKeyfile
        configuration.username = etcdUsername
        configuration.password = etcdPassword
        do throws(LeaseStoreError) {
            return try EtcdStore(configuration: configuration)
        } catch {
            throw CommandFailure(error)
        }
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
