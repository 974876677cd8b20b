import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// Lets the programs carry one packet each in a network that is nowhere but in their maps. What the kernel has is tried,
/// not inferred from its version (ADR 61); nothing leaves the machine, and nothing stays.
enum KernelForwardingTrial {
    /// What a program returns that sends a packet elsewhere: TC_ACT_REDIRECT of linux/pkt_cls.h.
    static let redirected: Int32 = 7

    // A node, and a peer whose pods have addresses that begin with 8.0: the kernel runs a program on packets that begin
    // with an Ethernet header, and takes the bytes at 12 and 13 for its type. In a bare IPv4 packet the source begins
    // there, and 0x0800 is the type of IPv4.
    private static let here = IPv4Address(10, 0, 0, 1)
    private static let peer = Endpoint(address: IPv4Address(10, 0, 0, 2), port: 8285)
    private static let ownSubnet = IPv4Prefix(IPv4Address(8, 0, 1, 0), length: 24)
    private static let peerSubnet = IPv4Prefix(IPv4Address(8, 0, 2, 0), length: 24)

    static func run() throws(KernelProgramError) {
        let forwarder = try KernelForwarder(
            underlay: (here, peer.port), packetLimitBytes: 256, mtu: 1400)
        forwarder.publish(
            ForwardingRoutes(
                localIPv4: ownSubnet, mtu: 1400,
                peers: [ForwardingPeer(ipv4: peerSubnet, endpoint: peer)]))
        forwarder.attached(underlayIndex: 1, tunnelIndex: 1)
        forwarder.allow(peer, forMilliseconds: 1000)
        defer { forwarder.stop() }
        // With 16 bytes the bare packet is as long as an Ethernet and an IPv4 header, and the kernel runs nothing shorter.
        let payload = [UInt8](repeating: 0, count: 16)
        let inner = { (from: IPv4Address, to: IPv4Address, hops: UInt8) in
            header(from: from, to: to, transport: 1, hops: hops, payloadBytes: payload.count) + payload
        }
        let sent = inner(IPv4Address(8, 0, 1, 7), IPv4Address(8, 0, 2, 9), 64)
        guard forwarder.programs.outbound.run(on: sent)?.verdict == redirected else {
            throw failure("send a packet")
        }
        let received = inner(IPv4Address(8, 0, 2, 9), IPv4Address(8, 0, 1, 7), 64)
        let link = [UInt8](repeating: 0, count: 12) + [0x08, 0x00]
        let datagram =
            link
            + header(
                from: IPv4Address(10, 0, 0, 2), to: here, transport: 17, hops: 64,
                payloadBytes: 8 + received.count)
            + [0x20, 0x5D, 0x20, 0x5D, 0, UInt8(truncatingIfNeeded: 8 + received.count), 0, 0] + received
        let run = forwarder.programs.inbound.run(on: datagram)
        let expected = link + inner(IPv4Address(8, 0, 2, 9), IPv4Address(8, 0, 1, 7), 63)
        guard run?.verdict == redirected, run?.packet == expected else {
            throw failure("take a packet in")
        }
    }

    private static func failure(_ action: String) -> KernelProgramError {
        KernelProgramError(
            "\(action) by the kernel path", errorNumber: EOPNOTSUPP,
            words: "the programs load, and do otherwise on this kernel than they should")
    }

    /// An IPv4 header without options.
    private static func header(
        from source: IPv4Address, to destination: IPv4Address, transport: UInt8, hops: UInt8,
        payloadBytes: Int
    ) -> [UInt8] {
        let length = 20 + payloadBytes
        var header: [UInt8] = [
            0x45, 0, UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length), 0, 0, 0x40, 0,
            hops, transport, 0, 0,
        ]
        for address in [source, destination] {
            for shift in [24, 16, 8, 0] { header.append(UInt8(truncatingIfNeeded: address.bits >> shift)) }
        }
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
