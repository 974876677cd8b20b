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
    }
}
