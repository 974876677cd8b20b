internal import Addresses
internal import Backends
import Health
internal import Leases
import Logging

extension ClusterMachine {
    // MARK: net-conf.json

    mutating func take(_ file: NetworkFile) {
        network.file = file
        let path = settings.networkConfigurationPath
        switch file {
        case .missing:
            network.problem = ("\(path) does not exist", "mount the ConfigMap that holds net-conf.json there")
            report(.warning, .noNetworkConfiguration, ["store": path])
        case .unreadable(let reason):
            network.problem = ("\(path) cannot be read: \(reason)", "make it readable")
            report(.error, .networkConfigurationIsWrong, ["store": path, "error": reason])
        case .text(let text):
            take(networkText: text)
        }
    }

    private mutating func take(networkText text: String) {
        do throws(NetworkConfigurationError) {
            let parsed = try NetworkConfiguration(parsing: text, backends: backends, assignsSubnets: false)
            network.refused = []
            if let refusal = refusal(of: parsed) {
                refuse(refusal)
                network.refused = parsed.networks
                return
            }
            if let holding,
                let outside = holding.subnet.prefixes.first(where: { prefix in
                    !parsed.networks.contains { $0.contains(prefix) }
                })
            {
                network.problem = (
                    "Network of \(settings.networkConfigurationPath) became \(parsed.networkText), outside of which this"
                        + " node's podCIDR lies, \(outside)",
                    "make them one: Network there, or kube-controller-manager --cluster-cidr; the one before it stays in effect"
                )
                report(
                    .error, .networkConfigurationDoesNotAdmitSubnet,
                    ["subnet": "\(holding.subnet)", "network": parsed.networkText])
                return
            }
            network.problem = nil
            network.text = text
            guard network.configuration != parsed else { return }
            network.configuration = parsed
            report(
                .notice, .networkConfigurationTakenOver,
                ["network": parsed.networkText, "backend": "\(parsed.backend)"])
        } catch {
            refuse(error)
        }
    }

    /// Keeps to the configuration of before, if there is one.
    private mutating func refuse(_ error: NetworkConfigurationError) {
        let path = settings.networkConfigurationPath
        network.problem = (
            "the network configuration in \(path) is wrong: \(error)",
            "correct the ConfigMap"
                + (network.configuration == nil ? "" : "; the one before it stays in effect")
        )
        report(.error, .networkConfigurationIsWrong, ["store": path, "error": error.description])
    }

    /// Why this node cannot be of a network; nil where it can, as far as it is known where it is.
    private func refusal(of configuration: NetworkConfiguration) -> NetworkConfigurationError? {
        guard var announcement = effectiveAnnouncement else {
            return configuration.refusal(underlay: ownAddresses)
        }
        announcement.port = nil
        return configuration.refusal(of: announcement) ?? configuration.refusal(underlay: ownAddresses)
    }

    /// Judges the file by where this node is now: its former address may have been in the way.
    mutating func judgeNetworkAnew() {
        guard case .text(let text)? = network.file else { return }
        if !network.refused.isEmpty
            || network.configuration.flatMap(refusal) != nil && network.problem == nil
        {
            take(networkText: text)
        }
    }

    // MARK: What was last known

    /// Takes over what an earlier run kept, where the API server does not answer.
    mutating func useKept() {
        guard kept.hasBeenRead, let state = kept.state, !kept.isInUse, !isListed else { return }
        if !session.hasAnswered, session.failures.isEmpty, let end = kept.graceEnd, end > turn.now {
            return wake(at: end)
        }
        // A server that lists its nodes slowly is no reason to go by what was.
        guard !session.failures.isEmpty || !session.hasAnswered else { return }
        if let nodeName, nodeName != state.nodeName { return kept.state = nil }
        kept.isInUse = true
        nodeName = state.nodeName
        if own.record == nil { own.record = state.own }
        if network.configuration == nil, network.file != nil, let text = state.configuration {
            let problem = network.problem
            take(networkText: text)
            if network.configuration != nil { network.problem = problem }
        }
        if nodes.replaceAll(with: state.nodes) { turn.nodesChanged = true }
        report(
            .warning, .startingFromLastKnown,
            ["peers": "\(state.nodes.count)", "of": WallTime.text(state.written), "path": settings.keptPath])
    }

    /// Keeps what is known now, now and then.
    mutating func keep() {
        if turn.nodesChanged { kept.isDirty = true }
        guard isListed || hasEnded, let nodeName, kept.hasBeenRead else { return }
        let own = own.isConfirmed ? own.record : kept.last?.own
        let isOwnChanged =
            own.map { record in kept.last?.own.map { !$0.isSame(as: record) } ?? true } ?? false
        guard kept.isDirty || isOwnChanged || kept.last?.configuration != network.text else { return }
        if let next = kept.nextWrite, next > turn.now, !hasEnded { return wake(at: next) }
        kept.isDirty = false
        kept.nextWrite = turn.now + Self.keepInterval
        let state = KeptState(
            nodeName: nodeName, configuration: network.text ?? kept.last?.configuration, own: own,
            nodes: isListed ? nodes.worthKeeping : kept.last?.nodes ?? [])
        guard state.isSame(as: kept.last) == false else { return }
        kept.last = state
        turn.actions.append(.keep(state))
    }

    mutating func take(keptProblem problem: String?) {
        kept.problem = problem
        guard let problem else { return }
        // It is tried again with the next change.
        kept.last = nil
        say("kept", problem, LeaseReport(.error, .lastKnownNotKept, ["error": problem]))
    }
}

extension KeptState {
    /// Whether there is nothing to be written: times and versions do not count.
    func isSame(as other: KeptState?) -> Bool {
        guard let other, nodeName == other.nodeName, configuration == other.configuration,
            nodes.count == other.nodes.count
        else { return false }
        guard zip(nodes, other.nodes).allSatisfy({ $0.name == $1.name && $0.isSame(as: $1) }) else {
            return false
        }
        switch (own, other.own) {
        case (nil, nil): return true
        case (let own?, let before?): return own.isSame(as: before)
        default: return false
        }
    }
}
