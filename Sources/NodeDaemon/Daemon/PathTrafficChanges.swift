import Addresses
import Counters
import Node
import Worker

/// Notices to and from which peers something was carried, so that the others cost nothing.
struct PathTrafficChanges {
    private var before: [IPv4Prefix: PathTraffic] = [:]

    /// What was carried to and from those peers where it is not what it was the last time.
    mutating func news(in totals: PeerTotals) -> [IPv4Prefix: PathTraffic] {
        var news: [IPv4Prefix: PathTraffic] = [:]
        var now: [IPv4Prefix: PathTraffic] = [:]
        now.reserveCapacity(totals.peers.count)
        for (subnets, counts) in totals.peers {
            guard let subnet = subnets.ipv4 else { continue }
            let traffic = PathTraffic(sentBytes: counts.bytesSent, receivedPackets: counts.packetsReceived)
            now[subnet] = traffic
            if before[subnet] != traffic { news[subnet] = traffic }
        }
        before = now
        return news
    }
}
