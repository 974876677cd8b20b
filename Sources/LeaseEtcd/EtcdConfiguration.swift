import FoundationEssentials
import GRPCNIOTransportHTTP2Posix
import Leases

/// How to reach an etcd cluster.
public struct EtcdConfiguration: Sendable, Hashable {
    /// Client URLs, `http://HOST:PORT` or `https://HOST:PORT`; tried in turn.
    public var endpoints: [String]
    /// What every key begins with; flannel's is `/coreos.com/network`.
    public var prefix: String
    /// The authorities that sign the servers' certificates, a PEM file; nil for the system's.
    public var authorityFile: String?
    /// The client's certificate, a PEM file; with `keyFile` or not at all.
    public var certificateFile: String?
    /// The client's private key, a PEM file.
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

/// One server of a cluster.
struct EtcdEndpoint: Sendable, Hashable, CustomStringConvertible {
    let description: String
    let host: String
    let port: Int
    let isSecure: Bool

    init(parsing text: String) throws(LeaseStoreError) {
        guard let url = URL(string: text), let scheme = url.scheme, ["http", "https"].contains(scheme),
            let host = url.host(percentEncoded: false), !host.isEmpty, ["", "/"].contains(url.path())
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
    /// The keys' prefix, without a slash at its end.
    var directory: String { String(prefix.reversed().drop { $0 == "/" }.reversed()) }

    /// The endpoints, parsed; also checks that the files can be read.
    func checkedEndpoints() throws(LeaseStoreError) -> [EtcdEndpoint] {
        guard !endpoints.isEmpty else {
            throw LeaseStoreError(.denied, "no etcd endpoint is given, such as http://127.0.0.1:2379")
        }
        guard (certificateFile == nil) == (keyFile == nil) else {
            throw LeaseStoreError(
                .denied, "an etcd certificate file and a key file go together; one is missing")
        }
        guard password == nil || username != nil else {
            throw LeaseStoreError(.denied, "an etcd password is given, but no user name")
        }
        for file in [authorityFile, certificateFile, keyFile].compactMap(\.self) {
            do {
                _ = try Data(contentsOf: URL(filePath: file))
            } catch {
                throw LeaseStoreError(.denied, "etcd: cannot read \(file): \(error)")
            }
        }
        var parsed: [EtcdEndpoint] = []
        for endpoint in endpoints { parsed.append(try EtcdEndpoint(parsing: endpoint)) }
        return parsed
    }

    func security(of endpoint: EtcdEndpoint) -> HTTP2ClientTransport.Posix.TransportSecurity {
        guard endpoint.isSecure else { return .plaintext }
        return .tls { tls in
            if let authorityFile {
                tls.trustRoots = .certificates([.file(path: authorityFile, format: .pem)])
            }
            if let certificateFile, let keyFile {
                tls.certificateChain = [.file(path: certificateFile, format: .pem)]
                tls.privateKey = .file(path: keyFile, format: .pem)
            }
        }
    }
}
