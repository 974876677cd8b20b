import FoundationEssentials
import GRPCNIOTransportHTTP2Posix
import Glibc
import Host
public import Leases

extension StoreOptions {
    /// An etcd cluster.
    public static func etcd(_ configuration: EtcdConfiguration) -> StoreOptions {
        StoreOptions(configuration)
    }
}

/// How to reach an etcd cluster.
public struct EtcdConfiguration: StoreLocation, Hashable {
    /// Client URLs, `http://HOST:PORT` or `https://HOST:PORT`; tried in turn. Without a scheme they are `http`, or
    /// `https` where files for TLS are given, as etcd's own client has it.
    public var endpoints: [String]
    /// What every key begins with; flannel's is `/coreos.com/network`.
    public var prefix: String
    /// The authorities that sign the servers' certificates, a PEM file; nil for the system's.
    public var authorityFile: String?
    /// The client's certificate, a PEM file; used with `keyFile` alone.
    public var certificateFile: String?
    /// The client's private key, a PEM file.
    public var keyFile: String?
    /// The user to authenticate as; used with a password alone.
    public var username: String?
    /// The user's password.
    public var password: String?

    /// Makes a configuration.
    public init(endpoints: [String], prefix: String = "/coreos.com/network") {
        self.endpoints = endpoints
        self.prefix = prefix
    }
}

/// The largest file of certificates that is read, in bytes: a system's own bundle has a quarter of it.
private let fileSizeLimit = 1 << 20

/// One server of a cluster.
struct EtcdEndpoint: Sendable, Hashable, CustomStringConvertible {
    let description: String
    let host: String
    let port: Int
    let isSecure: Bool

    init(parsing text: String, isSecureByDefault: Bool = false) throws(LeaseStoreError) {
        let whole = text.contains("://") ? text : (isSecureByDefault ? "https://" : "http://") + text
        guard let url = URL(string: whole), let scheme = url.scheme, ["http", "https"].contains(scheme),
            let host = url.host(percentEncoded: false), !host.isEmpty, ["", "/"].contains(url.path()),
            (1...65_535).contains(url.port ?? 2379)
        else {
            throw LeaseStoreError(
                .denied, "etcd endpoint \"\(text)\" is no URL such as http://10.0.0.1:2379 or https://…")
        }
        description = text
        self.host = host.trimmingPrefix("[").trimmingSuffix("]")
        port = url.port ?? 2379
        isSecure = scheme == "https"
    }

    /// A literal address is no name to look up, nor one to ask for in TLS.
    var target: any ResolvableTarget {
        if host.contains(":") { return .ipv6(address: host, port: port) }
        if host.allSatisfy({ $0.isNumber || $0 == "." }) { return .ipv4(address: host, port: port) }
        return .dns(host: host, port: port)
    }
}

extension StringProtocol {
    fileprivate func trimmingPrefix(_ prefix: Character) -> String {
        String(first == prefix ? dropFirst() : self[...])
    }
    fileprivate func trimmingSuffix(_ suffix: Character) -> String {
        String(last == suffix ? dropLast() : self[...])
    }
}

extension EtcdConfiguration {
    /// Opens the store, when the files that are named can be read.
    ///
    /// - Throws: `LeaseStoreError` of kind `.denied` that names a bad URL or file.
    @available(*, noasync, message: "it blocks: use onThread")
    public func open() throws(LeaseStoreError) -> any LeaseStore {
        try checkFiles()
        return try EtcdStore(configuration: self)
    }

    /// The keys' prefix, without a slash at its end.
    var directory: String { String(prefix.reversed().drop { $0 == "/" }.reversed()) }

    /// The endpoints, parsed.
    ///
    /// - Throws: `LeaseStoreError` of kind `.denied` that names a bad URL.
    func checkedEndpoints() throws(LeaseStoreError) -> [EtcdEndpoint] {
        guard !endpoints.isEmpty else {
            throw LeaseStoreError(.denied, "no etcd endpoint is given, such as http://127.0.0.1:2379")
        }
        let hasFiles = authorityFile != nil || clientCertificate != nil
        var parsed: [EtcdEndpoint] = []
        for endpoint in endpoints {
            parsed.append(try EtcdEndpoint(parsing: endpoint, isSecureByDefault: hasFiles))
        }
        return parsed
    }

    /// Whether the files for TLS can be read, so that a start with a wrong name fails at once, and by that name.
    ///
    /// - Throws: `LeaseStoreError` of kind `.denied` that names a bad URL or file.
    @available(*, noasync, message: "it blocks: use onThread")
    public func checkFiles() throws(LeaseStoreError) {
        // What no endpoint uses need not be there.
        guard try checkedEndpoints().contains(where: \.isSecure) else { return }
        let certificate = clientCertificate.map { [$0.certificate, $0.key] } ?? []
        for file in [authorityFile].compactMap(\.self) + certificate {
            do throws(SystemError) {
                guard try TextFile.read(file, limit: fileSizeLimit) == nil else { continue }
                throw SystemError(file, code: ENOENT)
            } catch {
                throw LeaseStoreError(.denied, "etcd: cannot read \(error)")
            }
        }
    }

    /// The client's certificate and its key; nil unless both are given, as with flanneld.
    var clientCertificate: (certificate: String, key: String)? {
        guard let certificateFile, let keyFile else { return nil }
        return (certificateFile, keyFile)
    }

    /// Who to authenticate as; nil unless both name and password are given, as with flanneld.
    var credentials: (username: String, password: String)? {
        guard let username, let password, !username.isEmpty, !password.isEmpty else { return nil }
        return (username, password)
    }

    /// What is given and has no effect, being half of a pair: one sentence each.
    public var remarks: [String] {
        var remarks: [String] = []
        if (certificateFile == nil) != (keyFile == nil) {
            let (given, missing) = keyFile == nil ? ("certfile", "keyfile") : ("keyfile", "certfile")
            remarks.append("--etcd-\(given) has no effect without --etcd-\(missing)")
        }
        if credentials == nil, let given = username != nil ? "username" : password != nil ? "password" : nil {
            remarks.append(
                "--etcd-\(given) has no effect without --etcd-\(given == "username" ? "password" : "username")"
            )
        }
        return remarks
    }

    /// How a connection to an endpoint is secured. Whoever connects by it reads the files.
    func security(of endpoint: EtcdEndpoint) -> HTTP2ClientTransport.Posix.TransportSecurity {
        guard endpoint.isSecure else { return .plaintext }
        return .tls { tls in
            if let authorityFile {
                tls.trustRoots = .certificates([.file(path: authorityFile, format: .pem)])
            }
            if let clientCertificate {
                tls.certificateChain = [.file(path: clientCertificate.certificate, format: .pem)]
                tls.privateKey = .file(path: clientCertificate.key, format: .pem)
            }
        }
    }
}
