import Foundation

/// A way to get a packet from node 1 to node 2. In every word of a command `{node}` and `{peer}` stand for the
/// two nodes' numbers (1 and 2), `{underlay}` and `{peer-underlay}` for their addresses on the underlay,
/// `{processors}` for the node's share of the machine's processors, `{device}` for the device's name, `{dir}` for
/// an empty folder that both nodes share.
///
/// A JSON file of the same shape adds any other program: see `docs/benchmarks.md`.
struct Candidate: Codable {
    var name: String
    /// Shown beside the name: whether it encrypts, and so is not like the others.
    var encrypts: Bool?
    /// The programs that it needs, and the Debian package of each.
    var programs: [String: String]?
    /// Commands in the order in which they run on each node before the daemon.
    var prepare: [[String]]?
    /// The daemon; none for what the kernel does alone.
    var start: [String]?
    /// The device that the daemon makes. The harness adds the turn's number: a TUN's name stays taken for a while
    /// after its process has ended.
    var device: String?
    /// Commands on each node once the device is there.
    var configure: [[String]]?
    /// Where the node is reached; none: the device's own address.
    var address: String?
}

extension Candidate {
    static let processorsPlaceholder = "{processors}"

    static let veth = Candidate(name: "veth", address: "{underlay}")
    static let vxlan = Candidate(name: "vxlan", address: "100.97.{node}.0")

