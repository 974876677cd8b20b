package import Addresses
import Health
package import JSON
package import Reconciler

/// flannel's extension: commands of the operator's carry the packets; twill runs them when the node begins and as other
/// nodes come and go. docs/adr/0105.
package struct ExtensionBackend: Backend {
    package static let typeName = "extension"
    package static let announcedType: String? = "extension"
    package static let keys: Set<String> = [
        "prestartupcommand", "poststartupcommand", "subnetaddcommand", "subnetremovecommand",
    ]
    package static let hasEndpointOfEachFamily = true
    package static let hasDataPlane = false
    package static let needsPreparation = true
    package static let runsCommands = true
    /// flanneld reads text there, or this: of an object it says that it is none, and runs nothing.
    package static let nothingAnnounced = "null"

    /// The commands, by flannel's names of them.
    let commands: ExtensionCommands

    /// There are no ports.
    package var port: UInt16 { 0 }

    /// An extension without commands: as alloc.
    package init() { commands = ExtensionCommands() }

    /// Reads the commands.
    ///
    /// - Throws: `BackendError` where one is no text.
    package init(reading settings: BackendSettings) throws(BackendError) {
        func command(_ key: String) throws(BackendError) -> ExtensionCommand? {
            ExtensionCommand(key, try settings.text(key) ?? "")
        }
        commands = ExtensionCommands(
            preStartup: try command("PreStartupCommand"), postStartup: try command("PostStartupCommand"),
            add: try command("SubnetAddCommand"), remove: try command("SubnetRemoveCommand"))
    }

    /// Reads what a node's `PreStartupCommand` printed.
    ///
    /// - Throws: `BackendError` where it is no text.
    package static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)? {
        guard let value else { return nil }
        guard case .string(let output) = value else {
            throw BackendError("BackendData is \(value), and text is needed: what a command printed")
        }
        return ExtensionData(output: output)
    }

    package func mtu(over _: AddressFamily) -> Int? { nil }
    package func overhead(over _: AddressFamily) -> Int { 0 }
    package func interfaceName(in place: BackendPlace) -> String { place.underlayName }

    /// Runs `PreStartupCommand`. What it prints is for the commands of the other nodes.
    ///
    /// - Throws: `ItemProblem` where it fails, with what it said.
    @available(*, noasync, message: "it blocks: use onThread")
    package func prepare(on machine: BackendMachine) throws -> BackendAnnouncement? {
        guard let command = commands.preStartup else { return nil }
        do {
            let output = try command.run(environment: machine.environment)
            return BackendAnnouncement(ExtensionData(output: output))
        } catch {
            throw ItemProblem(Problem(.cutOff, error.description, remedy: ExtensionCommand.remedy))
        }
    }

    package func data(
        for _: IPPrefix, port _: UInt16?, prepared: BackendAnnouncement?
    ) -> (any BackendData)? {
        prepared?.value
    }

    /// The commands, as a thing that is to be so; in a network of both families it is one for both.
    package func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        [ExtensionPeers(commands: commands, place: place, peers: peers)]
    }

    package func hops(to _: BackendPeer, in _: BackendPlace) -> [BackendHop]? { [] }
}

extension ExtensionBackend: CustomStringConvertible {
    /// `extension, commands: PreStartupCommand, SubnetAddCommand`.
    package var description: String {
        let names = commands.all.map(\.name).joined(separator: ", ")
        return "\(Self.typeName), commands: \(names.isEmpty ? "none" : names)"
    }
}

/// The commands of an extension; nil for one that there is not.
struct ExtensionCommands: Sendable, Hashable {
    /// Before the node announces itself.
    var preStartup: ExtensionCommand?
    /// Once it has a subnet.
    var postStartup: ExtensionCommand?
    /// For each other node that comes.
    var add: ExtensionCommand?
    /// For each other node that goes.
    var remove: ExtensionCommand?

    /// Those that there are.
    var all: [ExtensionCommand] { [preStartup, postStartup, add, remove].compactMap(\.self) }
}

/// `"0a:58:0a:42:1c:00"`: what a node's `PreStartupCommand` printed, without blanks around it.
package struct ExtensionData: BackendData {
    /// The text.
    package var output: String

    package var json: String { JSONValue.string(output).encoded }
    package var port: UInt16? { nil }
}
