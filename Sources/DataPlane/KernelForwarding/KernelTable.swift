import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// Who holds which inner IPv4 address, as the programs look it up: one publication's routes in a map, which does not change
/// after it was built.
enum KernelTable {
    /// Makes the map of one publication.
    ///
    /// - Parameter routes: with the slot of each peer's counters. Where two peers hold the same prefix the later one wins, as
    ///   in a `ForwardingSnapshot`; one that this node holds as well is left to the ring.
    /// - Throws: `KernelProgramError` where the kernel has no memory for it.
    static func build(_ routes: ForwardingRoutes) throws(KernelProgramError) -> KernelMap {
        let holders = holders(routes)
        let map = try empty(entryLimit: max(holders.count, 1))
        for (prefix, holder) in holders {
            // checked: a prefix is 0 to 32 bits long
            let key = kernel_prefix(length: UInt32(prefix.length), address: prefix.address.networkBytes)
            guard map.set(key, to: holder) else {
                let code = errno
                map.close()
                throw KernelProgramError(
                    "fill the table of \(holders.count) subnets", errorNumber: code)
            }
        }
        return map
    }

    /// A table of nobody.
    static func empty(entryLimit: Int) throws(KernelProgramError) -> KernelMap {
        try .make(
            .prefixes, keyBytes: MemoryLayout<kernel_prefix>.stride,
            valueBytes: MemoryLayout<kernel_holder>.stride, entryLimit: entryLimit, name: "twill_subnets")
    }

    static func holders(_ routes: ForwardingRoutes) -> [IPv4Prefix: kernel_holder] {
        var holders: [IPv4Prefix: kernel_holder] = [:]
        for peer in routes.peers.prefix(ForwardingSnapshot.peerLimit) {
            guard let prefix = peer.ipv4 else { continue }
            guard let endpoint = kernel_endpoint(peer.endpoint) else {
                holders[prefix] = kernel_holder(endpoint: kernel_endpoint(), counter_slot: 0, kind: other)
                continue
            }
            holders[prefix] = kernel_holder(
                endpoint: endpoint, counter_slot: UInt32(peer.counterSlot),
                kind: KERNEL_HOLDER_PEER.rawValue)
        }
        if let own = routes.localIPv4 {
            let kind = holders[own] == nil ? KERNEL_HOLDER_OWN.rawValue : other
            holders[own] = kernel_holder(endpoint: kernel_endpoint(), counter_slot: 0, kind: kind)
        }
        return holders
    }

    private static let other = KERNEL_HOLDER_OTHER.rawValue
}

extension kernel_endpoint {
    /// An IPv4 endpoint; nil for one of IPv6, which the kernel path does not know.
    init?(_ endpoint: Endpoint) {
        guard case .v4(let address) = endpoint.address else { return nil }
        self.init(address: address.networkBytes, port: endpoint.port.bigEndian, unused: 0)
    }
}
