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
}
