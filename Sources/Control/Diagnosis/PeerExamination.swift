public import Addresses

/// Examines peers, all of them beside each other: is the host there, does its port refuse, does the tunnel carry small
/// packets and full ones, and how large ones otherwise.
///
/// It takes some two seconds where all is well, and nine at the most. Nothing of it changes anything: the other nodes see
/// echo requests, one empty datagram on their UDP port, which their daemon counts as too short, and datagrams to
/// traceroute's ports.
public struct PeerExamination<Network: ProbeNetwork> {
    private(set) var network: Network
    private let place: ExaminingNode
    private let timing: ExaminationTiming
    private var evidence: [PeerEvidence]
    /// The probes that were sent, by number: whose they are and when.
    private var sent: [UInt16: Sent] = [:]
    private var lastNumber: UInt16 = 0

    private struct Sent {
        var peer: Int
        var probe: Probe
        var isSmall: Bool
        var instant: ContinuousClock.Instant
    }

    /// Prepares an examination.
    ///
    /// - Parameters:
    ///   - peers: whom to examine; 256 at most, so that their answers fit into a socket's buffer.
    ///   - place: from where.
    ///   - network: carries the probes.
    ///   - timing: how long it waits for what.
    public init(
        of peers: [ExaminedPeer], from place: ExaminingNode, by network: Network,
        timing: ExaminationTiming = ExaminationTiming()
    ) {
        self.network = network
        self.place = place
        self.timing = timing
        evidence = peers.map { PeerEvidence($0, fullSize: place.tunnelMTU) }
    }

    /// Examines all, and gives what was found about each, in the order of the peers.
    public mutating func run() -> [PeerEvidence] {
        askSmall()
        askFull()
        searchSizes()
        askPastTheDaemons()
        return evidence
    }

    // MARK: Small packets

    private mutating func askSmall() {
        for round in 0..<timing.rounds {
            for index in evidence.indices {
                send(.host, to: index, size: ExaminationTiming.smallSize(place.family))
                send(.tunnel, to: index, size: place.smallestByDaemon)
                // Where pods' packets are sent as they are, there is no port.
                if round == 0, evidence[index].peer.endpoint.port != 0 {
                    send(.port, to: index, size: ExaminationTiming.emptyDatagramSize(place.family))
                }
            }
            collect(for: timing.interval) { _ in false }
        }
        // Where the tunnel answered, that is all there is to know.
        collect(for: timing.patience) { $0.tunnel.roundTrips.count >= $0.tunnel.sent }
        // Whether anybody has the host's address, the kernel knows after three requests for it.
        collect(for: timing.neighborPatience) {
            $0.tunnel.isAnswered || $0.host.isAnswered || $0.host.unreachable != nil
                || $0.port.unreachable != nil || $0.tunnel.notSent != nil
        }
    }

    // MARK: Sizes

    private mutating func askFull() {
        let reached = evidence.indices.filter { evidence[$0].tunnel.isAnswered }
        askSize(place.tunnelMTU, .tunnel, of: reached)
        let narrow = reached.filter { (evidence[$0].tunnel.largestAnswered ?? 0) < place.tunnelMTU }
        askSize(place.tunnelMTU, .tunnelThere, of: narrow)
    }

