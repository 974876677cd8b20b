import ArgumentParser
import Glibc
import Host
import Node
import NodeDaemon

/// `twilld bugreport`: one archive of all that is known of this node.
struct BugReportCommand: FlagTaking {
    static let flags =
        UnderlayFlags.flags + StatusSocketFlag.flags + KubernetesModeFlag.flags + [GoFlag("subnet-file")]

    static let configuration = CommandConfiguration(
        commandName: "bugreport",
        abstract: "Write one archive of what is known of this node, without passwords and keys.",
        discussion: """
            Status, metrics, what doctor says, the log, links, routes, rules, settings, limits. Passwords, tokens, private \
            keys and the users of URLs are taken out; addresses and names of nodes are in it. Nothing is sent anywhere: \
            look into it (tar tf) before you pass it on.
            """)

    @OptionGroup(title: "Underlay, where no daemon runs") var underlay: UnderlayFlags
    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesModeFlag
    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Option(help: ArgumentHelp("File that the daemon wrote.", valueName: "file"), completion: .file())
    var subnetFile = SubnetFile.defaultPath

    @Argument(
        help: ArgumentHelp(
            "The archive; - for standard output; twilld-bugreport-TIME.tar here where it is not given.",
            valueName: "file"), completion: .file())
    var file: String?

    @Flag(help: "Print where the archive is as JSON.")
    var json = false

    func validate() throws {
        if json && file == "-" { throw ValidationError("--json and - don't go together") }
    }

    func run() async throws {
        let client = StatusClient(socketPath: socket.statusSocket)
        let doctor = await Doctor(
            client, underlay: underlay.options, isOfKubernetes: kubernetes.isGivenOrInPod
        ).report()
        let report = BugReport(client, subnetFile: subnetFile)
        let now = time(nil)
        let name = "twilld-bugreport-\(now)"
        let path = file ?? "\(name).tar"
        let names = try await onThread { () throws(ExitFailure) -> [String] in
            let sections = report.sections(doctor: doctor.text(showsAll: true))
            try write(TarArchive.bytes(sections, in: name, unixTime: now), to: path)
            return sections.map(\.name)
        }
        if json { return try printDocument(BugReportDocument(path: path, sections: names)) }
        if path != "-" { StandardError.write("\(path) written: look into it before you pass it on") }
    }

    @available(*, noasync, message: "it blocks: use onThread")
    private func write(_ bytes: [UInt8], to path: String) throws(ExitFailure) {
        let descriptor =
            path == "-" ? STDOUT_FILENO : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw ExitFailure(
                .usage, "the file \(path) can't be written: \(String(cString: strerror(errno)))")
        }
        defer { if descriptor != STDOUT_FILENO { close(descriptor) } }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw ExitFailure(
                    .system, "the file \(path) can't be written: \(String(cString: strerror(errno)))")
            }
            rest = rest.dropFirst(count)
        }
    }
}

/// What `twilld bugreport --json` prints.
private struct BugReportDocument: Encodable {
    let schema = 1
    let path: String
    /// The files in the archive.
    let sections: [String]
}
