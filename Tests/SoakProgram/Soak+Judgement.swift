import Disturbances
import FoundationEssentials
import Kit
import NetworkNamespaces
import Telemetry

// What ought to be, against what daemons, kernels and the store say.

extension Soak {
    /// Waits until everything stands.
    ///
    /// - Returns: how long it took until everything stood and did not fall again.
    /// - Throws: where it does not come; what is missing.
    @discardableResult
    func settle() async throws -> Duration {
        let clock = ContinuousClock()
        let start = clock.now
        var goodSince: ContinuousClock.Instant?
        while true {
            try Task.checkCancellation()
            goodSince = try await stands() ? goodSince ?? clock.now : nil
            if let goodSince, goodSince + Self.goodTime <= clock.now { break }
            guard clock.now < start + Self.healTime || goodSince != nil else {
                throw SoakFailure(description: "not healed within \(Self.healTime.inSeconds) s: \(fault)")
            }
            try await Task.sleep(for: .milliseconds(200))
        }
        shortLeasesEnd = nil
        let time = (goodSince ?? clock.now) - start
        for node in present { try await node.countReceived() }
        sample()
        return time
    }

    func sample() {
        for node in present { node.sample().map { tellLine("event \(eventNumber): \($0)") } }
    }

    /// Whether everything is as it ought to be; `fault` says what is not.
    private func stands() async throws -> Bool {
        for node in present where !node.daemon.isRunning {
            try await startAgain(node)
            return false
        }
        do {
            for node in present {
                guard try await stands(node) else { return false }
            }
            guard try await storeStands() else { return false }
            let unanswered = try await unansweredPings()
            fault = "no answer to a ping: \(unanswered.joined(separator: ", "))"
            return unanswered.isEmpty
        } catch let error as CancellationError {
            throw error
        } catch {
            // What cannot be asked for may be so in a moment.
            fault = "\(error)"
            return false
        }
    }

    /// A daemon that is started in the moment in which its interface has no address ends, by intent, and is started
    /// again as its unit file has it. Nothing else may end it.
    private func startAgain(_ node: SoakNode) async throws {
        let log = node.daemon.log
        guard log.split(separator: "\n").last?.hasPrefix("twilld: no underlay interface") == true else {
            throw SoakFailure(
                description:
                    "twilld on node \(node.host.number) ended by itself; its log ends: \(log.suffix(1_500))")
        }
        fault = "node \(node.host.number)'s daemon was started again: it had found no address"
        try await node.start(etcd)
    }

    private func differs(_ what: String, expected: [String], actual: [String]) -> Bool {
        guard let difference = DisturbedNetwork.difference(expected: expected, actual: actual) else {
            return false
        }
        fault = "\(what): \(difference)"
        return true
    }

    // MARK: A node

    private func stands(_ node: SoakNode) async throws -> Bool {
        let number = node.host.number
        let expected = network[number]
        guard
            !differs(
                "node \(number)'s status", expected: expectedStatus(expected, workers: node.workers),
                actual: actualStatus(node.daemon))
        else { return false }
        let routes = try await node.host.run("ip -4 route show").split(separator: "\n").map { line in
            line.split(separator: " ").joined(separator: " ")
        }
        guard !differs("node \(number)'s routes", expected: expectedRoutes(expected), actual: routes) else {
            return false
        }
        guard node.subnetInFile == expected.subnet else {
            fault =
                "node \(number)'s subnet.env: \(node.subnetInFile ?? "none") instead of \(expected.subnet)"
            return false
        }
        let rules = try? await node.host.run("iptables -w -t nat -S FLANNEL-POSTRTG")
        // Those of the node's own subnet come first.
        let own = rules?.firstRange(of: expected.subnet.replacing("-", with: "/"))
        guard let rules, let own, rules[own.upperBound...].contains("MASQUERADE") else {
            fault = "node \(number) has no masquerade rules"
            return false
        }
        return true
    }

    private func expectedStatus(_ node: DisturbedNetwork.Node, workers: Int) -> [String] {
        var lines = [
            "ready true", "store true", "workers \(workers)",
            "lease \(node.subnet.replacing("-", with: "/"))",
            "announces \(node.address):\(network.port)", "problems ",
        ]
        lines += network.peers(of: node.number).map {
            "peer \($0.key.replacing("-", with: "/")) \($0.value)"
        }
        if network.hasMalformedEntry { lines.append("skipped \(DisturbedNetwork.malformedKey)") }
        return lines
    }

    private func actualStatus(_ daemon: LabDaemon) -> [String] {
        guard let status = daemon.status else { return ["no answer on the status socket"] }
        // Foreign nodes have no daemon, and nobody takes what comes to them. What a disturbance has lost stays told for a
        // minute after the last packet.
        let rightly =
            #/^no packet is sent by the lease|^peer 100\.96\.[0-9]+\.0/24 \(172\.20\.32\.2[0-9]+\) does not answer|^packets are lost/#
        let problems = status.problems.filter { $0.firstMatch(of: rightly) == nil }
        var lines = [
            "ready \(status.isReady)", "store \(status.store.isConnected)",
            "workers \(status.engine?.workers ?? 0)",
            "lease \(status.lease?.subnet ?? "none")", "announces \(status.underlay?.endpoint ?? "nothing")",
            "problems \(problems.joined(separator: "; "))",
        ]
        lines += status.peers.map { "peer \($0.subnet) \($0.endpoint)" }
        lines += status.skipped.map { "skipped \($0.key)" }
        return lines
    }

    private func expectedRoutes(_ node: DisturbedNetwork.Node) -> [String] {
        let bridge = node.subnet.replacing(".0-24", with: ".1")
        return [
            "\(DisturbedNetwork.network) dev flannel0 proto 116 scope link",
            "\(node.subnet.replacing("-", with: "/")) dev docker0 proto kernel scope link src \(bridge)",
            "172.20.32.0/24 dev eth0 proto kernel scope link src \(node.address)",
        ]
    }

    // MARK: The store and the pods

    private func storeStands() async throws -> Bool {
        struct Value: Decodable {
            let publicAddress: String
            private enum CodingKeys: String, CodingKey { case publicAddress = "PublicIP" }
        }
        let entries = try await etcd.leases().map { entry in
            let value = try? JSONDecoder().decode(Value.self, from: Data(entry.value.utf8))
            return DisturbedNetwork.entry(
                String(entry.key.split(separator: "/").last ?? ""), value?.publicAddress,
                isLeased: entry.lease ?? 0 != 0)
        }
        guard !differs("etcd", expected: network.entries, actual: entries) else { return false }
        let count = try await etcd.leaseCount()
        fault = "etcd has \(count) leases for \(network.present.count) nodes"
        return count == network.present.count
    }

    private func unansweredPings() async throws -> [String] {
        let pods = present.compactMap { node in node.pod.map { (node.host.number, $0) } }
        return try await withThrowingTaskGroup(of: [String].self) { group in
            for (from, pod) in pods {
                let others = pods.filter { $0.0 != from }
                let pings = others.map { other in
                    "{ ping -n -c 1 -W 1 \(other.1.address) >/dev/null 2>&1 || echo \(other.0); } &"
                }.joined(separator: " ")
                group.addTask {
                    try await pod.run("\(pings) wait").split(separator: "\n").map {
                        "pod \(from) to pod \($0)"
                    }
                }
            }
            return try await group.reduce(into: []) { $0 += $1 }
        }
    }
}
