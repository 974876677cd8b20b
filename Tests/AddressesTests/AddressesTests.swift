import Addresses
import Testing

@Suite struct AddressesTests {
    @Test(arguments: ["0.0.0.0", "10.66.28.1", "255.255.255.255"])
    func ipv4TextSurvivesARoundTrip(_ text: String) {
        #expect(IPv4Address(text)?.description == text)
    }

    @Test(arguments: [
        "", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "1.2.3.-4", "1.2.3.+4", "a.b.c.d", "1..2.3",
    ])
    func ipv4TextThatIsNoneIsRefused(_ text: String) {
        #expect(IPv4Address(text) == nil)
    }

    @Test func ipv4ByteOrder() {
        let address = IPv4Address(10, 0, 0, 1)
        #expect(address.bits == 0x0A00_0001)
        #expect(withUnsafeBytes(of: address.networkBytes) { Array($0) } == [10, 0, 0, 1])
        #expect(IPv4Address(networkBytes: address.networkBytes) == address)
    }

    @Test func prefixesClearHostBitsAndContain() {
        let prefix = IPv4Prefix("10.66.28.77/24")!
        #expect(prefix.description == "10.66.28.0/24")
        #expect(prefix.contains(IPv4Address("10.66.28.255")!))
        #expect(!prefix.contains(IPv4Address("10.66.29.0")!))
        #expect(prefix.last == IPv4Address("10.66.28.255")!)
        #expect(IPv4Prefix("0.0.0.0/0")!.contains(prefix))
        #expect(prefix.overlaps(IPv4Prefix("10.66.0.0/16")!))
        #expect(!prefix.overlaps(IPv4Prefix("10.67.0.0/16")!))
        #expect(IPv4Prefix("10.66.28.0-24", separator: "-") == prefix)
    }

    @Test(arguments: [
        "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "/8", "10.0.0.0/8/8",
    ])
    func prefixTextThatIsNoneIsRefused(_ text: String) {
        #expect(IPv4Prefix(text) == nil)
    }

    @Test func ipv6() {
        #expect(IPv6Address("FD00:12:13::1")?.description == "fd00:12:13::1")
        #expect(IPv6Address("fd00::1::2") == nil)
        let prefix = IPv6Prefix("fd00:12:13::-56", separator: "-")!
        #expect(prefix.description == "fd00:12:13::/56")
        #expect(prefix.contains(IPv6Address("fd00:12:13:ff::1")!))
        #expect(!prefix.contains(IPv6Address("fd00:12:13:100::1")!))
        #expect(IPv6Prefix("::/0")!.contains(prefix))
        #expect(IPv6Prefix("fd00::1/127")!.contains(IPv6Address("fd00::1")!))
        #expect(IPv6Address("fe80::1")!.isLinkLocal)
    }
}