    /// Looks for the largest packet that is answered through the tunnel, for each peer to which full ones are not: by
    /// halves, all peers beside each other.
    private mutating func searchSizes() {
        var limits: [Int: (answered: Int, unanswered: Int)] = [:]
        for (index, found) in evidence.enumerated() {
            guard let largest = found.tunnel.largestAnswered, largest < place.tunnelMTU else { continue }
            limits[index] = (largest, place.tunnelMTU)
        }
        while !limits.isEmpty {
            var asked: [Int: Int] = [:]
            for (index, limit) in limits { asked[index] = (limit.answered + limit.unanswered) / 2 }
            for _ in 0..<ExaminationTiming.sizeTries {
                for (index, size) in asked.sorted(by: { $0.key < $1.key }) {
                    send(.tunnel, to: index, size: size, countsAsSmall: false)
                }
            }
            collect(for: timing.sizePatience, of: Set(asked.keys)) {
                [asked] in ($0.tunnel.largestAnswered ?? 0) >= asked[$1] ?? 0
            }
            for (index, size) in asked {
                guard var limit = limits[index] else { continue }
                if (evidence[index].tunnel.largestAnswered ?? 0) >= size {
                    limit.answered = size
                } else {
                    limit.unanswered = size
                }
                limits[index] = limit.unanswered - limit.answered > 1 ? limit : nil
            }
        }
    }

    /// Asks those that small packets go to past the daemons with such ones. Not before: where a firewall has come between,
    /// these pass for a few seconds still, and would be taken for a sign of life.
    private mutating func askPastTheDaemons() {
        let peers = evidence.indices.filter {
            evidence[$0].peer.hasKernelPath && evidence[$0].tunnel.isAnswered
        }
        guard !peers.isEmpty else { return }
        // Flows with something large stay with the packet threads for a second (ADR 88), and what those carried goes first: the next
        // packet, which they carry too, asks whether that is through (ADR 101), on both nodes. Only the one after it goes past them.
        collect(for: ExaminationTiming.largePause, of: Set(peers)) { _, _ in false }
        for index in peers { askWhetherAllIsThrough(index) }
        collect(for: ExaminationTiming.passingPause, of: Set(peers)) { _, _ in false }
        for _ in 0..<timing.rounds {
            for index in peers where !evidence[index].kernelPath.isAnswered {
                send(.kernelPath, to: index, size: ExaminationTiming.smallSize(place.family))
            }
            collect(for: timing.sizePatience, of: Set(peers)) { found, _ in found.kernelPath.isAnswered }
        }
    }

    /// Sends a small packet whose answer says nothing.
    private mutating func askWhetherAllIsThrough(_ index: Int) {
        lastNumber &+= 1
        let destination = Endpoint(address: evidence[index].peer.tunnelAddress, port: 0)
        let size = ExaminationTiming.smallSize(place.family)
        network.send(Probe(number: lastNumber, way: .kernelPath, destination: destination, size: size))
    }

    private mutating func askSize(_ size: Int, _ way: Probe.Way, of peers: [Int]) {
        guard !peers.isEmpty else { return }
        for _ in 0..<ExaminationTiming.sizeTries {
            for index in peers { send(way, to: index, size: size, countsAsSmall: false) }
            collect(for: timing.sizePatience, of: Set(peers)) { found, _ in
                (found[way].largestAnswered ?? 0) >= size
            }
        }
    }

    // MARK: Probes

    private mutating func send(_ way: Probe.Way, to index: Int, size: Int, countsAsSmall: Bool = true) {
        lastNumber &+= 1
        let peer = evidence[index].peer
        let destination =
            switch way {
            case .host, .port: peer.endpoint
            case .tunnel, .tunnelThere, .kernelPath: Endpoint(address: peer.tunnelAddress, port: 0)
            }
        let probe = Probe(number: lastNumber, way: way, destination: destination, size: size)
        sent[lastNumber] = Sent(peer: index, probe: probe, isSmall: countsAsSmall, instant: network.now)
        if countsAsSmall { evidence[index][way].sent += 1 }
        network.send(probe)
    }

    private mutating func collect(for time: Duration, until isEnough: (PeerEvidence) -> Bool) {
        collect(for: time, of: Set(evidence.indices)) { found, _ in isEnough(found) }
    }

    /// Takes what comes, until it is enough for each of `peers`, or `time` is over.
    private mutating func collect(
        for time: Duration, of peers: Set<Int>, until isEnough: (PeerEvidence, Int) -> Bool
    ) {
        let deadline = network.now + time
        while network.now < deadline {
            if peers.allSatisfy({ isEnough(evidence[$0], $0) }) { return }
            for event in network.events(until: deadline) { take(event) }
        }
    }

