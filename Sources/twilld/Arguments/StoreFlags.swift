import ArgumentParser

/// Where the network config and the leases are: etcd v3, or a directory.
struct StoreFlags: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Directory that holds the network config and the leases, in place of etcd.",
            valueName: "directory"))
    var leaseDir: String?

    @Option(
        help: ArgumentHelp(
            "etcd's endpoints, separated by commas; tried in turn.", valueName: "urls"))
    var etcdEndpoints = "http://127.0.0.1:4001,http://127.0.0.1:2379"

    @Option(help: ArgumentHelp("etcd key under which the network is.", valueName: "key"))
    var etcdPrefix = "/coreos.com/network"

    @Option(help: ArgumentHelp("Private key of the client certificate for etcd, PEM.", valueName: "file"))
    var etcdKeyfile: String?

    @Option(help: ArgumentHelp("Client certificate for etcd, PEM.", valueName: "file"))
    var etcdCertfile: String?

    @Option(help: ArgumentHelp("Authority that signed etcd's certificate, PEM.", valueName: "file"))
    var etcdCafile: String?

    @Option(help: ArgumentHelp("User name for etcd.", valueName: "name"))
    var etcdUsername: String?

    @Option(
        help: ArgumentHelp(
            "Password for etcd; better given as FLANNELD_ETCD_PASSWORD, which ps does not show.",
            valueName: "password"))
    var etcdPassword: String?

    /// The endpoints one by one, without empty ones.
    var endpoints: [String] {
        etcdEndpoints.split(separator: ",").map { $0.filter { $0 != " " } }.filter { !$0.isEmpty }
    }

    func validate() throws {
        if endpoints.isEmpty { throw ValidationError("--etcd-endpoints names no endpoint") }
    }

    /// The client certificate and its key; nil unless both are given, as flanneld has it.
    var clientCertificate: (certificate: String, key: String)? {
        guard let etcdCertfile, let etcdKeyfile else { return nil }
        return (etcdCertfile, etcdKeyfile)
    }

    /// User name and password; nil unless both are given, as etcd's own client has it.
    var credentials: (username: String, password: String)? {
        guard let etcdUsername, let etcdPassword else { return nil }
        return (etcdUsername, etcdPassword)
    }

    /// What was given for nothing, and what to do about it.
    var withoutEffect: [(flag: String, advice: String)] {
        guard leaseDir == nil else { return [] }
        let pairs = [
            ("etcd-keyfile", etcdKeyfile, "etcd-certfile", etcdCertfile),
            ("etcd-username", etcdUsername, "etcd-password", etcdPassword),
        ]
        return pairs.compactMap { first, firstValue, second, secondValue in
            guard (firstValue == nil) != (secondValue == nil) else { return nil }
            let (given, missing) = firstValue == nil ? (second, first) : (first, second)
            return (given, "it counts with --\(missing) alone: give both or neither")
        }
    }
}
