import Counters
import Forwarding

/// What data planes have counted before the one that goes on with it.
public struct DataPlaneTotals: Sendable {
    /// Counters and histograms; fallbacks are not among them, which each data plane finds out for itself.
    public var counters: CounterTotals
    /// What was carried to and from each peer.
    public var peers: PeerTotals
    /// What the kernel's own counts were.
    public var kernel: KernelDrops.Seen

    /// Makes totals; without more, nothing was counted.
    public init(
        counters: CounterTotals = CounterTotals([]), peers: PeerTotals = PeerTotals(),
        kernel: KernelDrops.Seen = KernelDrops.Seen()
    ) {
        self.counters = counters
        self.peers = peers
        self.kernel = kernel
    }
}

extension PeerTotals {
    /// These, with what was carried before.
    func continuing(_ before: PeerTotals) -> PeerTotals {
        var totals = self
        for (subnets, counts) in before.peers { totals.peers[subnets]?.add(counts) }
        totals.others.add(before.others)
        return totals
    }
}
