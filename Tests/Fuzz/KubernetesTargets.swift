import JSON
import KubernetesNodes
import Leases

/// The names that flannel's daemons use.
private let annotationKeys: AnnotationKeys = {
    guard let keys = try? AnnotationKeys(prefix: "flannel.alpha.coreos.com") else { fatalError("no keys") }
    return keys
}()

private let nodeSeed = """
    {"kind":"Node","metadata":{"name":"n1","uid":"u","resourceVersion":"7","annotations":{
    "flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/backend-type":"",
    "flannel.alpha.coreos.com/backend-data":"{\\"Port\\":9000}","flannel.alpha.coreos.com/public-ip":"198.18.9.2"}},
    "spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24","fd00::/64"]},
    "status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}],"images":[{"names":["a"],"sizeBytes":1}]}}
    """

private let oddWords = [
    "\"metadata\":", "\"spec\":", "\"status\":", "\"items\":[", "\"podCIDR\":\"0.0.0.0/0\"",
    "\"10.244.0.0/33\"",
    "flannel.alpha.coreos.com/public-ip\":\"127.0.0.1\"", "\\u0000", "\\ud800", "{", "}", "[", "]", "null",
    "\"\"",
    "{\"type\":\"DELETED\",\"object\":", "{\"type\":\"ERROR\",\"object\":{\"code\":410}}",
    "\"continue\":\"x\"",
].map { Array($0.utf8) }

/// What a watch and a list bring, in pieces, and what a node makes of it.
final class KubernetesStreamTarget: FuzzTarget {
    let maximumBytes = 4096
    let words = oddWords
    private let cluster = FuzzedCluster()

    var seeds: [[UInt8]] {
        [
            Array(
                "\u{7}{\"type\":\"ADDED\",\"object\":\(nodeSeed)}\n{\"type\":\"BOOKMARK\",\"object\":{}}".utf8
            ),
            Array(
                "\u{40}{\"kind\":\"NodeList\",\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[\(nodeSeed)]}"
                    .utf8),
        ]
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let length = max(1, Int(bytes.first ?? 1))
        let text = Array(bytes.dropFirst())
        var sequence = JSONSplitter(.sequence)
        var list = JSONSplitter(.elements(of: "items"))
        var events: [WatchEvent] = []
        for start in stride(from: 0, to: text.count, by: length) {
            let piece = Array(text[start..<min(start + length, text.count)])
            for object in (try? sequence.take(piece)) ?? [] {
                let event = try? WatchEvent(reading: object, keys: annotationKeys)
                if let event = event.flatMap({ $0 }) { events.append(event) }
            }
            for object in (try? list.take(piece)) ?? [] {
                guard
                    let record = (try? APIObject(reading: object, keys: annotationKeys)).flatMap({
                        NodeRecord($0)
                    })
                else { continue }
                try hold(Self.again(record) == record, "\(record) reads as another")
            }
        }
        // Where the pieces end makes no difference.
        var whole = JSONSplitter(.sequence)
        var count = 0
        for object in (try? whole.take(text)) ?? [] {
            let event = try? WatchEvent(reading: object, keys: annotationKeys)
            if event.flatMap({ $0 }) != nil { count += 1 }
        }
        if sequence.isComplete, whole.isComplete {
            try hold(count <= events.count, "\(count) events as a whole, \(events.count) in pieces")
        }
        try cluster.take(events)
    }

    private static func again(_ record: NodeRecord) -> NodeRecord? {
        let text = Array(record.json(keys: annotationKeys).utf8)
        return (try? APIObject(reading: text, keys: annotationKeys)).flatMap { NodeRecord($0) }
    }
}

/// A machine that hears whatever there is, and never sends outside of its network.
private final class FuzzedCluster {
    private var machine: ClusterMachine
    private let now = ContinuousClock.now
    private var watchNumber = 0
    private var count = 0

    init() {
        machine = FuzzedCluster.makeMachine(now)
        begin()
    }

    private static func makeMachine(_ now: ContinuousClock.Instant) -> ClusterMachine {
        ClusterMachine(
            settings: ClusterMachine.Settings(
                apiName: "https://api", nodeName: "own", keys: annotationKeys,
                networkConfigurationPath: "net-conf.json", keptPath: "kept"), seed: 1, now: now)
    }

    private func begin() {
        let own = NodeRecord(name: "own", uid: "u", resourceVersion: "1", podCIDRs: ["10.244.0.0/24"])
        _ = machine.handle(
            [.kept(nil), .networkFile(.text(#"{"Network":"10.244.0.0/16"}"#))], now: now)
        _ = machine.handle([.ownNode(.success(own))], now: now)
        let page = NodePage(nodes: [own], version: "1")
        for action in machine.handle([.page(.success(page))], now: now) {
            if case .watch(_, let number, _) = action { watchNumber = number }
        }
    }

    func take(_ events: [WatchEvent]) throws(FuzzFailure) {
        count += 1
        if count.isMultiple(of: 200) {
            machine = Self.makeMachine(now)
            begin()
        }
        for action in machine.handle([.events(events, watch: watchNumber)], now: now) {
            if case .watch(_, let number, _) = action { watchNumber = number }
            guard case .publish(let network) = action else { continue }
            for (left, right) in zip(network.peers, network.peers.dropFirst()) {
                try hold(!left.subnet.overlaps(right.subnet), "\(left) and \(right) overlap")
            }
            for peer in network.peers {
                try hold(
                    peer.subnet.prefixes.allSatisfy { prefix in
                        network.configuration?.networks.contains { $0.contains(prefix) } ?? false
                    }, "\(peer) lies outside"
                )
            }
        }
    }
}

/// Kubeconfigs, and what was kept on disk.
final class KubeconfigTarget: FuzzTarget {
    let maximumBytes = 4096
    let words =
        [
            "exec:", "&a ", "*a", "- ", ": ", "\n  ", "? ", "!!binary ", "|\n", ">-\n", "---\n", "{", "}",
            "[",
            "server: https://[::1]:1\n", "certificate-authority-data: QUJD\n", "current-context: x\n",
        ].map { Array($0.utf8) }

    var seeds: [[UInt8]] {
        let yaml = """
            current-context: x
            clusters:
            - {name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: ca.crt}}
            contexts:
            - name: x
              context: {cluster: c, user: u}
            users:
            - name: u
              user:
                token: abc
            """
        let state = KeptState(
            nodeName: "own", written: 7, configuration: #"{"Network":"10.244.0.0/16"}"#,
            own: NodeRecord(name: "own", uid: "u", podCIDRs: ["10.244.0.0/24"]),
            nodes: [NodeRecord(name: "a", uid: "v", podCIDRs: ["10.244.1.0/24"])])
        return [Array(yaml.utf8), Array(state.text(keys: annotationKeys).utf8)]
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        if let server = try? APIAccess(kubeconfig: bytes, path: "/etc/kubeconfig").server {
            try hold(!server.host.isEmpty && server.port > 0, "\(server)")
            let again = try? APIServerAddress(url: server.description, origin: "x")
            try hold(again == server, "\(server) reads as another")
        }
        if let state = KeptState(reading: bytes, keys: annotationKeys) {
            let again = KeptState(reading: Array(state.text(keys: annotationKeys).utf8), keys: annotationKeys)
            try hold(again == state, "what was kept reads as another")
        }
    }
}
