import Health
import Host
import Node
import Telemetry

/// Everything that can be found out about a node in a few seconds: the machine, the daemon, what it calls problems, and
/// the way to each peer. Nothing changes by it.
package struct Doctor: Sendable {
    private let client: StatusClient
    private let underlay: UnderlayOptions
    private let isOfKubernetes: Bool

    /// Prepares a look.
    ///
    /// - Parameters:
    ///   - client: asks the node's daemon.
    ///   - underlay: how the underlay is to be chosen where no daemon runs that has chosen one.
    ///   - isOfKubernetes: whether the machine is a node of a Kubernetes cluster, which needs more.
    package init(_ client: StatusClient, underlay: UnderlayOptions, isOfKubernetes: Bool) {
        self.client = client
        self.underlay = underlay
        self.isOfKubernetes = isOfKubernetes
    }

    /// Looks at everything.
    package func report() async -> DoctorReport {
        let client = client
        let status: NodeStatus
        do throws(ExitFailure) {
            status = try await onThread { () throws(ExitFailure) in try client.status() }
        } catch {
            let findings = await MachineCheck.findings(
                underlay: underlay, mtu: nil, isOfKubernetes: isOfKubernetes)
            return DoctorReport(
                [Finding("daemon", .bad, error.message, remedy: "until it runs no pod reaches another node")]
                    + findings, peers: [])
        }
        let isOfKubernetes = isOfKubernetes
        var findings = await onThread { MachineCheck.kernelFindings(isOfKubernetes: isOfKubernetes) }
        findings += Doctor.findings(status)
        var peers: [PeerReport] = []
        do throws(ExitFailure) {
            peers = try await PeerDiagnosis(client).reports(of: [])
        } catch {
            findings.append(Finding("peers", .bad, "not examined: \(error.message)"))
        }
        return DoctorReport(findings, peers: peers)
    }

    /// What the daemon says of itself.
    static func findings(_ status: NodeStatus) -> [Finding] {
        var findings = [
            Finding(
                "daemon", status.isReady ? .good : .bad,
                "twilld \(status.version), process \(status.processIdentifier): \(status.state)")
        ]
        for component in status.components {
            let subject =
                component.subject.isEmpty ? component.kind : "\(component.kind) \(component.subject)"
            guard let problem = component.problem else {
                findings.append(Finding(subject, .good, "as it should be"))
                continue
            }
            let outcome: Finding.Outcome =
                component.condition == Problem.Effect.cutOff.rawValue ? .bad : .degraded
            findings.append(Finding(subject, outcome, problem))
        }
        let drops = status.counters.filter { $0.isDrop && ($0.perSecond ?? 0) > 0 }
        findings += drops.map { Finding("drops", .degraded, "\($0.name) rises: \($0.meaning)") }
        return findings
    }
}

/// What `twilld doctor` found, the worst first.
package struct DoctorReport: Sendable {
    /// All that was found but the peers, the worst first.
    package let findings: [Finding]
    /// The peers, those that are cut off first.
    package let peers: [PeerReport]

    init(_ findings: [Finding], peers: [PeerReport]) {
        // A sort that keeps the order of equals: by index.
        self.findings = findings.enumerated()
            .sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }.map(\.element)
        self.peers = peers
    }

    /// Whether something keeps packets from passing.
    package var hasFailed: Bool {
        findings.contains { $0.outcome == .bad } || peers.contains { !$0.isGood }
    }

    private var all: [Finding] {
        (peers.map(\.finding) + findings).enumerated()
            .sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }.map(\.element)
    }

    /// One page: what is wrong, with what to do; then how much is well.
    ///
    /// - Parameter showsAll: whether also what is well gets a line each.
    package func text(showsAll: Bool) -> String {
        let wrong = all.filter { $0.outcome != .good }
        let well = all.filter { $0.outcome == .good }
        var lines = wrong.flatMap(\.foldedLines)
        if showsAll { lines += well.flatMap(\.foldedLines) }
        // Each of a peer's two families has a report where their packets go two ways.
        let ways = Dictionary(grouping: peers, by: \.subnet).values
        let reachable = ways.count { $0.allSatisfy(\.isGood) }
        lines.append(Finding.summary(all) + "; \(reachable) of \(ways.count) peers reachable")
        return lines.map(\.printable).joined(separator: "\n") + "\n"
    }

    /// The document for programs.
    package var document: DoctorDocument {
        DoctorDocument(findings: findings, peers: peers)
    }
}

/// What `twilld doctor`, `ping` and `check` print with `--json`. Members may be added; none changes its meaning.
package struct DoctorDocument: Codable, Sendable {
    /// The form of the document.
    package var schema = 1
    /// All but the peers, the worst first.
    package var findings: [Entry]
    /// The peers, those that are cut off first.
    package var peers: [PeerReport]

    /// Makes a document.
    package init(findings: [Finding] = [], peers: [PeerReport] = []) {
        self.findings = findings.map {
            Entry(subject: $0.subject, outcome: $0.outcome.rawValue, detail: $0.detail, remedy: $0.remedy)
        }
        self.peers = peers
    }

    /// One thing that was looked at.
    package struct Entry: Codable, Sendable {
        /// What was looked at.
        package var subject: String
        /// `ok`, `warn` or `FAIL`.
        package var outcome: String
        /// What was found.
        package var detail: String
        /// What to do; nil where nothing is to be done.
        package var remedy: String?
    }
}

extension Finding {
    /// 0 for the worst.
    var rank: Int {
        switch outcome {
        case .bad: 0
        case .degraded: 1
        case .good: 2
        }
    }

    /// The finding in lines of 80 columns.
    var foldedLines: [String] {
        let text = detail + (remedy.map { ": \($0)" } ?? "")
        let head = outcome.rawValue + String(repeating: " ", count: max(1, 6 - outcome.rawValue.count))
        let lines = "\(subject): \(text)".folded(columns: 74)
        return zip(lines.indices, lines).map { $0 == 0 ? head + $1 : "      \($1)" }
    }
}
