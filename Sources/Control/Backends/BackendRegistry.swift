package import JSON

/// The backends that a daemon has.
package struct BackendRegistry: Sendable {
    /// Every backend of twill's: a new one is a folder beside `UDP`, and its name here.
    package static let all = BackendRegistry(
        usual: UDPBackend.self,
        others: [
            VXLANBackend.self, HostGatewayBackend.self, IPIPBackend.self, WireGuardBackend.self,
            AllocationBackend.self, ExtensionBackend.self,
        ])

    /// What a configuration means that names no type, and a lease that announces none: flannel's udp.
    package let usual: any Backend.Type
    private let types: [any Backend.Type]

    /// Makes a registry.
    package init(usual: any Backend.Type, others: [any Backend.Type] = []) {
        self.usual = usual
        types = [usual] + others
    }

    /// The backends' names, for sentences.
    private var names: String {
        let all = types.map { $0.typeName }
        let first = all.dropLast().joined(separator: ", ")
        return first.isEmpty ? all.joined() : "\(first) and \(all.last ?? "")"
    }

    /// The backend that `value` names, in any case; nil where this daemon has none of that name.
    private func type(named value: JSONValue?) -> (any Backend.Type)? {
        guard let value, value != .string("") else { return usual }
        guard let name = value.text?.lowercased() else { return nil }
        return types.first { $0.typeName == name }
    }

    /// The keys that the backend of a configuration reads of `Backend`, in lower case.
    ///
    /// - Parameter value: what stands under `Backend`.
    package func keys(of value: JSONValue?) -> Set<String> {
        (type(named: value?["Type"]) ?? usual).keys.union(["type"])
    }

    /// Reads the backend of a network's configuration.
    ///
    /// - Parameter value: what stands under `Backend`; nil for nothing.
    /// - Throws: which key does not hold, its value and the rule.
    package func backend(reading value: JSONValue?) throws(BackendError) -> any Backend {
        guard let value else { return usual.init() }
        guard case .object = value else {
            throw BackendError(key: "Backend", value, rule: "an object is needed")
        }
        guard let type = type(named: value["Type"]) else {
            throw BackendError(
                key: "Backend.Type", value["Type"] ?? .null,
                rule:
                    "twill has \(names) alone; nodes of this network need flanneld, or set it to one of those"
            )
        }
        return try type.init(reading: BackendSettings(value))
    }

    /// The backend of another node's lease.
    ///
    /// - Parameter value: what stands under `BackendType`; nil for nothing.
    /// - Throws: that this daemon has none of that name, as the end of a sentence that begins with the lease's key.
    package func announced(by value: JSONValue?) throws(BackendError) -> any Backend.Type {
        guard let type = type(named: value) else {
            throw BackendError("BackendType is \(value ?? .null), and twill carries \(names) alone")
        }
        return type
    }
}

/// The backend of one network's configuration, comparable with that of another.
package struct ConfiguredBackend: Sendable, Hashable {
    /// The backend.
    package let value: any Backend

    /// Makes it of a backend.
    package init(_ value: any Backend) { self.value = value }

    package static func == (left: ConfiguredBackend, right: ConfiguredBackend) -> Bool {
        AnyHashable(left.value) == AnyHashable(right.value)
    }

    package func hash(into hasher: inout Hasher) { AnyHashable(value).hash(into: &hasher) }
}

/// What one node announces for its backend, comparable with what it announced before.
package struct BackendAnnouncement: Sendable, Hashable {
    /// What is announced.
    package let value: any BackendData

    /// Makes it of a backend's data.
    package init(_ value: any BackendData) { self.value = value }

    package static func == (left: BackendAnnouncement, right: BackendAnnouncement) -> Bool {
        AnyHashable(left.value) == AnyHashable(right.value)
    }

    package func hash(into hasher: inout Hasher) { AnyHashable(value).hash(into: &hasher) }
}
