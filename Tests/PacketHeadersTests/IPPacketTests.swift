import Addresses
import Glibc
import PacketHeaders
import Testing

private func ipv6(_ source: IPv6Address, _ destination: IPv6Address, transport: UInt8, payload: [UInt8])
    -> [UInt8]
{
    func bytes(_ address: IPv6Address) -> [UInt8] {
        withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) { Array($0) }
    }
    return [0x60, 0, 0, 0, UInt8(payload.count >> 8), UInt8(payload.count & 255), transport, 64]
        + bytes(source)
        + bytes(destination) + payload
}

@Suite struct IPPacketTests {
    let pod = IPv6Address("fd00::2")!
    let other = IPv6Address("fd01::9")!

    @Test func wholeIPv6PacketsAndNoOthers() {
        var packet = ipv6(pod, other, transport: 17, payload: [1, 2, 3, 4])
        packet.withUnsafeMutableBytes { bytes in
            let base = bytes.baseAddress!
            #expect(IPPacket.flaw(base, length: 44, verifyingChecksum: true) == nil)
            #expect(IPPacket.flaw(base, length: 43, verifyingChecksum: true) == .totalLength)
            #expect(IPPacket.flaw(base, length: 39, verifyingChecksum: true) == .tooShort)
            let parsed = IPPacket(base, length: 44)
            #expect(parsed.sourceIPv6 == pod && parsed.destinationIPv6 == other)
            #expect(parsed.decrementTimeToLive() && base.byte(7) == 63)
            base.setByte(7, 1)
            #expect(!parsed.decrementTimeToLive() && base.byte(7) == 1)
        }
    }

    @Test func anIPv6ErrorQuotesThePacketAndIsIntact() {
        var packet = ipv6(pod, other, transport: 17, payload: [UInt8](repeating: 5, count: 1400))
        let message = UnsafeMutableRawPointer.allocate(byteCount: ICMPError.messageLimit, alignment: 8)
        defer { message.deallocate() }
        packet.withUnsafeMutableBytes { bytes in
            let about = IPPacket(bytes.baseAddress!, length: bytes.count)
            #expect(ICMPError.mayAnswer(about))
            let length = ICMPError.noRoute.write(about: about, from: IPv6Address("fd00::")!, to: message)
            #expect(length == 1280)
            #expect(IPPacket.flaw(message, length: length, verifyingChecksum: true) == nil)
            #expect(IPPacket(message, length: length).destinationIPv6 == pod)
            #expect(message.field16(40) == 0x0100)
            var sum = InternetSum(pseudoHeaderIPv6: message + 8, transport: 58, length: length - 40)
            sum.add(message + 40, count: length - 40)
            #expect(sum.isIntact)
            #expect(memcmp(message + 48, bytes.baseAddress!, length - 48) == 0)
            #expect(ICMPError.timeExceeded.write(about: about, from: pod, to: message) == 1280)
            #expect(message.field16(40) == 0x0300)
            #expect(!ICMPError.mayAnswer(IPPacket(message, length: length)))
        }
    }

    @Test func congestionIsMarkedWhereTheSenderTakesPart() {
        for services in UInt8.min...UInt8.max {
            for timeToLive in [UInt8(0), 1, 64, 255] {
                var header: [UInt8] = [
                    0x45, services, 0, 20, 7, 1, 0x40, 0, timeToLive, 6, 0, 0, 10, 0, 0, 1, 10, 9, 8, 7,
                ]
                header.withUnsafeMutableBytes { bytes in
                    let base = bytes.baseAddress!
                    var sum = InternetSum()
                    sum.add(base, count: 20)
                    base.setField16(10, sum.checksum)
                    let before = Array(bytes)
                    let marked = IPPacket(base, length: 20).markCongestion()
                    #expect(marked == (services & 3 != 0))
                    #expect(base.byte(1) == (marked ? services | 3 : services))
                    #expect(IPPacket.flaw(base, length: 20, verifyingChecksum: true) == nil)
                    #expect(marked || Array(bytes) == before)
                    #expect(
                        Array(bytes[2..<10]) + Array(bytes[12...]) == Array(before[2..<10])
                            + Array(before[12...]))
                }
                // The class lies across the first two bytes, the flow label behind it.
                var second = ipv6(pod, other, transport: 6, payload: [1])
                second[0] = 0x60 | services >> 4
                second[1] = services << 4 | 0x0A
                second.withUnsafeMutableBytes { bytes in
                    let marked = IPPacket(bytes.baseAddress!, length: 41).markCongestion()
                    #expect(marked == (services & 3 != 0))
                    let after = marked ? services | 3 : services
                    #expect(bytes[0] == 0x60 | after >> 4 && bytes[1] == after << 4 | 0x0A)
                }
            }
        }
    }
}
