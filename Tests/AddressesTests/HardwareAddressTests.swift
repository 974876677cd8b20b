import Addresses
import Testing

@Suite struct HardwareAddressTests {
    @Test func textBytesAndNumberAreOneAddress() throws {
        let address = try #require(HardwareAddress("0A:58:0a:42:1c:00"))
        #expect(address.bits == 0x0A58_0A42_1C00)
        #expect(address.wireBytes == [0x0A, 0x58, 0x0A, 0x42, 0x1C, 0x00])
        #expect("\(address)" == "0a:58:0a:42:1c:00")
        #expect(HardwareAddress(wireBytes: address.wireBytes) == address)
    }

    @Test(arguments: [
        "", "0a:58:0a:42:1c", "0a:58:0a:42:1c:00:01", "0a:58:0a:42:1c:0", "0a:58:0a:42:1c:+1",
        "0a-58-0a-42-1c-00",
        "0a:58:0a:42:1c:zz", "0a:58:0a:42:1c:٠٠",
    ])
    func whatIsNoneIsNone(text: String) { #expect(HardwareAddress(text) == nil) }

    @Test func aGroupAndNobodyAreNoInterface() {
        #expect(HardwareAddress(bits: 0x0200_0000_0001).isUnicast)
        #expect(!HardwareAddress(bits: 0x0100_5E00_0001).isUnicast)
        #expect(!HardwareAddress(bits: 0).isUnicast)
    }
}
