import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// Lets the programs carry a packet of each family in a network that is nowhere but in their maps. What the kernel has is
/// tried, not inferred from its version (ADR 61); nothing leaves the machine, and nothing stays but the beginning of a count of
/// 10 ms in two of the 65,536 places for flows.
enum KernelForwardingTrial {
    /// What a program returns that sends a packet elsewhere: TC_ACT_REDIRECT of linux/pkt_cls.h.
    static let redirected: Int32 = 7

    /// A pod of this node's and one of a peer's. The kernel runs a program on packets that begin with an Ethernet header, and
    /// takes the bytes at 12 and 13 for its type. In a bare packet the source stands there: of IPv4 from its beginning, of
    /// IPv6 the third word. So the addresses have the type of their family there, 0x0800 or 0x86DD.
    private struct Pods {
        let own: IPAddress
        let ofPeer: IPAddress

        static let all = [
            Pods(own: .v4(IPv4Address(8, 0, 1, 7)), ofPeer: .v4(IPv4Address(8, 0, 2, 9))),
            Pods(
                own: .v6(IPv6Address(high: 0xFD00_0000_86DD_0001, low: 7)),
                ofPeer: .v6(IPv6Address(high: 0xFD00_0000_86DD_0002, low: 9))),
        ]
    }

    private static func routes(to peer: Endpoint) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: IPv4Prefix(IPv4Address(8, 0, 1, 0), length: 24),
            localIPv6: IPv6Prefix(IPv6Address(high: 0xFD00_0000_86DD_0001, low: 0), length: 64), mtu: 1400,
            peers: [
                ForwardingPeer(
                    ipv4: IPv4Prefix(IPv4Address(8, 0, 2, 0), length: 24),
                    ipv6: IPv6Prefix(IPv6Address(high: 0xFD00_0000_86DD_0002, low: 0), length: 64),
                    endpoint: peer)
            ])
    }

    /// - Parameters:
    ///   - programs: new ones, which stand nowhere and whose maps are empty. So they are afterwards.
    ///   - underlay: the family of the addresses at which nodes reach each other.
    static func run(
        _ programs: KernelForwardingPrograms, over underlay: AddressFamily
    ) throws(KernelProgramError) {
        let addresses: (here: IPAddress, peer: IPAddress) =
            switch underlay {
            case .ipv4: (.v4(IPv4Address(10, 0, 0, 1)), .v4(IPv4Address(10, 0, 0, 2)))
            case .ipv6:
                (.v6(IPv6Address(high: 0xFD00 << 48, low: 1)), .v6(IPv6Address(high: 0xFD00 << 48, low: 2)))
            }
        let (here, peer) = (
            Endpoint(address: addresses.here, port: 8285), Endpoint(address: addresses.peer, port: 8285)
        )
        defer { empty(programs, peer) }
        try fill(programs, here, peer)
        for pods in Pods.all {
            let sent = packet(from: pods.own, to: pods.ofPeer, hops: 64)
            guard programs.outbound.run(on: sent)?.verdict == redirected else {
                throw failure("send a packet of \(pods.own.addressFamily)")
            }
            let link = [UInt8](repeating: 0, count: 12) + (underlay == .ipv4 ? [0x08, 0x00] : [0x86, 0xDD])
            let datagram = datagram(
                packet(from: pods.ofPeer, to: pods.own, hops: 64), from: addresses.peer, to: addresses.here)
            let run = programs.inbound.run(on: link + datagram)
            let expected = link + packet(from: pods.ofPeer, to: pods.own, hops: 63)
            guard run?.verdict == redirected, run?.packet == expected else {
                throw failure("take a packet of \(pods.own.addressFamily) in")
            }
        }
    }

    /// Lets the programs know of one peer for a second.
    private static func fill(
        _ programs: KernelForwardingPrograms, _ here: Endpoint, _ peer: Endpoint
    ) throws(KernelProgramError) {
        let until = monotonicNanoseconds() &+ 1_000_000_000
        let own = kernel_endpoint(here)
        let settings = kernel_settings(
            valid_until: until, underlay_index: 1, tunnel_index: 1, underlay_address: own.address,
            former_address: kernel_address(), port: own.port, former_port: 0, packet_limit: 256, workers: 1,
            mtu: 1400, unused: 0)
        let routes = routes(to: peer)
        let family = peer.address.addressFamily
        let tables: [(kernel_map, KernelMap?)] = [
            (KERNEL_MAP_TABLE, try KernelTable.ipv4(routes, over: family)),
            (KERNEL_MAP_TABLE_IPV6, try KernelTable.ipv6(routes, over: family)),
        ]
        defer { for (_, table) in tables { table?.close() } }
        var isFilled = programs[KERNEL_MAP_SETTINGS].set(UInt32(0), to: settings)
        for (map, table) in tables {
            if let table { isFilled = programs[map].set(UInt32(0), to: table.descriptor) && isFilled }
        }
        guard isFilled, programs[KERNEL_MAP_ABLE].set(kernel_endpoint(peer), to: until) else {
            throw KernelProgramError("fill the maps of the kernel path", errorNumber: errno)
        }
    }

    /// Takes all that out again, and what was counted.
    private static func empty(_ programs: KernelForwardingPrograms, _ peer: Endpoint) {
        _ = programs[KERNEL_MAP_SETTINGS].set(UInt32(0), to: kernel_settings())
        programs[KERNEL_MAP_TABLE].remove(UInt32(0))
        programs[KERNEL_MAP_TABLE_IPV6].remove(UInt32(0))
        programs[KERNEL_MAP_ABLE].remove(kernel_endpoint(peer))
        _ = programs[KERNEL_MAP_AWAITED].set(UInt32(0), to: UInt64(0))
        _ = programs[KERNEL_MAP_PEERS].setOnEachCPU(0, to: kernel_peer_counts())
        for event in 0..<KERNEL_EVENTS.rawValue {
            _ = programs[KERNEL_MAP_EVENTS].setOnEachCPU(event, to: UInt64(0))
        }
    }

    private static func failure(_ action: String) -> KernelProgramError {
        KernelProgramError(
            "\(action) by the kernel path", errorNumber: EOPNOTSUPP,
            words: "the programs load, and do otherwise on this kernel than they should")
    }

    /// An ICMP packet. With 16 bytes of payload a bare one is as long as an Ethernet and an IPv4 header, and the kernel runs
    /// nothing shorter.
    private static func packet(from source: IPAddress, to destination: IPAddress, hops: UInt8) -> [UInt8] {
        let transport: UInt8 = source.v4 == nil ? 58 : 1
        return header(from: source, to: destination, transport: transport, hops: hops, payloadBytes: 16)
            + [UInt8](repeating: 0, count: 16)
    }

    /// A datagram in the kernel path's form, from port 8285 to 8285.
    private static func datagram(
        _ payload: [UInt8], from source: IPAddress, to destination: IPAddress
    ) -> [UInt8] {
        let bytes = 8 + payload.count
        return header(from: source, to: destination, transport: 17, hops: 64, payloadBytes: bytes)
            + [0x20, 0x5D, 0x20, 0x5D, 0, UInt8(truncatingIfNeeded: bytes), 0, 0] + payload
    }

    /// An IPv4 header without options, or an IPv6 header.
    private static func header(
        from source: IPAddress, to destination: IPAddress, transport: UInt8, hops: UInt8, payloadBytes: Int
    ) -> [UInt8] {
        let addresses = [source, destination].flatMap { address in
            withUnsafeBytes(of: kernel_address(address)) { Array($0.prefix(address.bitWidth / 8)) }
        }
        guard source.v4 != nil else {
            let length = [
                UInt8(truncatingIfNeeded: payloadBytes >> 8), UInt8(truncatingIfNeeded: payloadBytes),
            ]
            return [0x60, 0, 0, 0] + length + [transport, hops] + addresses
        }
        let bytes = 20 + payloadBytes
        let length = [UInt8(truncatingIfNeeded: bytes >> 8), UInt8(truncatingIfNeeded: bytes)]
        var header = [0x45, 0] + length + [0, 0, 0x40, 0, hops, transport, 0, 0] + addresses
        var sum = 0
        for place in stride(from: 0, to: 20, by: 2) {
            sum += Int(header[place]) << 8 | Int(header[place + 1])
        }
        sum = (sum & 0xFFFF) + (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16)
        header[10] = ~UInt8(truncatingIfNeeded: sum >> 8)
        header[11] = ~UInt8(truncatingIfNeeded: sum)
        return header
    }
}
