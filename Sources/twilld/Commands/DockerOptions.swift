import ArgumentParser
import Host
import Node
import NodeDaemon

/// `twilld docker-opts`: what to start Docker with.
struct DockerOptions: FlagTaking {
    static let flags = [GoFlag("subnet-file")]

    static let configuration = CommandConfiguration(
        commandName: "docker-opts", abstract: "Print the options for dockerd that subnet.env stands for.",
        discussion: "Example: dockerd $(twilld docker-opts)")

    @Option(help: ArgumentHelp("File that the daemon wrote.", valueName: "file"), completion: .file())
    var subnetFile = SubnetFile.defaultPath

    func run() async throws {
        let file: SubnetFileValues?
        do throws(SubnetFileError) {
            file = try await onThread { () throws(SubnetFileError) in try SubnetFileValues(path: subnetFile) }
        } catch {
            throw ExitFailure(.configuration, error.description)
        }
        guard let file else {
            throw ExitFailure(
                .unavailable, "there is no \(subnetFile): twilld run writes it as soon as it has a lease")
        }
        guard file.subnet != nil else {
            throw ExitFailure(.configuration, "\(subnetFile) has no FLANNEL_SUBNET that is an IPv4 prefix")
        }
        print(file.dockerOptions.joined(separator: " "))
    }
}
