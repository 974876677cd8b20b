import Glibc
import Host
import JSON

/// One call of the plugin: what the runtime asks for, carried out by a delegate.
package struct Plugin: Sendable {
    /// What the runtime gets.
    package struct Answer: Sendable, Equatable {
        /// What is printed on the standard output: a result or an error as JSON, or nothing.
        package var output: String
        /// The exit status: 0, or 1 for an error.
        package var status: Int32
    }

    let invocation: Invocation
    let configuration: PluginConfiguration
    let kept: KeptConfigurations
    /// When the call began, by the coarse clock that files' times are taken from.
    let start: timespec

    /// Carries a call out.
    ///
    /// - Parameters:
    ///   - environment: the process's variables.
    ///   - input: reads the standard input; called once at most.
    package static func answer(
        environment: [String: String], input: () throws(CNIError) -> String
    ) -> Answer {
        var start = timespec()
        clock_gettime(CLOCK_REALTIME_COARSE, &start)
        var version = CNIVersion.newest
        do throws(Refusal) {
            let invocation: Invocation
            let text: String
            let configuration: PluginConfiguration
            do throws(CNIError) {
                invocation = try Invocation(environment: environment)
                text = try input()
                let written = JSONValue(parsing: text)?["cniVersion"]?.text
                version = written.flatMap { CNIVersion(rawValue: $0) } ?? .newest
                if invocation.command == .version { return Answer(output: versions(version), status: 0) }
                configuration = try PluginConfiguration(parsing: text)
                version = configuration.version
                try refuse(invocation.command, in: version)
            } catch {
                throw .own(error)
            }
            let plugin = Plugin(
                invocation: invocation, configuration: configuration,
                kept: KeptConfigurations(directory: configuration.dataDirectory), start: start)
            return Answer(output: try plugin.run(), status: 0)
        } catch {
            switch error {
            case .delegates(let text): return Answer(output: text, status: 1)
            case .own(let error): return Answer(output: error.json(version: version) + "\n", status: 1)
            }
        }
    }

    private static func versions(_ version: CNIVersion) -> String {
        JSONValue.object([])
            .setting("cniVersion", to: .string("\(version)"))
            .setting("supportedVersions", to: .array(CNIVersion.allCases.map { .string("\($0)") }))
            .encoded + "\n"
    }

    /// Operations that are younger than the configuration's version are not of it.
    private static func refuse(
        _ command: Invocation.Command, in version: CNIVersion
    ) throws(CNIError) {
        let first: CNIVersion
        switch command {
        case .check: first = .firstWithCheck
        case .status, .collect: first = .firstWithStatus
        case .add, .delete, .version: return
        }
        guard version < first else { return }
        throw CNIError(
            .version, "cniVersion \(version) has no \(command.rawValue)",
            details: "\(first) is the first that has it")
    }

    private func run() throws(Refusal) -> String {
        switch invocation.command {
        case .add: return try add()
        case .delete: try delete()
        case .check: try check()
        case .status: try status()
        case .collect: try collect()
        case .version: break
        }
        return ""
    }

    /// The variables for a delegate, whose operation and attachment may be others than the plugin's own.
    func environment(
        _ command: Invocation.Command, of attachment: Attachment? = nil
    ) -> [String: String] {
        var environment = invocation.environment
        environment["CNI_COMMAND"] = command.rawValue
        if let attachment {
            environment["CNI_CONTAINERID"] = attachment.container
            environment["CNI_IFNAME"] = attachment.interface
            // What is left of a container that is gone: nobody knows its namespace.
            environment["CNI_NETNS"] = ""
        }
        return environment
    }

    func delegate(_ configuration: DelegateConfiguration) throws(Refusal) -> Delegate {
        try own { () throws(CNIError) in try Delegate(configuration.type, in: invocation.directories) }
    }

    /// What the delegate would get now; what suffices for DEL, where the node's subnets are not known or an ADD
    /// would be refused: a container whose network cannot be taken away does not end.
    var rebuilt: DelegateConfiguration {
        guard let subnets = try? NodeSubnets(path: configuration.subnetFile),
            let made = try? DelegateConfiguration(configuration, subnets: subnets)
        else { return DelegateConfiguration(withoutSubnets: configuration) }
        return made
    }

    func own<Value>(_ body: () throws(CNIError) -> Value) throws(Refusal) -> Value {
        do { return try body() } catch { throw .own(error) }
    }
}
