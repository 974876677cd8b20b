package import Leases

/// A cluster that assigns a subnet to each of its nodes, as a node sees it: the source of its peers, and of its own subnet.
/// `KubernetesCluster` is one; the daemon knows no more of it than this.
///
/// It is run before an underlay is chosen, since `addressRequests` may choose it. Nothing is written to it before `announce`.
package protocol AssigningCluster: PeerSource, SubnetClaim {
    /// How the log and the status name it.
    var name: String { get }

    /// What it asks of this node's addresses, each time that it is something else. A slow reader gets the newest only.
    /// One reader.
    var addressRequests: AsyncStream<NodeAddressRequests> { get }

    /// Follows the cluster until the task is cancelled. Once only.
    ///
    /// - Throws: `LeaseLost` where this node's subnet became another one and it is to end then.
    func run() async throws(LeaseLost)

    /// Says whether device, routes, rules and `subnet.env` stand.
    func setNetworkStands(_ stands: Bool) async
}
