import Addresses
import KubernetesNodes
import Leases
import Seeded

/// A cluster of twill nodes and others under one clock: everything that befalls it is drawn from a seed.
final class ClusterScenario {
    private let api = SimulatedAPI()
    private var random: SeededRandom
    private(set) var nodes: [SimulatedClusterNode] = []
    private var now = ContinuousClock.now
    /// What is to come, the next last.
    private var events: [(at: ContinuousClock.Instant, body: () -> Void)] = []
    private var nextSubnet = 0
    private var uids = 0
    private var addresses: UInt32 = 0
    private var isPeaceful = false
    private let names = (0..<4).map { "n\($0)" }
    private let strangers = (0..<4).map { "flannel\($0)" }

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        api.told = { [unowned self] event in for node in nodes { node.hear(event) } }
        for (index, name) in names.enumerated() {
            make(name)
            nodes.append(SimulatedClusterNode(name, index: index, scenario: self, kept: nil))
        }
        for name in strangers { make(name) }
    }

    // MARK: Time

    func after(_ delay: Duration, _ body: @escaping () -> Void) {
        let at = now + delay
        var (low, high) = (0, events.count)
        while low < high {
            let middle = (low + high) / 2
            if events[middle].at > at { low = middle + 1 } else { high = middle }
        }
        events.insert((at, body), at: low)
    }

    private func run(for duration: Duration) {
        let end = now + duration
        while let event = events.last, event.at <= end {
            events.removeLast()
            now = max(now, event.at)
            event.body()
        }
        now = end
    }

    var time: ContinuousClock.Instant { now }
    var version: Int { api.version }

    // MARK: What befalls the cluster

    private func make(_ name: String) {
        uids += 1
        nextSubnet += 1
        let cidr = "10.244.\(nextSubnet % 256).0/24"
        // Somebody's podCIDR is another's only after that one is gone.
        guard !api.nodes.values.contains(where: { $0.podCIDRs == [cidr] }) else { return make(name) }
        var record = NodeRecord(name: name, uid: "uid-\(uids)", podCIDRs: random.oneIn(6) ? [] : [cidr])
        if name.hasPrefix("flannel") { announce(&record) }
        api.put(record)
        if record.podCIDRs.isEmpty {
            after(.seconds(random.below(60))) { [self] in
                api.change(name) { if $0.podCIDRs.isEmpty { $0.podCIDRs = [cidr] } }
            }
        }
    }

    /// A node of flannel's announces something, now and then something odd.
    private func announce(_ record: inout NodeRecord) {
        record.annotations.isManaged = random.oneIn(8) ? nil : "true"
        record.annotations.backendType = random.oneIn(8) ? "vxlan" : ""
        record.annotations.backendData = random.oneIn(8) ? "{" : "null"
        let address = "198.18.\(9 + random.below(2)).\(100 + random.below(100))"
        record.annotations.publicIP =
            random.oneIn(6) ? random.one(of: ["", "rubbish", "127.0.0.1"]) : address
    }

    private func strike() {
        let name = random.one(of: names + strangers)
        switch random.below(13) {
        case 0: api.delete(name)
        case 1:
            if api.nodes[name] == nil { make(name) }
        case 2:
            api.delete(name)
            make(name)
        case 3: api.change(name) { $0.annotations.publicIP = nil }
        case 4: api.change(name) { $0.annotations = NodeAnnotations() }
        case 5: api.change(name) { $0.networkUnavailable = "True" }
        case 6:
            if let stranger = strangers.first(where: { $0 == name }) {
                api.change(stranger) { announce(&$0) }
            }
        case 7: api.compact()
        case 8:
            if random.oneIn(2) { return api.backUp() }
            api.restore()
            for node in nodes { node.cut(.unreachable) }
        case 9:
            api.isDown = true
            for node in nodes { node.cut(random.oneIn(3) ? nil : .unreachable) }
            after(.seconds(random.below(900))) { [self] in api.isDown = false }
        case 10: restart(random.below(nodes.count))
        case 11: nodes[random.below(nodes.count)].move()
        default: nodes[random.below(nodes.count)].deafen()
        }
    }

    private func restart(_ index: Int) {
        let kept = nodes[index].stop()
        nodes[index] = SimulatedClusterNode(names[index], index: index, scenario: self, kept: kept)
    }

    // MARK: What nodes ask

    /// Answers a request after a while, perhaps with a failure, perhaps never for long.
    func ask<Value>(
        _ body: @escaping (SimulatedAPI) -> Result<Value, APIFailure>,
        _ answer: @escaping (Result<Value, APIFailure>) -> Void
    ) {
        let delay = Duration.milliseconds(1 + random.below(isPeaceful ? 20 : 800))
        if !isPeaceful, random.oneIn(8) {
            let failure = random.one(of: [
                APIFailure(.unreachable, "reset"), APIFailure(.failed, "500: etcd"),
                APIFailure(.unauthorized, "401"),
                APIFailure(.throttled, "429", retryAfter: .seconds(2)), APIFailure(.malformed, "no JSON"),
                APIFailure(.forbidden, "403"),
            ])
            // It may have been done all the same.
            if random.oneIn(2) { _ = body(api) }
            return after(random.oneIn(4) ? .seconds(15) : delay) { answer(.failure(failure)) }
        }
        after(delay) { [self] in
            answer(api.isDown ? .failure(APIFailure(.unreachable, "refused")) : body(api))
        }
    }

    func randomDelay() -> Duration { .milliseconds(1 + random.below(isPeaceful ? 5 : 300)) }
    func randomLife() -> Duration { .seconds(isPeaceful ? 300 : 1 + random.below(300)) }
    func newAddress() -> IPv4Address {
        addresses += 1
        return IPv4Address(bits: IPv4Address(198, 18, 20, 0).bits + addresses)
    }

    // MARK: The story

    /// Lets things happen for hours, then leaves all in peace, and judges.
    ///
    /// - Returns: what is not as it should be.
    func run(hours: Int) -> [String] {
        for _ in 0..<(hours * 30) {
            run(for: .seconds(random.below(240)))
            strike()
        }
        isPeaceful = true
        api.isDown = false
        for name in names where api.nodes[name]?.podCIDRs.isEmpty ?? true {
            api.delete(name)
            make(name)
        }
        run(for: .seconds(900))
        return nodes.flatMap { judge($0) }
    }

    private func judge(_ node: SimulatedClusterNode) -> [String] {
        var faults: [String] = []
        let own = api.nodes[node.name]
        if node.lease?.subnet.ipv4 != own?.ipv4 {
            faults.append(
                "\(node.name) has \(String(describing: node.lease?.subnet)), and the API \(own?.podCIDRs ?? [])"
            )
        }
        if own?.annotations.publicIP != node.lease?.endpoint.address.description
            || own?.annotations.isManaged != "true"
        {
            faults.append("\(node.name) is announced as \(String(describing: own?.annotations))")
        }
        if own?.networkUnavailable != "False" { faults.append("\(node.name): the condition is not cleared") }
        if !node.network.isStoreConnected {
            faults.append("\(node.name) is not connected: \(node.network.conditions)")
        }
        let peers = Dictionary(
            uniqueKeysWithValues: node.network.peers.compactMap { peer in
                peer.subnet.ipv4.map { ($0, peer.endpoint) }
            })
        for other in api.nodes.values where other.name != node.name {
            guard let prefix = other.ipv4 else { continue }
            let annotations = other.annotations
            let isSound =
                annotations.isManaged == "true" && annotations.backendType == ""
                && annotations.backendData != "{"
                && annotations.publicIP?.hasPrefix("198.18.") ?? false
            if isSound, peers[prefix]?.address.description != annotations.publicIP {
                faults.append(
                    "\(node.name) sends \(prefix) to \(String(describing: peers[prefix])), not to \(other)")
            }
            if annotations.backendType == "vxlan", annotations.isManaged == "true", peers[prefix] != nil {
                faults.append("\(node.name) sends \(prefix) to a node of vxlan")
            }
        }
        let prefixes = Set(api.nodes.values.filter { $0.name != node.name }.compactMap(\.ipv4))
        for prefix in peers.keys where !prefixes.contains(prefix) {
            faults.append(
                "\(node.name) sends \(prefix) to \(String(describing: peers[prefix])), which is no node's")
        }
        return faults
    }
}

