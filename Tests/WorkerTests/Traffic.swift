import Addresses
import PacketHeaders

/// Packets of TCP flows from a pod to one peer, whole ones and super-packets, and what must leave.
struct TCPTraffic {
    private(set) var expected: [[UInt8]] = []
    private var sequences: [UInt16: UInt32] = [:]
    private var identification: UInt16 = 0

    /// The next packet of a flow, of `count` segments, the last of them with `tailBytes` of payload.
    mutating func packet(
        flow: UInt16, segments count: Int, segmentBytes: Int, tailBytes: Int
    ) -> (packet: [UInt8], header: [UInt8]) {
        let sequence = sequences[flow, default: 0]
        let payload = (0..<(count - 1) * segmentBytes + tailBytes).map {
            UInt8(truncatingIfNeeded: $0 / 7)
        }
        let first = identification
        for index in 0..<count {
            let start = index * segmentBytes
            let end = min(start + segmentBytes, payload.count)
            expected.append(
                Packets.tcp(
                    pod(1), pod(3), ports: (flow, 2000), sequence: sequence &+ UInt32(start),
                    flags: index == count - 1 ? 0x18 : 0x10, timeToLive: 63,
                    identification: first &+ UInt16(index), payload: Array(payload[start..<end])))
        }
        sequences[flow] = sequence &+ UInt32(payload.count)
        identification &+= UInt16(count)
        var whole = Packets.tcp(
            pod(1), pod(3), ports: (flow, 2000), sequence: sequence, flags: 0x18, identification: first,
            payload: payload)
        guard count > 1 else { return (whole, [UInt8](repeating: 0, count: 10)) }
        // As the kernel leaves a super-packet: the checksum holds the sum of the pseudo header alone.
        let pseudoHeader = Packets.pseudoSum(pod(1), pod(3), 6, whole.count - 20)
        whole.replaceSubrange(36..<38, with: Packets.bytes(~Packets.checksum([], pseudoHeader)))
        return (whole, [1, 1, 40, 0, UInt8(segmentBytes & 0xFF), UInt8(segmentBytes >> 8), 20, 0, 16, 0])
    }
}

/// Super-packets of four flows, of 12 segments each: one packet for all, but for its port and place.
struct BulkTraffic {
    static let segmentCount = 12
    static let segmentBytes = 1432
    private(set) var count = 0
    private var made: (packet: [UInt8], header: [UInt8])

    init(withCongestionNotification: Bool = false) {
        var traffic = TCPTraffic()
        made = traffic.packet(
            flow: 1, segments: BulkTraffic.segmentCount, segmentBytes: BulkTraffic.segmentBytes,
            tailBytes: BulkTraffic.segmentBytes)
        if withCongestionNotification { made.packet[1] = 0x02 }
    }

    /// Fills the device with more than the worker has buffers for.
    mutating func fill(_ bench: inout Bench) {
        while bench.kernel.tunnelQueue.count < 300 {
            made.packet[21] = UInt8(count % 4 + 1)
            let place = UInt32(count / 4 * BulkTraffic.segmentCount * BulkTraffic.segmentBytes)
            made.packet.replaceSubrange(24..<28, with: Packets.bytes(place))
            made.packet.replaceSubrange(10..<12, with: [0, 0])
            let sum = Packets.checksum(Array(made.packet[..<20]))
            made.packet.replaceSubrange(10..<12, with: Packets.bytes(sum))
            bench.fromPod(made.packet, header: made.header)
            count += 1
        }
    }
}

/// Where two lists of packets differ first; a failed comparison of the lists would print them.
func firstDifference(_ packets: [[UInt8]], _ others: [[UInt8]]) -> Int? {
    zip(packets, others).enumerated().first { $0.element.0 != $0.element.1 }?.offset
}

/// The UDP packets of one write: header and payload of each, whatever was merged.
func segments(_ frame: [UInt8]) -> [[UInt8]] {
    let size = Int(frame[4]) | Int(frame[5]) << 8
    let packet = Array(frame[10...])
    guard frame[1] != 0 else { return [packet] }
    var result: [[UInt8]] = []
    var offset = 28
    while offset < packet.count {
        result.append(Array(packet[0..<28]) + packet[offset..<min(offset + size, packet.count)])
        offset += size
    }
    return result
}
