import Addresses

/// The paths to the peers, for as long as they may be narrower than the underlay's interface.
struct FollowedPaths {
    let interfaceName: String
    /// Each peer's underlay address by its subnet.
    let peers: [IPv4Prefix: IPv4Address]

    /// The routes for the peers whose path is narrower than the underlay, by subnet, out of what the kernel learnt.
    func narrow(learnt: [IPv4Address: Int], underlayMTU: Int) -> [NarrowPathRoute] {
        if learnt.isEmpty { return [] }
        return peers.compactMap { subnet, address in
            guard let mtu = learnt[address], mtu < underlayMTU else { return nil }
            return NarrowPathRoute(
                interfaceName: interfaceName, subnet: subnet, mtu: mtu - TunnelMTU.overhead)
        }
        .sorted { $0.subnet < $1.subnet }
    }
}
