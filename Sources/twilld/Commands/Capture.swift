import Addresses
import ArgumentParser
import Glibc
import Host
import NodeDaemon

/// `twilld capture`: the packets themselves, and why those that were dropped were.
struct CaptureCommand: FlagTaking {
    static let flags = StatusSocketFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "capture",
        abstract: "Show packets before and after the tunnel, or those that are dropped, with the reason.",
        discussion: """
            Without -w a line each. With it a pcapng file for Wireshark and tcpdump, in which each packet stands as a pod \
            sends or gets it, and in its datagram; a dropped one has the reason as its comment. What goes past the daemon, \
            by the kernel path, is not seen: --kernel-path=off. Datagrams' own headers are made of the \
            endpoints. A capture that cannot keep up misses packets and says how many; nothing else is slower by it. \
            Examples:
              twilld capture --dropped
              twilld capture --host 10.66.2.7 -w - | tshark -r -
            """)

    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Only packets that are dropped.")
    var dropped = false

    @Option(
        help: ArgumentHelp(
            "Only datagrams from and to a peer, and drops of these: its subnet, its address, or that of a pod on it.",
            valueName: "peer"))
    var peer: String?

    @Option(help: ArgumentHelp("Only packets from or to this address of a pod.", valueName: "address"))
    var host: HostAddress?

    @Option(
        name: .customShort("w"),
        help: ArgumentHelp("Write a pcapng file; - for standard output.", valueName: "file"),
        completion: .file())
    var file: String?

    @Option(help: ArgumentHelp("End after so many seconds; 0: when it is interrupted.", valueName: "number"))
    var seconds = 0

    @Option(help: ArgumentHelp("Bytes of each packet that are kept.", valueName: "number"))
    var bytes: Int?

    @Flag(help: "Print a JSON object for each packet.")
    var json = false

    func validate() throws {
        if json && file != nil { throw ValidationError("--json and -w don't go together") }
        if seconds < 0 { throw ValidationError("--seconds is negative") }
        if let bytes, bytes < 0 { throw ValidationError("--bytes is negative") }
    }

    func run() async throws { try await onThread { try capture() } }

    @available(*, noasync, message: "it blocks: use onThread")
    private func capture() throws {
        let client = StatusClient(socketPath: socket.statusSocket)
        var request = CaptureRequest()
        request.isOfDropsAlone = dropped
        request.host = host?.address
        request.snapLength = bytes
        request.form = file != nil ? .pcapng : json ? .json : .text
        if let peer {
            let endpoint = try PeerDiagnosis.endpoint(ofPeer: peer, in: client.status())
            request.peer = endpoint.address
        }
        let output = try openOutput()
        let deadline = seconds > 0 ? ContinuousClock.now + .seconds(seconds) : nil
        try client.capture(request) { (bytes) throws(ExitFailure) in
            guard write(bytes, to: output) else { return false }
            return deadline.map { .now < $0 } ?? true
        }
    }

    /// Where the packets are written to; closed by the end of the process.
    private func openOutput() throws(ExitFailure) -> Int32 {
        guard let file, file != "-" else { return STDOUT_FILENO }
        let descriptor = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw ExitFailure(
                .usage, "the file \(file) can't be written: \(String(cString: strerror(errno)))")
        }
        return descriptor
    }

    /// Writes all bytes.
    ///
    /// - Returns: whether the reader still wants some: a pipe that is closed ends the capture.
    private func write(_ bytes: ArraySlice<UInt8>, to descriptor: Int32) -> Bool {
        var rest = bytes
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }
}

/// An address of either family on the command line.
struct HostAddress: ExpressibleByArgument {
    let address: IPAddress

    init?(argument: String) {
        if let address = IPv4Address(argument) {
            self.address = .v4(address)
        } else if let address = IPv6Address(argument) {
            self.address = .v6(address)
        } else {
            return nil
        }
    }
}
