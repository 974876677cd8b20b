/// The annotations of a Node that say how it carries packets, as they are written there; nil for none.
package struct NodeAnnotations: Sendable, Hashable {
    /// `kube-subnet-manager`: `true` on the nodes that are of the network.
    package var isManaged: String?
    /// `backend-type`; flannel's udp writes the empty string.
    package var backendType: String?
    /// `backend-data`: JSON; flannel's udp writes `null`.
    package var backendData: String?
    /// `backend-v6-data`: the same for IPv6.
    package var backendV6Data: String?
    /// `public-ip`: where packets for the node are sent to.
    package var publicIP: String?
    /// `public-ipv6`: the same for IPv6.
    package var publicIPv6: String?
    /// `public-ip-overwrite`: what an operator wants to be announced.
    package var publicIPOverwrite: String?
    /// `public-ipv6-overwrite`: the same for IPv6.
    package var publicIPv6Overwrite: String?
    /// `node-public-ip`: what an operator wants as `--public-ip`.
    package var nodePublicIP: String?
    /// `node-public-ipv6`: what an operator wants as `--public-ipv6`.
    package var nodePublicIPv6: String?

    /// Makes none.
    package init() {}

    /// One of them.
    subscript(field: Field) -> String? {
        get {
            switch field {
            case .isManaged: isManaged
            case .backendType: backendType
            case .backendData: backendData
            case .backendV6Data: backendV6Data
            case .publicIP: publicIP
            case .publicIPv6: publicIPv6
            case .publicIPOverwrite: publicIPOverwrite
            case .publicIPv6Overwrite: publicIPv6Overwrite
            case .nodePublicIP: nodePublicIP
            case .nodePublicIPv6: nodePublicIPv6
            }
        }
        set {
            switch field {
            case .isManaged: isManaged = newValue
            case .backendType: backendType = newValue
            case .backendData: backendData = newValue
            case .backendV6Data: backendV6Data = newValue
            case .publicIP: publicIP = newValue
            case .publicIPv6: publicIPv6 = newValue
            case .publicIPOverwrite: publicIPOverwrite = newValue
            case .publicIPv6Overwrite: publicIPv6Overwrite = newValue
            case .nodePublicIP: nodePublicIP = newValue
            case .nodePublicIPv6: nodePublicIPv6 = newValue
            }
        }
    }

    /// Which annotation; the raw value is the end of its name.
    enum Field: String, CaseIterable {
        case isManaged = "kube-subnet-manager"
        case backendType = "backend-type"
        case backendData = "backend-data"
        case backendV6Data = "backend-v6-data"
        case publicIP = "public-ip"
        case publicIPv6 = "public-ipv6"
        case publicIPOverwrite = "public-ip-overwrite"
        case publicIPv6Overwrite = "public-ipv6-overwrite"
        case nodePublicIP = "node-public-ip"
        case nodePublicIPv6 = "node-public-ipv6"

        /// Those that a daemon writes.
        static let written: [Field] = [
            .isManaged, .backendType, .backendData, .backendV6Data, .publicIP, .publicIPv6,
        ]
    }
}

/// The annotations' full names.
package struct AnnotationKeys: Sendable, Hashable {
    /// What they begin with, slash or dash included.
    package let prefix: String

    /// Makes the names by flannel's rule: a prefix without a slash gets one, after a slash a dash stands unless the
    /// prefix ends with one of the two.
    ///
    /// - Throws: where Kubernetes takes no annotation of such a name.
    package init(prefix: String) throws(KubernetesOptionsError) {
        var full = prefix
        if !full.contains("/") {
            full += "/"
        } else if !full.hasSuffix("/"), !full.hasSuffix("-") {
            full += "-"
        }
        self.prefix = full
        let parts = full.split(separator: "/", omittingEmptySubsequences: false)
        let allowed = full.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0)
                || [UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "/")].contains($0)
        }
        let isName = parts.count == 2 && !(parts.first ?? "").isEmpty && (parts.first ?? "").utf8.count <= 253
        guard allowed, isName, (parts.last ?? "").utf8.count <= 40 else {
            throw KubernetesOptionsError(
                "the annotations' prefix \"\(prefix)\" is none that Kubernetes takes; give a domain such as"
                    + " flannel.alpha.coreos.com, or a domain, a slash and a word")
        }
    }

    /// The full name of an annotation.
    func name(of field: NodeAnnotations.Field) -> String { prefix + field.rawValue }

    /// Which annotation has this name; nil for those that mean nothing here.
    func field(of name: String) -> NodeAnnotations.Field? {
        name.hasPrefix(prefix) ? NodeAnnotations.Field(rawValue: String(name.dropFirst(prefix.count))) : nil
    }

    /// The annotations by their names, ordered by name.
    package func named(_ annotations: NodeAnnotations) -> [(name: String, value: String)] {
        NodeAnnotations.Field.allCases
            .compactMap { field in annotations[field].map { (name(of: field), $0) } }
            .sorted { $0.0 < $1.0 }
    }
}