/// One twill node of the cluster: a machine, and what it asked for.
final class SimulatedClusterNode {
    let name: String
    private unowned let scenario: ClusterScenario
    private var machine: ClusterMachine
    private(set) var network = KnownNetwork()
    private(set) var lease: OwnLease?
    private(set) var requests = 0
    private var kept: KeptState?
    private var isRunning = true
    private var watch: (number: Int, hears: Bool)?
    private var wantedWatch: Int?
    /// When the last event of the watch arrives: they keep their order.
    private var lastArrival: ContinuousClock.Instant
    private var wakeNumber = 0

    init(_ name: String, index: Int, scenario: ClusterScenario, kept: KeptState?) {
        self.name = name
        self.scenario = scenario
        self.kept = kept
        let settings = ClusterMachine.Settings(
            apiName: "https://api", nodeName: name, keys: keys, networkConfigurationPath: "net-conf.json",
            keptPath: "kept")
        lastArrival = scenario.time
        machine = ClusterMachine(settings: settings, seed: UInt64(index), now: scenario.time)
        feed(.timer, .kept(kept), .networkFile(.text(networkText)), .networkStands(true))
        move()
    }

    /// Another address.
    func move() { feed(.announce(NodeAnnouncement(publicAddress: scenario.newAddress()))) }

