import Addresses
import Backends
import Diagnosis
import Health
import Host
import Telemetry

/// Examines the peers of a running node from outside of its daemon: asks that one who they are, sends probes of its own
/// as any program of the node may, and asks again what the daemon saw meanwhile. Nothing changes by it.
package struct PeerDiagnosis: Sendable {
    /// So many peers are examined beside each other; their answers fit into a socket's buffer.
    private static let peersAtOnce = 256
    /// The counter of datagrams from addresses that no lease has.
    fileprivate static let strangers = "drop_inbound_unknown_peer"
    /// For so many peers that do not answer and nobody says why it is asked whether their answers come from another
    /// address: a third of a second each.
    private static let strangersAtMost = 12

    private let client: StatusClient

    /// Prepares a diagnosis of the node whose daemon `client` asks.
    package init(_ client: StatusClient) { self.client = client }

    /// Examines peers.
    ///
    /// - Parameter names: subnets, underlay addresses or pods' addresses; empty for all.
    /// - Returns: a report for each, those that are cut off first.
    /// - Throws: where no daemon answers, where its tunnel does not stand, where a name is no peer's, and where a right is
    ///   lacking.
    package func reports(of names: [String]) async throws(ExitFailure) -> [PeerReport] {
        let client = client
        let before = try await onThread { () throws(ExitFailure) in try client.status() }
        let nodes = try PeerDiagnosis.nodes(before)
        var reports: [PeerReport] = []
        let peers = try PeerDiagnosis.peers(named: names, in: before)
        for node in nodes {
            var left = peers.filter { $0.endpoint.address.addressFamily == node.family }[...]
            while !left.isEmpty {
                let some = Array(left.prefix(PeerDiagnosis.peersAtOnce))
                left = left.dropFirst(some.count)
                reports += try await examine(some, from: node)
            }
        }
        return reports.sorted { ($0.rank, $0.subnet, $0.endpoint) < ($1.rank, $1.subnet, $1.endpoint) }
    }

    private func examine(_ peers: [ExaminedPeer], from node: ExaminingNode) async throws(ExitFailure)
        -> [PeerReport]
    {
        let client = client
        return try await onThread { () throws(ExitFailure) in
            let before = try client.status()
            var evidence = try PeerDiagnosis.probe(peers, from: node, ExaminationTiming())
            let after = try client.status()
            for index in evidence.indices {
                let subnet = evidence[index].peer.subnet
                evidence[index].peerWasHeard = after.received(from: subnet) > before.received(from: subnet)
            }
            let unexplained = evidence.indices.filter {
                [.tunnelSilent, .oneWay, .silent].contains(PeerVerdict(evidence[$0]))
            }
            for index in unexplained.prefix(PeerDiagnosis.strangersAtMost) {
                let (count, began) = (try client.status().value(PeerDiagnosis.strangers), ContinuousClock.now)
                _ = try PeerDiagnosis.probe([evidence[index].peer], from: node, .once)
                let status = try client.status()
                evidence[index].strangersWereHeard =
                    status.value(PeerDiagnosis.strangers) > count
                    && status.hasHeardStrangers(
                        from: evidence[index].peer.subnet, within: ContinuousClock.now - began)
            }
            return evidence.map(PeerReport.init)
        }
    }

    @available(*, noasync, message: "it blocks: use onThread")
    private static func probe(
        _ peers: [ExaminedPeer], from node: ExaminingNode, _ timing: ExaminationTiming
    ) throws(ExitFailure) -> [PeerEvidence] {
        do throws(ProbeSocketError) {
            var examination = PeerExamination(
                of: peers, from: node, by: try KernelProbes(from: node), timing: timing)
            return examination.run()
        } catch {
            throw ExitFailure(
                error.isPermission ? .permission : .system,
                "\(error)" + (error.isPermission ? "; run as root, or with CAP_NET_RAW" : ""))
        }
    }

    /// This node, by the family of the address that names it, and by IPv6 where packets of that go their own way.
    private static func nodes(_ status: NodeStatus) throws(ExitFailure) -> [ExaminingNode] {
        guard let tunnel = status.tunnel, let underlay = status.underlay,
            let address = IPAddress(underlay.address),
            let subnet = status.lease.flatMap({ prefix(in: $0.subnet, address.addressFamily) })
        else {
            throw ExitFailure(.unavailable, "this node's tunnel does not stand yet: \(status.state)")
        }
        let main = ExaminingNode(
            underlayAddress: address,
            tunnelAddress: status.hasNoTunnel ? address : subnet.address, tunnelMTU: tunnel.mtu,
            kernelPathBytes: status.kernelPath?.packetBytes ?? 0)
        guard let ipv6 = tunnel.ipv6, let address = IPAddress(ipv6.underlayAddress),
            let subnet = status.lease.flatMap({ prefix(in: $0.subnet, .ipv6) })
        else { return [main] }
        return [
            main,
            ExaminingNode(
                underlayAddress: address,
                tunnelAddress: status.hasNoTunnel ? address : subnet.address, tunnelMTU: ipv6.mtu),
        ]
    }

    /// Where packets to a peer are sent.
    ///
    /// - Parameter name: its subnet, its underlay address, its name, or a pod's address.
    /// - Throws: where no peer is called so.
    package static func endpoint(ofPeer name: String, in status: NodeStatus) throws(ExitFailure) -> Endpoint {
        if let peer = try peers(named: [name], in: status).first { return peer.endpoint }
        throw ExitFailure(.usage, "no peer is called \(name.printable)")
    }

    private static func peers(named names: [String], in status: NodeStatus) throws(ExitFailure)
        -> [ExaminedPeer]
    {
        let all = status.peers.flatMap { peer in
            [peer.endpoint, peer.ipv6Endpoint].compactMap { endpoint in
                endpoint.flatMap { examined(peer, at: $0, hasNoTunnel: status.hasNoTunnel) }
            }
        }
        guard !names.isEmpty else { return all }
        var chosen: [ExaminedPeer] = []
        for name in names {
            let called = Set(status.peers.filter { $0.name == name }.map(\.subnet))
            let matching = all.filter { called.contains($0.subnet) || isNamed($0, name) }
            guard !matching.isEmpty else {
                let some = all.prefix(5).map { "\($0.subnet) at \($0.endpoint.address)" }
                throw ExitFailure(
                    .usage,
                    "no peer is called \(name.printable): name a node, its subnet, its underlay address or a "
                        + "pod's address"
                        + (some.isEmpty
                            ? "; this node has no peers" : ", such as \(some.joined(separator: ", "))")
                )
            }
            // A pod's address asks for the way that its packets take.
            let family = IPAddress(name)?.addressFamily
            let ofFamily = matching.filter { $0.endpoint.address.addressFamily == family }
            chosen += (ofFamily.isEmpty ? matching : ofFamily).filter { !chosen.contains($0) }
        }
        return chosen
    }

    /// - Parameters:
    ///   - endpoint: where its packets of one family are sent.
    ///   - hasNoTunnel: whether pods' packets go to the node as they are: then the way to the node is all that there is to
    ///     examine, and no address of its subnet is known to answer.
    private static func examined(
        _ peer: NodeStatus.Peer, at endpoint: String, hasNoTunnel: Bool
    ) -> ExaminedPeer? {
        guard let endpoint = Endpoint(endpoint),
            let subnet = prefix(in: peer.subnet, endpoint.address.addressFamily)
        else { return nil }
        return ExaminedPeer(
            subnet: peer.subnet, endpoint: endpoint,
            tunnelAddress: hasNoTunnel ? endpoint.address : subnet.address,
            hasKernelPath: peer.kernelPath == true)
    }

    /// The prefixes of a subnet as the status has it, which of both families has a comma between them.
    private static func prefixes(in subnet: String) -> [IPPrefix] {
        subnet.split(separator: ",").compactMap { IPPrefix($0) }
    }

    private static func prefix(in subnet: String, _ family: AddressFamily) -> IPPrefix? {
        prefixes(in: subnet).first { $0.addressFamily == family }
    }

    private static func isNamed(_ peer: ExaminedPeer, _ name: String) -> Bool {
        if name == peer.subnet || name == "\(peer.endpoint)" || name == "\(peer.endpoint.address)" {
            return true
        }
        let prefixes = prefixes(in: peer.subnet)
        // As a part of the subnet's key has it, too.
        if let prefix = IPPrefix(name.replacing("-", with: "/")) { return prefixes.contains(prefix) }
        return IPAddress(name).map { address in prefixes.contains { $0.contains(address) } } ?? false
    }
}

