import Addresses
import Glibc
import NetworkNamespaces
import Synchronization

/// The IP packets that pass an interface, their first bytes, in the order in which the kernel had them: a ring that
/// the kernel fills (packet(7), PACKET_RX_RING), so that no reader can be too slow. It is emptied at the end.
public final class PacketCapture: Sendable {
    /// A packet, without what the link puts before it.
    public struct Packet: Sendable {
        /// Whether this host sent it into the interface.
        public let isOutgoing: Bool
        /// Its length in bytes: a super-packet's is that of all of it.
        public let length: Int
        /// Its first bytes, 112 at most.
        public let bytes: [UInt8]
    }

    // linux/if_packet.h
    private static let levelPacket: Int32 = 263
    private static let receiveRing: Int32 = 5
    private static let statistics: Int32 = 6
    private static let outgoing: UInt8 = 4
    private static let blockBytes = 1 << 20
    private static let frameBytes = 192
    private static let framesPerBlock = blockBytes / frameBytes

    private let descriptor: Int32
    private let blocks: Int
    /// ETH_P_IP or ETH_P_IPV6.
    private let protocolNumber: UInt16
    private let address: UInt
    /// What passed, as the kernel counts it: it begins anew with each question.
    private let passed = Atomic<Int>(0)

    /// Begins to capture.
    ///
    /// - Parameters:
    ///   - blocks: MiB for the ring; each holds 5,461 packets.
    ///   - family: of the packets.
    public static func start(
        on host: some LabHost, interface: String, blocks: Int = 4, family: AddressFamily = .ipv4
    ) async throws -> PacketCapture {
        try await host.namespace.run { try PacketCapture(interface, blocks: blocks, family: family) }
    }

    private init(_ interface: String, blocks: Int, family: AddressFamily) throws {
        self.blocks = blocks
        protocolNumber = family == .ipv4 ? 0x0800 : 0x86DD
        func failure(_ action: String) -> NoSocket {
            NoSocket(description: "cannot \(action): \(String(cString: strerror(errno)))")
        }
        // No protocol yet: what comes before the ring and the interface are set is not taken.
        descriptor = Glibc.socket(AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw failure("open a packet socket") }
        // struct tpacket_req
        var request: [UInt32] = [
            UInt32(Self.blockBytes), UInt32(blocks), UInt32(Self.frameBytes),
            UInt32(blocks * Self.framesPerBlock),
        ]
        guard setsockopt(descriptor, Self.levelPacket, Self.receiveRing, &request, 16) == 0 else {
            let failure = failure("make a ring of packets")
            close(descriptor)
            throw failure
        }
        let ring = mmap(nil, blocks * Self.blockBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        // struct sockaddr_ll: family, protocol, the interface's number, and what only senders need. The protocol is
        // ETH_P_ALL: a socket of one protocol is shown what comes in, and nothing of what is sent (net/core/dev.c,
        // dev_queue_xmit_nit).
        var name = [UInt8](repeating: 0, count: 20)
        let number = if_nametoindex(interface)
        name.withUnsafeMutableBytes { bytes in
            bytes.storeBytes(of: UInt16(AF_PACKET), as: UInt16.self)
            bytes.storeBytes(of: UInt16(0x0003).bigEndian, toByteOffset: 2, as: UInt16.self)
            bytes.storeBytes(of: Int32(bitPattern: number), toByteOffset: 4, as: Int32.self)
        }
        let socket = descriptor
        let isBound = name.withUnsafeBytes { bytes in
            bind(socket, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), 20) == 0
        }
        guard let ring, ring != MAP_FAILED, number > 0, isBound else {
            let failure = failure("capture at \(interface)")
            close(descriptor)
            throw failure
        }
        address = UInt(bitPattern: ring)
    }

    deinit {
        munmap(UnsafeMutableRawPointer(bitPattern: address), blocks * Self.blockBytes)
        close(descriptor)
    }

    /// All packets of the family so far.
    public func packets() -> [Packet] {
        frames().compactMap { frame in
            // A sockaddr_ll is behind the tpacket_hdr: its protocol, and what kind of packet it was to this host.
            guard frame.load(fromByteOffset: 34, as: UInt16.self).bigEndian == protocolNumber else {
                return nil
            }
            let length = Int(frame.load(fromByteOffset: 8, as: UInt32.self))
            let kept = Int(frame.load(fromByteOffset: 12, as: UInt32.self))
            let start = Int(frame.load(fromByteOffset: 16, as: UInt16.self))
            return Packet(
                isOutgoing: frame.load(fromByteOffset: 42, as: UInt8.self) == Self.outgoing,
                length: length,
                bytes: [UInt8](UnsafeRawBufferPointer(start: frame + start, count: kept)))
        }
    }

    /// Where the packets of every protocol are that the kernel is done with.
    private func frames() -> [UnsafeRawPointer] {
        guard let ring = UnsafeRawPointer(bitPattern: address) else { return [] }
        var frames: [UnsafeRawPointer] = []
        for index in 0..<blocks * Self.framesPerBlock {
            let (block, place) = index.quotientAndRemainder(dividingBy: Self.framesPerBlock)
            let frame = ring + block * Self.blockBytes + place * Self.frameBytes
            // struct tpacket_hdr: the status, of which 1 says that the kernel is done with it, the packet's length,
            // how much is here, and where.
            guard frame.load(as: UInt.self) & 1 == 1 else { break }
            frames.append(frame)
        }
        return frames
    }

    /// How many packets passed that `packets()` does not give: there was no room for them, or the kernel is still
    /// writing one. Where this is 0, all that the kernel showed to captures is there.
    public func missed() -> Int {
        // struct tpacket_stats: what passed, and how much of it there was no room for.
        var counts: [UInt32] = [0, 0]
        var length: socklen_t = 8
        getsockopt(descriptor, Self.levelPacket, Self.statistics, &counts, &length)
        let all = passed.add(Int(counts[0]), ordering: .relaxed).newValue
        // The kernel counts a packet a moment before it is there.
        for _ in 0..<100 where frames().count < all { usleep(1_000) }
        return max(0, all - frames().count)
    }
}
