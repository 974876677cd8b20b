import FoundationEssentials
import Glibc
import Leases

/// Keeps what tells this node from another that announces the same address, across restarts and reboots.
enum IdentityFile {
    /// Reads the identity in `directory`; makes one at the first start.
    static func identity(in directory: String) throws(CommandFailure) -> NodeIdentity {
        let path = directory + "/identity"
        do {
            if let text = try? String(contentsOfFile: path, encoding: .utf8),
                let identity = NodeIdentity(text)
            {
                return identity
            }
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            let identity = NodeIdentity.random()
            try Data("\(identity)\n".utf8).write(to: URL(filePath: path), options: .atomic)
            return identity
        } catch {
            throw CommandFailure(
                .configuration,
                "the node's identity can't be kept in \(path): \(error); make the directory writable, or name another "
                    + "with --state-dir")
        }
    }
}
