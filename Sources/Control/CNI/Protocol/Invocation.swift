/// What the runtime asks for, by variables of the environment.
package struct Invocation: Sendable {
    /// The operations of the specification.
    package enum Command: String, Sendable, CaseIterable {
        case add = "ADD"
        case delete = "DEL"
        case check = "CHECK"
        case status = "STATUS"
        case collect = "GC"
        case version = "VERSION"

        /// The variables without which there is nothing to be done.
        fileprivate var needed: [String] {
            switch self {
            case .add, .check: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
            case .delete: ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]
            case .status, .collect: ["CNI_PATH"]
            case .version: []
            }
        }
    }

    package let command: Command
    /// Whose interface is meant; empty names where the operation is not about one.
    package let attachment: Attachment
    /// The directories in which plugins are, in the order in which they are looked through.
    package let directories: [String]
    /// Every variable, which the plugins that are called get too.
    package let environment: [String: String]

    /// Reads the variables.
    ///
    /// - Throws: code 4, with the variable's name.
    package init(environment: [String: String]) throws(CNIError) {
        let name = environment["CNI_COMMAND"] ?? ""
        guard let command = Command(rawValue: name) else {
            let known = Command.allCases.map(\.rawValue).joined(separator: ", ")
            throw CNIError(
                .environment, name.isEmpty ? "CNI_COMMAND is missing" : "CNI_COMMAND is \(name)",
                details: "it must be one of \(known); a container runtime sets it")
        }
        let missing = command.needed.filter { environment[$0, default: ""].isEmpty }
        guard missing.isEmpty else {
            throw CNIError(
                .environment,
                "\(missing.joined(separator: ", ")) \(missing.count > 1 ? "are" : "is") missing",
                details: "\(name) needs \(command.needed.joined(separator: ", "))")
        }
        let container = environment["CNI_CONTAINERID"] ?? ""
        let interface = environment["CNI_IFNAME"] ?? ""
        if command.needed.contains("CNI_CONTAINERID") {
            guard Attachment.isContainer(container) else {
                throw CNIError(
                    .environment, "CNI_CONTAINERID is none: \(container)",
                    details: "it may have letters, digits, and after the first of them '_', '.' and '-'")
            }
            guard Attachment.isInterface(interface) else {
                throw CNIError(
                    .environment, "CNI_IFNAME is none: \(interface)",
                    details: "it may have 15 bytes, no space, no '/' and no ':'")
            }
        }
        self.command = command
        attachment = Attachment(container: container, interface: interface)
        directories = environment["CNI_PATH", default: ""].split(separator: ":").map(String.init)
        self.environment = environment
    }
}
