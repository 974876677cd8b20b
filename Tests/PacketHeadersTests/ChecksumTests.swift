import Glibc
import PacketHeaders
import Testing

/// RFC 1071 as its section 1 defines it.
private func naiveChecksum(_ bytes: some Sequence<UInt8>) -> UInt16 {
    var sum = 0
    var isHigh = true
    for byte in bytes {
        sum += isHigh ? Int(byte) << 8 : Int(byte)
        if sum > 0xFFFF { sum -= 0xFFFF }
        isHigh.toggle()
    }
    return ~UInt16(sum)
}

/// The end of a page before one that faults.
private final class PageEnd {
    let end: UnsafeMutableRawPointer
    private let mapping: UnsafeMutableRawPointer
    private static let count = 128 * 1024

    init() {
        mapping = mmap(nil, PageEnd.count + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        precondition(mapping != UnsafeMutableRawPointer(bitPattern: -1))
        end = mapping + PageEnd.count
        precondition(mprotect(end, 4096, PROT_NONE) == 0)
    }

    deinit { munmap(mapping, PageEnd.count + 4096) }
}

@Suite struct ChecksumTests {
    @Test("Every length up to 600 at every alignment, of mixed bytes and of all ones")
    func lengths() {
        let page = PageEnd()
        for isMixed in [true, false] {
            let bytes = (0..<700).map {
                isMixed ? UInt8(truncatingIfNeeded: $0 &* $0 &* 31 &+ $0 >> 2) : 0xFF
            }
            for count in 0...600 {
                // The bytes end at the page that faults, or up to 63 before it.
                for distance in [0, 1, 2, 3, 7, 8, 31, 63] {
                    let start = page.end - distance - count
                    for index in 0..<count {
                        start.storeBytes(of: bytes[index], toByteOffset: index, as: UInt8.self)
                    }
                    var sum = InternetSum()
                    sum.add(start, count: count)
                    if sum.checksum != naiveChecksum(bytes[..<count]) {
                        Issue.record("\(count) bytes, \(distance) before the end: \(bytes[..<count])")
                        return
                    }
                }
            }
        }
    }

    @Test("64 KiB of all ones do not overflow")
    func longest() {
        let bytes = [UInt8](repeating: 0xFF, count: 65_575)
        var sum = InternetSum()
        for _ in 0..<1000 { bytes.withUnsafeBytes { sum.add($0.baseAddress!, count: 65_536) } }
        #expect(sum.partialChecksum == 0xFFFF)
        #expect(sum.isIntact)
    }

    @Test("The example of RFC 1071, section 3")
    func example() {
        let bytes: [UInt8] = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]
        var sum = InternetSum()
        bytes.withUnsafeBytes { sum.add($0.baseAddress!, count: 8) }
        #expect(sum.partialChecksum == 0xDDF2)
        #expect(sum.checksum == 0x220D)
        var eight = InternetSum()
        bytes.withUnsafeBytes { eight.add8($0.baseAddress!) }
        #expect(eight.checksum == 0x220D)
        var fields = InternetSum()
        fields.add(UInt32(0x0001_F203))
        fields.add(UInt16(0xF4F5))
        fields.add(UInt16(0xF6F7))
        #expect(fields.checksum == 0x220D)
    }

    @Test("What is taken back was never there")
    func remove() {
        var sum = InternetSum()
        sum.add(UInt16(0x1234))
        sum.add(UInt32(0xDEAD_BEEF))
        sum.add(UInt16(0x0042))
        sum.remove(UInt32(0xDEAD_BEEF))
        sum.remove(UInt16(0x0042))
        #expect(sum.partialChecksum == 0x1234)
    }

    @Test("Pseudo headers of both versions")
    func pseudoHeaders() {
        let addresses = (0..<32).map { UInt8($0 * 8 + 1) }
        addresses.withUnsafeBytes {
            let ipv4 = InternetSum(pseudoHeaderIPv4: $0.baseAddress!, transport: 17, length: 0x1234)
            #expect(ipv4.checksum == naiveChecksum(Array(addresses[..<8]) + [0, 17, 0x12, 0x34]))
            let ipv6 = InternetSum(pseudoHeaderIPv6: $0.baseAddress!, transport: 6, length: 0x1_0203)
            #expect(ipv6.checksum == naiveChecksum(addresses + [0, 1, 2, 3, 0, 0, 0, 6]))
        }
    }

    @Test("UDP has no checksum of 0")
    func udp() {
        var sum = InternetSum()
        sum.add(UInt16(0xFFFF))
        #expect(sum.checksum == 0)
        #expect(sum.checksumUDP == 0xFFFF)
    }

    @Test("One changed field changes the checksum as a new sum does (RFC 1624, section 4 among others)")
    func incremental() {
        #expect(InternetSum.checksum(0xDD2F, replacing: 0x5555, with: 0x3285) == 0x0000)
        for old in stride(from: UInt16(0), to: 0xFF00, by: 251) {
            for new in stride(from: UInt16(0), to: 0xFF00, by: 257) {
                func header(_ field: UInt16) -> [UInt8] {
                    [0x45, 0, UInt8(field >> 8), UInt8(field & 0xFF), 0x12, 0x34]
                }
                let updated = InternetSum.checksum(naiveChecksum(header(old)), replacing: old, with: new)
                if updated != naiveChecksum(header(new)) {
                    Issue.record("\(old) to \(new): \(updated)")
                    return
                }
            }
        }
    }
}
