package import Addresses
internal import Leases

/// What counts of a Node object.
package struct NodeRecord: Sendable, Hashable {
    package var name: String
    /// Tells the object from another one of the same name that was made later.
    package var uid: String
    package var resourceVersion: String
    /// As they are written there.
    package var podCIDRs: [String]
    package var annotations: NodeAnnotations
    /// The status of the condition `NetworkUnavailable`; nil where there is none.
    package var networkUnavailable: String?

    /// Makes a record.
    package init(
        name: String, uid: String, resourceVersion: String = "", podCIDRs: [String] = [],
        annotations: NodeAnnotations = NodeAnnotations(), networkUnavailable: String? = nil
    ) {
        self.name = name
        self.uid = uid
        self.resourceVersion = resourceVersion
        self.podCIDRs = podCIDRs
        self.annotations = annotations
        self.networkUnavailable = networkUnavailable
    }

    /// The record of a Node object; nil for an object without a name, or of another kind.
    package init?(_ object: APIObject) {
        guard let name = object.name, !name.isEmpty, object.kind ?? "Node" == "Node" else { return nil }
        self.init(
            name: name, uid: object.uid ?? "", resourceVersion: object.resourceVersion ?? "",
            podCIDRs: object.podCIDRs, annotations: object.annotations,
            networkUnavailable: object.networkUnavailable)
    }

    /// The first IPv4 prefix among the podCIDRs.
    package var ipv4: IPv4Prefix? { podCIDRs.lazy.compactMap { IPv4Prefix($0) }.first }
    /// The first IPv6 prefix among the podCIDRs.
    package var ipv6: IPv6Prefix? { podCIDRs.lazy.compactMap { IPv6Prefix($0) }.first }

    /// The first prefix of a family among the podCIDRs.
    func prefix(_ family: AddressFamily) -> IPPrefix? {
        switch family {
        case .ipv4: ipv4.map { .v4($0) }
        case .ipv6: ipv6.map { .v6($0) }
        }
    }

    /// The node's subnet as far as a network has it; nil where nothing of it lies in the network.
    func subnet(in configuration: NetworkConfiguration) -> LeaseSubnet? {
        LeaseSubnet(
            ipv4: ipv4.flatMap { configuration.ipv4?.network.contains($0) == true ? $0 : nil },
            ipv6: ipv6.flatMap { configuration.ipv6?.network.contains($0) == true ? $0 : nil })
    }

    /// Whether everything that others go by is the same: an event that changes nothing of ours is none.
    func isSame(as other: NodeRecord) -> Bool {
        uid == other.uid && podCIDRs == other.podCIDRs && annotations == other.annotations
            && networkUnavailable == other.networkUnavailable
    }

    /// Whether an API server gave this record out before `other`, of the same object.
    func isOlder(than other: NodeRecord) -> Bool {
        guard uid == other.uid, let version = UInt64(resourceVersion),
            let known = UInt64(other.resourceVersion)
        else { return false }
        return version < known
    }

    /// The object as JSON, with nothing but what counts; `APIObject` reads it.
    package func json(keys: AnnotationKeys) -> String {
        let annotations = keys.named(annotations).map { "\($0.name.quoted):\($0.value.quoted)" }
        let metadata = [
            "\"name\":\(name.quoted)", "\"uid\":\(uid.quoted)",
            "\"resourceVersion\":\(resourceVersion.quoted)",
            "\"annotations\":{\(annotations.joined(separator: ","))}",
        ]
        let cidrs = podCIDRs.map(\.quoted).joined(separator: ",")
        let condition = networkUnavailable.map { "{\"type\":\"NetworkUnavailable\",\"status\":\($0.quoted)}" }
        return "{\"kind\":\"Node\",\"metadata\":{\(metadata.joined(separator: ","))},"
            + "\"spec\":{\"podCIDRs\":[\(cidrs)]},\"status\":{\"conditions\":[\(condition ?? "")]}}"
    }
}

extension String {
    /// The text as a JSON string.
    var quoted: String {
        var result = "\""
        for scalar in unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\u{0}"..<" ":
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: max(0, 4 &- digits.count)) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
