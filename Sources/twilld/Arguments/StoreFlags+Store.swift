import LeaseDirectory
import LeaseEtcd
import Leases

extension StoreFlags {
    /// Opens the store that the flags name; it connects at the first request.
    func open() throws(CommandFailure) -> any LeaseStore {
        if let leaseDir { return DirectoryStore(path: leaseDir) }
        var configuration = EtcdConfiguration(endpoints: endpoints, prefix: etcdPrefix)
        configuration.authorityFile = etcdCafile
        configuration.certificateFile = clientCertificate?.certificate
        configuration.keyFile = clientCertificate?.key
        configuration.username = credentials?.username
        configuration.password = credentials?.password
        do throws(LeaseStoreError) {
            return try EtcdStore(configuration: configuration)
        } catch {
            throw CommandFailure(error)
        }
    }
}
