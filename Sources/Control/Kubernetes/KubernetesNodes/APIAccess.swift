import FoundationEssentials
internal import JSON

/// How an API server is reached, and by what right: what a kubeconfig says, or a pod's files.
package struct APIAccess: Sendable, Hashable {
    /// Where something stands that is read when it is needed.
    package enum Source: Sendable, Hashable {
        case file(String)
        case data([UInt8])
    }

    package var server: APIServerAddress
    /// The certificates that the server's is to be signed by; nil: the system's.
    package var authority: Source?
    /// Whether the server's certificate is looked at.
    package var verifies = true
    /// The name that the server's certificate is to have; nil: the host of its URL.
    package var serverName: String?
    package var clientCertificate: Source?
    package var clientKey: Source?
    /// Read anew for each request where it is a file.
    package var token: Source?
    package var username: String?
    package var password: String?

    /// Where the daemon of these options asks.
    ///
    /// - Parameters:
    ///   - options: what the node was told.
    ///   - kubeconfig: the contents of `options.kubeconfigFile`; nil where there is no such option.
    ///   - isFile: whether there is a file of a name.
    /// - Throws: why no server can be reached by them.
    package init(
        _ options: KubernetesOptions, kubeconfig: [UInt8]?, isFile: (String) -> Bool
    ) throws(KubernetesOptionsError) {
        if let kubeconfig, let path = options.kubeconfigFile {
            try self.init(kubeconfig: kubeconfig, path: path, apiURL: options.apiURL)
            return
        }
        if let url = options.apiURL {
            self.init(server: try APIServerAddress(url: url, origin: "--kube-api-url"))
        } else if let host = options.serviceHost {
            self.init(server: try APIServerAddress(serviceHost: host, port: options.servicePort ?? "443"))
        } else {
            throw KubernetesOptionsError(
                "nothing says where the Kubernetes API server is: KUBERNETES_SERVICE_HOST is not set, so this is no pod;"
                    + " give --kubeconfig-file or --kube-api-url")
        }
        // A token is told to nobody who reads along, nor to a server that cannot say who it is.
        guard server.isSecure else { return }
        let directory = options.serviceAccountDirectory
        if isFile(directory + "/ca.crt") || options.apiURL == nil { authority = .file(directory + "/ca.crt") }
        if isFile(directory + "/token") || options.apiURL == nil { token = .file(directory + "/token") }
    }

    private init(server: APIServerAddress) { self.server = server }

    // MARK: kubeconfig

    private static let knownOfCluster: Set<String> = [
        "server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify",
        "tls-server-name", "extensions", "disable-compression",
    ]
    private static let knownOfUser: Set<String> = [
        "token", "tokenFile", "client-certificate", "client-certificate-data", "client-key",
        "client-key-data",
        "username", "password", "extensions",
    ]

    /// Reads a kubeconfig, YAML or JSON.
    ///
    /// - Parameters:
    ///   - kubeconfig: its contents.
    ///   - path: the file that it is, for sentences; relative paths in it are from that file's directory.
    ///   - apiURL: stands in for its server.
    /// - Throws: what is wrong with it, or what of it twilld does not do, by name.
    package init(kubeconfig: [UInt8], path: String, apiURL: String? = nil) throws(KubernetesOptionsError) {
        func refuse(_ reason: String) -> KubernetesOptionsError {
            KubernetesOptionsError("the kubeconfig \(path): \(reason)")
        }
        let root: JSONValue
        do throws(KubernetesOptionsError) {
            root = try YAML.value(reading: kubeconfig)
        } catch {
            throw refuse(error.description)
        }
        let file = Kubeconfig(root)
        guard let contextName = file.currentContext else { throw refuse("it has no current-context") }
        guard let context = file.entry(contextName, of: "contexts", "context") else {
            throw refuse("it has no context \(contextName), which is its current one")
        }
        guard let clusterName = context["cluster"]?.text,
            let cluster = file.entry(clusterName, of: "clusters", "cluster")
        else { throw refuse("the cluster of its context \(contextName) is not in it") }
        if let other = Self.unknown(of: cluster, known: Self.knownOfCluster) {
            throw refuse("\(other) of its cluster \(clusterName) is not supported")
        }
        guard let url = apiURL ?? cluster["server"]?.text else {
            throw refuse("its cluster \(clusterName) has no server")
        }
        server = try APIServerAddress(
            url: url, origin: apiURL == nil ? "server in the kubeconfig \(path)" : "--kube-api-url")
        let fields = Fields(path: path)
        authority = try fields.source(
            cluster, file: "certificate-authority", data: "certificate-authority-data")
        verifies = cluster["insecure-skip-tls-verify"] != .bool(true)
        serverName = cluster["tls-server-name"]?.text
        guard let userName = context["user"]?.text else { return }
        guard let user = file.entry(userName, of: "users", "user") else {
            throw refuse("the user of its context \(contextName), \(userName), is not in it")
        }
        if user["exec"] != nil {
            throw refuse(
                "its user \(userName) gets credentials by exec, a command, which twilld does not run: give a token, a"
                    + " tokenFile or a client certificate")
        }
        if let other = Self.unknown(of: user, known: Self.knownOfUser) {
            throw refuse(
                "\(other) of its user \(userName) is not supported: give a token, a tokenFile or a client certificate"
            )
        }
        try read(user: user, fields)
    }

    private mutating func read(user: JSONValue, _ fields: Fields) throws(KubernetesOptionsError) {
        clientCertificate = try fields.source(
            user, file: "client-certificate", data: "client-certificate-data")
        clientKey = try fields.source(user, file: "client-key", data: "client-key-data")
        guard (clientCertificate == nil) == (clientKey == nil) else {
            throw KubernetesOptionsError(
                "the kubeconfig \(fields.path): a client certificate and a client key are needed, and one is there alone"
            )
        }
        // kubectl's order: the file goes before the text.
        if let file = user["tokenFile"]?.text {
            token = .file(fields.absolute(file))
        } else if let text = user["token"]?.text {
            token = .data(Array(text.utf8))
        }
        username = user["username"]?.text
        password = user["password"]?.text
    }

    private static func unknown(of object: JSONValue, known: Set<String>) -> String? {
        guard case .object(let members) = object else { return nil }
        return members.first { !known.contains($0.key) && $0.value != .null }?.key
    }

    /// The fields of one file.
    private struct Fields {
        let path: String

        func absolute(_ file: String) -> String {
            guard !file.hasPrefix("/"), let slash = path.lastIndex(of: "/") else { return file }
            return path[...slash] + file  // checked: it is an index of the path
        }

        func source(
            _ object: JSONValue, file: String, data: String
        ) throws(KubernetesOptionsError) -> Source? {
            if let text = object[data]?.text {
                guard let decoded = Data(base64Encoded: text), !decoded.isEmpty else {
                    throw KubernetesOptionsError("the kubeconfig \(path): its \(data) is no base64")
                }
                return .data(Array(decoded))
            }
            return object[file]?.text.map { .file(absolute($0)) }
        }
    }
}

/// The lists of a kubeconfig, whose entries are found by name.
private struct Kubeconfig {
    let root: JSONValue

    init(_ root: JSONValue) { self.root = root }

    var currentContext: String? { root["current-context"]?.text.flatMap { $0.isEmpty ? nil : $0 } }

    /// The object under `key` of the entry of this name in a list; nil where there is none.
    func entry(_ name: String, of list: String, _ key: String) -> JSONValue? {
        guard case .array(let elements)? = root[list] else { return nil }
        return elements.first { $0["name"]?.text == name }?[key]
    }
}
