internal import Addresses
internal import Backends
import Health
package import Leases
import Logging

extension ClusterMachine {
    mutating func publish() {
        var next = KnownNetwork()
        next.configuration = network.configuration
        next.refusedNetworks = network.configuration == nil ? network.refused : []
        if let configuration = network.configuration {
            nodes.settle(
                in: PeerNodes.Context(
                    configuration: configuration, ownSubnet: holding?.subnet, ownAddresses: ownAddresses,
                    ownPort: ownEndpoint?.port ?? 0))
            next.peers = nodes.peers
            next.skipped = nodes.skipped.sorted { $0.key < $1.key }
                .map { SkippedLease(key: $0.key.printable, reason: $0.value.printable) }
            reportReasons()
        }
        next.isStoreConnected = isListed && session.isWatchOpen && session.failures.isEmpty
        next.conditions = conditions
        if next != published.network {
            published.network = next
            turn.actions.append(.publish(next))
        }
        publishOwn()
    }

    private mutating func publishOwn() {
        var lease: OwnLease?
        if let holding, let endpoint = ownEndpoint {
            lease = OwnLease(
                subnet: holding.subnet, endpoint: endpoint, isReservation: true, acquired: holding.acquired,
                renewed: holding.acquired, expiry: nil, replaced: holding.replaced)
        }
        if lease != published.lease {
            published.lease = lease
            turn.actions.append(.assign(lease))
        }
        for (name, value) in malformedRequests {
            say(
                name, value,
                LeaseReport(.warning, .annotationIgnored, ["annotation": name, "value": value.printable]))
        }
        guard let requests, requests != published.requests else { return }
        published.requests = requests
        turn.actions.append(.request(requests))
    }

    private mutating func reportReasons() {
        let reasons = nodes.skipped.merging(nodes.lastKnown) { skipped, _ in skipped }
        guard reasons != published.reasons else { return }
        for name in Set(reasons.keys).union(published.reasons.keys).sorted()
        where reasons[name] != published.reasons[name] {
            if let reason = reasons[name] {
                report(.warning, .nodeSkipped, ["node": name.printable, "reason": reason.printable])
            } else {
                report(.info, .nodeNoLongerSkipped, ["node": name.printable])
            }
        }
        published.reasons = reasons
    }

    // MARK: Conditions

    /// So many nodes are named one by one.
    private static let namedLimit = 20

    private var conditions: [Component: Problem] {
        var conditions: [Component: Problem] = [:]
        if let problem = network.problem {
            conditions[Component(.configuration)] = Problem(
                network.configuration == nil ? .cutOff : .degraded, problem.cause, remedy: problem.remedy)
        }
        if let problem = storeProblem { conditions[Component(.store)] = problem }
        if kept.isInUse, let state = kept.state {
            conditions[Component(.store, "last known")] = Problem(
                .degraded,
                "peers and subnet are what was last known, of \(WallTime.text(state.written)), kept in"
                    + " \(settings.keptPath): the API server has not listed the nodes since the start",
                remedy: "packets flow on; bring the API server back")
        }
        if let problem = kept.problem {
            conditions[Component(.store, "kept")] = Problem(
                .degraded, "what is known of the cluster cannot be kept: \(problem)",
                remedy: "make the directory writable, or name another with --state-dir")
        }
        if let problem = subnetProblem {
            conditions[Component(.lease)] = Problem(
                holding == nil ? .cutOff : .degraded, problem.cause, remedy: problem.remedy)
        }
        if let replaced = holding?.replaced {
            conditions[Component(.lease, "before")] = Problem(
                .degraded, "this node's podCIDR was \(replaced) before, and pods may have addresses of it",
                remedy: Self.staleSubnetRemedy)
        }
        for (name, value) in malformedRequests {
            conditions[Component(.lease, name)] = Problem(
                .degraded,
                "this node's annotation \(name) is \"\(value)\", which is no such address that others can"
                    + " send to, and is ignored", remedy: "correct it: kubectl annotate node")
        }
        if own.budget.isEmpty, own.restores > 0 {
            conditions[Component(.lease, "annotations")] = Problem(
                .degraded,
                "somebody keeps changing this node's annotations or its condition NetworkUnavailable: they were written"
                    + " again \(own.restores) times",
                remedy: "find who does: kubectl get node \(nodeName ?? "") -o yaml --show-managed-fields")
        }
        addPeers(to: &conditions)
        addClock(to: &conditions)
        return conditions
    }

