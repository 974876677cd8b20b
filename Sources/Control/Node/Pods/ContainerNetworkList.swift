import JSON

/// How the container runtime gives pods their network: a network configuration list of CNI, in the file that it reads.
public struct ContainerNetworkList: Sendable, Hashable {
    /// The file's name in the runtime's directory: flannel's, so that one takes the other's place.
    public static let fileName = "10-flannel.conflist"
    /// flannel's name of before there were lists: the runtime takes the first of its directory by name, and this
    /// would be it.
    static let formerFileName = "10-flannel.conf"
    /// Where container runtimes look.
    public static let defaultDirectory = "/etc/cni/net.d"
    /// The bridge that flannel's plugin makes unless the list says otherwise.
    public static let defaultBridgeName = "cni0"
    private static let pluginName = "flannel"

    /// The file's text.
    public let text: String
    /// The bridge that pods are on.
    public let bridgeName: String

    /// What is written where nobody gives a list.
    ///
    /// Addresses are kept below `/run`, which is empty after a reboot: then no pod has any, and those that are written
    /// down elsewhere stay taken for good.
    public static let standard = ContainerNetworkList(
        text: """
            {
              "name": "cbr0",
              "cniVersion": "1.0.0",
              "plugins": [
                {
                  "type": "flannel",
                  "ipam": {"dataDir": "/run/cni/networks"},
                  "delegate": {"hairpinMode": true, "isDefaultGateway": true}
                },
                {"type": "portmap", "capabilities": {"portMappings": true}}
              ]
            }

            """, bridgeName: defaultBridgeName)

    private init(text: String, bridgeName: String) {
        self.text = text
        self.bridgeName = bridgeName
    }

    /// Takes a list as it is, once it is sure that a runtime can read it.
    ///
    /// - Throws: what is wrong with it, as the end of a sentence that begins with the file.
    public init(parsing text: String) throws(ContainerNetworkListError) {
        let list: JSONValue
        do throws(JSONError) { list = try JSONValue(reading: text) } catch {
            throw ContainerNetworkListError("is no JSON: \(error)")
        }
        guard case .object = list else { throw ContainerNetworkListError("is no JSON object") }
        guard let name = list["name"]?.text, !name.isEmpty else {
            throw ContainerNetworkListError("has no \"name\"")
        }
        guard case .array(let plugins)? = list["plugins"], !plugins.isEmpty else {
            throw ContainerNetworkListError(
                "is no list: it has no \"plugins\", as a file of before CNI 0.3.0 has none")
        }
        for (index, plugin) in plugins.enumerated() {
            guard let type = plugin["type"]?.text, !type.isEmpty, !type.contains("/") else {
                throw ContainerNetworkListError("has a plugin, number \(index + 1), without a \"type\"")
            }
        }
        let flannel = plugins.first { $0["type"]?.text == Self.pluginName }
        self.init(
            text: text, bridgeName: flannel?["delegate"]?["bridge"]?.text ?? Self.defaultBridgeName)
    }

    /// Whether a file of the former name is a configuration of flannel's plugin, and not somebody else's.
    static func isFormer(_ text: String?) -> Bool {
        text.flatMap { JSONValue(parsing: $0) }?["type"]?.text == pluginName
    }
}

/// What is wrong with a CNI list.
public struct ContainerNetworkListError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The end of a sentence that begins with the file.
    public let description: String

    init(_ description: String) { self.description = description }
}
