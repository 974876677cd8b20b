import PacketHeaders
import Testing

@Suite struct PacketFlowTests {
    /// `count` bytes, zeros but for those that are given and what `change` does.
    private func packet(
        _ count: Int, _ given: KeyValuePairs<Int, UInt8>, _ change: (inout [UInt8]) -> Void
    ) -> [UInt8] {
        var packet = [UInt8](repeating: 0, count: count)
        for (place, byte) in given { packet[place] = byte }
        change(&packet)
        return packet
    }

    private func ipv4(transport: UInt8, change: (inout [UInt8]) -> Void = { _ in }) -> [UInt8] {
        packet(60, [0: 0x45, 6: 0x40, 9: transport, 15: 1, 19: 2, 21: 3, 23: 4], change)
    }

    private func ipv6(transport: UInt8, change: (inout [UInt8]) -> Void = { _ in }) -> [UInt8] {
        packet(80, [0: 0x60, 6: transport, 23: 1, 39: 2, 41: 3, 43: 4], change)
    }

    private func number(_ packet: [UInt8]) -> UInt32? {
        var packet = packet
        return packet.withUnsafeMutableBytes { PacketFlow.number(of: $0.baseAddress!, length: $0.count) }
    }

    private func isBareAcknowledgement(_ packet: [UInt8]) -> Bool {
        var packet = packet
        return packet.withUnsafeMutableBytes {
            PacketFlow.isBareAcknowledgement($0.baseAddress!, length: $0.count)
        }
    }

    @Test(arguments: [6, 17] as [UInt8])
    func aFlowIsAddressesTransportAndPorts(transport: UInt8) {
        for make in [ipv4(transport:change:), ipv6(transport:change:)] {
            let flow = number(make(transport) { _ in })
            #expect(flow != nil)
            let isIPv4 = make(transport) { _ in }[0] == 0x45
            // What differs from packet to packet of a flow: traffic class, hop limit, sequence number.
            #expect(number(make(transport) { $0[1] = 8 }) == flow)
            #expect(number(make(transport) { $0[isIPv4 ? 8 : 7] = 9 }) == flow)
            #expect(number(make(transport) { $0[isIPv4 ? 27 : 47] = 9 }) == flow)
            for place in isIPv4 ? [15, 19, 21, 23, 9] : [23, 39, 41, 43] {
                #expect(number(make(transport) { $0[place] = 11 }) != flow, "byte \(place)")
            }
        }
    }

    private func isShared(_ first: [UInt8], _ second: [UInt8]) -> Bool {
        var (first, second) = (first, second)
        return first.withUnsafeMutableBytes { first in
            second.withUnsafeMutableBytes {
                PacketFlow.isShared(by: first.baseAddress!, $0.baseAddress!, length: $0.count)
            }
        }
    }

    @Test func packetsThatAreSeenToShareAFlowHaveItsNumber() {
        for transport in [6, 17, 1] as [UInt8] {
            let first = ipv4(transport: transport)
            #expect(isShared(first, first))
            for place in 0..<24 {
                let second = ipv4(transport: transport) { $0[place] ^= 0x21 }
                #expect(!isShared(first, second) || number(first) == number(second), "byte \(place)")
                #expect(!isShared(second, second) || number(second) != nil, "byte \(place)")
            }
            // What differs from packet to packet of a flow, as above.
            #expect(isShared(first, ipv4(transport: transport) { $0[1] = 8 }))
            #expect(isShared(first, ipv4(transport: transport) { $0[8] = 9 }))
            #expect(!isShared(Array(first[..<23]), Array(first[..<23])))
        }
        #expect(!isShared(ipv6(transport: 6), ipv6(transport: 6)), "left to the numbers")
    }

    @Test func flowsThatDifferLittleAreSpreadEvenlyOverTheLowestBits() {
        for make in [ipv4(transport:change:), ipv6(transport:change:)] {
            let ports = make(6) { _ in }[0] == 0x45 ? 20 : 40
            var places: Set<UInt32> = []
            for port in 40_000..<41_024 {
                let packet = make(6) {
                    $0[ports] = UInt8(port >> 8)
                    $0[ports + 1] = UInt8(port & 0xFF)
                }
                places.insert(number(packet)! & 1023)
            }
            // 1,024 flows thrown at 1,024 places by chance meet 647.
            #expect(places.count > 600)
        }
    }

    @Test func otherTransportsHaveNoPorts() {
        #expect(number(ipv4(transport: 1)) == number(ipv4(transport: 1) { $0[20] = 8 }))
        #expect(number(ipv6(transport: 58)) == number(ipv6(transport: 58) { $0[40] = 8 }))
    }

    @Test func whatHidesItsFlowHasNone() {
        #expect(number(ipv4(transport: 17) { $0[6] = 0x20 }) == nil)
        #expect(number(ipv4(transport: 17) { $0[7] = 1 }) == nil)
        #expect(number(ipv4(transport: 6) { $0[0] = 0x46 }) == nil)
        for extensionHeader in [0, 43, 44, 60] as [UInt8] {
            #expect(number(ipv6(transport: extensionHeader)) == nil)
        }
    }

    @Test func whatIsNoPacketHasANumberAsWell() {
        for length in 1..<44 {
            #expect(number(Array(ipv6(transport: 6).prefix(length))) != nil)
        }
        for length in 1..<24 {
            #expect(number(Array(ipv4(transport: 6).prefix(length))) != nil)
        }
        #expect(number([UInt8](repeating: 0xFF, count: 60)) != nil)
    }

    @Test func anAcknowledgementIsBareWithoutPayload() {
        // 60 bytes: 20 of IPv4, 40 of TCP with options; 80 bytes: 40 and 40.
        #expect(isBareAcknowledgement(ipv4(transport: 6) { $0[32] = 0xA0 }))
        #expect(!isBareAcknowledgement(ipv4(transport: 6) { $0[32] = 0x50 }))
        #expect(!isBareAcknowledgement(ipv4(transport: 17) { $0[32] = 0xA0 }))
        #expect(isBareAcknowledgement(ipv6(transport: 6) { $0[52] = 0xA0 }))
        #expect(!isBareAcknowledgement(ipv6(transport: 6) { $0[52] = 0x80 }))
        #expect(!isBareAcknowledgement(Array(ipv4(transport: 6) { $0[32] = 0x50 }.prefix(39))))
    }
}
