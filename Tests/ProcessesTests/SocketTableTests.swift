import Addresses
import Testing

@testable import Processes

@Suite struct SocketTableTests {
    /// As /proc/net/udp and /proc/net/udp6 have it.
    private let table = """
          sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
          7: 010200C0:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1111 2 0 0
          8: 00000000:205E 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2222 2 0 0
          9: 00000000000000000000000000000000:205D 0:0 0A 00000000:00000000 00:00000000 00000000     0        0 3333 2 0 0
         10: garbage
         11: 010200C0:205D
        """

    @Test func socketsThatKeepAnEndpointFromBeingBoundAreFound() {
        let rows = table.split(separator: "\n").compactMap { SocketTableRow(String($0)) }
        #expect(rows.count == 3)
        func inodes(_ address: IPv4Address, _ port: UInt16, _ transport: SocketTable.Transport = .udp)
            -> [UInt64]
        {
            rows.filter { $0.keeps(Endpoint(address: address, port: port), of: transport) }.map(\.inode)
        }
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8285) == [1111, 3333])
        #expect(inodes(IPv4Address(192, 0, 2, 9), 8285) == [3333])
        #expect(inodes(IPv4Address(192, 0, 2, 9), 8286) == [2222])
        #expect(inodes(.any, 8285) == [1111, 3333])
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8285, .tcp) == [3333])
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8287).isEmpty)
    }

    @Test(arguments: [
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "",
        "1: 0100007F:XYZW 0:0 07 0:0 00:0 0 0 0 1", "1: 0100007F:1FFFF 0:0 07 0:0 00:0 0 0 0 1",
        "1: 100007F:205D 0:0 07 0:0 00:0 0 0 0 1", "1: 0100007F:205D 0:0 107 0:0 00:0 0 0 0 1",
        "1: 0100007F:205D 0:0 07 0:0 00:0 0 0 0 99999999999999999999", "1: 0100007F 0:0 07 0:0 00:0 0 0 0 1",
        "1: 0100007F:205D 0:0 07 0:0 00:0 0 -1 0 1",
        " 1234: 6520 AC14:205D 07 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0",
    ])
    func whatIsNoLineOfATableIsPassedOver(_ line: String) { #expect(SocketTableRow(line) == nil) }

    @Test func aLineIsRead() {
        let address = IPv4Address(172, 20, 32, 101)
        let word = String(address.networkBytes, radix: 16, uppercase: true)
        let padded = String(repeating: "0", count: 8 - word.count) + word
        let row = SocketTableRow(
            " 1234: \(padded):205D 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0 0\n"
        )
        #expect(row?.endpoint == Endpoint(address: address, port: 8285))
        #expect(row?.user == 1000 && row?.inode == 4711 && row?.state == 7)
        #expect(row?.isConnectedToLoopback == false)
    }

    @Test(arguments: [
        (IPv4Address(127, 3, 2, 1), true), (IPv4Address(172, 20, 32, 101), false), (.any, false),
    ])
    func whetherItIsConnectedToALoopbackAddressIsRead(remote: IPv4Address, isSo: Bool) throws {
        let word = String(remote.networkBytes, radix: 16, uppercase: true)
        let padded = String(repeating: "0", count: 8 - word.count) + word
        let row = SocketTableRow(
            "1: 0100007F:205D \(padded):0007 01 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0"
        )
        #expect(try #require(row).isConnectedToLoopback == isSo)
    }

    /// As /proc/net/udp6 has fd20:32::102 on a machine of this byte order.
    @Test func aLineOfIPv6IsRead() throws {
        let address = try #require(IPv6Address("fd20:32::102"))
        let words = [address.high >> 32, address.high, address.low >> 32, address.low].map { word in
            let digits = String(UInt32(truncatingIfNeeded: word).bigEndian, radix: 16, uppercase: true)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }
        let row = try #require(
            SocketTableRow("  7: \(words.joined()):205D 0:0 07 0:0 00:0 00000000     0        0 4711 2 0 0"))
        let endpoint = Endpoint(address: .v6(address), port: 8285)
        #expect(row.endpoint == endpoint && row.keeps(endpoint, of: .udp))
        #expect(row.keeps(Endpoint(address: .v6(.any), port: 8285), of: .udp))
        #expect(!row.keeps(Endpoint(address: .v6(IPv6Address(high: 0, low: 1)), port: 8285), of: .udp))
        #expect(!row.keeps(Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285), of: .udp))
        // One of IPv4 alone keeps nobody of IPv6 out.
        let ipv4 = try #require(
            SocketTableRow("  8: 00000000:205D 0:0 07 0:0 00:0 00000000     0        0 4712 2 0 0"))
        #expect(!ipv4.keeps(endpoint, of: .udp))
    }
}
