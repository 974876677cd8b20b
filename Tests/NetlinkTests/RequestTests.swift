import Addresses
import Testing

@testable import Netlink

/// Requests, byte for byte. Where ip(8) of iproute2 6.1 sends the same request, its frame was taken with strace and
/// stands here, sequence number set to 7.
@Suite struct RequestTests {
    private func frame(_ request: Request) -> [UInt8] { request.message.finish(sequence: 7) }

    @Test func addingAnAddressIsWhatIPSends() {
        let address = InterfaceAddress(
            interfaceIndex: 3, address: IPAddress("10.66.28.0")!, prefixLength: 32)
        #expect(
            frame(.addAddress(address))
                == bytes(
                    """
                    28000000 1400 0506 07000000 00000000  02 20 00 00 03000000
                    0800 0200 0a421c00  0800 0100 0a421c00
                    """))
    }

    @Test func replacingARouteWithAnMTUIsWhatIPSends() {
        let route = Route(
            to: .v4(IPv4Prefix("10.66.0.0/16")!), interfaceIndex: 3, metric: 5, scope: .link, mtu: 1372)
        #expect(
            frame(.replaceRoute(route))
                == bytes(
                    """
                    40000000 1800 0505 07000000 00000000  02 10 00 00 fe 03 fd 01 00000000
                    0800 0100 0a420000  0800 0600 05000000  0800 0400 03000000  0c00 0800 0800 0200 5c050000
                    """))
    }

    /// A name comes from a flag, so it may have any length; an attribute's length has 16 bits.
    @Test(arguments: [65_530, 65_531, 66_000, 1 << 20])
    func aNameLongerThanAnAttributeIsCut(count: Int) {
        let frame = frame(.link(named: String(repeating: "a", count: count)))
        #expect(Message.all(in: frame)?.count == 1)
    }

    @Test func anMTUThatNoInterfaceHasIsNoCrash() {
        let change = LinkChange(mtu: Int.max, transmitQueueLength: -1)
        #expect(Message.all(in: frame(.setLink(index: 3, change)))?.count == 1)
    }

    @Test func lookingALinkUpPadsItsName() {
        #expect(
            frame(.link(named: "node-t0"))
                == bytes(
                    """
                    2c000000 1200 0500 07000000 00000000  00 00 0000 00000000 00000000 00000000
                    0c00 0300 6e6f64652d743000
                    """))
        #expect(frame(.link(named: "lo")).count == 16 + 16 + 8)
    }

    @Test func changingALinkTouchesOnlyWhatIsAsked() {
        #expect(
            frame(.setLink(index: 3, LinkChange(mtu: 1472, transmitQueueLength: 1000)))
                == bytes(
                    """
                    30000000 1000 0500 07000000 00000000  00 00 0000 03000000 00000000 00000000
                    0800 0400 c0050000  0800 0d00 e8030000
                    """))
        #expect(
            frame(.setLink(index: 3, LinkChange(isUp: false)))
                == bytes(
                    "20000000 1000 0500 07000000 00000000  00 00 0000 03000000 00000000 01000000"))
        #expect(
            frame(.setLink(index: 3, LinkChange(isUp: true)))
                == bytes(
                    "20000000 1000 0500 07000000 00000000  00 00 0000 03000000 01000000 01000000"))
    }

    @Test func anIPv6RouteByAGatewayInATableOfALargeNumber() {
        let route = Route(
            to: .v6(IPv6Prefix("fd00:1::/64")!), gateway: IPAddress("fe80::1")!, interfaceIndex: 2,
            preferredSource: IPAddress("fd00::5")!, table: 1000)
        #expect(
            frame(.replaceRoute(route))
                == bytes(
                    """
                    68000000 1800 0505 07000000 00000000  0a 40 00 00 00 03 00 01 00000000
                    1400 0100 fd000001000000000000000000000000  0800 0f00 e8030000  0800 0400 02000000
                    1400 0500 fe800000000000000000000000000001  1400 0700 fd000000000000000000000000000005
                    """))
    }

    @Test func aBlackholeHasNoInterface() {
        #expect(
            frame(.deleteRoute(Route(to: .v4(IPv4Prefix("10.9.0.0/16")!), kind: .blackhole)))
                == bytes(
                    """
                    24000000 1900 0500 07000000 00000000  02 10 00 00 fe 03 00 06 00000000
                    0800 0100 0a090000
                    """))
    }

    @Test func aVXLANDeviceIsMadeAsIPMakesIt() {
        let attributes = VXLANAttributes(
            identifier: 1, lowerIndex: 3, localAddress: IPAddress("10.0.0.1")!, port: 8472)
        let request = Request.addLink(
            named: "flannel.1", mtu: 1450, hardwareAddress: HardwareAddress("0a:58:0a:42:1c:00")!,
            .vxlan(attributes))
        #expect(
            frame(request)
                == bytes(
                    """
                    80000000 1000 0506 07000000 00000000  00 00 0000 00000000 00000000 00000000
                    0800 0400 aa050000  0a00 0100 0a580a421c00 0000  0e00 0300 666c616e6e656c2e3100 0000
                    3c00 1200  0900 0100 76786c616e 000000  2c00 0200
                    0800 0300 03000000  0800 0100 01000000  0800 0400 0a000001  0500 0700 00 000000
                    0600 0f00 2118 0000
                    """))
    }

    @Test func aNeighbourIsSetAsIPSetsIt() {
        let neighbor = Neighbor(
            .neighbors, interfaceIndex: 4, address: IPAddress("10.66.3.0")!,
            hardwareAddress: HardwareAddress("0a:58:0a:42:03:00")!)
        #expect(
            frame(.replaceNeighbor(neighbor))
                == bytes(
                    """
                    30000000 1c00 0505 07000000 00000000  02 00 0000 04000000 8000 00 00
                    0800 0100 0a420300  0a00 0200 0a580a420300 0000
                    """))
    }

    @Test func aForwardingEntryIsSetAsBridgeSetsIt() {
        let neighbor = Neighbor(
            .forwarding, interfaceIndex: 4, address: IPAddress("10.0.0.3")!,
            hardwareAddress: HardwareAddress("0a:58:0a:42:03:00")!)
        #expect(
            frame(.replaceNeighbor(neighbor))
                == bytes(
                    """
                    30000000 1c00 0505 07000000 00000000  07 00 0000 04000000 c000 02 00
                    0a00 0200 0a580a420300 0000  0800 0100 0a000003
                    """))
    }

    @Test func operationsReadAsAnOperatorWouldSayThem() {
        #expect(
            Request.setLink(index: 3, LinkChange(isUp: true, mtu: 1472)).operation
                == "set interface 3 up, MTU 1472")
        #expect(
            Request.replaceRoute(Route(to: .v4(IPv4Prefix("10.66.0.0/16")!), interfaceIndex: 3)).operation
                == "set route 10.66.0.0/16 dev 3")
    }
}

/// Bytes from hexadecimal text; blanks are for the reader.
func bytes(_ text: String) -> [UInt8] {
    let digits = text.filter { !$0.isWhitespace }.map { UInt8($0.hexDigitValue!) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}
