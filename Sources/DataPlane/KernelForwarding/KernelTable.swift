import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// Who holds which inner address, as the programs look it up: one publication's routes of one family in a map, which does not
/// change after it was built.
enum KernelTable {
    /// Makes the map of one publication's IPv4.
    ///
    /// - Parameters:
    ///   - routes: with the slot of each peer's counters. Where two peers hold the same prefix the later one wins, as in a
    ///     `ForwardingSnapshot`; one that this node holds as well is left to the ring.
    ///   - underlay: the family of the addresses that the programs send to. Who has one of the other is left to the ring.
    /// - Returns: nil where nobody holds any.
    /// - Throws: `KernelProgramError` where the kernel has no memory for it.
    static func ipv4(
        _ routes: ForwardingRoutes, over underlay: AddressFamily
    ) throws(KernelProgramError) -> KernelMap? {
        try build(holders(routes, of: \.ipv4, own: routes.localIPv4, over: underlay), .ipv4) {
            kernel_prefix(length: UInt32(clamping: $0.length), address: $0.address.networkBytes)
        }
    }

    /// The same of IPv6.
    static func ipv6(
        _ routes: ForwardingRoutes, over underlay: AddressFamily
    ) throws(KernelProgramError) -> KernelMap? {
        try build(holders(routes, of: \.ipv6, own: routes.localIPv6, over: underlay), .ipv6) {
            kernel_prefix_ipv6(
                length: UInt32(clamping: $0.length), address: kernel_address(.v6($0.address)).words)
        }
    }

    private static func build<Prefix, Key: BitwiseCopyable>(
        _ holders: [Prefix: kernel_holder], _ family: AddressFamily, _ key: (Prefix) -> Key
    ) throws(KernelProgramError) -> KernelMap? {
        guard !holders.isEmpty else { return nil }
        let map = try empty(of: family, entryLimit: holders.count)
        for (prefix, holder) in holders {
            guard map.set(key(prefix), to: holder) else {
                let code = errno
                map.close()
                throw KernelProgramError("fill the table of \(holders.count) subnets", errorNumber: code)
            }
        }
        return map
    }

    /// A table of nobody.
    static func empty(of family: AddressFamily, entryLimit: Int) throws(KernelProgramError) -> KernelMap {
        let keyBytes =
            family == .ipv4 ? MemoryLayout<kernel_prefix>.stride : MemoryLayout<kernel_prefix_ipv6>.stride
        return try .make(
            .prefixes, keyBytes: keyBytes, valueBytes: MemoryLayout<kernel_holder>.stride,
            entryLimit: entryLimit, name: family == .ipv4 ? "twill_subnets" : "twill_subnets6")
    }

    private static func holders<Prefix: Hashable>(
        _ routes: ForwardingRoutes, of subnet: (ForwardingPeer) -> Prefix?, own: Prefix?,
        over underlay: AddressFamily
    ) -> [Prefix: kernel_holder] {
        var holders: [Prefix: kernel_holder] = [:]
        for peer in routes.peers.prefix(ForwardingSnapshot.peerLimit) {
            guard let prefix = subnet(peer) else { continue }
            guard peer.endpoint.address.addressFamily == underlay else {
                holders[prefix] = holder(KERNEL_HOLDER_OTHER)
                continue
            }
            holders[prefix] = kernel_holder(
                endpoint: kernel_endpoint(peer.endpoint), counter_slot: UInt32(peer.counterSlot),
                kind: KERNEL_HOLDER_PEER.rawValue)
        }
        if let own { holders[own] = holder(holders[own] == nil ? KERNEL_HOLDER_OWN : KERNEL_HOLDER_OTHER) }
        return holders
    }

    private static func holder(_ kind: kernel_holder_kind) -> kernel_holder {
        kernel_holder(endpoint: kernel_endpoint(), counter_slot: 0, kind: kind.rawValue)
    }
}

extension kernel_address {
    /// An address of either family.
    init(_ address: IPAddress) {
        switch address {
        case .v4(let address): self.init(words: (address.networkBytes, 0, 0, 0))
        case .v6(let address):
            self = withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) {
                kernel_address(words: $0.loadUnaligned(as: (UInt32, UInt32, UInt32, UInt32).self))
            }
        }
    }
}

extension kernel_endpoint {
    /// An endpoint of either family.
    init(_ endpoint: Endpoint) {
        self.init(address: kernel_address(endpoint.address), port: endpoint.port.bigEndian, unused: 0)
    }
}
