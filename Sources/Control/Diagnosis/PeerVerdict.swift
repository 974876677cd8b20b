import Addresses

/// What is the matter with a peer, told from what an examination found.
public enum PeerVerdict: String, Sendable, Codable, CaseIterable {
    /// Small and full packets go there and come back.
    case reachable
    /// They do, but some were lost.
    case lossy
    /// Small packets go, full ones do not.
    case narrow
    /// Full packets go there; full ones do not come back.
    case narrowWayBack = "narrow-way-back"
    /// Packets go by the daemons; small ones, which go past them, do not.
    case kernelPathSilent = "kernel-path-silent"
    /// This machine does not send to it.
    case notSent = "not-sent"
    /// Nobody on the local network has the host's address.
    case hostDown = "host-down"
    /// A router on the way says that it cannot go on.
    case noRoute = "no-route"
    /// The host refuses the UDP port.
    case portClosed = "port-closed"
    /// A firewall on the way refuses, and says so.
    case refused
    /// Answers come from another address than the lease has.
    case addressTranslated = "address-translated"
    /// The host answers, and the peer's packets arrive; what is sent to it does not.
    case oneWay = "one-way"
    /// The host answers; the tunnel does not, and nobody says why.
    case tunnelSilent = "tunnel-silent"
    /// Nothing answers.
    case silent

    /// Whether packets pass as they should.
    public var isGood: Bool { self == .reachable }

    /// Whether no packets pass at all.
    public var isCutOff: Bool {
        switch self {
        case .reachable, .lossy, .narrow, .narrowWayBack: false
        default: true
        }
    }

    /// Judges what was found.
    public init(_ evidence: PeerEvidence) {
        if evidence.tunnel.isAnswered {
            self = PeerVerdict(answered: evidence)
        } else {
            self = PeerVerdict(unanswered: evidence)
        }
    }

    private init(answered evidence: PeerEvidence) {
        if evidence.kernelPath.sent > 0 && !evidence.kernelPath.isAnswered {
            self = .kernelPathSilent
        } else if (evidence.tunnel.largestAnswered ?? 0) < evidence.fullSize {
            let reachesThere = (evidence.tunnelThere.largestAnswered ?? 0) >= evidence.fullSize
            self = reachesThere ? .narrowWayBack : .narrow
        } else {
            self = evidence.tunnel.roundTrips.count < evidence.tunnel.sent ? .lossy : .reachable
        }
    }

    private init(unanswered evidence: PeerEvidence) {
        let errors = [evidence.port.unreachable, evidence.host.unreachable].compactMap(\.self)
        let prohibitions: Set<UInt8> = [9, 10, 13]
        if evidence.port.notSent != nil || evidence.tunnel.notSent != nil {
            self = .notSent
        } else if errors.contains(where: { prohibitions.contains($0.code) }) {
            self = .refused
        } else if let error = evidence.port.unreachable, error.code == 3 {
            self = .portClosed
        } else if evidence.strangersWereHeard {
            self = .addressTranslated
        } else if evidence.host.isAnswered {
            self = evidence.peerWasHeard ? .oneWay : .tunnelSilent
        } else if let error = errors.first {
            self = PeerVerdict(hostUnreachable: error)
        } else {
            self = .silent
        }
    }

    /// A router, or this machine itself where nobody answers for the address on its own network.
    private init(hostUnreachable error: WayEvidence.Unreachable) {
        self = error.isFromThisMachine ? .hostDown : .noRoute
    }
}

/// A verdict in words.
public struct PeerFinding: Sendable, Hashable {
    /// What is the matter.
    public var verdict: PeerVerdict
    /// What was found, one sentence; empty where all is well.
    public var cause: String
    /// What to do; empty where all is well.
    public var remedy: String

    /// Judges what was found.
    public init(_ evidence: PeerEvidence) {
        verdict = PeerVerdict(evidence)
        (cause, remedy) = PeerFinding.words(verdict, evidence)
    }

