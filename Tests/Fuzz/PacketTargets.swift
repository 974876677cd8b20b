import Addresses
import CLinux
import PacketHeaders
import Offload

/// Addresses that mean something else than one host, and those of the tests' network: what packets are drawn with.
let reservedAddresses: [[UInt8]] = [
    [0, 0, 0, 0], [255, 255, 255, 255], [127, 0, 0, 1], [224, 0, 0, 1], [239, 255, 255, 255], [240, 0, 0, 1],
    [169, 254, 1, 1], [10, 66, 1, 0], [10, 66, 1, 2], [10, 66, 1, 255], [10, 66, 2, 2], [10, 66, 3, 2],
    [192, 168, 0, 2],
    [0x45, 0], [0x60, 0], [0x46, 0], [0x4F, 0],
]

/// Packets of every kind, one family and one transport after the other.
let packetSeeds: [[UInt8]] = {
    var seeds: [[UInt8]] = []
    for version in [Version.ipv4, .ipv6] {
        for transport in [Transport.tcp, .udp] {
            for (payload, options) in [(0, 0), (1, 12), (40, 0), (600, 40), (1200, 0)] {
                var recipe = PacketRecipe()
                recipe.version = version
                recipe.transport = transport
                recipe.payload = [UInt8](repeating: 0x5A, count: payload)
                recipe.transportOptions = transport == .tcp ? [UInt8](repeating: 1, count: options) : []
                if version == .ipv4 { recipe.networkOptions = [UInt8](repeating: 1, count: options / 12 * 4) }
                seeds.append(recipe.packet())
            }
        }
    }
    // An ICMP error, an echo request and a later fragment.
    let (source, destination) = (IPv4Address(bits: 0x0A42_0102), IPv4Address(bits: 0x0A42_0202))
    seeds.append(
        Packets.ipv4(
            source, destination, transport: 1, payload: [3, 1, 0, 0] + [UInt8](repeating: 0, count: 32)))
    seeds.append(
        Packets.ipv4(
            source, destination, transport: 1, payload: [8, 0, 0, 0] + [UInt8](repeating: 7, count: 56)))
    seeds.append(
        Packets.ipv4(
            source, destination, transport: 17, fragment: 0x2003, payload: [UInt8](repeating: 1, count: 80)))
    return seeds
}()

/// One IP packet: what is wrong with it, its time to live, its congestion mark, the ICMP errors about it.
final class PacketTarget: FuzzTarget {
    let seeds = packetSeeds
    let words = reservedAddresses
    let maximumBytes = 2048
    private let memory = GuardedMemory(capacity: 4096)
    private let answer = GuardedMemory(capacity: ICMPError.messageLimit)

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let packet = memory.place(bytes)
        _ = PacketFlow.number(of: packet, length: bytes.count)
        _ = PacketFlow.isShared(by: packet, packet, length: bytes.count)
        _ = PacketFlow.isBareAcknowledgement(packet, length: bytes.count)
        let flaw = IPPacket.flaw(packet, length: bytes.count, verifyingChecksum: true)
        try hold((flaw == nil) == isWhole(bytes), "the flaw is \(String(describing: flaw))")
        guard flaw == nil else { return }
        let whole = IPPacket(packet, length: bytes.count)
        if ICMPError.mayAnswer(whole) {
            for error in [ICMPError.noRoute, .timeExceeded] {
                let message = answer.ending(ICMPError.messageLimit)
                let length =
                    whole.isIPv4
                    ? error.write(about: whole, from: IPv4Address(bits: 0x0A42_0101), to: message)
                    : error.write(about: whole, from: IPv6Address(high: 1, low: 2), to: message)
                try hold(length <= ICMPError.messageLimit, "an ICMP error of \(length) bytes")
                try hold(
                    IPPacket.flaw(message, length: length, verifyingChecksum: true) == nil,
                    "a broken ICMP error")
            }
        }
        let hadTime = whole.decrementTimeToLive()
        let marked = whole.markCongestion()
        try hold(
            IPPacket.flaw(packet, length: bytes.count, verifyingChecksum: true) == nil,
            "broken by a hop (\(hadTime)) or a mark (\(marked))")
    }

    /// A second opinion.
    private func isWhole(_ bytes: [UInt8]) -> Bool {
        guard bytes.count >= 20 else { return false }
        if bytes[0] >> 4 == 4 {
            let header = Int(bytes[0] & 15) * 4
            return header >= 20 && header <= bytes.count && bytes.word(2) == bytes.count
                && naiveSum(bytes[..<header]) == 0xFFFF
        }
        return bytes[0] >> 4 == 6 && bytes.count >= 40 && bytes.word(4) + 40 == bytes.count
    }
}

