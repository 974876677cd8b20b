package import KubernetesNodes
package import Leases
package import Logging

/// A Kubernetes cluster: its nodes are the peers, and this node's subnet is its `podCIDR`.
///
/// Made first of all, and run before an underlay is chosen, since `addressRequests` may choose it. Nothing is written
/// to the API server before `announce`.
package actor KubernetesCluster: PeerSource, SubnetClaim {
    /// What is known of the network, as it changes.
    package nonisolated let networks: AsyncStream<KnownNetwork>
    /// This node's subnet, as it changes.
    package nonisolated let subnets: AsyncStream<OwnLease?>
    /// What this node's annotations ask of its addresses, each time that it is something else, the first time as soon
    /// as it is known: from the API server, or from what was kept on disk where that does not answer. A slow reader
    /// gets the newest only. One reader.
    package nonisolated let addressRequests: AsyncStream<NodeAddressRequests>
    /// How the log and the status name it: `Kubernetes, https://10.96.0.1:443`.
    package nonisolated let name: String

    private let networksContinuation: AsyncStream<KnownNetwork>.Continuation
    private let subnetsContinuation: AsyncStream<OwnLease?>.Continuation
    private let requestsContinuation: AsyncStream<NodeAddressRequests>.Continuation

    /// Makes a cluster's client; nothing is asked before `run`. Reads the kubeconfig, so it blocks for as long as
    /// that file's disk does.
    ///
    /// - Parameters:
    ///   - logger: takes one line for each event, with stable field names.
    ///   - heartbeat: called each time that everything that had happened was dealt with.
    /// - Throws: why no cluster can be reached by these options.
    package init(
        options: KubernetesOptions, logger: Logger, heartbeat: @escaping @Sendable () -> Void = {}
    ) throws(KubernetesOptionsError) {
        (networks, networksContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (subnets, subnetsContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (addressRequests, requestsContinuation) = AsyncStream.makeStream(
            bufferingPolicy: .bufferingNewest(1))
        name = "Kubernetes"
    }

    /// Follows the cluster until the task is cancelled; this node's annotations stay. Once only.
    ///
    /// - Throws: `LeaseLost` where this node's podCIDR became another one, with the policy `exit` only. Whatever the
    ///   API server does ends nothing.
    package func run() async throws(LeaseLost) {}

    /// Writes another address or port of this node into its annotations from now on.
    package func announce(_ announcement: NodeAnnouncement) async {}

    /// Asks for a heartbeat.
    package func poke() async {}

    /// Says whether device, routes, rules and `subnet.env` stand. From the first time that they do on, the node's
    /// condition `NetworkUnavailable` is made false, and made so again where somebody else changes it.
    package func setNetworkStands(_ stands: Bool) {}
}
