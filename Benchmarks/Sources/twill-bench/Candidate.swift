import Foundation

/// A way to get a packet from node 1 to the others. In every word of a command `{node}` stands for the node's number
/// and `{underlay}` for its address on the underlay, `{mtu}` for the underlay's MTU in bytes, `{device}` for the
/// device's name, `{dir}` for an empty folder that all nodes share. `{peer}` and `{peer-underlay}` are node 2's for
/// node 1 and the other way round: a program that needs to be told of its peer runs on these two nodes alone.
/// `{others}` stands for the number of the other nodes.
/// `{processors}` stands for the node's share of the machine's processors.
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
    /// A command on each node that succeeds once the daemon is as it is to be measured; none: it is once a packet got
    /// across and back.
    var ready: [String]?
    /// Commands on each node once the daemon has been stopped.
    var finish: [[String]]?
    /// Where the node is reached; none: the device's own address.
    var address: String?
    /// Whether the daemon answers SIGUSR1, which ends other programs, with its counters on standard error, as
    /// name=value lines.
    var printsCounters: Bool?
    /// Subnets of 16 addresses behind node 2, from `address` on, that the measurement `peers` spreads packets over.
    var peers: Int?
    /// The underlays that it can be measured on; none named: all.
    var underlays: [Underlay]?
}

extension Candidate {
    static let processorsPlaceholder = "{processors}"

    static let veth = Candidate(name: "veth", address: "{underlay}")
    static let vxlan = Candidate(name: "vxlan", address: "100.97.{node}.0")

