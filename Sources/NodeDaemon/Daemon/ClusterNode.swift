import Addresses
import KubernetesNodes
import Leases
import Node
import Synchronization

/// A node whose cluster assigns its subnet. The cluster is asked first, since the node's annotations may name the
/// underlay; what it says of itself meanwhile is seen from outside, and the daemon gets all of it.
struct ClusterNode {
    private let cluster: any AssigningCluster
    private let parts: Parts
    private let underlay: UnderlayOptions
    private let relay: ClusterRelay

    /// - Parameter underlay: `--public-ip` and `--public-ipv6`, for as long as no annotation says otherwise.
    init(_ cluster: any AssigningCluster, _ parts: Parts, _ underlay: UnderlayOptions) {
        self.cluster = cluster
        self.parts = parts
        self.underlay = underlay
        relay = ClusterRelay(cluster)
    }

    /// Runs the node until the task is cancelled.
    ///
    /// - Parameter makeDaemon: chooses an underlay, and makes the daemon for it.
    /// - Throws: what keeps the node from starting, or `LeaseLost`.
    func run(_ makeDaemon: @escaping @Sendable () async throws -> Daemon) async throws {
        let (cluster, relay, parts) = (cluster, relay, parts)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await cluster.run() }
            group.addTask {
                for await network in cluster.networks { relay.take(network, parts.seen) }
                try await ClusterNode.waitForEnd()
            }
            group.addTask {
                // The daemon asks for heartbeats once there is one.
                while !relay.isTaken {
                    await cluster.poke()
                    try await Task.sleep(for: Heartbeats.interval)
                }
                try await ClusterNode.waitForEnd()
            }
            group.addTask { try await runDaemon(makeDaemon) }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func runDaemon(_ makeDaemon: @escaping @Sendable () async throws -> Daemon) async throws {
        parts.report("waiting for the cluster to tell of this node", isSetUp: false)
        for await requests in cluster.addressRequests {
            await follow(requests)
            break
        }
        let daemon = try await makeDaemon()
        await cluster.announce(await daemon.announcement)
        relay.isTaken = true
        let cluster = cluster
        try await daemon.run(
            peersFrom: relay, subnetFrom: cluster,
            tellingWhetherItStands: { await cluster.setNetworkStands($0) },
            by: {
                for await requests in cluster.addressRequests { await follow(requests) }
                // What ends the cluster's client ends the node, and says why.
                try await ClusterNode.waitForEnd()
            })
    }

    private func follow(_ requests: NodeAddressRequests) async {
        await parts.node.follow(
            publicAddress: requests.nodePublicIP ?? underlay.publicAddress,
            announcedAddress: requests.publicIPOverwrite,
            publicIPv6Address: requests.nodePublicIPv6 ?? underlay.publicIPv6Address,
            announcedIPv6Address: requests.publicIPv6Overwrite)
    }

    /// Waits until the task is cancelled.
    private static func waitForEnd() async throws {
        while true { try await Task.sleep(for: .seconds(86_400)) }
    }
}

/// Hands on what a cluster says of the network, and tells it to whoever asks while there is no daemon that does.
private final class ClusterRelay: PeerSource {
    let networks: AsyncStream<KnownNetwork>
    private let continuation: AsyncStream<KnownNetwork>.Continuation
    private let cluster: any AssigningCluster
    private let hasDaemon = Mutex(false)

    init(_ cluster: any AssigningCluster) {
        self.cluster = cluster
        (networks, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    /// Whether there is a daemon, which tells all of it itself.
    var isTaken: Bool {
        get { hasDaemon.withLock { $0 } }
        set { hasDaemon.withLock { $0 = newValue } }
    }

    func take(_ network: KnownNetwork, _ seen: Observation) {
        if !isTaken { seen.update(PeerTable(network, ownLease: nil)) }
        continuation.yield(network)
    }

    func poke() async { await cluster.poke() }
}
