import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// What a worker does with packets, each way.
@Suite struct WorkerTests {
    @Test func aPacketFromAPodLeavesForItsPeerOneHopOlder() {
        var bench = Bench()
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1, 2, 3]))
        bench.run()
        #expect(bench.kernel.sent.count == 1)
        #expect(bench.kernel.sent[0].endpoint == Bench.endpoint(3))
        #expect(
            bench.kernel.sent[0].payload == Packets.udp(pod(1), pod(3), timeToLive: 63, payload: [1, 2, 3]))
    }

    @Test func aDatagramFromAPeerReachesThePodOneHopOlder() {
        var bench = Bench()
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1, 2, 3]))
        bench.run()
        #expect(bench.kernel.written.count == 1)
        #expect(
            Array(bench.kernel.written[0][10...])
                == Packets.udp(pod(3), pod(1), timeToLive: 63, payload: [1, 2, 3]))
    }

    @Test func equalNeighboursToOnePeerLeaveInOneSend() {
        var bench = Bench()
        for index in 0..<40 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == 40)
        #expect(bench.kernel.sent.map { $0.payload[28] } == (0..<40).map { UInt8($0) })
        #expect(bench.counters[.sends] < 10)
    }

    @Test(arguments: [
        // One send each for the first two; 44 segments fit a send, and 61 follow.
        ([1, 20, 20, 20], 4), ([20, 1, 20, 20], 4), ([20, 20, 20, 1], 4),
        // Bursts double up to 64 reads; in the last one, whole packets fill a send just before a super-packet.
        ([Int](repeating: 1, count: 62 + 44) + [20], 7),
    ])
    func aFullSizedPacketSharesTheSendsOfTheSuperPacketsAroundIt(counts: [Int], mostSends: Int) {
        var bench = Bench()
        var traffic = TCPTraffic()
        // The first two bring the worker to read in bursts.
        for count in [1, 1] + counts {
            let made = traffic.packet(flow: 1000, segments: count, segmentBytes: 1432, tailBytes: 1432)
            bench.fromPod(made.packet, header: made.header)
        }
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == traffic.expected.count)
        #expect(firstDifference(bench.kernel.sent.map(\.payload), traffic.expected) == nil)
        #expect(Int(bench.counters[.sends]) <= mostSends)
    }

    @Test func noRouteIsAnsweredWithUnreachable() {
        var bench = Bench()
        let packet = Packets.udp(pod(1), pod(200), payload: [9])
        bench.fromPod(packet)
        bench.run()
        #expect(bench.kernel.sent.isEmpty)
        #expect(bench.counters[.dropOutboundNoRoute] == 1)
        #expect(bench.kernel.written.count == 1)
        let reply = Array(bench.kernel.written[0][10...])
        #expect(reply[9] == 1)
        #expect(reply[20] == 3 && reply[21] == 0)
        #expect(Array(reply[16..<20]) == Packets.bytes(pod(1).bits))
        #expect(Array(reply[28...]) == packet)
        #expect(Packets.checksum(Array(reply[0..<20])) == 0)
        #expect(Packets.checksum(Array(reply[20...])) == 0)
    }

    @Test func errorsAreLimitedAndNeverAboutErrors() {
        var bench = Bench()
        for _ in 0..<300 { bench.fromPod(Packets.udp(pod(1), pod(200), payload: [9])) }
        bench.fromPod(Packets.ipv4(pod(1), pod(200), transport: 1, payload: [3, 0, 0, 0, 0, 0, 0, 0]))
        bench.fromPod(
            Packets.ipv4(
                pod(1), pod(200), transport: 17, fragment: 0x0010, payload: [3, 0, 0, 0, 0, 0, 0, 0]))
        bench.run(rounds: 40)
        #expect(bench.counters[.dropOutboundNoRoute] == 302)
        #expect(bench.counters[.unreachablesSent] + bench.counters[.errorsSuppressed] == 302)
        #expect(bench.counters[.errorsSuppressed] >= 100)
        #expect(bench.counters[.unreachablesSent] == UInt64(bench.kernel.written.count))
    }

    @Test func timeToLiveRunsOutInBothDirections() {
        var bench = Bench()
        bench.fromPod(Packets.udp(pod(1), pod(3), timeToLive: 1, payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), timeToLive: 1, payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), timeToLive: 0, payload: [1]))
        bench.run()
        #expect(bench.counters[.dropOutboundTimeToLive] == 1)
        #expect(bench.counters[.dropInboundTimeToLive] == 2)
        #expect(bench.kernel.written.count == 1)
        #expect(bench.kernel.written[0][30] == 11)
        #expect(bench.kernel.sent.count == 2)
        #expect(bench.kernel.sent.allSatisfy { $0.payload[20] == 11 && $0.endpoint == Bench.endpoint(3) })
    }

    @Test func whatIsNoWholePacketIsDroppedByReason() {
        var bench = Bench()
        let good = Packets.udp(pod(3), pod(1), payload: [1, 2, 3, 4])
        func broken(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
            var packet = good
            change(&packet)
            return packet
        }
        bench.fromPeer(3, [0x45])
        bench.fromPeer(3, [])
        bench.fromPeer(3, broken { $0[0] = 0x55 })
        bench.fromPeer(3, broken { $0[0] = 0x44 })
        bench.fromPeer(3, broken { $0[0] = 0x4F })
        bench.fromPeer(3, good + [0])
        bench.fromPeer(3, Array(good.dropLast()))
        bench.fromPeer(3, broken { $0[10] ^= 1 })
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 0, count: 1445)))
        bench.fromPeer(3, Packets.udp(pod(3), pod(4), payload: [1]))
        bench.fromPeer(3, Packets.udp(pod(4), pod(1), payload: [1]))
        bench.fromPeer(9, good)
        bench.fromPeer(9, [])
        bench.fromPeer(3, good)
        bench.run()
        #expect(bench.counters[.dropInboundTooShort] == 2)
        #expect(bench.counters[.dropInboundVersion] == 1)
        #expect(bench.counters[.dropInboundHeaderLength] == 2)
        #expect(bench.counters[.dropInboundTotalLength] == 2)
        #expect(bench.counters[.dropInboundHeaderChecksum] == 1)
        #expect(bench.counters[.dropInboundTooLarge] == 1)
        #expect(bench.counters[.dropInboundDestination] == 1)
        #expect(bench.counters[.dropInboundSource] == 1)
        #expect(bench.counters[.dropInboundUnknownPeer] == 2)
        #expect(bench.kernel.written.count == 1)
    }

    @Test func aPeersOwnAddressIsASourceAndAnySourceIfAllowed() {
        var bench = Bench()
        bench.fromPeer(3, Packets.udp(Bench.underlay(3), pod(1), payload: [1]))
        bench.run()
        #expect(bench.kernel.written.count == 1)

        var open = Bench(acceptsAnySource: true)
        open.fromPeer(3, Packets.udp(IPv4Address("8.8.8.8")!, pod(1), payload: [1]))
        open.fromPeer(9, Packets.udp(IPv4Address("8.8.8.8")!, pod(1), payload: [1]))
        open.run()
        #expect(open.kernel.written.count == 1)
        #expect(open.counters[.dropInboundUnknownPeer] == 1)
    }

    @Test func oneBadDatagramInABundleStaysOne() {
        var bench = Bench()
        let good = Packets.udp(pod(3), pod(1), payload: [1, 2])
        let spoofed = Packets.udp(pod(4), pod(1), payload: [1, 2])
        let elsewhere = Packets.udp(pod(3), pod(2), payload: [1, 2])
        var damaged = good
        damaged[13] ^= 1
        let other = Packets.udp(pod(3), pod(1, 9), payload: [1, 2])
        let bundle = [good, good, spoofed, good, elsewhere, other, elsewhere, good, damaged, spoofed]
        bench.fromPeer(3, bundle.flatMap { $0 }, segmentBytes: good.count)
        bench.run()
        #expect(bench.counters[.packetsDelivered] == 5)
        #expect(bench.counters[.dropInboundSource] == 2)
        #expect(bench.counters[.dropInboundDestination] == 2)
        #expect(bench.counters[.dropInboundHeaderChecksum] == 1)
        #expect(bench.peerCounters[3].packetsReceived == 5)
    }

    /// Of small datagrams, after which it yields before it sleeps, and of larger ones, after which it sleeps at once.
    @Test(arguments: [10, 600])
    func aFloodThatFillsEveryReceiveBufferDoesNotMakeItDeaf(leastBytes: Int) {
        var bench = Bench()
        for index in 0..<64 {
            // Sizes that grow cannot be merged: each datagram is a write, and all buffers are held at once.
            bench.fromPeer(
                3, Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 1, count: leastBytes + index)))
        }
        bench.run(rounds: 40)
        #expect(bench.kernel.written.count == 64)
        #expect(bench.kernel.stalls == 0)
    }

    @Test(arguments: 1...12)
    // long: traffic both ways, and the account of it.
    func nothingIsLostOrReorderedBesideWhatFailedAndWasCounted(seed: Int) {
        var bench = Bench(
            seed: UInt64(seed), segmentLimit: [1, 64, 128][seed % 3], tuning: Tuning.extremes[seed % 4])
        let kernel = bench.kernel
        kernel.lateness = [0, 2, 10][seed % 3]
        kernel.reluctance = [0, 0, 20, 60][seed % 4]
        kernel.sendFailurePercent = [0, 3][seed % 2]
        // A message that met another error than a full buffer is sent again behind those of its round.
        let keepsOrder = seed % 4 != 3
        if keepsOrder { kernel.sendErrors = [EAGAIN, ENOBUFS] }
        kernel.writeFailurePercent = [0, 3][(seed / 2) % 2]
        kernel.readFailurePercent = [0, 0, 5][seed % 3]
        kernel.receiveFailurePercent = [0, 5][(seed / 3) % 2]
        var generator = SeededGenerator(seed: UInt64(seed) &* 977)
        var sequences: [Int: UInt32] = [:]
        var inbound: [Int: UInt32] = [:]
        var outboundCount = 0
        var inboundCount = 0
        for _ in 0..<300 {
            for _ in 0..<Int.random(in: 0...90, using: &generator) {
                let flow = Int.random(in: 0..<8, using: &generator)
                let size = generator.chance(70) ? 40 : Int.random(in: 8...1400, using: &generator)
                let number = sequences[flow, default: 0]
                sequences[flow] = number + 1
                var payload = [UInt8](repeating: UInt8(flow), count: size)
                payload.replaceSubrange(0..<4, with: Packets.bytes(number))
                bench.fromPod(
                    Packets.udp(pod(1), pod(2 + flow % 4), ports: (UInt16(flow), 9), payload: payload))
                outboundCount += 1
            }
            for _ in 0..<Int.random(in: 0...5, using: &generator) {
                let flow = Int.random(in: 0..<8, using: &generator)
                let peer = 2 + flow % 4
                let size = Int.random(in: 8...1000, using: &generator)
                var merged: [UInt8] = []
                let count = Int.random(in: 1...(generator.chance(50) ? 1 : 40), using: &generator)
                for _ in 0..<count {
                    let number = inbound[flow, default: 0]
                    inbound[flow] = number + 1
                    var payload = [UInt8](repeating: UInt8(flow), count: size)
                    payload.replaceSubrange(0..<4, with: Packets.bytes(number))
                    merged += Packets.udp(
                        pod(peer), pod(1), ports: (UInt16(flow), 9), identification: 5, payload: payload)
                    inboundCount += 1
                }
                bench.fromPeer(peer, merged, segmentBytes: count > 1 ? size + 28 : 0)
            }
            #expect(bench.worker.round() == 0)
        }
        bench.drain()
        #expect(kernel.stalls == 0)

        var next: [Int: UInt32] = [:]
        for sent in kernel.sent {
            let flow = Int(sent.payload[20]) << 8 | Int(sent.payload[21])
            let number = sent.payload[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            #expect(!keepsOrder || number >= next[flow, default: 0], "flow \(flow) out of order")
            next[flow] = number + 1
            #expect(sent.payload[32...].allSatisfy { Int($0) == flow })
            #expect(sent.endpoint == Bench.endpoint(2 + flow % 4))
        }
        let sendDrops =
            bench.counters[.dropOutboundUnderlayFull] + bench.counters[.dropOutboundUnreachable]
            + bench.counters[.dropOutboundError]
        #expect(
            kernel.sent.count + kernel.lostInSend + Int(bench.counters[.dropOutboundNoBuffer])
                == outboundCount)
        #expect(Int(sendDrops) == kernel.lostInSend)
        #expect(Int(bench.counters[.packetsSent]) == kernel.sent.count)
        // What is counted for the peers is what is counted in all, and each packet for the peer that it went to.
        let peers = (2..<6).map { bench.peerCounters[UInt16($0)] }
        for (index, peer) in peers.enumerated() {
            let bytes = kernel.sent.filter { $0.endpoint == Bench.endpoint(2 + index) }.map(
                \.payload.count)
            #expect(peer.packetsSent == bytes.count && peer.bytesSent == bytes.reduce(0, +))
        }
        #expect(peers.reduce(0) { $0 + $1.packetsReceived } == bench.counters[.packetsDelivered])
        #expect(peers.reduce(0) { $0 + $1.bytesReceived } == bench.counters[.bytesDelivered])

        var nextInbound: [Int: UInt32] = [:]
        var delivered = 0
        for frame in kernel.written {
            for packet in segments(frame) {
                let flow = Int(packet[20]) << 8 | Int(packet[21])
                let number = packet[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
                #expect(number >= nextInbound[flow, default: 0], "flow \(flow) out of order")
                nextInbound[flow] = number + 1
                #expect(packet[32...].allSatisfy { Int($0) == flow })
                delivered += 1
            }
        }
        let writeDrops =
            bench.counters[.dropInboundTunnelDown] + bench.counters[.dropInboundTunnelFull]
            + bench.counters[.dropInboundError]
        #expect(delivered + Int(writeDrops) == inboundCount)
    }
}
