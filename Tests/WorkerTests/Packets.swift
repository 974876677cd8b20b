import Addresses
import Glibc
import PacketHeaders
import Seeded

/// Packets as tests write them: plainly, one byte after the other.
enum Packets {
    static func checksum(_ bytes: [UInt8], _ start: UInt32 = 0) -> UInt16 {
        var sum = start
        var index = 0
        while index < bytes.count {
            sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
            index += 2
        }
        while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
        return ~UInt16(sum)
    }

    static func pseudoSum(
        _ source: IPv4Address, _ destination: IPv4Address, _ transport: UInt8, _ length: Int
    ) -> UInt32 {
        (source.bits >> 16) + (source.bits & 0xFFFF) + (destination.bits >> 16) + (destination.bits & 0xFFFF)
            + UInt32(transport) + UInt32(length)
    }

    static func bytes(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
    static func bytes(_ value: UInt16) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    static func ipv4(
        _ source: IPv4Address, _ destination: IPv4Address, transport: UInt8, timeToLive: UInt8 = 64,
        identification: UInt16 = 0, fragment: UInt16 = 0x4000, payload: [UInt8]
    ) -> [UInt8] {
        var header: [UInt8] = [0x45, 0]
        header += bytes(UInt16(20 + payload.count)) + bytes(identification) + bytes(fragment)
        header += [timeToLive, transport, 0, 0] + bytes(source.bits) + bytes(destination.bits)
        let sum = checksum(header)
        header.replaceSubrange(10..<12, with: bytes(sum))
        return header + payload
    }

    static func udp(
        _ source: IPv4Address, _ destination: IPv4Address, ports: (UInt16, UInt16) = (1000, 2000),
        timeToLive: UInt8 = 64, identification: UInt16 = 0, payload: [UInt8]
    ) -> [UInt8] {
        let length = 8 + payload.count
        var datagram = bytes(ports.0) + bytes(ports.1) + bytes(UInt16(length)) + [0, 0] + payload
        let sum = checksum(datagram, pseudoSum(source, destination, 17, length))
        datagram.replaceSubrange(6..<8, with: bytes(sum == 0 ? 0xFFFF : sum))
        return ipv4(
            source, destination, transport: 17, timeToLive: timeToLive, identification: identification,
            payload: datagram)
    }

    static func tcp(
        _ source: IPv4Address, _ destination: IPv4Address, ports: (UInt16, UInt16) = (1000, 2000),
        sequence: UInt32,
        flags: UInt8 = 0x10, timeToLive: UInt8 = 64, identification: UInt16 = 0, payload: [UInt8]
    ) -> [UInt8] {
        let length = 20 + payload.count
        var segment = bytes(ports.0) + bytes(ports.1) + bytes(sequence) + bytes(UInt32(77))
        segment += [0x50, flags] + bytes(UInt16(1000)) + [0, 0, 0, 0] + payload
        let sum = checksum(segment, pseudoSum(source, destination, 6, length))
        segment.replaceSubrange(16..<18, with: bytes(sum))
        return ipv4(
            source, destination, transport: 6, timeToLive: timeToLive, identification: identification,
            payload: segment)
    }
}

/// What the tests of the worker draw from.
typealias SeededGenerator = SeededRandom