    func stop() -> KeptState? {
        isRunning = false
        return kept
    }

    /// The watch goes on, and says nothing any more.
    func deafen() { watch?.hears = false }

    /// The watch ends; nil: as it should.
    func cut(_ kind: APIFailure.Kind?) {
        guard let number = watch?.number else { return }
        watch = nil
        feed(.watchEnded(kind.map { APIFailure($0, "cut") }, watch: number))
    }

    func hear(_ event: WatchEvent) {
        guard let watch, watch.hears else { return }
        lastArrival = max(lastArrival, scenario.time + scenario.randomDelay())
        scenario.after(lastArrival - scenario.time) { [weak self] in self?.told([event], watch.number) }
    }

    private func told(_ events: [WatchEvent], _ number: Int) {
        guard watch?.number == number, watch?.hears ?? false else { return }
        feed(.events(events, watch: number))
    }

    private func feed(_ inputs: ClusterMachine.Input...) {
        guard isRunning else { return }
        for action in machine.handle(inputs, now: scenario.time) { take(action) }
    }

    private func take(_ action: ClusterMachine.Action) {
        switch action {
        case .readOwnNode:
            scenario.ask({ [name] in $0.node(name) }, { [weak self] in self?.feed(.ownNode($0)) })
        case .list(let version, let token):
            scenario.ask({ $0.page(version, continuing: token) }, { [weak self] in self?.feed(.page($0)) })
        case .patch(let patch):
            requests += 1
            scenario.ask(
                { [name] in $0.patch(patch, node: name) }, { [weak self] in self?.feed(.patched($0)) })
        case .watch(let version, let number, _):
            begin(after: Int(version) ?? 0, number: number)
        case .endWatch:
            watch = nil
            wantedWatch = nil
        case .wake(let instant):
            wakeNumber += 1
            scenario.after(max(.zero, instant - scenario.time)) { [weak self, wakeNumber] in
                if self?.wakeNumber == wakeNumber { self?.feed(.timer) }
            }
        case .publish(let network): self.network = network
        case .assign(let lease): self.lease = lease
        case .keep(let state): kept = state
        case .readPod, .request, .report, .end: break
        }
    }

    private func begin(after version: Int, number: Int) {
        watch = nil
        wantedWatch = number
        scenario.ask({ $0.since(version) }) { [weak self] result in
            guard let self, wantedWatch == number else { return }
            switch result {
            case .failure(let failure) where failure.kind == .gone:
                feed(.watchOpened(watch: number), .events([.failed(failure)], watch: number))
            case .failure(let failure): feed(.watchEnded(failure, watch: number))
            case .success(let events):
                watch = (number, events != nil)
                feed(.watchOpened(watch: number))
                if let events, !events.isEmpty { told(events, number) }
                scenario.after(scenario.randomLife()) { [weak self] in
                    // A watch that hears nothing does not even end.
                    if self?.watch?.number == number, self?.watch?.hears ?? false { self?.cut(nil) }
                }
                bookmark(number)
            }
        }
    }

    private func bookmark(_ number: Int) {
        scenario.after(.seconds(60)) { [weak self] in
            guard let self, watch?.number == number else { return }
            hear(.bookmark(version: "\(scenario.version)"))
            bookmark(number)
        }
    }
}