/// A virtio-net header with a packet: what it is cut into.
final class SegmentPlanTarget: FuzzTarget {
    let words = reservedAddresses
    let maximumBytes = 2048
    private let memory = GuardedMemory(capacity: 4096)
    private let arena = GuardedMemory(capacity: 64 * SegmentPlan.headerStride)
    private let vectors = GuardedMemory(capacity: 128 * MemoryLayout<iovec>.stride)

    var seeds: [[UInt8]] {
        packetSeeds.flatMap { packet in
            let isIPv6 = packet[0] >> 4 == 6
            let start = isIPv6 ? 40 : Int(packet[0] & 15) * 4
            let isTCP = packet[isIPv6 ? 6 : 9] == 6
            return [1, 100, 536].map { size in
                [
                    1, isTCP ? (isIPv6 ? 4 : 1) : 5, 0, 0, UInt8(size & 0xFF), UInt8(size >> 8), UInt8(start),
                    0,
                ]
                    + [isTCP ? 16 : 6, 0] + packet
            }
        }
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard bytes.count > 10 else { return }
        let header = bytes.withUnsafeBytes { virtio_net_hdr(bytes: $0.baseAddress!) }
        let content = Array(bytes[10...])
        let packet = memory.place(content)
        guard
            case .superPacket(let plan) = OffloadedPacket.examine(
                header: header, packet: packet, length: content.count)
        else { return }
        try hold(plan.headerBytes + plan.payloadBytes == content.count, "bytes are lost in the plan")
        let longest = min(64, SuperPacketLimits.sendBytes / plan.segmentBytes)
        // One in 64 is held against the naive model, which is slow.
        let isCompared = bytes.reduce(0 as UInt8, &+) & 63 == 0
        var segments: [[UInt8]] = []
        var expected = packet + plan.headerBytes
        for first in stride(from: 0, to: plan.segmentCount, by: longest) {
            let range = first..<min(first + longest, plan.segmentCount)
            let headers = arena.ending(range.count * SegmentPlan.headerStride)
            let list = vectors.ending(range.count * 2 * MemoryLayout<iovec>.stride)
                .bindMemory(to: iovec.self, capacity: range.count * 2)
            plan.writeHeaders(of: range, packet: packet, into: headers)
            let count = plan.writeVectors(of: range, packet: packet, arena: headers, into: list)
            try hold(count == range.count * 2, "\(count) vectors")
            var total = 0
            for index in 0..<range.count {
                try hold(list[index * 2].iov_len == plan.headerBytes, "a header of another length")
                try hold(list[index * 2 + 1].iov_base == expected, "payload is left out or sent twice")
                expected += list[index * 2 + 1].iov_len
                total += list[index * 2].iov_len + list[index * 2 + 1].iov_len
                if isCompared { segments.append(gathered(list + index * 2, 2)) }
            }
            try hold(total == plan.byteCount(of: range), "\(total) bytes, not \(plan.byteCount(of: range))")
        }
        try hold(expected == packet + content.count, "payload is left over")
        guard isCompared else { return }
        let start = content[0] >> 4 == 6 ? 40 : Int(content[0] & 15) * 4
        let isTCP = content[content[0] >> 4 == 6 ? 6 : 9] == 6
        let hasChecksum =
            header.flags & 1 != 0 || isTCP || content[0] >> 4 == 6 || content.word(start + 6) != 0
        let model = naiveSegments(
            content, transportOffset: start, segmentPayload: Int(header.gso_size),
            hasTransportChecksum: hasChecksum)
        try hold(segments == model, "other segments than the model's")
    }
}

