import JSON

/// The plugin's configuration as the runtime gives it on the standard input: that of flannel's plugin. Keys of this
/// level are matched as Go matches a struct's, whatever their case; those in `delegate` and `ipam` exactly.
package struct PluginConfiguration: Sendable {
    /// Where flannel's plugin keeps what it gave to its delegate.
    static let defaultDataDirectory = "/var/lib/cni/flannel"
    /// Where the daemon's status socket is, unless the daemon is told otherwise.
    static let defaultStatusSocket = "/run/twill/twilld.sock"
    private static let defaultSubnetFile = "/run/flannel/subnet.env"

    package let version: CNIVersion
    /// The network's name.
    package let name: String
    /// `subnetFile`.
    package let subnetFile: String
    /// `dataDir`.
    package let dataDirectory: String
    /// `statusSocket`, a key of twill's own: the daemon's, where it was told another than its default.
    package let statusSocket: String
    /// `delegate`: what the delegate gets beside what is made for it.
    let delegate: JSONValue
    /// `ipam`, likewise.
    let ipam: JSONValue
    /// `runtimeConfig`; nil for none.
    let runtimeConfiguration: JSONValue?
    /// `cniVersion` as it was written; nil for none.
    let writtenVersion: String?
    /// `prevResult`: what ADD gave, for CHECK.
    let previousResult: JSONValue?
    /// `cni.dev/valid-attachments`: for GC, what there is. Nil where the runtime does not say.
    let validAttachments: [Attachment]?

    /// Reads a configuration.
    ///
    /// - Throws: code 6 where it cannot be read, 1 for a version that the plugin does not speak, 7 for what makes no
    ///   sense.
    package init(parsing text: String) throws(CNIError) {
        let value: JSONValue
        do { value = try JSONValue(reading: text) } catch {
            throw CNIError(.decoding, "the configuration is no JSON: \(error)")
        }
        guard case .object = value else {
            throw CNIError(.decoding, "the configuration is \(value), where an object is needed")
        }
        writtenVersion = try Self.text(value, "cniVersion")
        guard let version = CNIVersion(rawValue: writtenVersion ?? CNIVersion.v0_1_0.rawValue) else {
            throw CNIError(
                .version, "cniVersion is \(writtenVersion ?? "")",
                details: "it must be one of \(CNIVersion.list)")
        }
        self.version = version
        name = try Self.text(value, "name") ?? ""
        guard Attachment.isName(name) else {
            throw CNIError(
                .configuration, name.isEmpty ? "the configuration has no name" : "name is none: \(name)",
                details: "it may have letters, digits, and after the first of them '_', '.' and '-'")
        }
        subnetFile = try Self.text(value, "subnetFile") ?? Self.defaultSubnetFile
        dataDirectory = try Self.text(value, "dataDir") ?? Self.defaultDataDirectory
        statusSocket = try Self.text(value, "statusSocket") ?? Self.defaultStatusSocket
        delegate = try Self.object(value, "delegate") ?? .object([])
        ipam = try Self.object(value, "ipam") ?? .object([])
        runtimeConfiguration = try Self.object(value, "runtimeConfig")
        previousResult = try Self.object(value, "prevResult")
        validAttachments = try Self.attachments(value)
    }

    private static func text(_ value: JSONValue, _ key: String) throws(CNIError) -> String? {
        guard let found = value[key] else { return nil }
        guard let text = found.text else {
            throw CNIError(.decoding, "\(key) is \(found), where a string is needed")
        }
        return text.isEmpty ? nil : text
    }

    private static func object(_ value: JSONValue, _ key: String) throws(CNIError) -> JSONValue? {
        guard let found = value[key] else { return nil }
        guard case .object = found else {
            throw CNIError(.decoding, "\(key) is \(found), where an object is needed")
        }
        return found
    }

    /// All of them or none: GC takes away what is not among them, and so must not pass one over.
    private static func attachments(_ value: JSONValue) throws(CNIError) -> [Attachment]? {
        let key = "cni.dev/valid-attachments"
        guard let found = value[key] else { return nil }
        guard case .array(let elements) = found else {
            throw CNIError(.decoding, "\(key) is \(found), where an array is needed")
        }
        var attachments: [Attachment] = []
        for element in elements {
            guard let container = element["containerID"]?.text, let interface = element["ifname"]?.text,
                Attachment.isContainer(container), Attachment.isInterface(interface)
            else {
                throw CNIError(
                    .decoding, "\(key) has \(element.encoded), where containerID and ifname are needed")
            }
            attachments.append(Attachment(container: container, interface: interface))
        }
        return attachments
    }
}