    static func twill(name: String, program: String, flags: [String]) -> Candidate {
        Candidate(
            name: name,
            prepare: [
                [
                    "sh", "-c",
                    #"""
                    mkdir -p {dir}/leases && test -e {dir}/leases/config || echo '{"Network":"100.96.0.0/16",\#
                    "SubnetLen":24,"Backend":{"Type":"udp"}}' >{dir}/leases/config
                    """#,
                ]
            ],
            start: [
                program, "--lease-dir", "{dir}/leases", "--iface", "eth0", "--tun-name", "{device}",
                "--subnet-file", "{dir}/subnet-{node}.env", "--state-dir", "{dir}/state-{node}",
                "--status-socket", "{dir}/status-{node}.socket",
            ] + flags,
            device: "flannel0")
    }

    static func baseline(name: String, batch: Int) -> Candidate {
        Candidate(
            name: name,
            start: [
                sibling("baseline"), "--tun", "{device}", "--bind", "{underlay}:8285", "--batch", "\(batch)",
                "--peer", "100.96.{peer}.0/24={peer-underlay}:8285",
            ],
            device: "flannel0",
            configure: [
                ["ip", "address", "add", "100.96.{node}.0/32", "dev", "{device}"],
                ["ip", "link", "set", "{device}", "mtu", "1472", "up"],
                ["ip", "route", "add", "100.96.0.0/16", "dev", "{device}"],
            ],
            address: "100.96.{node}.0")
    }

    /// twilld with something off or other than usual, each by its name.
    static func twillVariants(program: String, flags: [String]) -> [Candidate] {
        [
            ("twill-uring", ["--engine=uring"]), ("twill-mmsg", ["--engine=mmsg"]),
            ("twill-no-tso", ["--tun-tso4=false", "--tun-tso6=false"]), ("twill-no-uso", ["--tun-uso=false"]),
            ("twill-no-gso", ["--udp-gso=false"]), ("twill-no-gro", ["--udp-gro=false"]),
            (
                "twill-no-offloads",
                [
                    "--tun-tso4=false", "--tun-tso6=false", "--tun-uso=false", "--udp-gso=false",
                    "--udp-gro=false",
                ]
            ),
            ("twill-busy-poll", ["--busy-poll=50"]),
        ].map { name, more in twill(name: name, program: program, flags: flags + more) }
    }

    /// The candidates that come as files with the harness.
    static func shipped() throws -> [Candidate] {
        let folder = Lab.repository + "/Benchmarks/candidates"
        return try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".json") }
            .sorted().map { try Candidate(path: "\(folder)/\($0)") }
    }

    /// The packages of the programs that are missing here.
    var missingPackages: [String] {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        let missing = (programs ?? [:]).filter { program, _ in
            !folders.contains { FileManager.default.isExecutableFile(atPath: "\($0)/\(program)") }
        }
        return Set(missing.values).sorted()
    }

    /// Reads a candidate from a file.
    init(path: String) throws {
        do {
            self = try JSONDecoder().decode(
                Candidate.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        } catch {
            throw CommandError(description: "candidate file \(path): \(error)")
        }
    }
}

/// The path of another executable of this package.
func sibling(_ name: String) -> String {
    let own = CommandLine.arguments[0]
    let path = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? own
    return URL(fileURLWithPath: path).deletingLastPathComponent().appendingPathComponent(name).path
}

/// A candidate that is up on both nodes.
struct RunningCandidate {
    let candidate: Candidate
    /// One a node, in their order; none for what the kernel does alone.
    private(set) var daemons: [Child] = []
    /// Where node 2 is reached from node 1.
    private(set) var address = ""
    /// The daemons' devices, one a node; none for what the kernel does alone.
    private(set) var devices: [String] = []

    /// Starts it on both nodes and waits until a packet gets across and back. Where that fails, what was started
    /// is stopped again.
    init(_ candidate: Candidate, turn: Int) throws {
        self.candidate = candidate
        let folder = "\(Lab.folder)/turn-\(turn)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        if let device = candidate.device {
            devices = (1...2).map { device.replacing("{node}", with: "\($0)") + "t\(turn % 10)" }
        }
        let devices = devices
        func fill(_ words: [String], _ node: Int) -> [String] {
            words.map { word in
                word.replacing("{node}", with: "\(node)").replacing("{peer}", with: "\(3 - node)")
                    .replacing("{underlay}", with: Lab.underlayAddress(node))
                    .replacing("{peer-underlay}", with: Lab.underlayAddress(3 - node))
                    .replacing(Candidate.processorsPlaceholder, with: Lab.processors(ofNode: node))
                    .replacing("{device}", with: devices.isEmpty ? "" : devices[node - 1]).replacing(
                        "{dir}", with: folder)
            }
        }
        do {
            for node in 1...2 {
                for command in candidate.prepare ?? [] { try Lab.run(on: node, fill(command, node)) }
                if let start = candidate.start {
                    daemons.append(
                        try Lab.start(on: node, fill(start, node), label: "\(candidate.name)-\(turn)"))
                }
            }
            for node in 1...2 {
                if !devices.isEmpty { try waitForDevice(devices[node - 1], on: node) }
                for command in candidate.configure ?? [] { try Lab.run(on: node, fill(command, node)) }
            }
            if let template = candidate.address {
                address = fill([template], 2)[0]
            } else {
                guard let device = devices.last else {
                    throw CommandError(description: "\(candidate.name) names neither an address nor a device")
                }
                try wait(seconds: 10, for: "an address on \(device)") {
                    try checkAlive()
                    address = try Self.firstAddress(of: device, on: 2) ?? ""
                    return !address.isEmpty
                }
            }
            try wait(seconds: 15, for: "\(candidate.name): a ping across") {
                try checkAlive()
                return (try? Lab.run(on: 1, ["ping", "-c1", "-W1", address])) != nil
            }
        } catch {
            stop()
            throw error
        }
    }

    /// Throws where a daemon has ended by itself.
    func checkAlive() throws {
        for daemon in daemons {
            guard let status = daemon.exitStatusIfEnded() else { continue }
            throw CommandError(
                description: "\(candidate.name) ended with status \(status): \(daemon.lastWords)")
        }
    }

    /// Stops the daemons.
    func stop() {
        for daemon in daemons { daemon.stop() }
    }

    private func waitForDevice(_ device: String, on node: Int) throws {
        try wait(seconds: 10, for: "\(candidate.name): device \(device) on node \(node)") {
            try checkAlive()
            return (try? Lab.run(on: node, ["ip", "link", "show", device])) != nil
        }
    }

    private static func firstAddress(of device: String, on node: Int) throws -> String? {
        let text = try Lab.run(on: node, ["ip", "-4", "-br", "address", "show", device])
        guard let field = text.split(separator: " ").dropFirst(2).first else { return nil }
        return field.split(separator: "/").first.map(String.init)
    }
}
