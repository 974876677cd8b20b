internal import Addresses

/// Where an API server is: its URL, taken apart.
package struct APIServerAddress: Sendable, Hashable, CustomStringConvertible {
    package var isSecure: Bool
    /// A name or an address, an IPv6 one without brackets.
    package var host: String
    package var port: UInt16
    /// What stands before `/api`: empty, or with a slash in front and none at the end.
    package var path: String

    /// Reads a URL; without a scheme it is https.
    ///
    /// - Parameters:
    ///   - url: what was given.
    ///   - origin: where it stands, for the sentence: `--kube-api-url`.
    /// - Throws: what is wrong with it, with its origin.
    package init(url: String, origin: String) throws(KubernetesOptionsError) {
        func refuse(_ reason: String) -> KubernetesOptionsError {
            KubernetesOptionsError("\(origin) is \"\(url.prefix(200))\": \(reason)")
        }
        var rest = url[...]
        isSecure = true
        if let scheme = Self.scheme(of: url) {
            guard scheme == "https" || scheme == "http" else {
                throw refuse("https:// or http:// is needed")
            }
            isSecure = scheme == "https"
            rest = rest.dropFirst(scheme.count &+ 3)
        }
        guard !rest.contains("@"), !rest.contains("?"), !rest.contains("#"),
            rest.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { throw refuse("a host, a port and a path are all that it may have") }
        let end = rest.firstIndex(of: "/") ?? rest.endIndex
        var path = String(rest[end...])  // checked: an index of it, or its end
        while path.hasSuffix("/") { path.removeLast() }
        self.path = path
        let authority = rest[..<end]  // checked: as above
        let portText: Substring?
        if authority.hasPrefix("[") {
            guard let close = authority.firstIndex(of: "]") else { throw refuse("a bracket is not closed") }
            host = String(authority[..<close].dropFirst())  // checked: an index of it
            // checked: after a character there is an index
            let after = authority[authority.index(after: close)...]
            guard IPv6Address(host) != nil, after.isEmpty || after.hasPrefix(":") else {
                throw refuse("an IPv6 address is needed in brackets")
            }
            portText = after.isEmpty ? nil : after.dropFirst()
        } else {
            let parts = authority.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count <= 2, let name = parts.first, !name.isEmpty else {
                throw refuse("a host is needed, and brackets around an IPv6 address")
            }
            host = String(name)
            portText = parts.dropFirst().first
        }
        port = isSecure ? 443 : 80
        if let portText {
            guard let number = UInt16(portText), number > 0 else { throw refuse("a port is 1 to 65535") }
            port = number
        }
    }

    /// Everything before `://`; nil where that does not stand there.
    private static func scheme(of url: String) -> String? {
        // checked: an index of it, here and below
        guard let colon = url.firstIndex(of: ":"), url[colon...].hasPrefix("://") else { return nil }
        return String(url[..<colon])  // checked: as above
    }

    /// The URL of a pod's API server.
    ///
    /// - Throws: where host or port are none.
    init(serviceHost: String, port: String) throws(KubernetesOptionsError) {
        let host = serviceHost.contains(":") ? "[\(serviceHost)]" : serviceHost
        try self.init(
            url: "https://\(host):\(port)", origin: "KUBERNETES_SERVICE_HOST with KUBERNETES_SERVICE_PORT")
    }

    /// `https://10.96.0.1:443`, and the path.
    package var description: String { url(host: host) }

    /// The URL with another host in the place of the address's: the name that a certificate is to have.
    package func url(host: String) -> String {
        let bracketed = host.contains(":") ? "[\(host)]" : host
        return "\(isSecure ? "https" : "http")://\(bracketed):\(port)\(path)"
    }
}
