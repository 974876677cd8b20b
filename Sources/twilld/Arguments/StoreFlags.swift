import ArgumentParser
import LeaseDirectory
import Leases
import NodeDaemon

#if !TWILL_WITHOUT_GRPC
    import LeaseEtcd
#endif

/// Where the network config and the leases are: etcd v3, or a directory.
struct StoreFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("lease-dir"),
        GoFlag("etcd-endpoints"), GoFlag("etcd-prefix"), GoFlag("etcd-keyfile"), GoFlag("etcd-certfile"),
        GoFlag("etcd-cafile"), GoFlag("etcd-username"), GoFlag("etcd-password"),
    ]

    /// flanneld's.
    private static let defaultEndpoints = "http://127.0.0.1:4001,http://127.0.0.1:2379"

    @Option(
        help: ArgumentHelp(
            "Directory that holds the network config and the leases, in place of etcd.",
            valueName: "directory"), completion: .directory)
    var leaseDir: String?

    @Option(
        help: ArgumentHelp(
            "etcd's endpoints, separated by commas; tried in turn.", valueName: "urls"))
    var etcdEndpoints = StoreFlags.defaultEndpoints

    @Option(help: ArgumentHelp("etcd key under which the network is.", valueName: "key"))
    var etcdPrefix = "/coreos.com/network"

    @Option(
        help: ArgumentHelp("Private key of the client certificate for etcd, PEM.", valueName: "file"),
        completion: .file())
    var etcdKeyfile: String?

    @Option(help: ArgumentHelp("Client certificate for etcd, PEM.", valueName: "file"), completion: .file())
    var etcdCertfile: String?

    @Option(
        help: ArgumentHelp("Authority that signed etcd's certificate, PEM.", valueName: "file"),
        completion: .file())
    var etcdCafile: String?

    @Option(help: ArgumentHelp("User name for etcd.", valueName: "name"))
    var etcdUsername: String?

    @Option(
        help: ArgumentHelp(
            "Password for etcd; better given as FLANNELD_ETCD_PASSWORD, which ps does not show.",
            valueName: "password"))
    var etcdPassword: String?

    /// Whether nobody said which store.
    var isDefault: Bool { leaseDir == nil && etcdEndpoints == StoreFlags.defaultEndpoints }

    /// The endpoints one by one, without empty ones.
    var endpoints: [String] {
        etcdEndpoints.split(separator: ",").map { $0.filter { $0 != " " } }.filter { !$0.isEmpty }
    }

    /// The same for the daemon.
    var options: StoreOptions {
        if let leaseDir { return .directory(path: leaseDir) }
        #if TWILL_WITHOUT_GRPC
            return StoreOptions(AbsentEtcd())
        #else
            var etcd = EtcdConfiguration(endpoints: endpoints, prefix: etcdPrefix)
            etcd.authorityFile = etcdCafile
            etcd.certificateFile = etcdCertfile
            etcd.keyFile = etcdKeyfile
            etcd.username = etcdUsername
            etcd.password = etcdPassword
            return .etcd(etcd)
        #endif
    }

    /// What of this was given for nothing, since `flag` says that there is no store.
    func ineffective(beside flag: String) -> [NodeOptions.Ineffective] {
        let given = [
            ("lease-dir", leaseDir != nil), ("etcd-endpoints", etcdEndpoints != Self.defaultEndpoints),
        ]
        return given.filter(\.1).map {
            NodeOptions.Ineffective(name: $0.0, advice: "with \(flag) there is no store of leases: remove it")
        }
    }

    func validate() throws {
        // Half of a pair (a key file without a certificate) has no effect, as with flanneld; the log says so.
        if endpoints.isEmpty { throw ValidationError("--etcd-endpoints names no endpoint") }
    }
}

#if TWILL_WITHOUT_GRPC
    /// etcd, in a program that was built without a client for it.
    private struct AbsentEtcd: StoreLocation {
        let remarks: [String] = []

        func open() throws(LeaseStoreError) -> any LeaseStore {
            throw LeaseStoreError(
                .denied,
                "this twilld was built without etcd (TWILL_WITHOUT_GRPC); "
                    + "build it without that variable, or use --lease-dir")
        }
    }
#endif
