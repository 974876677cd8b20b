import LeaseDirectory
import LeaseEtcd
import Leases

extension StoreFlags {
    /// Opens the store that the flags name; it connects at the first request.
    func open() throws(CommandFailure) -> any LeaseStore {
        if let leaseDir { return DirectoryStore(path: leaseDir) }
        do throws(LeaseStoreError) {
            return try EtcdStore(configuration: etcd)
        } catch {
            throw CommandFailure(error)
        }
    }

    /// What is given and has no effect, one sentence each.
    var remarks: [String] { leaseDir == nil ? etcd.remarks : [] }

    private var etcd: EtcdConfiguration {
        var configuration = EtcdConfiguration(endpoints: endpoints, prefix: etcdPrefix)
        configuration.authorityFile = etcdCafile
        configuration.certificateFile = etcdCertfile
        configuration.keyFile = etcdKeyfile
        configuration.username = etcdUsername
        configuration.password = etcdPassword
        return configuration
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
