import CLinux
import Testing

@testable import Offload

/// A flow's packet `index` of `count` bytes of payload each.
private func packet(
    _ index: Int, _ version: Version, _ transport: Transport, count: Int = 100,
    _ change: (inout PacketRecipe) -> Void = { _ in }
) -> Bytes {
    var recipe = PacketRecipe()
    recipe.version = version
    recipe.transport = transport
    recipe.identification = 0xFFFF + index
    recipe.sequence = 0xFFFF_FFC0 + index * count
    recipe.transportOptions = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
    recipe.payload = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ index) }
    change(&recipe)
    return recipe.packet()
}

let flows: [(Version, Transport)] = [(.ipv4, .tcp), (.ipv6, .tcp), (.ipv4, .udp), (.ipv6, .udp)]

@Suite struct CoalescerTests {
    @Test("A run of a flow becomes one write", arguments: flows)
    func run(version: Version, transport: Transport) {
        let harness = CoalescerHarness()
        for count in [2, 3, 64, 128] {
            var packets = (0..<count).map { packet($0, version, transport) }
            packets[count - 1] = packet(count - 1, version, transport, count: 100) {
                $0.payload.removeLast(31)
                $0.flags |= 0x08
            }
            let writes = harness.run(packets)
            #expect(writes.count == 1)
            #expect(writes.first?.packetCount == count)
            #expect(writes.flatMap(\.segments) == packets)
        }
    }

    @Test("Flows that alternate become a write each, in the order in which they began")
    func alternating() {
        let harness = CoalescerHarness()
        // 20 flows of each kind are more than one set of the flow table.
        var packets: [[Bytes]] = []
        for (version, transport) in flows {
            for port in 0..<20 {
                packets.append((0..<2).map { packet($0, version, transport) { $0.sourcePort += port } })
            }
        }
        let harnessOfMany = CoalescerHarness(slotLimit: 128, packetLimit: 256)
        let writes = harnessOfMany.run(packets.map { $0[0] } + packets.map { $0[1] })
        #expect(writes.map(\.segments) == packets)
        // Four slots hold four flows.
        let few = harness.run(packets[..<4].map { $0[0] } + packets[..<4].map { $0[1] })
        #expect(few.map(\.segments) == Array(packets[..<4]))
    }

    @Test("A lone packet passes as it came, with an empty virtio-net header", arguments: flows)
    func lone(version: Version, transport: Transport) {
        let harness = CoalescerHarness()
        // The second round has the memory of merged slots.
        for _ in 0..<2 {
            let alone = packet(0, version, transport)
            let writes = harness.run([alone])
            #expect(writes.map(\.whole) == [alone])
            #expect(writes.allSatisfy { $0.header.flags == 0 && $0.header.gso_type == 0 })
            #expect(writes.allSatisfy { $0.header.hdr_len == 0 && $0.header.gso_size == 0 })
            #expect(harness.run([alone, packet(1, version, transport)]).count == 1)
        }
    }

