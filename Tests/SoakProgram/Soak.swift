import Disturbances
import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Seeded

// How it works. A deck (Tests/Disturbances) says what happens; Soak+Events.swift does it to real daemons and a real
// etcd and writes down in `network` what ought to be now; Soak+Judgement.swift compares that with what is, until it
// is so. What can be seen only at the end is in Soak+End.swift.

/// A network of real daemons on a real etcd under the disturbances of a seed.
final class Soak {
    /// A store that comes back has every node within 8 s, a watch that went quiet is noticed after 15 s, what a watch
    /// missed is looked for after 5 s, a peer that a snapshot lacks is waited for for 40 s, rules that were deleted are back
    /// after 5 s; the rest is for a busy machine.
    static let healTime = Duration.seconds(90)

    /// Everything must stand for so long: right after a disturbance nobody has noticed it yet.
    static let goodTime = Duration.seconds(1)
    /// Two seconds, and what a store and a daemon take to end a lease and to hear of it.
    static let shortLeasesTime = Duration.seconds(5)

    let options: SoakOptions
    let lab: Lab
    let etcd: LabEtcd
    /// All addresses that foreign nodes announce.
    let sinks: LabStranger
    private(set) var nodes: [SoakNode] = []
    var network: DisturbedNetwork
    /// When leases of two seconds are over that a store has, and every daemon has heard it: before, the store may not lose its
    /// data, since nobody would have seen their end. Nil where there are none.
    var shortLeasesEnd: ContinuousClock.Instant?
    /// What is not as it ought to be.
    var fault = ""
    var healings: [Disturbance.Kind: [Duration]] = [:]
    private var deck: DisturbanceDeck
    private let start = ContinuousClock.now
    private(set) var eventNumber = 0
    private var eventText = "start"

    init(_ options: SoakOptions) async throws {
        self.options = options
        network = DisturbedNetwork(nodes: options.nodes)
        deck = DisturbanceDeck(seed: UInt64(options.seed), nodes: options.nodes)
        lab = try await Lab(nodes: options.nodes, config: nil, daemon: options.daemon, isAlone: true)
        sinks = try await lab.addStranger(
            at: DisturbedNetwork.sinks.map { DisturbedNetwork.address($0) })
        etcd = try await lab.startEtcd(config: network.configuration)
    }

    func node(_ number: Int) -> SoakNode { nodes[number - 1] }
    var present: [SoakNode] { network.present.map { node($0.number) } }
    /// The node that a node's pod sends to.
    func next(after number: Int) -> LabNode { lab[number % options.nodes + 1] }

    func tellLine(_ text: String) {
        let seconds = Int((ContinuousClock.now - start) / .seconds(1))
        say("[\(String(seconds / 60).right(2)):\(seconds % 60 < 10 ? "0" : "")\(seconds % 60)] \(text)")
    }

    // MARK: The run

    func run() async throws {
        try await begin()
        let limit = ContinuousClock.now + .seconds(60 * options.minutes)
        var unwaited: [Disturbance.Kind] = []
        while options.events.map({ eventNumber < $0 }) ?? (ContinuousClock.now < limit) {
            var card = deck.next()
            eventNumber = card.number
            eventText = "\(card.disturbance)"
            let detail = try await play(card.disturbance, &card.dice)
            if let detail { eventText += " (\(detail))" }
            let title = "event \(String(card.number).left(4)) \(eventText)"
            unwaited.append(card.kind)
            // One in four is not waited for: the next one meets what it left.
            guard card.isAwaited else {
                tellLine("\(title), and at once:")
                continue
            }
            let time = try await settle()
            tellLine("\(title): healed in \(time.inSeconds) s")
            for kind in unwaited { healings[kind, default: []].append(time) }
            unwaited = []
        }
        eventText = "the end"
        try await end()
    }

    private func begin() async throws {
        let otherBuild = try await lab.anotherBuild(of: lab.binary)
        for host in lab.nodes {
            // Where the first of two addresses goes, the second one stays. Soaks know every route: no default one.
            try await host.run(
                "sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1 && ip route delete default")
            let isKept = host.number == options.nodes
            nodes.append(try await SoakNode(host, etcd, isKept: isKept, builds: [lab.binary, otherBuild]))
        }
        for node in nodes {
            network[node.host.number].subnet = try await until(
                "a subnet for node \(node.host.number)", seconds: Self.healTime / .seconds(1),
                { String(node.daemon.log.suffix(2_000)) }
            ) { node.subnetInFile }
        }
        for node in nodes {
            try await node.makePod(
                in: network[node.host.number].subnet, next: next(after: node.host.number))
        }
        let time = try await settle()
        tellLine("\(options.nodes) nodes stand after \(time.inSeconds) s")
    }

    // MARK: A failure

    /// Tells what failed, keeps the logs, and says how to repeat it.
    func tell(_ error: any Error) async {
        complain("\n✗ event \(eventNumber) (\(eventText)): \(error)")
        let kept = "/tmp/twill-soak-seed-\(options.seed)-event-\(eventNumber)"
        do {
            try lab.keep(at: kept)
            for node in nodes {
                let number = node.host.number
                let status = try? await node.host.run(
                    "\(lab.binary) status --json --status-socket \(node.host.directory)/twilld.sock")
                let links = try? await node.host.run(
                    "ip address; ip route show table all; iptables-save -t nat")
                try Data((status ?? "").utf8).write(to: URL(filePath: "\(kept)/status-\(number).json"))
                try Data((links ?? "").utf8).write(to: URL(filePath: "\(kept)/network-\(number).txt"))
            }
            let entries = try? await etcd.control("get --prefix /")
            try Data((entries ?? "").utf8).write(to: URL(filePath: "\(kept)/etcd-keys.txt"))
            complain("  logs and states: \(kept)")
        } catch { complain("  logs and states could not be kept at \(kept): \(error)") }
        let words = "--nodes \(options.nodes) --seed \(options.seed) --events \(max(1, eventNumber))"
        complain("  repeat it: tools/soak \(words)")
        complain("  its lease side: swift run twill-lease-simulation --deck soak --print \(words)")
    }
}
