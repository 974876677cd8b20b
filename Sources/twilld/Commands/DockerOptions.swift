import ArgumentParser
import Health
import Host
import Node
import NodeDaemon

/// `twilld docker-opts`: what to start Docker with. Its short flags are those of flannel's mk-docker-opts.sh.
struct DockerOptions: FlagTaking {
    static let flags = [
        GoFlag("subnet-file"), GoFlag("f"), GoFlag("d"), GoFlag("k"), GoFlag("c", .boolean),
        GoFlag("i", .boolean), GoFlag("m", .boolean),
    ]

    static let configuration = CommandConfiguration(
        commandName: "docker-opts", abstract: "Print the options for dockerd that subnet.env stands for.",
        discussion: """
            Example: dockerd $(twilld docker-opts). Or, as flannel's mk-docker-opts.sh: twilld docker-opts -d \
            /run/docker_opts.env writes a file for docker.service's EnvironmentFile=.
            """)

    @Option(help: ArgumentHelp("File that the daemon wrote.", valueName: "file"), completion: .file())
    var subnetFile = SubnetFile.defaultPath

    @Option(
        name: .customLong("f"), help: ArgumentHelp("The same as --subnet-file.", valueName: "file"),
        completion: .file())
    var otherSubnetFile: String?

    @Option(
        name: .customLong("d"),
        help: ArgumentHelp(
            "Write variables to this file instead of printing the options.", valueName: "file"),
        completion: .file())
    var environmentFile: String?

    @Option(
        name: .customLong("k"),
        help: ArgumentHelp("The variable that has all options.", valueName: "name"))
    var key = "DOCKER_OPTS"

    @Option(
        name: .customLong("c"),
        help: ArgumentHelp("Write that variable; with neither -c nor -i both are.", valueName: "bool"))
    var writesAll = false

    @Option(
        name: .customLong("i"),
        help: ArgumentHelp("Write a variable for each option, such as DOCKER_OPT_MTU.", valueName: "bool"))
    var writesEach = false

    @Option(name: .customLong("m"), help: ArgumentHelp("Leave --ip-masq out of the file.", valueName: "bool"))
    var omitsMasquerading = false

    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Print the options as JSON.")
    var json = false

    func validate() throws {
        if json && environmentFile != nil { throw ValidationError("--json and -d don't go together") }
        guard key.wholeMatch(of: #/[A-Za-z_][A-Za-z0-9_]*/#) != nil else {
            throw ValidationError("-k \"\(key.printable)\" is no name of a variable")
        }
    }

    func run() async throws { try await onThread { try write() } }

    @available(*, noasync, message: "it blocks: use onThread")
    private func write() throws {
        let path = otherSubnetFile ?? subnetFile
        let file: SubnetFileValues?
        do throws(SubnetFileError) {
            file = try SubnetFileValues(path: path)
        } catch {
            throw ExitFailure(.configuration, error.description)
        }
        guard let file else {
            throw ExitFailure(
                .unavailable, "there is no \(path): twilld run writes it as soon as it has a lease")
        }
        guard file.subnet != nil else {
            throw ExitFailure(.configuration, "\(path) has no FLANNEL_SUBNET that is an IPv4 prefix")
        }
        guard let environmentFile else {
            if json { return try printDocument(DockerOptionsDocument(options: file.dockerOptions)) }
            print(file.dockerOptions.joined(separator: " "))
            return
        }
        let isBoth = writesAll == writesEach
        let text = file.dockerEnvironment(
            key: isBoth || writesAll ? key : nil, isEachNamed: isBoth || writesEach,
            omitsMasquerading: omitsMasquerading)
        do throws(SystemError) {
            try TextFile.replace(environmentFile, with: text, mode: 0o644)
        } catch {
            throw ExitFailure(.configuration, "\(environmentFile) can't be written: \(error)")
        }
    }
}

/// What `twilld docker-opts --json` prints.
private struct DockerOptionsDocument: Encodable {
    let schema = 1
    let options: [String]
}