    private func addPeers(to conditions: inout [Component: Problem]) {
        for (name, reason) in nodes.lastKnown.sorted(by: { $0.key < $1.key }).prefix(Self.namedLimit) {
            conditions[Component(.peer, name.printable)] = Problem(
                .degraded, "the node \(name) is sent to as it last said where it is: \(reason)",
                remedy: "look whether its daemon runs, and who takes its annotations away")
        }
        let shared = nodes.shared.sorted { ($0.value.first ?? "") < ($1.value.first ?? "") }
        for (endpoint, names) in shared.prefix(Self.namedLimit) {
            let names = names.joined(separator: " and ")
            conditions[Component(.peer, "address \(endpoint)")] = Problem(
                .degraded,
                "the nodes \(names) all announce \(endpoint): one of them alone gets their packets",
                remedy: "give each its own public-ip-overwrite, --public-ip or --port")
        }
    }

    private func addClock(to conditions: inout [Component: Problem]) {
        guard let clocks else { return }
        let apart = clocks.local &- clocks.server
        guard !Self.clockTolerance.contains(apart) else { return }
        conditions[Component(.clock)] = Problem(
            .degraded,
            "this machine's clock says \(WallTime.text(clocks.local)), and the API server's"
                + " \(WallTime.text(clocks.server))",
            remedy: "set the clocks right (NTP): tokens and certificates are judged by them")
    }

    /// What fails of the requests to the API server; nil where nothing does.
    private var storeProblem: Problem? {
        guard let (_, worst) = session.failures.sorted(by: { $0.key < $1.key }).first else { return nil }
        let messages = Set(session.failures.values.map(\.message)).sorted().joined(separator: "; ")
        var cause = "Kubernetes' API server, \(settings.apiName): \(messages)"
        let kinds = session.failures.values.map(\.kind)
        if let clocks = worst.clocks, kinds.contains(.unauthorized) {
            cause +=
                "; this machine's clock says \(WallTime.text(clocks.local)), and the server's"
                + " \(WallTime.text(clocks.server))"
        }
        let flow =
            holding == nil
            ? "this node has no subnet before it answers" : "packets flow on; changes are not seen meanwhile"
        return Problem(holding == nil ? .cutOff : .degraded, cause, remedy: "\(advice(on: kinds)); \(flow)")
    }

    private func advice(on kinds: [APIFailure.Kind]) -> String {
        if kinds.contains(.credentials) { return "make that file readable and whole" }
        if kinds.contains(.certificate) { return "look at the CA and at this machine's clock" }
        if kinds.contains(.unauthorized) {
            return
                "the token or certificate is not, or no longer, valid: look at the clocks, and at who renews it"
        }
        if kinds.contains(.forbidden) {
            return
                "allow the daemon's account nodes: get, list, watch, and nodes/status: patch (deploy/twill.yaml)"
        }
        if kinds.contains(.unreachable), !session.hasAnswered {
            return
                "it is asked for ever; where its address is a service's and kube-proxy is not up, give an API"
                + " server's own with --kube-api-url, which keeps token and CA"
        }
        return "look at the API server"
    }
}

extension ClusterMachine: LoggingMachine {
    package var turnTime: Instant { turn.now }

    package mutating func add(_ report: LeaseReport) { turn.actions.append(.report(report)) }
}
