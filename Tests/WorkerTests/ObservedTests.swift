import Addresses
import Counters
import Forwarding
import PacketHeaders
import Testing

@testable import Worker

/// What can be seen of a worker from outside.
@Suite struct ObservedTests {
    @Test func eachPeerIsCountedAndWhenItWasHeardLast() {
        var bench = Bench()
        let before = UInt64(bench.kernel.nowNanoseconds)
        for index in 0..<40 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        bench.fromPod(Packets.udp(pod(1), pod(4), payload: [1]))
        bench.fromPeer(4, Packets.udp(pod(4), pod(1), payload: [1, 2]))
        bench.fromPeer(5, Packets.udp(pod(4), pod(1), payload: [1, 2]))
        bench.run(rounds: 12)
        let counts = (2..<6).map { bench.peerCounters[UInt16($0)] }
        #expect(counts.map(\.packetsSent) == [0, 40, 1, 0])
        #expect(counts.map(\.bytesSent) == [0, 40 * 31, 29, 0])
        // What came from 5 with an inner source of 4's was not let in, and is neither's.
        #expect(counts.map(\.packetsReceived) == [0, 0, 1, 0])
        #expect(counts.map(\.bytesReceived) == [0, 0, 30, 0])
        #expect(counts.map { $0.lastReceivedNanoseconds >= before } == [false, false, true, false])
    }

    @Test func peersThatShareAnAddressAreToldApartByTheInnerSource() {
        var bench = Bench()
        let shared = Bench.underlay(3)
        bench.publication.publish(
            ForwardingRoutes(
                localIPv4: Bench.local,
                peers: [2, 3, 4].map {
                    ForwardingPeer(
                        ipv4: Bench.subnet($0), endpoint: Endpoint(address: shared, port: 8000 + UInt16($0)),
                        counterSlot: UInt16($0))
                }))
        let sources = [2, 2, 4, 3, 3, 3]
        let payload = sources.flatMap { Packets.udp(pod($0), pod(1), payload: [1, 2]) }
        bench.fromPeer(3, payload, segmentBytes: 30)
        bench.run()
        #expect((2...4).map { bench.peerCounters[UInt16($0)].packetsReceived } == [2, 3, 1])
        #expect((2...4).map { bench.peerCounters[UInt16($0)].bytesReceived } == [60, 90, 30])
    }

    @Test func aRefusedSuperPacketIsCountedByReason() {
        var bench = Bench()
        let packet = Packets.udp(pod(1), pod(3), payload: [UInt8](repeating: 0, count: 100))
        // virtio_net_hdr: flags, type, header length, segment size, checksum start, checksum offset.
        func header(flags: UInt8, type: UInt8, segment: UInt8, start: UInt8, offset: UInt8) -> [UInt8] {
            [flags, type, 28, 0, segment, 0, start, 0, offset, 0]
        }
        bench.fromPod(packet, header: header(flags: 1, type: 5, segment: 0, start: 20, offset: 6))
        bench.fromPod(packet, header: header(flags: 1, type: 9, segment: 10, start: 20, offset: 6))
        bench.fromPod(packet, header: header(flags: 1, type: 1, segment: 10, start: 20, offset: 6))
        bench.fromPod(packet, header: header(flags: 1, type: 0, segment: 0, start: 200, offset: 6))
        bench.fromPod([0x45, 0, 0])
        bench.fromPod([UInt8](repeating: 0x10, count: 40))
        bench.run(rounds: 12)
        for counter: Counter in [
            .dropOutboundSuperPacketSegmentSize, .dropOutboundSuperPacketSegmentation,
            .dropOutboundSuperPacketTransport, .dropOutboundSuperPacketChecksumPlace,
            .dropOutboundMalformedTooShort, .dropOutboundMalformedVersion,
        ] {
            #expect(bench.counters[counter] == 1, "\(counter)")
        }
        #expect(bench.kernel.sent.isEmpty)
    }