extension NodeStatus {
    /// Whether pods' packets leave by the underlay's own interface (host-gw).
    fileprivate var hasNoTunnel: Bool { tunnel != nil && tunnel?.interface == underlay?.interface }

    fileprivate func value(_ name: String) -> UInt64 { counters.first { $0.name == name }?.value ?? 0 }

    fileprivate func received(from subnet: String) -> UInt64 {
        peers.first { $0.subnet == subnet }?.traffic?.received.packets ?? 0
    }
}

/// What was found out about a peer, for people and for programs.
package struct PeerReport: Codable, Sendable, Equatable {
    /// The subnet behind it.
    package var subnet: String
    /// Where its datagrams are sent.
    package var endpoint: String
    /// One of `PeerVerdict`'s words.
    package var verdict: String
    /// What is the matter, one sentence; nil where all is well.
    package var cause: String?
    /// What to do; nil where all is well.
    package var remedy: String?
    /// The median round trip to the host, in microseconds; nil where it does not answer.
    package var hostMicroseconds: Double?
    /// The median round trip through the tunnel, in microseconds; nil where nothing came back.
    package var tunnelMicroseconds: Double?
    /// Small packets through the tunnel.
    package var sent: Int
    /// How many of them were answered.
    package var answered: Int
    /// Bytes of the largest packet that went there and back; nil where none did.
    package var largestBytes: Int?
    /// Bytes of a full packet in the tunnel.
    package var fullBytes: Int

    init(_ evidence: PeerEvidence) {
        let finding = PeerFinding(evidence)
        subnet = evidence.peer.subnet
        endpoint = "\(evidence.peer.endpoint)"
        verdict = finding.verdict.rawValue
        cause = finding.cause.isEmpty ? nil : finding.cause
        remedy = finding.remedy.isEmpty ? nil : finding.remedy
        hostMicroseconds = evidence.host.medianRoundTrip.map { $0 / .microseconds(1) }
        tunnelMicroseconds = evidence.tunnel.medianRoundTrip.map { $0 / .microseconds(1) }
        sent = evidence.tunnel.sent
        answered = evidence.tunnel.roundTrips.count
        largestBytes = evidence.tunnel.largestAnswered
        fullBytes = evidence.fullSize
    }

    /// Whether packets pass as they should.
    package var isGood: Bool { outcome == .good }

    fileprivate var rank: Int {
        switch outcome {
        case .bad: 0
        case .degraded: 1
        case .good: 2
        }
    }

    private var outcome: Finding.Outcome {
        guard let verdict = PeerVerdict(rawValue: verdict) else { return .bad }
        return verdict.isGood ? .good : verdict.isCutOff ? .bad : .degraded
    }

    /// The report as a finding of `twilld doctor`.
    var finding: Finding {
        Finding("peer", outcome, "\(subnet) at \(endpoint): \(cause ?? measures)", remedy: remedy)
    }

    /// The report for a terminal: a line where all is well, else what is the matter and what to do below it.
    package var text: String {
        let head = "\(outcome.rawValue)".padded(6) + "\(subnet) at \(endpoint)"
        guard let cause else { return "\(head): \(measures)" }
        var lines = [head]
        lines += ["\(verdict): \(cause)", measures, remedy.map { "what to do: \($0)" } ?? ""]
            .filter { !$0.isEmpty }.flatMap { $0.folded(columns: 74) }.map { "      \($0)" }
        return lines.joined(separator: "\n")
    }

    private var measures: String {
        func time(_ name: String, _ microseconds: Double?) -> String? {
            microseconds.map { "\(name) \(($0 / 10).rounded() / 100) ms" }
        }
        let size = largestBytes.map { "\($0) of \(fullBytes) bytes" }
        return [time("host", hostMicroseconds), time("tunnel", tunnelMicroseconds), size]
            .compactMap(\.self).joined(separator: ", ")
    }
}

