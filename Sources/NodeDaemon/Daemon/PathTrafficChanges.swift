import Addresses
import Counters
import Node
import Worker

/// Notices to and from which peers something was carried, so that the others cost nothing.
struct PathTrafficChanges {
    private var before: [IPPrefix: PathTraffic] = [:]

    /// What was carried to and from those peers where it is not what it was the last time.
    ///
    /// - Returns: by the first prefix of each.
    mutating func news(in totals: PeerTotals) -> [IPPrefix: PathTraffic] {
        var news: [IPPrefix: PathTraffic] = [:]
        var now: [IPPrefix: PathTraffic] = [:]
        now.reserveCapacity(totals.peers.count)
        for (subnets, counts) in totals.peers {
            guard let subnet = subnets.ipv4.map(IPPrefix.v4) ?? subnets.ipv6.map(IPPrefix.v6) else {
                continue
            }
            let traffic = PathTraffic(sentBytes: counts.bytesSent, receivedPackets: counts.packetsReceived)
            now[subnet] = traffic
            if before[subnet] != traffic { news[subnet] = traffic }
        }
        before = now
        return news
    }
}