/// Packets in the order of their arrival: what they are merged into comes apart into the same packets again.
final class CoalescerTarget: FuzzTarget {
    let words = reservedAddresses
    let maximumBytes = 16_384
    private let harness = CoalescerHarness(slotLimit: 24, packetLimit: 32)
    private let whole = GuardedMemory(capacity: 4096)

    var seeds: [[UInt8]] {
        var seeds: [[UInt8]] = []
        for version in [Version.ipv4, .ipv6] {
            for transport in [Transport.tcp, .udp] {
                seeds.append(
                    (0..<6).flatMap { index in
                        var recipe = PacketRecipe()
                        recipe.version = version
                        recipe.transport = transport
                        recipe.identification = 7 + index
                        recipe.sequence = 1000 + index * 100
                        recipe.flags = index == 5 ? 0x18 : 0x10
                        recipe.payload = [UInt8](repeating: UInt8(index), count: index == 5 ? 60 : 100)
                        return CoalescerTarget.framed(recipe.packet())
                    })
            }
        }
        return seeds + [packetSeeds.prefix(9).flatMap(CoalescerTarget.framed)]
    }

    private static func framed(_ packet: [UInt8]) -> [UInt8] {
        [UInt8(packet.count >> 8), UInt8(packet.count & 0xFF)] + packet
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        // What is no whole IP packet does not come here: the worker refuses it.
        let packets = frames(bytes, headerBytes: 2) { $0.word(0) }.map { withHeaderChecksum($0.content) }
            .filter {
                let packet = whole.place(Array($0.prefix(4096)))
                return $0.count <= 4096
                    && IPPacket.flaw(packet, length: $0.count, verifyingChecksum: true) == nil
            }
        var out: [[UInt8]] = []
        var merged = 0
        for write in harness.run(packets) {
            if write.packetCount > 1 { merged += 1 }
            try hold(
                write.segments.count == write.packetCount,
                "\(write.packetCount) packets in, \(write.segments.count) out")
            out += write.segments
        }
        func sorted(_ packets: [[UInt8]]) -> [[UInt8]] { packets.sorted { $0.lexicographicallyPrecedes($1) } }
        try hold(sorted(out) == sorted(packets), "\(merged) merged packets come apart into others")
    }
}

/// Frames one after the other, each with a header that holds its content's length; the last may be cut.
func frames(
    _ bytes: [UInt8], headerBytes: Int, limit: Int = 64, length: ([UInt8]) -> Int
) -> [(header: [UInt8], content: [UInt8])] {
    var frames: [(header: [UInt8], content: [UInt8])] = []
    var rest = bytes[...]
    while rest.count >= headerBytes, frames.count < limit {
        let header = Array(rest.prefix(headerBytes))
        rest = rest.dropFirst(headerBytes)
        frames.append((header, Array(rest.prefix(length(header)))))
        rest = rest.dropFirst(length(header))
    }
    return frames
}

/// An IPv4 packet with its header's checksum right, so that what was changed is looked at and not refused for it.
func withHeaderChecksum(_ packet: [UInt8]) -> [UInt8] {
    guard packet.count >= 20, packet[0] >> 4 == 4 else { return packet }
    let header = min(max(20, Int(packet[0] & 15) * 4), packet.count)
    var packet = packet
    packet.setWord(10, 0)
    packet.setWord(10, ~naiveSum(packet[..<header]) & 0xFFFF)
    return packet
}