    private static func words(_ verdict: PeerVerdict, _ evidence: PeerEvidence) -> (String, String) {
        let endpoint = evidence.peer.endpoint
        let host = "\(endpoint.address)"
        switch verdict {
        case .reachable: return ("", "")
        case .lossy, .narrow, .narrowWayBack: return words(passing: verdict, evidence)
        case .kernelPathSilent:
            return (
                "large packets come back from it, small ones do not: something on the way eats or spoils UDP "
                    + "datagrams without a checksum, which small packets are sent in past the daemons",
                "give the daemon of this node or of that one --kernel-path=off, and find the device"
            )
        case .notSent:
            return (
                "this machine does not send to it: \(evidence.tunnel.notSent ?? evidence.port.notSent ?? "")",
                "see twilld status for this node's own routes and device"
            )
        case .hostDown:
            return (
                "nobody on the local network answers for \(host)",
                "see whether that host is up and still has this address"
            )
        case .noRoute:
            let sender = evidence.port.unreachable?.sender ?? evidence.host.unreachable?.sender
            return (
                "\(sender.map { "\($0)" } ?? "a router") says that it cannot reach \(host)",
                "mend the route there, or see whether that host is up"
            )
        case .portClosed:
            return (
                "\(host) is up and refuses UDP port \(endpoint.port): its daemon does not run, listens on "
                    + "another port, or a firewall of it rejects the port",
                "on that host: twilld status, and ss -lunp | grep \(endpoint.port)"
            )
        case .refused:
            let sender = evidence.port.unreachable?.sender ?? evidence.host.unreachable?.sender
            return (
                "a firewall at \(sender.map { "\($0)" } ?? host) refuses UDP port \(endpoint.port) to \(host)",
                "let UDP port \(endpoint.port) pass in both directions"
            )
        case .addressTranslated:
            return (
                "what seem to be its answers come from another address than \(endpoint), and are dropped",
                "its lease must have the address and port that its datagrams arrive from: a NAT between the "
                    + "nodes must not change them, or give its daemon --public-ip and --port"
            )
        case .oneWay:
            return (
                "packets of its pods arrive here, and it answers nothing through the tunnel: the way to it is "
                    + "broken, or it does not know this node",
                "let UDP port \(endpoint.port) pass to \(host), and see this node's lease in its twilld status"
            )
        case .tunnelSilent:
            return (
                "\(host) answers, the tunnel does not: a firewall drops UDP port \(endpoint.port) in one of the "
                    + "directions, or its daemon does not know this node or carries nothing",
                "let UDP port \(endpoint.port) pass in both directions; on that host: twilld doctor"
            )
        case .silent:
            return (
                "nothing answers at \(host), neither the host nor the tunnel, and no router says why",
                "see whether that host is up; a firewall may drop everything to it"
            )
        }
    }

    private static func words(passing verdict: PeerVerdict, _ evidence: PeerEvidence) -> (String, String) {
        let largest = evidence.tunnel.largestAnswered ?? 0
        switch verdict {
        case .narrow:
            return (
                "packets of more than \(largest) bytes do not pass; the tunnel's full size is "
                    + "\(evidence.fullSize)",
                "mend the path to \(evidence.peer.endpoint.address) (an MTU on the way, a router that sends no "
                    + "ICMP errors), or set a smaller MTU in the network configuration"
            )
        case .narrowWayBack:
            return (
                "full packets of \(evidence.fullSize) bytes reach it, and no more than \(largest) bytes come back",
                "mend the path from \(evidence.peer.endpoint.address) to this node; its own twilld doctor shows it"
            )
        default:
            return (
                "\(evidence.tunnel.sent - evidence.tunnel.roundTrips.count) of \(evidence.tunnel.sent) "
                    + "packets through the tunnel were not answered",
                "see what is dropped in twilld status of both nodes, and the load of the network"
            )
        }
    }
}
