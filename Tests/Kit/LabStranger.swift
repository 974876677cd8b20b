import FoundationEssentials
import NetworkNamespaces

/// A host on a lab's wire that is no node: its addresses are those of the bridge itself.
public final class LabStranger: LabHost, Sendable {
    /// The wire's.
    public let namespace: NetworkNamespace.Lease
    /// The first of its addresses.
    public let address: String
    /// A directory for what is written here.
    public let directory: String
    /// The interface at which all that is sent to it can be seen.
    public let interface = "wire"

    fileprivate init(namespace: NetworkNamespace.Lease, address: String, directory: String) {
        self.namespace = namespace
        self.address = address
        self.directory = directory
    }
}

extension Lab {
    /// Puts a host on the wire that is no node.
    ///
    /// - Parameter addresses: one at least, such as `172.20.32.250`, that no node has.
    public func addStranger(at addresses: [String]) async throws -> LabStranger {
        try await wire.run {
            for address in addresses { try execute("ip address add \(address)/24 dev wire") }
        }
        let directory = directory + "/stranger"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        return LabStranger(namespace: wire, address: addresses[0], directory: directory)
    }
}

extension Lab {
    /// Pulls a node's cable out of the wire, or puts it in again: the node's `eth0` has no carrier meanwhile.
    public func setCable(of number: Int, isIn: Bool) async throws {
        try await wire.run { try execute("ip link set node\(number) \(isIn ? "up" : "down")") }
    }
}