    /// A second packet that must not merge with the first.
    struct Difference: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let flows: [(Version, Transport)]
        var first: @Sendable (inout PacketRecipe) -> Void = { _ in }
        var second: @Sendable (inout PacketRecipe) -> Void = { _ in }
        var spoil: @Sendable (inout Bytes, inout Bytes) -> Void = { _, _ in }
    }

    private static let tcp: [(Version, Transport)] = [(.ipv4, .tcp), (.ipv6, .tcp)]
    private static let udp: [(Version, Transport)] = [(.ipv4, .udp), (.ipv6, .udp)]
    private static let ipv4: [(Version, Transport)] = [(.ipv4, .tcp), (.ipv4, .udp)]
    private static let ipv6: [(Version, Transport)] = [(.ipv6, .tcp), (.ipv6, .udp)]

    static let differences: [Difference] =
        [
            Difference(testDescription: "longer", flows: tcp + udp, second: { $0.payload.append(1) }),
            Difference(testDescription: "empty", flows: tcp + udp, second: { $0.payload = [] }),
            Difference(testDescription: "both empty", flows: tcp + udp, first: { $0.payload = [] }) {
                $0.payload = []
            },
            Difference(testDescription: "ECN mark", flows: tcp + udp, second: { $0.trafficClass = 3 }),
            Difference(testDescription: "DSCP", flows: tcp + udp, second: { $0.trafficClass = 0x20 }),
            Difference(testDescription: "hop limit", flows: tcp + udp, second: { $0.hopLimit = 63 }),
            Difference(testDescription: "source port", flows: tcp + udp, second: { $0.sourcePort = 1 }),
            Difference(
                testDescription: "destination port", flows: tcp + udp, second: { $0.destinationPort = 1 }),
            Difference(testDescription: "source", flows: tcp + udp, second: { $0.source = 9 }),
            Difference(testDescription: "destination", flows: tcp + udp, second: { $0.destination = 9 }),
            Difference(testDescription: "flow label", flows: ipv6, second: { $0.flowLabel = 1 }),
            Difference(testDescription: "DF", flows: ipv4, second: { $0.dontFragment = false }),
            Difference(
                testDescription: "identification stands", flows: ipv4, second: { $0.identification -= 1 }),
            Difference(
                testDescription: "identification jumps", flows: ipv4, second: { $0.identification += 1 }),
            Difference(
                testDescription: "IP options", flows: ipv4, second: { $0.networkOptions = [1, 1, 1, 1] }),
            Difference(
                testDescription: "IP options in both", flows: ipv4,
                first: { $0.networkOptions = [1, 1, 1, 1] },
                second: { $0.networkOptions = [1, 1, 1, 1] }),
            Difference(testDescription: "gap", flows: tcp, second: { $0.sequence += 1 }),
            Difference(testDescription: "overlap", flows: tcp, second: { $0.sequence -= 1 }),
            Difference(testDescription: "again", flows: tcp, second: { $0.sequence -= 100 }),
            Difference(testDescription: "acknowledgment", flows: tcp, second: { $0.acknowledgment += 1 }),
            Difference(testDescription: "window", flows: tcp, second: { $0.window += 1 }),
            Difference(testDescription: "urgent pointer", flows: tcp, second: { $0.urgent = 1 }),
            Difference(testDescription: "timestamp", flows: tcp, second: { $0.transportOptions[7] = 9 }),
            Difference(
                testDescription: "echoed timestamp", flows: tcp, second: { $0.transportOptions[11] = 9 }),
            Difference(
                testDescription: "fewer options", flows: tcp, second: { $0.transportOptions.removeLast(4) }),
            Difference(
                testDescription: "no ACK", flows: tcp, first: { $0.flags = 0 }, second: { $0.flags = 0 }),
            Difference(testDescription: "PSH on the first", flows: tcp, first: { $0.flags = 0x18 }),
            Difference(testDescription: "short first", flows: tcp, first: { $0.payload.removeLast() }) {
                $0.sequence -= 1
            },
            Difference(testDescription: "no checksum", flows: udp, second: { $0.hasChecksum = false }),
            Difference(
                testDescription: "no checksum in both", flows: udp, first: { $0.hasChecksum = false },
                second: { $0.hasChecksum = false }),
            Difference(
                testDescription: "wrong checksum, first", flows: tcp + udp,
                spoil: { first, _ in first[first.count - 1] ^= 1 }),
            Difference(
                testDescription: "wrong checksum, second", flows: tcp + udp,
                spoil: { _, second in second[second.count - 1] ^= 1 }),
            Difference(
                testDescription: "padding", flows: tcp + udp, spoil: { _, second in second.append(0) }),
            Difference(
                testDescription: "UDP length", flows: udp,
                spoil: { _, second in
                    let offset = second[0] >> 4 == 6 ? 44 : 24
                    second.setWord(offset, second.word(offset) - 1)
                }),
            Difference(
                testDescription: "more fragments", flows: ipv4,
                spoil: { _, second in
                    second.setWord(6, 0x2000)
                    fixChecksums(&second, transportOffset: 20)
                }),
            Difference(
                testDescription: "reserved bit", flows: ipv4,
                spoil: { first, second in
                    for index in 0..<2 {
                        var packet = index == 0 ? first : second
                        packet.setWord(6, 0xC000)
                        fixChecksums(&packet, transportOffset: 20)
                        if index == 0 { first = packet } else { second = packet }
                    }
                }),
        ]
        + [0x01, 0x02, 0x04, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800].flatMap { flag in
            [
                Difference(testDescription: "flag \(flag)", flows: tcp, second: { $0.flags |= flag }),
                Difference(
                    testDescription: "flag \(flag) in both", flows: tcp, first: { $0.flags |= flag },
                    second: { $0.flags |= flag }),
            ]
        }

    @Test("What must not merge does not", arguments: differences)
    func apart(difference: Difference) {
        for (version, transport) in difference.flows {
            let harness = CoalescerHarness()
            var first = packet(0, version, transport, difference.first)
            var second = packet(1, version, transport, difference.second)
            difference.spoil(&first, &second)
            let writes = harness.run([first, second])
            #expect(writes.map(\.whole) == [first, second], "\(version) \(transport)")
        }
    }

    @Test("No bit of either header gets lost", arguments: flows)
    func everyBit(version: Version, transport: Transport) {
        let headerCount = (version == .ipv4 ? 20 : 40) + (transport == .tcp ? 32 : 8)
        let transportOffset = version == .ipv4 ? 20 : 40
        let harness = CoalescerHarness()
        for bit in 0..<(headerCount * 8) {
            for changed in 0..<3 {
                var packets = (0..<3).map { packet($0, version, transport) }
                packets[changed][bit / 8] ^= 0x80 >> UInt8(bit % 8)
                // The flip itself, and the flip with checksums to match.
                for repaired in [false, true] {
                    if repaired { fixChecksums(&packets[changed], transportOffset: transportOffset) }
                    // A wrong IPv4 header checksum never gets this far.
                    if version == .ipv4 && naiveSum(packets[changed][..<20]) != 0xFFFF { continue }
                    let out = harness.run(packets).flatMap(\.segments)
                    #expect(
                        inOrderByFlow(out) == inOrderByFlow(packets), "bit \(bit) of packet \(changed)")
                }
            }
        }
    }

    /// Which packets must stay in order: those of a flow, told by everything but what changes within one.
    private func inOrderByFlow(_ packets: [Bytes]) -> [Bytes: [Bytes]] {
        Dictionary(grouping: packets) { packet in
            packet[0] >> 4 == 6 ? Bytes(packet[8..<44]) : Bytes(packet[12..<24])
        }
    }

    @Test("A packet that cannot merge keeps its place in the flow", arguments: flows)
    func order(version: Version, transport: Transport) {
        let harness = CoalescerHarness()
        var packets = (0..<6).map { packet($0, version, transport) }
        packets[2] = packet(2, version, transport) { $0.trafficClass = 3 }
        let writes = harness.run(packets)
        #expect(writes.map(\.packetCount) == [2, 1, 3])
        #expect(writes.flatMap(\.segments) == packets)
    }

    @Test("A fragment closes the flows between its addresses, and no others")
    func fragment() {
        let harness = CoalescerHarness()
        func other(_ index: Int) -> Bytes { packet(index, .ipv4, .udp) { $0.source = 5 } }
        var fragment = packet(1, .ipv4, .udp)
        fragment.setWord(6, 0x2000)
        fixChecksums(&fragment, transportOffset: 20)
        let writes = harness.run([
            packet(0, .ipv4, .udp), packet(0, .ipv4, .tcp), other(0), fragment, packet(1, .ipv4, .udp),
            packet(1, .ipv4, .tcp), other(1),
        ])
        #expect(
            writes.map(\.segments) == [
                [packet(0, .ipv4, .udp)], [packet(0, .ipv4, .tcp)], [other(0), other(1)], [fragment],
                [packet(1, .ipv4, .udp)], [packet(1, .ipv4, .tcp)],
            ])
    }

    @Test("An IPv6 extension header closes the flows between its addresses, and no others")
    func extensionHeader() {
        let harness = CoalescerHarness()
        func other(_ index: Int) -> Bytes { packet(index, .ipv6, .udp) { $0.source = 5 } }
        var hidden = packet(1, .ipv6, .udp)
        hidden[6] = 60
        var icmp = packet(1, .ipv6, .udp)
        icmp[6] = 58
        let writes = harness.run([
            packet(0, .ipv6, .udp), other(0), hidden, packet(1, .ipv6, .udp), icmp, packet(2, .ipv6, .udp),
            other(1),
        ])
        #expect(
            writes.map(\.segments) == [
                [packet(0, .ipv6, .udp)], [other(0), other(1)], [hidden],
                [packet(1, .ipv6, .udp), packet(2, .ipv6, .udp)], [icmp],
            ])
    }

    @Test("A super-packet ends at its limits", arguments: flows)
    func limits(version: Version, transport: Transport) {
        // 65,535 bytes hold 46 packets of 1,400 bytes of payload and the headers once.
        let large = CoalescerHarness()
        let packets = (0..<150).map { packet($0, version, transport, count: 1400) }
        let writes = large.run(packets)
        #expect(writes.first?.packetCount == 46)
        #expect(writes.allSatisfy { $0.whole.count <= 65_535 })
        #expect(writes.flatMap(\.segments) == packets)

        let small = CoalescerHarness(maximumSuperPacketBytes: 3000)
        #expect(small.run(packets).first?.packetCount == 2)

        // 128 packets are as many as a slot has vectors for.
        let many = CoalescerHarness(packetLimit: 300)
        let tiny = (0..<260).map { packet($0, version, transport, count: 1) }
        let tinyWrites = many.run(tiny)
        #expect(tinyWrites.map(\.packetCount) == [128, 128, 4])
        #expect(tinyWrites.flatMap(\.segments) == tiny)
    }

    @Test("When the slots are taken, it says so, still joins, and takes the packet after a flush")
    func full() {
        let harness = CoalescerHarness(slotLimit: 2)
        func of(_ port: Int, _ index: Int) -> Bytes {
            packet(index, .ipv4, .udp) { $0.sourcePort = port }
        }
        #expect(harness.add(of(1, 0)) == .opened)
        #expect(harness.add(of(2, 0)) == .opened)
        #expect(harness.add(of(3, 0)) == .full)
        #expect(harness.add(of(1, 1)) == .joined)
        #expect(harness.add(of(2, 7)) == .full)
        #expect(harness.flush().map(\.segments) == [[of(1, 0), of(1, 1)], [of(2, 0)]])
        #expect(harness.add(of(2, 7)) == .opened)
        #expect(harness.flush().map(\.segments) == [[of(2, 7)]])
    }

    @Test("What the TUN does not take is not made")
    func switches() {
        let tcp = (0..<3).map { packet($0, .ipv4, .tcp) }
        let udp = (0..<3).map { packet($0, .ipv6, .udp) }
        let withoutTCP = CoalescerHarness(merges: .udp).run(tcp + udp)
        #expect(withoutTCP.map(\.packetCount) == [1, 1, 1, 3])
        let withoutUDP = CoalescerHarness(merges: .tcp).run(tcp + udp)
        #expect(withoutUDP.map(\.packetCount) == [3, 1, 1, 1])
        let withoutTCPOverIPv4 = CoalescerHarness(merges: [.tcpOverIPv6, .udp]).run(tcp + udp)
        #expect(withoutTCPOverIPv4.map(\.packetCount) == [1, 1, 1, 3])
        #expect((withoutTCP + withoutUDP).flatMap(\.segments) == tcp + udp + tcp + udp)
    }

    @Test("A checksum that segmentation would write as 0 is not made so")
    func checksumOfAllOnes() {
        // Of the second packet, the payload is chosen so that its TCP checksum is 0, which 0xFFFF also stands for.
        let first = packet(0, .ipv4, .tcp)
        let plain = packet(1, .ipv4, .tcp) { $0.payload[0...1] = [0, 0] }
        let checksum = plain.word(36)
        var second = packet(1, .ipv4, .tcp) {
            $0.payload[0...1] = [UInt8(checksum >> 8), UInt8(checksum & 0xFF)]
        }
        #expect(second.word(36) == 0)
        let harness = CoalescerHarness()
        #expect(harness.run([first, second]).map(\.segments) == [[first, second]])
        second.setWord(36, 0xFFFF)
        #expect(harness.run([first, second]).map(\.segments) == [[first], [second]])
    }

    @Test("UDP that says it has no checksum keeps saying so, also where the sum would be right by chance")
    func noChecksumByChance() {
        let first = packet(0, .ipv4, .udp)
        let checksum = packet(1, .ipv4, .udp) { $0.payload[0...1] = [0, 0] }.word(26)
        var second = packet(1, .ipv4, .udp) {
            $0.payload[0...1] = [UInt8(checksum >> 8), UInt8(checksum & 0xFF)]
        }
        #expect(second.word(26) == 0xFFFF)
        let harness = CoalescerHarness()
        #expect(harness.run([first, second]).map(\.segments) == [[first, second]])
        second.setWord(26, 0)
        #expect(harness.run([first, second]).map(\.segments) == [[first], [second]])
    }

    @Test("The flow table forgets at a reset, also when its generation wraps")
    func generations() {
        var coalescer = Coalescer(
            slotLimit: 4, merges: .all, maximumSuperPacketBytes: 65_535,
            generation: .max - 3)
        for _ in 0..<8 {
            let memory = (0..<3).map { _ in GuardedMemory(capacity: 4096) }
            defer { withExtendedLifetime(memory) {} }
            for index in 0..<3 {
                let bytes = packet(index, .ipv4, .udp)
                let addition = coalescer.add(memory[index].place(bytes), length: bytes.count)
                #expect(addition == (index == 0 ? .opened : .joined))
            }
            #expect(coalescer.slotCount == 1)
            coalescer.reset()
            #expect(coalescer.slotCount == 0)
        }
    }

    @Test("A refused super-packet comes apart into the packets that arrived", arguments: flows)
    func separation(version: Version, transport: Transport) {
        let harness = CoalescerHarness()
        let even = (0..<4).map { packet($0, version, transport) }
        #expect(harness.separated(even) == even)
        let short = packet(3, version, transport) { $0.payload.removeLast(7) }
        #expect(harness.separated(even[..<3] + [short]) == even[..<3] + [short])
        if transport == .tcp {
            let pushed = packet(3, version, transport) { $0.flags |= 0x08 }
            #expect(harness.separated(even[..<3] + [pushed]) == even[..<3] + [pushed])
        }
        // Nothing of it is left for those that come later.
        #expect(harness.run(even).map(\.segments) == [even])
    }
}