    /// - Parameter network: of its own for each that is up at the same time.
    static func twill(
        name: String, program: String, flags: [String], network: String = "100.96.0.0/16"
    ) -> Candidate {
        Candidate(
            name: name,
            prepare: [
                [
                    "sh", "-c",
                    #"""
                    mkdir -p {dir}/leases && test -e {dir}/leases/config || echo '{"Network":"\#(network)",\#
                    "SubnetLen":24,"Backend":{"Type":"udp"}}' >{dir}/leases/config
                    """#,
                ]
            ],
            start: [
                program, "--lease-dir", "{dir}/leases", "--iface", "eth0", "--tun-name", "{device}",
                "--subnet-file", "{dir}/subnet-{node}.env", "--state-dir", "{dir}/state-{node}",
                "--status-socket", "{dir}/status-{node}.socket",
                // A later turn has a device of the same name, whose address is asked for.
                "--on-stop=remove",
            ] + flags,
            device: "flannel0", ready: kernelPathIsSettled(program: program), printsCounters: true)
    }

    /// Where the daemon has a kernel path, what small packets go by is another thing once all peers have said that they
    /// take it in. A daemon that knows none says nothing of it.
    private static func kernelPathIsSettled(program: String) -> [String] {
        let decide = #"""
            status=$("$0" status --json --status-socket {dir}/status-{node}.socket | tr -d ' \n') || exit 1
            case $status in
            "") exit 1 ;;
            *'"kernelPath":{"ablePeers":{others},'*'"state":"on"'*) exit 0 ;;
            *'"state":"on"'* | *'"state":"waiting"'*) exit 1 ;;
            esac
            """#
        return ["sh", "-c", decide, program]
    }

    /// - Parameter mtu: the underlay's, bytes.
    static func baseline(name: String, batch: Int, mtu: Int, nodes: Int) -> Candidate {
        // An IPv4 and a UDP header.
        let innerMTU = "\(mtu - 28)"
        return Candidate(
            name: name,
            start: [
                sibling("baseline"), "--tun", "{device}", "--bind", "{underlay}:\(Lab.overlayPort)",
                "--batch", "\(batch)",
                "--mtu", innerMTU,
            ]
                + (1...nodes).flatMap {
                    ["--peer", "100.96.\($0).0/24=\(Lab.underlayAddress($0)):\(Lab.overlayPort)"]
                },
            device: "flannel0",
            configure: [
                ["ip", "address", "add", "100.96.{node}.0/32", "dev", "{device}"],
                ["ip", "link", "set", "{device}", "mtu", innerMTU, "up"],
                ["ip", "route", "add", "100.96.0.0/16", "dev", "{device}"],
            ],
            address: "100.96.{node}.0", printsCounters: true)
    }

    /// The kernel's part of an overlay alone; the same with super-packets that fit one send with their headers as
    /// well; and that with the work that the wire format asks of anybody.
    ///
    /// - Parameter mtu: the underlay's, bytes.
    static func floors(mtu: Int) -> [Candidate] {
        // As many segments as one send of 65,507 bytes holds with an inner header of 52 bytes each, and
        // what TCP keeps free for its headers.
        let segments = 65_507 / (mtu - 28)
        let short = ["gso_max_size", "\(segments * (mtu - 28 - 52) + 400)"]
        return [
            floor(name: "floor", mtu: mtu, flags: [], deviceSettings: []),
            floor(name: "floor-short", mtu: mtu, flags: [], deviceSettings: short),
            floor(name: "floor-cut", mtu: mtu, flags: ["--cut"], deviceSettings: short),
        ]
    }

    private static func floor(name: String, mtu: Int, flags: [String], deviceSettings: [String]) -> Candidate
    {
        let datagramBytes = "\(mtu - 28)"
        return Candidate(
            name: name,
            start: [
                sibling("floor"), "--tun", "{device}", "--bind", "{underlay}:\(Lab.overlayPort)", "--peer",
                "{peer-underlay}:\(Lab.overlayPort)", "--segment", datagramBytes,
            ] + flags,
            device: "flannel0",
            configure: [
                ["ip", "address", "add", "100.96.{node}.0/32", "dev", "{device}"],
                ["ip", "link", "set", "{device}", "mtu", datagramBytes, "txqueuelen", "1000", "up"]
                    + deviceSettings,
                ["ip", "route", "add", "100.96.0.0/16", "dev", "{device}"],
            ],
            address: "100.96.{node}.0")
    }

    /// twilld on each engine by name.
    static func engines(program: String, flags: [String]) -> [Candidate] {
        ["uring", "mmsg"].map {
            twill(name: "twill-\($0)", program: program, flags: flags + ["--engine=\($0)"])
        }
    }

    /// twilld without its kernel path: everything goes by the packet threads.
    static func withoutKernelPath(program: String, flags: [String]) -> Candidate {
        twill(name: "twill-no-kernel-path", program: program, flags: flags + ["--kernel-path=off"])
    }

    /// twilld with each offload off, and all of them; and polling, which is off by default.
    static func offloads(program: String, flags: [String]) -> [Candidate] {
        [
            ("twill-no-tso", ["--tun-tso4=false", "--tun-tso6=false"]),
            ("twill-no-uso", ["--tun-uso=false"]),
            ("twill-no-gso", ["--udp-gso=false"]), ("twill-no-gro", ["--udp-gro=false"]),
            (
                "twill-no-offloads",
                [
                    "--tun-tso4=false", "--tun-tso6=false", "--tun-uso=false", "--udp-gso=false",
                    "--udp-gro=false",
                ]
            ),
            ("twill-busy-poll", ["--busy-poll=200"]),
        ].map { name, more in twill(name: name, program: program, flags: flags + more) }
    }

    /// twilld with one worker, two, four, as far as there are processors.
    static func workers(program: String, flags: [String]) -> [Candidate] {
        [1, 2, 4, 8, 16].filter { $0 <= ProcessInfo.processInfo.activeProcessorCount }.map {
            twill(
                name: $0 == 1 ? "twill-1-worker" : "twill-\($0)-workers", program: program,
                flags: flags + ["--workers=\($0)"])
        }
    }

    /// twill's data plane with forwarding tables of different sizes, and with a table that changes all the time.
    static func scale(mtu: Int) -> [Candidate] {
        [10, 1000, 65_536].map { scaled(name: "twill-\($0)-peers", peers: $0, changes: 0, mtu: mtu) }
            + [100, 1000, 10_000].map {
                scaled(name: "twill-\($0)-changes", peers: 1000, changes: $0, mtu: mtu)
            }
    }

    /// Node 1 has 100.96.1.0/28, node 2 has 100.112.0.0/12, which is 65,536 subnets of 16 addresses. Each knows as
    /// many peers, in subnets that follow one another.
    private static func scaled(name: String, peers: Int, changes: Int, mtu: Int) -> Candidate {
        let innerMTU = "\(mtu - 28)"
        let choose =
            "if [ {node} = 1 ]; then set -- 100.96.1.0/28 100.112.0.0/28; "
            + "else set -- 100.112.0.0/12 100.96.1.0/28; fi; "
        return Candidate(
            name: name,
            start: [
                "sh", "-c",
                choose
                    + "exec \(sibling("scale-forwarder")) --tun {device} --bind {underlay}:\(Lab.overlayPort) --local $1 --first $2 "
                    + "--peers \(peers) --changes \(changes) --endpoint {peer-underlay}:\(Lab.overlayPort) --mtu \(innerMTU)",
            ],
            device: "flannel0",
            configure: [
                [
                    "sh", "-c",
                    "ip link set {device} mtu \(innerMTU) up; if [ {node} = 1 ]; then "
                        + "ip address add 100.96.1.0/32 dev {device} && ip route add 100.112.0.0/12 dev {device}; "
                        + "else ip address add 100.112.0.0/32 dev {device} && "
                        + "ip route add local 100.112.0.0/12 dev {device} && "
                        + "ip route add 100.96.1.0/28 dev {device}; fi",
                ]
            ],
            address: "100.112.0.0", printsCounters: true, peers: peers)
    }

    /// The candidates that come as files with the harness.
    static func shipped() throws -> [Candidate] {
        let folder = Installation.current.candidates
        return try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".json") }
            .sorted().map { try Candidate(path: "\(folder)/\($0)") }
    }

    /// The packages of the programs that are missing here.
    var missingPackages: [String] { Prerequisites.missingPackages(of: programs ?? [:]) }

    /// Reads a candidate from a file.
    init(path: String) throws {
        let data = try bytes(ofFile: path)
        do {
            self = try JSONDecoder().decode(Candidate.self, from: data)
        } catch {
            throw decodingFailure(error, path, "description of a candidate")
        }
    }
}

/// The path of another executable of this package.
func sibling(_ name: String) -> String {
    let own = CommandLine.arguments[0]
    let path = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? own
    return URL(fileURLWithPath: path).deletingLastPathComponent().appendingPathComponent(name).path
}

/// A candidate that is up.
struct RunningCandidate {
    let candidate: Candidate
    /// One a node, in their order; none for what the kernel does alone.
    private(set) var daemons: [Child] = []
    /// Where node 2 is reached from node 1.
    private(set) var address = ""
    /// Where each node behind the second is reached from node 1.
    private(set) var furtherAddresses: [String] = []
    /// The daemons' devices, one a node; none for what the kernel does alone.
    private(set) var devices: [String] = []
    /// What counts the daemons' own copies, one a daemon; none where they run as they are.
    private(set) var copyCounts: [CopyCount] = []
    /// Commands that run on each node at the end.
    private var finish: [[[String]]] = []
    /// What the machine could give to programs before this one was started, MiB.
    let availableMebibytesBefore = HostMemory.availableMebibytes

    /// Starts it on all nodes and waits until a packet gets across and back. Where that fails, what was started
    /// is stopped again.
    ///
    /// - Parameters:
    ///   - turn: a number that the start before did not have.
    ///   - countsCopies: whether the daemons run with the library that counts what they copy in user space.
    init(_ candidate: Candidate, turn: Int, countsCopies: Bool = false) throws {
        self.candidate = candidate
        let folder = "\(Lab.folder)/turn-\(turn)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let nodes = 1...(candidate.isPair ? 2 : Lab.layout.nodes)
        if let device = candidate.device {
            devices = nodes.map { device.replacing("{node}", with: "\($0)") + "t\(turn % 10)" }
        }
        let words = NodeWords(devices: devices, folder: folder)
        finish = nodes.map { node in (candidate.finish ?? []).map { words.fill($0, node) } }
        do {
            for node in nodes {
                for command in candidate.prepare ?? [] { try Lab.run(on: node, words.fill(command, node)) }
                guard let start = candidate.start else { continue }
                var command = words.fill(start, node)
                if countsCopies {
                    let count = CopyCount(path: "\(folder)/copies-\(node)")
                    copyCounts.append(count)
                    command = count.wrap(command)
                }
                daemons.append(
                    try Lab.start(on: node, command, label: "\(candidate.name)-\(turn)"))
            }
            for node in nodes {
                if !devices.isEmpty { try waitForDevice(devices[node - 1], on: node) }
                for command in candidate.configure ?? [] { try Lab.run(on: node, words.fill(command, node)) }
            }
            let addresses = try nodes.dropFirst().map { try ownAddress(ofNode: $0, words) }
            let ends = Lab.layout.hasPods ? try movePods(nodes, words) : addresses
            address = ends[0]
            furtherAddresses = Array(ends.dropFirst())
            for address in ends {
                try wait(seconds: 15, for: "\(candidate.name): a ping across") {
                    try checkAlive()
                    return (try? Lab.run(atEndOf: 1, ["ping", "-c1", "-W1", address])) != nil
                }
            }
            if let ready = candidate.ready {
                for node in nodes { try waitUntilReady(words.fill(ready, node), on: node) }
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
            throw CandidateEnded(
                description: "\(candidate.name) ended with status \(status): \(daemon.lastWords)")
        }
    }

    /// Runs a command to its end where a node's traffic begins and ends, which comes at once where a daemon has ended: iperf3 would wait for ever.
    @discardableResult
    func run(atEndOf node: Int, _ words: [String]) throws -> String {
        try output(of: Lab.command(atEndOf: node, words), while: checkAlive)
    }

    private func ownAddress(ofNode node: Int, _ words: NodeWords) throws -> String {
        if let template = candidate.address { return words.fill([template], node)[0] }
        return try waitForAddress(on: node)
    }

    /// Puts the pod of each node into the subnet of 256 addresses whose first one is the node's own.
    ///
    /// - Returns: the pods' addresses, but for the first node's.
    private func movePods(_ nodes: ClosedRange<Int>, _ words: NodeWords) throws -> [String] {
        try nodes.map { node in
            let own = try ownAddress(ofNode: node, words)
            guard own.hasSuffix(".0") else {
                throw CommandError(
                    description: "\(candidate.name): \(own) begins no subnet that pods could be in")
            }
            let subnet = own.dropLast()
            let device = devices.isEmpty ? "vxlan0" : devices[node - 1]
            let text = try Lab.run(on: node, ["cat", "/sys/class/net/\(device)/mtu"])
            guard let mtu = Int(text.trimmingCharacters(in: .whitespacesAndNewlines)) else {
                throw CommandError(description: "\(device) tells no MTU: \(text)")
            }
            try Lab.movePod(on: node, bridge: "\(subnet)1", pod: "\(subnet)2", mtu: mtu)
            return "\(subnet)2"
        }.suffix(nodes.count - 1)
    }

    /// Stops the daemons, and waits until the kernel has closed their sockets: what comes next binds the same port.
    func stop() {
        for daemon in daemons { daemon.stop() }
        for node in 1...max(daemons.count, 1) where !daemons.isEmpty {
            try? wait(seconds: 2, for: "port \(Lab.overlayPort) of node \(node)") {
                try Lab.run(on: node, ["ss", "-Hnul", "sport", "=", ":\(Lab.overlayPort)"]).isEmpty
            }
        }
        for (node, commands) in zip(1..., finish) {
            for command in commands { _ = try? Lab.run(on: node, command) }
        }
    }

    private func waitUntilReady(_ command: [String], on node: Int) throws {
        try wait(seconds: 15, for: "\(candidate.name): node \(node) as it is to be measured") {
            try checkAlive()
            return (try? Lab.run(on: node, command)) != nil
        }
    }

    private func waitForDevice(_ device: String, on node: Int) throws {
        try wait(seconds: 10, for: "\(candidate.name): device \(device) on node \(node)") {
            try checkAlive()
            return (try? Lab.run(on: node, ["ip", "link", "show", device])) != nil
        }
    }

    private func waitForAddress(on node: Int) throws -> String {
        guard devices.count >= node else {
            throw CommandError(description: "\(candidate.name) names neither an address nor a device")
        }
        var address: String?
        try wait(seconds: 10, for: "an address on \(devices[node - 1])") {
            try checkAlive()
            let text = try Lab.run(on: node, ["ip", "-4", "-br", "address", "show", devices[node - 1]])
            address = text.split(separator: " ").dropFirst(2).first?.split(separator: "/").first.map(
                String.init)
            return address != nil
        }
        return address ?? ""
    }
}

/// A daemon that ended by itself, and its last words.
struct CandidateEnded: Error, CustomStringConvertible {
    let description: String
}

/// What stands for the placeholders of a candidate's commands.
private struct NodeWords {
    let devices: [String]
    let folder: String

    func fill(_ words: [String], _ node: Int) -> [String] {
        // `isPair` keeps those that need a peer off any third node.
        let peer = node == 1 ? 2 : 1
        return words.map { word in
            word.replacing("{node}", with: "\(node)").replacing("{peer}", with: "\(peer)")
                .replacing("{underlay}", with: Lab.underlayAddress(node))
                .replacing("{peer-underlay}", with: Lab.underlayAddress(peer))
                .replacing(Candidate.processorsPlaceholder, with: Lab.processors(ofNode: node))
                .replacing("{mtu}", with: "\(Lab.layout.mtu)")
                .replacing("{others}", with: "\(Lab.layout.nodes - 1)")
                .replacing("{device}", with: devices.isEmpty ? "" : devices[node - 1])
                .replacing("{dir}", with: folder)
        }
    }
}

extension Candidate {
    /// Whether it can be measured on an underlay.
    func runs(on underlay: Underlay) -> Bool { underlays?.contains(underlay) ?? true }

    /// Whether it is told of one peer, and so runs on two nodes.
    fileprivate var isPair: Bool {
        ((prepare ?? []) + [start ?? []] + (configure ?? []) + (finish ?? [])).joined().contains {
            $0.contains("{peer")
        }
    }
}
