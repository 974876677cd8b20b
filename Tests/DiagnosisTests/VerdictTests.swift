import Addresses
import Testing

@testable import Diagnosis

/// Whom and from where.
private let peer = ExaminedPeer(
    subnet: "100.96.2.0/24", endpoint: Endpoint(address: IPv4Address("198.18.9.2")!, port: 8285),
    tunnelAddress: .v4(IPv4Address("100.96.2.0")!))
private let node = ExaminingNode(
    underlayAddress: .v4(IPv4Address("198.18.9.1")!), tunnelAddress: .v4(IPv4Address("100.96.1.0")!),
    tunnelMTU: 1472)
private let router = IPAddress.v4(IPv4Address("198.18.9.254")!)

/// A network on simulated time in which a few things are broken.
private struct BrokenNetwork: ProbeNetwork {
    var now = ContinuousClock.now
    /// Whether the host answers echo requests.
    var hostAnswers = true
    /// Whether the tunnel carries anything.
    var tunnelCarries = true
    /// Whether what goes past the daemons passes.
    var kernelPathCarries = true
    /// The largest packets that it carries there, and back.
    var sizes = (there: 1472, back: 1472)
    /// What comes for the port, after so long.
    var port: ProbeEvent.Outcome?
    /// What comes for the host, after so long.
    var host: ProbeEvent.Outcome?
    var errorDelay = Duration.milliseconds(1)
    /// Every so many packets through the tunnel one is lost; 0: none.
    var losesEvery = 0
    /// What this machine's kernel says of packets for the tunnel.
    var tunnelRefusal: String?
    private var arriving: [ProbeEvent] = []
    private var tunnelCount = 0
    private(set) var probes: [Probe] = []

    mutating func send(_ probe: Probe) {
        probes.append(probe)
        switch probe.way {
        case .host:
            if let host {
                add(probe, host, errorDelay)
            } else if hostAnswers {
                add(probe, .answered, .microseconds(200))
            }
        case .port: if let port { add(probe, port, errorDelay) }
        case .kernelPath: if kernelPathCarries { add(probe, .answered, .microseconds(100)) }
        case .tunnel, .tunnelThere:
            tunnelCount += 1
            if let tunnelRefusal { return add(probe, .notSent(tunnelRefusal), .zero) }
            let back = probe.way == .tunnel ? probe.size : 0
            guard tunnelCarries, probe.size <= sizes.there, back <= sizes.back,
                losesEvery == 0 || tunnelCount % losesEvery != 0
            else { return }
            add(probe, .answered, .microseconds(300))
        }
    }

    private mutating func add(_ probe: Probe, _ outcome: ProbeEvent.Outcome, _ delay: Duration) {
        arriving.append(ProbeEvent(number: probe.number, outcome: outcome, instant: now + delay))
    }

    mutating func events(until deadline: ContinuousClock.Instant) -> [ProbeEvent] {
        arriving.sort { $0.instant < $1.instant }
        guard let first = arriving.first, first.instant <= deadline else {
            now = deadline
            return []
        }
        now = max(now, first.instant)
        arriving.removeFirst()
        return [first]
    }
}

