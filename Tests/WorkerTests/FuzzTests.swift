import Addresses
import Counters
import PacketHeaders
import Testing

@testable import Worker

// Both parsers where they stand: frames of the TUN device with any virtio-net header, datagrams of any bytes in
// receive buffers cut anywhere. Whatever comes in is counted once, and whatever goes out is a whole packet that may
// go there.
#if DEBUG
    private let inputsPerSeed = 1_000
#else
    private let inputsPerSeed = 60_000
#endif

extension SeededGenerator {
    fileprivate mutating func byte() -> UInt8 { UInt8.random(in: 0...255, using: &self) }
    fileprivate mutating func below(_ limit: Int) -> Int { Int.random(in: 0..<limit, using: &self) }

    /// An address that means something else than one host.
    fileprivate mutating func reservedAddress() -> IPv4Address {
        let texts = [
            "0.0.0.0", "0.0.0.1", "127.0.0.1", "169.254.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        ]
        return IPv4Address(texts[below(texts.count)]) ?? .any
    }

    /// A packet of some kind between two nodes.
    fileprivate mutating func packet(_ source: IPv4Address, _ destination: IPv4Address) -> [UInt8] {
        let payload = [UInt8](repeating: byte(), count: below(10) == 0 ? below(9000) : below(300))
        let identification = UInt16(below(4))
        switch below(5) {
        case 0:
            return Packets.tcp(
                source, destination, sequence: UInt32(below(4) * payload.count),
                flags: [0x10, 0x18, 0x11, 0x02, 0x50][below(5)], identification: identification,
                payload: payload)
        case 1:
            return Packets.ipv4(
                source, destination, transport: byte(), timeToLive: UInt8(below(4)),
                fragment: UInt16(below(0x10000)), payload: payload)
        case 2:
            let length = Packets.bytes(UInt16(payload.count))
            return [0x60, 0, 0, 0] + length + [17, 64] + (0..<32).map { _ in byte() } + payload
        default:
            return Packets.udp(source, destination, identification: identification, payload: payload)
        }
    }

    /// Flips, cuts and lengthens, mostly in the headers; half of the packets stay as they are.
    fileprivate mutating func mutate(_ packet: inout [UInt8]) {
        guard chance(50) else { return }
        for _ in 0...below(3) where !packet.isEmpty {
            let place = below(min(packet.count, 60))
            switch below(5) {
            case 0: packet[place] = byte()
            case 1: packet[place] ^= 1 << UInt8(below(8))
            case 2: packet.removeLast(below(packet.count + 1))
            case 3: packet += (0..<below(40)).map { _ in byte() }
            default: packet[place] = [0, 1, 0x7F, 0x80, 0xFF, 0x45, 0x46, 0x60][below(8)]
            }
        }
    }

    /// A virtio-net header that asks for something, mostly what fits `packet`.
    fileprivate mutating func virtioHeader(for packet: [UInt8]) -> [UInt8] {
        guard packet.count > 20, chance(70) else { return [UInt8](repeating: 0, count: 10) }
        let isTCP = packet[9] == 6
        var header: [UInt8] = [1, isTCP ? 1 : 5, 0, 0, byte(), UInt8(below(3)), 20, 0, isTCP ? 16 : 6, 0]
        if chance(20) { header[below(10)] = byte() }
        if chance(20) { header[1] = 0 }
        return header
    }
}

extension Bench {
    fileprivate func sum(_ isCounted: (String) -> Bool) -> UInt64 {
        Counter.allCases.filter { isCounted($0.name) }.reduce(0) { $0 + counters[$1] }
    }
}

@Suite struct FuzzTests {
    private func flaw(_ packet: ArraySlice<UInt8>, verifyingChecksum: Bool) -> IPPacketFlaw? {
        var bytes = Array(packet)
        return bytes.withUnsafeMutableBytes {
            guard let start = $0.baseAddress else { return .tooShort }
            return IPPacket.flaw(start, length: packet.count, verifyingChecksum: verifyingChecksum)
        }
    }

    private func address(_ packet: some Collection<UInt8>, at offset: Int) -> IPv4Address {
        IPv4Address(bits: packet.dropFirst(offset).prefix(4).reduce(0) { $0 << 8 | UInt32($1) })
    }

