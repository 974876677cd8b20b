import Addresses
import Health
import KubernetesNodes
import Leases

let keys = AnnotationKeys.usual

extension AnnotationKeys {
    static var usual: AnnotationKeys {
        guard let keys = try? AnnotationKeys(prefix: "flannel.alpha.coreos.com") else {
            fatalError("no keys")
        }
        return keys
    }
}

let networkText = #"{"Network":"10.244.0.0/16"}"#

/// A Node as flannel's daemon on it leaves it; without an address, as the kubelet made it.
func node(
    _ name: String, _ cidr: String?, at address: String? = nil, uid: String? = nil, version: Int = 1,
    type: String = "", data: String = "null"
) -> NodeRecord {
    var annotations = NodeAnnotations()
    if let address {
        annotations.isManaged = "true"
        annotations.backendType = type
        annotations.backendData = data
        annotations.publicIP = address
    }
    return NodeRecord(
        name: name, uid: uid ?? "uid-\(name)", resourceVersion: "\(version)",
        podCIDRs: cidr.map { [$0] } ?? [],
        annotations: annotations)
}

/// A machine under a clock of its own, with what it said last.
final class MachineHarness {
    var machine: ClusterMachine
    var now = ContinuousClock.now
    var network = KnownNetwork()
    var lease: OwnLease?
    var requests: NodeAddressRequests?
    var kept: [KeptState] = []
    var reports: [LeaseReport] = []
    var end: String?
    var wake: ContinuousClock.Instant?
    private var nextBookmark = ContinuousClock.now + .seconds(60)
    /// What was asked for last and is not answered.
    var reading: ClusterMachine.Action?
    var patch: NodePatch?
    var watch: (after: String, number: Int)?
    var watchNumber = 0
    var counts: [String: Int] = [:]

    init(
        name: String? = "own", lossPolicy: LeaseOptions.LossPolicy = .reacquire, setsCondition: Bool = true,
        seed: UInt64 = 1
    ) {
        let settings = ClusterMachine.Settings(
            apiName: "https://10.96.0.1:443", nodeName: name, keys: keys,
            networkConfigurationPath: "/etc/kube-flannel/net-conf.json", keptPath: "/state/kubernetes.json",
            setsNodeNetworkUnavailable: setsCondition, lossPolicy: lossPolicy)
        machine = ClusterMachine(settings: settings, seed: seed, now: now)
    }

    func feed(_ inputs: ClusterMachine.Input...) {
        wake = nil
        for action in machine.handle(inputs, now: now) { take(action) }
    }

    private func take(_ action: ClusterMachine.Action) {
        switch action {
        case .readPod, .readOwnNode, .list:
            reading = action
            counts["\(action)".prefix { $0 != "(" }.description, default: 0] += 1
        case .watch(let version, let number, _):
            watch = (version, number)
            watchNumber = number
            counts["watch", default: 0] += 1
        case .endWatch: watch = nil
        case .patch(let patch):
            self.patch = patch
            counts["patch", default: 0] += 1
        case .wake(let instant): wake = instant
        case .publish(let network): self.network = network
        case .assign(let lease): self.lease = lease
        case .request(let requests): self.requests = requests
        case .keep(let state): kept.append(state)
        case .report(let report): reports.append(report)
        case .end(let reason): end = reason
        }
    }

    /// Lets time go by, with a timer each time that one was asked for, and a bookmark each minute.
    func pass(_ duration: Duration, inSilence: Bool = false) {
        let until = now + duration
        while let next = [wake, inSilence || watch == nil ? nil : nextBookmark].compactMap({ $0 }).min(),
            next <= until
        {
            now = max(now, next)
            if let watch, !inSilence, nextBookmark <= now {
                nextBookmark = now + .seconds(60)
                tell(.bookmark(version: watch.after))
            } else {
                feed(.timer)
            }
        }
        now = until
        feed(.timer)
    }

    /// Answers what is being read, as long as something is.
    func answer(own: Result<NodeRecord, APIFailure>, list: Result<NodePage, APIFailure>) {
        while let asked = reading {
            reading = nil
            if asked == .readOwnNode { feed(.ownNode(own)) } else { feed(.page(list)) }
        }
    }

    /// Fails everything that is being read, as long as something is.
    func fail(_ failure: APIFailure) { answer(own: .failure(failure), list: .failure(failure)) }

    /// Tells the machine of a node as the watch does.
    func tell(_ events: WatchEvent...) { feed(.events(events, watch: watchNumber)) }

    /// Answers the patch that is under way as the API server does that has this node.
    func answerPatch(of record: NodeRecord, version: Int) -> NodeRecord {
        var record = record
        if let annotations = patch?.annotations {
            record.annotations.isManaged = annotations.isManaged
            record.annotations.backendType = annotations.backendType
            record.annotations.backendData = annotations.backendData
            record.annotations.publicIP = annotations.publicIP
        }
        if patch?.clearsNetworkUnavailable ?? false { record.networkUnavailable = "False" }
        record.resourceVersion = "\(version)"
        patch = nil
        feed(.patched(.success(record)))
        return record
    }

    /// Starts a node with a cluster that answers.
    ///
    /// - Returns: this node's object after its annotations were written.
    @discardableResult
    func start(
        own: NodeRecord = node("own", "10.244.0.0/24"), others: [NodeRecord] = [],
        network: String = networkText
    ) -> NodeRecord {
        feed(.timer, .kept(nil), .networkFile(.text(network)))
        feed(.ownNode(.success(own)))
        feed(.page(.success(NodePage(nodes: [own] + others, version: "10"))))
        feed(.watchOpened(watch: watchNumber))
        feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        return patch == nil ? own : answerPatch(of: own, version: 11)
    }

    var peers: [String] { network.peers.map { "\($0.subnet) \($0.endpoint)" } }
    func problem(_ kind: Component.Kind, _ subject: String = "") -> Problem? {
        network.conditions[Component(kind, subject)]
    }
    func events(_ event: EventName) -> [LeaseReport] { reports.filter { $0.event == event } }
}
