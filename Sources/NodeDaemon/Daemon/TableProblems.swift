import Addresses
import Forwarding
import Health
import Leases

/// What is wrong with this node's lease and with other nodes' entries, as far as it follows from a table and
/// the time.
enum TableProblems {
    /// So many entries are named one by one; the others are counted.
    private static let namedLimit = 20
    /// So many subnets stand in one sentence.
    private static let listedLimit = 5
    /// How long before its end a lease is a problem, at most.
    private static let expiryNotice = Duration.seconds(1800)

    /// The entries that no packet is sent to, by the component that each is.
    ///
    /// - Parameter isCluster: whether they are a cluster's nodes, and not leases.
    static func skipped(_ skipped: [SkippedLease], isCluster: Bool) -> [Component: Problem] {
        var problems: [Component: Problem] = [:]
        for entry in skipped.prefix(namedLimit) {
            problems[Component(.peer, entry.key.printable)] =
                isCluster
                ? Problem(
                    .degraded, "no packet is sent to the node \(entry.key): \(entry.reason)",
                    remedy: "look at it (kubectl describe node), and at the network pod that runs on it")
                : Problem(
                    .degraded, "no packet is sent by the lease \(entry.key): \(entry.reason)",
                    remedy: "correct it, or release it: twilld lease list")
        }
        if skipped.count > namedLimit {
            let count = skipped.count - namedLimit
            problems[Component(.peer, "others")] = Problem(
                .degraded,
                isCluster
                    ? "no packet is sent to \(count) more nodes"
                    : "no packet is sent by \(count) more leases",
                remedy: "twilld status names each under skipped")
        }
        return problems
    }

    /// More nodes than packets can be sent to.
    static func tooMany(
        peers count: Int, isCluster: Bool, limit: Int = ForwardingSnapshot.peerLimit
    ) -> Problem? {
        guard count > limit else { return nil }
        return Problem(
            .degraded,
            "\(count) other nodes have \(isCluster ? "subnets" : "leases"), and twilld sends to \(limit) of them at most: the last "
                + "by subnet get nothing",
            remedy: isCluster
                ? "delete the nodes that are gone: kubectl get nodes"
                : "release leases of nodes that are gone: twilld lease list")
    }

    /// A port of this node's own, among nodes that do not read it in its lease.
    ///
    /// - Parameters:
    ///   - port: what `--port` says; nil where it was not given.
    ///   - networkPort: what the network's configuration says.
    static func ownPort(_ port: UInt16?, networkPort: UInt16, _ peers: [Peer]) -> Problem? {
        guard let port, port != networkPort else { return nil }
        let others = peers.filter { !$0.isTwill }
        guard !others.isEmpty else { return nil }
        let names = others.prefix(listedLimit).map { "\($0.subnet)" }.joined(separator: ", ")
        let rest = others.count > listedLimit ? " and \(others.count - listedLimit) more" : ""
        return Problem(
            .degraded,
            "the nodes of \(names)\(rest) seem to run flanneld, which sends to port \(networkPort) "
                + "whatever this node announces, and "
                + "this node receives on \(port) (--port): nothing from them arrives",
            remedy: "give no --port among flanneld nodes, or change Backend.Port of the whole network")
    }

    /// A lease that ends soon and is not renewed, or has ended.
    ///
    /// - Parameter margin: how long before its end a lease is renewed.
    static func expiry(
        of lease: OwnLease?, margin: Duration, now: ContinuousClock.Instant
    ) -> Problem? {
        guard let lease, let expiry = lease.expiry else { return nil }
        let left = expiry - now
        guard left > .zero else {
            return Problem(
                .cutOff,
                "this node's lease of \(lease.subnet) has ended: other nodes send it nothing more, and "
                    + "one may take the "
                    + "subnet",
                remedy: "bring the lease store back; the lease is registered again by itself")
        }
        guard left < min(expiryNotice, margin / 2) else { return nil }
        return Problem(
            .degraded,
            "this node's lease of \(lease.subnet) ends in \(left.components.seconds / 60 + 1) minutes, "
                + "and could not be renewed: "
                + "then other nodes send it nothing more",
            remedy: "bring the lease store back before that")
    }
}
