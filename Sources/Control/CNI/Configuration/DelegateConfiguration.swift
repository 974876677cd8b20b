import JSON

/// What the plugin that carries it out, the delegate, gets: `bridge` with `host-local`, unless the configuration says
/// otherwise. The bytes are those of flannel's plugin.
package struct DelegateConfiguration: Sendable, Equatable {
    /// The delegate's name.
    package let type: String
    /// What it reads on its standard input.
    package let json: String
    private let value: JSONValue

    /// Makes the configuration for what is on this node.
    ///
    /// - Throws: code 7 for routes that are none, and for members of `delegate` that it must not have.
    package init(_ configuration: PluginConfiguration, subnets: NodeSubnets) throws(CNIError) {
        try Self.check(configuration.delegate)
        var delegate = Self.frame(configuration)
        let ipam = configuration.ipam
        func set(_ key: String, _ value: JSONValue) {
            if delegate.member(key) == nil { delegate = delegate.setting(key, to: value) }
        }
        set("ipMasq", .bool(!subnets.masquerades))
        set("mtu", .integer(Int(subnets.mtu)))
        if delegate.member("type")?.text == "bridge" { set("isGateway", .bool(true)) }
        let ranges = subnets.subnets.map { Self.range("\($0)") }
        var routes = try Self.routes(of: ipam)
        routes += subnets.networks.map { JSONValue.object([]).setting("dst", to: .string("\($0)")) }
        self.init(
            delegate,
            ipam: Self.withType(ipam).setting("ranges", to: .array(ranges))
                .setting("routes", to: .array(routes)))
    }

    /// Makes the configuration for taking away what the node's subnets are no longer known for, or what no ADD
    /// would be done for.
    ///
    /// `host-local` releases by the container's name, whatever the range, and takes no configuration without one:
    /// it gets 192.0.2.0/24 (RFC 5737), of which nobody has an address.
    init(withoutSubnets configuration: PluginConfiguration) {
        let ranges = JSONValue.array([Self.range("192.0.2.0/24")])
        self.init(
            Self.frame(configuration), ipam: Self.withType(configuration.ipam).setting("ranges", to: ranges))
    }

    /// Reads what was kept; nil where that is none.
    package init?(kept text: String) {
        guard let value = JSONValue(parsing: text), let type = value.member("type")?.text else { return nil }
        self.type = type
        json = text
        self.value = value
    }

    private init(_ delegate: JSONValue, ipam: JSONValue) {
        value = delegate.setting("ipam", to: ipam)
        type = delegate.member("type")?.text ?? "bridge"
        json = value.encoded
    }

    /// The network's name; nil where it has none.
    package var network: String? { value.member("name")?.text }

    /// The bridge's name, where the delegate makes one.
    var bridge: String? { type == "bridge" ? value.member("bridge")?.text ?? "cni0" : nil }

    /// Where `host-local` keeps the network's addresses; nil where another keeps them.
    var addressDirectory: String? {
        guard let ipam = value.member("ipam"), ipam.member("type")?.text == "host-local", let network else {
            return nil
        }
        let directory = ipam.member("dataDir")?.text ?? ""
        return "\(directory.isEmpty ? "/var/lib/cni/networks" : directory)/\(network)"
    }

    /// What the delegate gets with members of the plugin's own configuration: `prevResult`, `cniVersion`,
    /// `cni.dev/valid-attachments`.
    func json(with members: [(key: String, value: JSONValue)]) -> String {
        members.reduce(value) { $0.setting($1.key, to: $1.value) }.encoded
    }

    private static func check(_ delegate: JSONValue) throws(CNIError) {
        for key in ["name", "ipam"] where delegate.member(key) != nil {
            throw CNIError(
                .configuration, "delegate has \(key), which the plugin sets",
                details: "take it away there\(key == "ipam" ? "; ipam stands beside delegate" : "")")
        }
        if let type = delegate.member("type"), type.text == nil {
            throw CNIError(.configuration, "delegate.type is \(type), where a string is needed")
        }
    }

    /// What does not hang on the node's subnets.
    private static func frame(_ configuration: PluginConfiguration) -> JSONValue {
        var delegate = configuration.delegate
        if let runtime = configuration.runtimeConfiguration {
            delegate = delegate.setting("runtimeConfig", to: runtime)
        }
        delegate = delegate.setting("name", to: .string(configuration.name))
        if delegate.member("type") == nil { delegate = delegate.setting("type", to: .string("bridge")) }
        if let version = configuration.writtenVersion {
            delegate = delegate.setting("cniVersion", to: .string(version))
        }
        return delegate
    }

    private static func withType(_ ipam: JSONValue) -> JSONValue {
        ipam.member("type") == nil ? ipam.setting("type", to: .string("host-local")) : ipam
    }

    private static func range(_ subnet: String) -> JSONValue {
        .array([JSONValue.object([]).setting("subnet", to: .string(subnet))])
    }

    private static func routes(of ipam: JSONValue) throws(CNIError) -> [JSONValue] {
        guard let routes = ipam.member("routes"), routes != .null else { return [] }
        guard case .array(let elements) = routes else {
            throw CNIError(.configuration, "ipam.routes is \(routes), where an array is needed")
        }
        for element in elements {
            guard let destination = element.member("dst")?.text, NodeSubnets.isPrefix(destination) else {
                throw CNIError(
                    .configuration, "ipam.routes has \(element.encoded), whose dst is no prefix")
            }
        }
        return elements
    }
}