    @Test func roundsAreTimedAndBatchesSumUp() {
        var bench = Bench()
        let began = bench.kernel.nowNanoseconds
        bench.run(rounds: 5)
        let atRest = bench.counters[.roundTime].counts.reduce(0, +)
        #expect(atRest == 0)
        for index in 0..<200 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index)])) }
        bench.run(rounds: 40)
        let rounds = bench.counters[.roundTime]
        #expect(rounds.counts.reduce(0, +) > 3)
        // Each takes an enter's time and a look at the clock, but for the first after a sleep.
        #expect(rounds.sum > 0)
        #expect(rounds.sum <= UInt64(bench.kernel.nowNanoseconds - began))
        #expect(bench.counters[.readBatch].sum == 200)
        #expect(bench.counters[.sendBatch].sum == 200)
    }

    @Test func theRingsDepthIsSeen() {
        var bench = Bench()
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1]))
        bench.run(rounds: 1)
        #expect(bench.counters[.ringSubmissionCapacity] == 1024)
        #expect(bench.counters[.ringSubmissions] == 1)
        #expect(bench.counters[.ringCompletions] == 1)
        #expect(bench.counters[.receiveBuffers] == UInt64(Tuning().receiveBuffers))
        // Its datagram is on the way to the TUN device.
        #expect(bench.counters[.receiveBuffersFree] == UInt64(Tuning().receiveBuffers - 1))
        bench.run()
        #expect(bench.counters[.receiveBuffersFree] == UInt64(Tuning().receiveBuffers))
    }
}

@Suite struct PeerSlotsTests {
    private func peers(_ numbers: some Sequence<Int>) -> [ForwardingPeer] {
        numbers.map {
            ForwardingPeer(
                ipv4: IPv4Prefix(IPv4Address(bits: 0x0A00_0000 + UInt32($0) << 8), length: 24),
                endpoint: Endpoint(address: IPv4Address(bits: UInt32($0)), port: 8285))
        }
    }

    @Test func aPeerKeepsItsSlotWhateverComesAndGoes() {
        var slots = PeerSlots()
        var first = peers(0..<10)
        slots.assign(to: &first) { _ in PeerCounts() }
        var second = peers([11, 7, 3, 12])
        second[1].endpoint.port = 9
        slots.assign(to: &second) { _ in PeerCounts() }
        #expect(second[1].counterSlot == first[7].counterSlot)
        #expect(second[2].counterSlot == first[3].counterSlot)
        #expect(Set(second.map(\.counterSlot)).count == 4)
        #expect(
            Set(first.map(\.counterSlot)).isDisjoint(with: [second[0].counterSlot, second[3].counterSlot]))
    }

    @Test func aSlotGivenAgainBeginsAtZero() {
        var slots = PeerSlots()
        var counts = PeerCounts()
        counts.packetsSent = 7
        counts.lastReceivedNanoseconds = 99
        for number in 0...PeerCounterBlock.peerLimit {
            var one = peers([number])
            slots.assign(to: &one) { _ in counts }
        }
        #expect(slots.totals { _ in counts }.peers.map(\.value) == [PeerCounts()])
        counts.packetsSent = 9
        counts.lastReceivedNanoseconds = 100
        let seen = slots.totals { _ in counts }.peers.values.first
        #expect(seen?.packetsSent == 2 && seen?.lastReceivedNanoseconds == 100)
    }

    @Test func thoseBeyondTheLimitShareASlotUntilOneComesFree() {
        let limit = PeerCounterBlock.peerLimit
        var slots = PeerSlots()
        var all = peers(0..<limit + 3)
        slots.assign(to: &all) { _ in PeerCounts() }
        #expect(all[limit...].allSatisfy { $0.counterSlot == PeerCounterBlock.sharedSlot })
        #expect(Set(all[..<limit].map(\.counterSlot)).count == limit)
        let gone = all.remove(at: 5).counterSlot
        slots.assign(to: &all) { _ in PeerCounts() }
        #expect(all[limit - 1].counterSlot == gone)
        #expect(all[limit...].allSatisfy { $0.counterSlot == PeerCounterBlock.sharedSlot })
        #expect(slots.totals { _ in PeerCounts() }.peers.count == limit)
    }
}