    @Test(
        "What a TUN device may say is counted, or leaves as whole packets for the right peer",
        arguments: 0..<4)
    func tunnelSide(seed: Int) {
        var generator = SeededGenerator(seed: 0x70E + UInt64(seed))
        var bench = Bench(seed: UInt64(seed), segmentLimit: [1, 64, 128][seed % 3])
        var fed: UInt64 = 0
        var sent = 0
        while fed < inputsPerSeed {
            for _ in 0...generator.below(80) {
                let destination = generator.chance(95) ? pod(generator.below(8)) : generator.reservedAddress()
                var packet = generator.packet(
                    generator.chance(90) ? pod(1) : generator.reservedAddress(), destination)
                let header = generator.virtioHeader(for: packet)
                generator.mutate(&packet)
                bench.fromPod(packet, header: header)
                fed += 1
            }
            bench.drain()
            for datagram in bench.kernel.sent {
                sent += 1
                let peer = Int((datagram.endpoint.address.v4?.bits ?? 0) & 0xFF)
                if flaw(datagram.payload[...], verifyingChecksum: false) != nil
                    || !Bench.subnet(peer).contains(address(datagram.payload, at: 16))
                {
                    Issue.record("seed \(seed): sent to peer \(peer): \(datagram.payload.prefix(40))")
                    return
                }
            }
            bench.kernel.sent.removeAll()
            bench.kernel.written.removeAll()
        }
        let refused = bench.sum {
            $0.hasPrefix("drop_outbound_malformed") || $0.hasPrefix("drop_outbound_super_packet")
                || [
                    "drop_outbound_no_route", "drop_outbound_time_to_live", "outbound_ignored",
                    "drop_outbound_small_segments",
                ].contains($0)
        }
        #expect(bench.counters[.tunnelReads] == fed)
        #expect(
            fed - bench.counters[.superPacketsRead] - refused + bench.counters[.segmentsSent]
                == bench.counters[.packetsSent] + bench.counters[.dropOutboundNoBuffer])
        #expect(Int(bench.counters[.packetsSent]) == sent)
        #expect(bench.counters[.superPacketsRead] > fed / 100)
        #expect(bench.kernel.stalls == 0)
    }

    @Test(
        "What the network may bring is counted, or arrives as whole packets of the right peer",
        arguments: 0..<4)
    func underlaySide(seed: Int) {
        var generator = SeededGenerator(seed: 0xDA7A + UInt64(seed))
        var bench = Bench(seed: UInt64(seed))
        var fed = 0
        var superPackets = 0
        while fed < inputsPerSeed {
            for _ in 0...generator.below(12) {
                // From peer 6 on nobody knows them.
                let peer = 2 + generator.below(5)
                let source = generator.chance(90) ? peer : 1 + generator.below(9)
                var bytes = generator.packet(
                    generator.chance(95) ? pod(source) : generator.reservedAddress(),
                    generator.chance(90)
                        ? pod(1) : generator.chance(70) ? pod(source) : generator.reservedAddress())
                let size = bytes.count
                for _ in 0..<generator.below(20) {
                    var next = bytes.count > 40_000 ? [] : Array(bytes.prefix(size))
                    if generator.chance(20) { generator.mutate(&next) }
                    bytes += next
                }
                generator.mutate(&bytes)
                let cut = generator.chance(80) ? size : generator.below(2000)
                bench.fromPeer(peer, bytes, segmentBytes: bytes.count > size ? cut : 0)
                fed += 1
            }
            bench.drain()
            for frame in bench.kernel.written {
                let packet = frame[10...]
                // A super-packet's transport checksum is left open; its IP header is whole all the same.
                if frame[1] != 0 { superPackets += 1 }
                let source = address(packet, at: 12)
                let isKnown = (2..<6).contains { Bench.subnet($0).contains(source) }
                if flaw(packet, verifyingChecksum: true) != nil || packet.count > 65_535 || !isKnown
                    || !Bench.local.contains(address(packet, at: 16))
                {
                    Issue.record("seed \(seed): written: \(frame.prefix(50))")
                    return
                }
            }
            bench.kernel.written.removeAll()
            bench.kernel.sent.removeAll()
        }
        let dropped = bench.sum { $0.hasPrefix("drop_inbound") }
        let delivered = bench.counters[.packetsDelivered] + bench.counters[.hellosReceived]
        #expect(bench.counters[.datagramsReceived] == delivered + dropped)
        #expect(bench.counters[.packetsDelivered] > UInt64(fed) / 10)
        // Some are merged, which takes more inputs than a debug build has time for.
        #expect(superPackets > 0 || inputsPerSeed < 10_000)
        #expect(bench.kernel.stalls == 0)
    }
}
