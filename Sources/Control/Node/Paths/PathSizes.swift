import Addresses

/// Which sizes are tried on a path. All are inner packets' in bytes, headers included, unless said otherwise.
enum PathSizes {
    /// The smallest probe: the header of IPv4 or IPv6, UDP's, and eight bytes by which its answer is known again.
    static func smallest(_ family: AddressFamily) -> Int { family == .ipv4 ? 36 : 56 }

    /// The least that a route is given: what every IPv4 link carries (RFC 791, section 3.2). Whatever an operator or
    /// a search says, the kernel gets no less.
    static let leastOfRoute = 68

    /// A search ends when what passes and what does not are no further apart. Four bytes are 0.3 % of a full packet.
    static let resolution = 4

    /// How many sizes are tried beside each other: with nine parts each time, three rounds find one of the usual
    /// sizes among them all, and one more the exact one.
    static let perRound = 8

    /// The least MTU of a path, outer, that is taken from an ICMP error alone, where the peer answers no probe that
    /// could prove it: IPv6 asks as much of every link (RFC 8200, section 5), so that real paths have it, and a
    /// forged error costs 15 % of a full packet at most.
    static let leastBelieved = 1280

    /// The MTUs that paths have, outer: Ethernet and its jumbo frames, FDDI, and 1500 less what VPNs, PPPoE and
    /// tunnels in tunnels take; below 1280 in coarse steps (RFC 1191, section 7.1).
    private static let usual = [
        68, 128, 296, 508, 552, 576, 620, 700, 800, 900, 1006, 1100, 1200, 1240, 1260, 1280, 1300, 1320, 1340,
        1350,
        1360, 1370, 1380, 1390, 1400, 1410, 1420, 1430, 1440, 1450, 1460, 1472, 1480, 1492, 1500, 1600, 2002,
        2304,
        3000, 4000, 4352, 4470, 6000, 8000, 8192, 8500, 8872, 8942, 8951, 8972, 8981, 9000, 9001, 9198, 9216,
    ]

    /// What to try between a size that passes and one that does not, the largest first; empty where they are so close
    /// that the search is over.
    ///
    /// - Parameters:
    ///   - overhead: the bytes that the outer headers of a packet take.
    ///   - hint: what an ICMP error told; if it is true, trying it and a little more ends the search at once.
    static func candidates(above floor: Int, below ceiling: Int, overhead: Int, hint: Int?) -> [Int] {
        guard ceiling - floor > resolution else { return [] }
        var sizes: Set<Int> = []
        let known = usual.map { $0 - overhead }.filter { $0 > floor && $0 < ceiling }
        if known.isEmpty {
            let step = max(resolution, (ceiling - floor + perRound) / (perRound + 1))
            sizes.formUnion(stride(from: floor + step, to: ceiling, by: step))
        } else if known.count <= perRound {
            sizes.formUnion(known)
        } else {
            for part in 1...perRound { sizes.insert(known[part * known.count / (perRound + 1)]) }
        }
        if let hint {
            sizes.formUnion([hint, hint + resolution].filter { $0 > floor && $0 < ceiling })
        }
        return sizes.sorted(by: >)
    }
}
