import Addresses
import Glibc

/// Whether the bridge has an address of a subnet that this node had before: `bridge` then refuses every ADD, and says
/// neither why nor what to do.
enum BridgeAddresses {
    /// The sentence, which the daemon says too; nil where every address of the bridge is of this node's subnets.
    static func fault(of bridge: String, subnets: [IPPrefix]) -> CNIError? {
        for (address, length) in addresses(of: bridge) {
            for case .v4(let subnet) in subnets where !subnet.contains(address) {
                return CNIError(
                    .foreignBridge,
                    """
                    \(bridge) has the address \(address)/\(length), which is outside of this node's subnet \
                    \(subnet): run twilld cleanup --cni, then restart the pods
                    """)
            }
        }
        return nil
    }

    private static func addresses(of bridge: String) -> [(IPv4Address, Int)] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return [] }
        defer { freeifaddrs(first) }
        var found: [(IPv4Address, Int)] = []
        var next = first
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard entry.ifa_name.map({ String(cString: $0) }) == bridge, let name = entry.ifa_addr,
                let mask = entry.ifa_netmask, name.pointee.sa_family == UInt16(truncatingIfNeeded: AF_INET),
                case .v4(let address)? = IPAddress(socketName: name),
                case .v4(let bits)? = ipv4(mask)
            else { continue }
            found.append((address, bits.bits.nonzeroBitCount))
        }
        return found
    }

    /// The kernel leaves a mask's family out on some interfaces.
    private static func ipv4(_ mask: UnsafeMutablePointer<sockaddr>) -> IPAddress? {
        mask.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
            .v4(IPv4Address(networkBytes: $0.pointee.sin_addr.s_addr))
        }
    }
}