    private mutating func take(_ event: ProbeEvent) {
        guard let sent = sent[event.number] else { return }
        var found = evidence[sent.peer][sent.probe.way]
        switch event.outcome {
        case .answered:
            // A second answer to one probe is a duplicate.
            self.sent[event.number] = nil
            if sent.isSmall {
                found.roundTrips.append(event.instant - sent.instant)
            }
            found.largestAnswered = max(found.largestAnswered ?? 0, sent.probe.size)
        case .unreachable(let code, let sender):
            found.unreachable = WayEvidence.Unreachable(
                code: code, sender: sender, isFromThisMachine: sender == place.underlayAddress)
        case .tooLarge: break
        case .notSent(let reason):
            if sent.isSmall { found.notSent = reason }
        }
        evidence[sent.peer][sent.probe.way] = found
    }
}

/// From where peers are examined.
public struct ExaminingNode: Sendable, Hashable {
    /// The address that this node's tunnel datagrams leave from.
    public var underlayAddress: IPAddress
    /// This node's address in the tunnel: the first of its subnet.
    public var tunnelAddress: IPAddress
    /// By which peers are examined.
    public var family: AddressFamily { underlayAddress.addressFamily }
    /// Bytes of a full packet in the tunnel.
    public var tunnelMTU: Int
    /// Bytes of the smallest probe through the tunnel that the daemons carry, and no program in the kernel.
    public var smallestByDaemon: Int

    /// Names a node.
    ///
    /// - Parameter kernelPathBytes: the largest packet that goes past its daemon, where there is such a way; else 0.
    public init(
        underlayAddress: IPAddress, tunnelAddress: IPAddress, tunnelMTU: Int, kernelPathBytes: Int = 0
    ) {
        let smallest = ExaminationTiming.smallSize(underlayAddress.addressFamily)
        smallestByDaemon = min(max(smallest, kernelPathBytes &+ 1), tunnelMTU)
        self.underlayAddress = underlayAddress
        self.tunnelAddress = tunnelAddress
        self.tunnelMTU = tunnelMTU
    }
}

/// How long an examination waits for what.
public struct ExaminationTiming: Sendable, Hashable {
    /// Bytes of a small echo request: IP's header, ICMP's, and what `ping` sends by default.
    static func smallSize(_ family: AddressFamily) -> Int { family.headerBytes + 8 + 56 }
    /// Bytes of a datagram without payload: IP's header and UDP's.
    static func emptyDatagramSize(_ family: AddressFamily) -> Int { family.headerBytes + 8 }
    /// How often a size is asked for before it is held not to pass.
    static let sizeTries = 2

    /// How many small packets each peer gets.
    public var rounds = 4
    /// The time between two of them.
    public var interval = Duration.milliseconds(150)
    /// How long the last of them is waited for.
    public var patience = Duration.milliseconds(800)
    /// How long it is then waited for what the kernel says of a host that does not answer: it asks for its address three
    /// times, a second each (`mcast_solicit`, `retrans_time_ms`), before it says that nobody has it.
    public var neighborPatience = Duration.milliseconds(2600)
    /// How long a flow is left alone after something large.
    static let largePause = Duration.milliseconds(1100)
    /// How long a node has to send one packet before the next comes.
    static let passingPause = Duration.milliseconds(100)
    /// How long a packet of another size is waited for.
    public var sizePatience = Duration.milliseconds(300)

    /// What suits a network of any size.
    public init() {}

    /// One small packet, waited for no longer than it takes to see that nothing comes.
    public static var once: ExaminationTiming {
        var timing = ExaminationTiming()
        (timing.rounds, timing.interval) = (1, .milliseconds(1))
        (timing.patience, timing.neighborPatience) = (.milliseconds(300), .zero)
        return timing
    }
}