@Suite struct VerdictTests {
    /// What an examination finds, and the simulated seconds that it takes.
    private func examine(
        strangers: Bool = false, heard: Bool = false, kernelPathBytes: Int = 0,
        _ change: (inout BrokenNetwork) -> Void
    ) -> (PeerEvidence, PeerFinding) {
        var network = BrokenNetwork()
        change(&network)
        var (peer, node) = (peer, node)
        if kernelPathBytes > 0 {
            peer.hasKernelPath = true
            node = ExaminingNode(
                underlayAddress: node.underlayAddress, tunnelAddress: node.tunnelAddress,
                tunnelMTU: node.tunnelMTU, kernelPathBytes: kernelPathBytes)
        }
        var examination = PeerExamination(of: [peer], from: node, by: network)
        var evidence = examination.run()[0]
        // What goes past the daemons says nothing of the daemons' way.
        #expect(
            examination.network.probes.allSatisfy { probe in
                switch probe.way {
                case .tunnel, .tunnelThere: probe.size > kernelPathBytes
                case .kernelPath: probe.size <= kernelPathBytes && evidence.tunnel.isAnswered
                case .host, .port: true
                }
            })
        evidence.strangersWereHeard = strangers
        evidence.peerWasHeard = heard
        return (evidence, PeerFinding(evidence))
    }

    @Test func aPeerThatIsWellHasNothingToSay() {
        let (evidence, finding) = examine { _ in }
        #expect(finding.verdict == .reachable && finding.cause == "" && finding.remedy == "")
        #expect(evidence.tunnel.medianRoundTrip == .microseconds(300))
        #expect(evidence.host.medianRoundTrip == .microseconds(200))
        #expect(evidence.tunnel.largestAnswered == 1472)
    }

    /// Many a host answers no echo request: that alone is no fault.
    @Test func aHostThatAnswersNoEchoIsWell() {
        #expect(examine { $0.hostAnswers = false }.1.verdict == .reachable)
    }

    @Test func aDeadHostIsToldFromADeadDaemon() {
        let nobody = ProbeEvent.Outcome.unreachable(code: 1, from: node.underlayAddress)
        let host = examine {
            $0.tunnelCarries = false
            ($0.host, $0.port, $0.errorDelay) = (nobody, nobody, .seconds(3))
        }
        #expect(
            host.1.verdict == .hostDown
                && host.1.cause.contains("nobody on the local network answers for 198.18.9.2"))
        let daemon = examine {
            $0.tunnelCarries = false
            $0.port = .unreachable(code: 3, from: peer.endpoint.address)
        }
        #expect(daemon.1.verdict == .portClosed && daemon.1.cause.contains("UDP port 8285"))
    }

    @Test func aRouterThatCannotGoOnIsNamed() {
        let error = ProbeEvent.Outcome.unreachable(code: 1, from: router)
        let finding = examine {
            $0.tunnelCarries = false
            ($0.host, $0.port) = (error, error)
        }.1
        #expect(finding.verdict == .noRoute && finding.cause.contains("198.18.9.254"))
    }

    @Test(arguments: [9, 10, 13] as [UInt8]) func aFirewallThatSaysSoIsNamed(code: UInt8) {
        let finding = examine {
            $0.tunnelCarries = false
            $0.port = .unreachable(code: code, from: router)
        }.1
        #expect(finding.verdict == .refused && finding.cause.contains("198.18.9.254"))
    }

    @Test func aFirewallThatDropsIsToldByTheHostThatAnswers() {
        let finding = examine { $0.tunnelCarries = false }.1
        #expect(finding.verdict == .tunnelSilent && finding.cause.contains("drops UDP port 8285"))
        #expect(examine { ($0.tunnelCarries, $0.hostAnswers) = (false, false) }.1.verdict == .silent)
    }

    @Test func answersFromAnotherAddressAreATranslation() {
        let finding = examine(strangers: true) { $0.tunnelCarries = false }.1
        #expect(finding.verdict == .addressTranslated && finding.remedy.contains("--public-ip"))
        // Strangers who knock while all is well are none.
        #expect(examine(strangers: true) { _ in }.1.verdict == .reachable)
    }

    @Test func aPeerThatIsHeardAndDoesNotAnswerIsABrokenWayThere() {
        #expect(examine(heard: true) { $0.tunnelCarries = false }.1.verdict == .oneWay)
    }

    @Test(arguments: [84, 85, 600, 1372, 1471]) func theLargestPacketThatPassesIsFound(size: Int) {
        let (evidence, finding) = examine { $0.sizes = (size, size) }
        #expect(finding.verdict == .narrow && evidence.tunnel.largestAnswered == size)
        #expect(finding.cause.contains("more than \(size) bytes"))
    }

    @Test func aNarrowWayBackIsToldFromANarrowWayThere() {
        let (evidence, finding) = examine { $0.sizes = (1472, 1372) }
        #expect(finding.verdict == .narrowWayBack && evidence.tunnel.largestAnswered == 1372)
    }

    @Test func aWayPastTheDaemonsIsAskedByItself() {
        let (well, finding) = examine(kernelPathBytes: 256) { _ in }
        #expect(finding.verdict == .reachable && well.tunnel.medianRoundTrip == .microseconds(300))
        #expect(well.kernelPath.medianRoundTrip == .microseconds(100))
        let eaten = examine(kernelPathBytes: 256) { $0.kernelPathCarries = false }.1
        #expect(eaten.verdict == .kernelPathSilent && eaten.verdict.isCutOff)
        #expect(eaten.remedy.contains("--kernel-path=off"))
    }

    /// For a few seconds small packets still pass a firewall that has just been set up.
    @Test func aFirewallIsOneThoughSmallPacketsPassIt() {
        #expect(examine(kernelPathBytes: 256) { $0.tunnelCarries = false }.1.verdict == .tunnelSilent)
        let (narrow, finding) = examine(kernelPathBytes: 256) { $0.sizes = (600, 600) }
        #expect(finding.verdict == .narrow && narrow.tunnel.largestAnswered == 600)
    }

    @Test func lossIsNoBreak() {
        let (evidence, finding) = examine { $0.losesEvery = 3 }
        #expect(finding.verdict == .lossy && !finding.verdict.isCutOff)
        #expect(evidence.tunnel.roundTrips.count < evidence.tunnel.sent)
    }

    @Test func whatThisMachineDoesNotSendIsItsOwnFault() {
        let finding = examine { $0.tunnelRefusal = "Network is unreachable" }.1
        #expect(finding.verdict == .notSent && finding.cause.contains("Network is unreachable"))
    }

    /// Many peers take no longer than one, and every fault less than the ten seconds that people wait for.
    @Test func manyPeersAreExaminedBesideEachOther() {
        for isNarrow in [true, false] {
            var network = BrokenNetwork()
            if isNarrow { network.sizes = (900, 900) } else { network.tunnelCarries = false }
            network.hostAnswers = isNarrow
            let start = network.now
            var examination = PeerExamination(
                of: Array(repeating: peer, count: 256), from: node, by: network)
            let evidence = examination.run()
            #expect(evidence.count == 256)
            #expect(evidence.allSatisfy { $0.tunnel.largestAnswered == (isNarrow ? 900 : nil) })
            #expect(examination.network.now - start < .seconds(10))
        }
    }
}

/// What ICMP says of what did not arrive, in the codes of RFC 792.
@Suite struct FailureKindTests {
    typealias Kind = ProbeSocket.Failure.Kind

    @Test func errorsOfBothFamiliesSayTheSame() {
        for code in UInt8.min...UInt8.max {
            #expect(Kind(.ipv4, type: 3, code: code) == (code == 4 ? .tooLarge : .unreachable(code)))
            #expect(Kind(.ipv4, type: 11, code: code) == nil && Kind(.ipv4, type: 255, code: code) == nil)
            #expect(Kind(.ipv6, type: 3, code: code) == nil && Kind(.ipv6, type: 255, code: code) == nil)
        }
        #expect(Kind(.ipv6, type: 2, code: 0) == .tooLarge)
        let codes = [0, 1, 3, 4, 5, 6, 99].map { Kind(.ipv6, type: 1, code: $0) }
        #expect(codes == [0, 13, 1, 3, 13, 13, 0].map { Kind.unreachable($0) })
    }
}