extension String {
    fileprivate func padded(_ width: Int) -> String {
        self + String(repeating: " ", count: max(1, width - count))
    }

    /// The text in lines of so many columns at most, broken between words.
    func folded(columns: Int) -> [String] {
        var lines: [String] = []
        for word in split(separator: " ") {
            if let last = lines.last, last.count + 1 + word.count <= columns {
                lines[lines.count - 1] = "\(last) \(word)"
            } else {
                lines.append(String(word))
            }
        }
        return lines
    }
}

extension NodeStatus {
    /// Whether what unknown hosts sent of late came from pods of a subnet, by the packets that were kept. Another peer's may come
    /// in the same moment.
    ///
    /// - Parameters:
    ///   - subnet: as a lease's key has it, of one family or of both.
    ///   - time: how long ago at most.
    fileprivate func hasHeardStrangers(from subnet: String, within time: Duration) -> Bool {
        // A daemon of before keeps none.
        guard let offenders else { return true }
        let prefixes = subnet.split(separator: ",").compactMap { IPPrefix(String($0)) }
        return offenders.contains { offender in
            guard offender.reason == PeerDiagnosis.strangers, offender.secondsAgo <= time / .seconds(1),
                let source = offender.source.flatMap({ IPAddress($0) })
            else { return false }
            return prefixes.contains { $0.contains(source) }
        }
    }
}
