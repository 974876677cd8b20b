import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// Polling, rests and waits, on the time of the simulated kernel; and what enters and receives may end with.
@Suite struct ClockTests {
    @Test func pollingFollowsSparseTrafficAndNotBulk() {
        let polling = 100_000
        var bench = Bench(busyPollMicroseconds: polling / 1000)
        let packet = Packets.udp(pod(1), pod(3), payload: [1])
        bench.run()
        #expect(bench.counters[.busyPolls] == 0)
        bench.fromPod(packet)
        bench.run(rounds: 1)
        let began = bench.kernel.nowNanoseconds
        // It polls, and lets others run meanwhile, for as long as it was told, and no longer.
        while bench.kernel.nowNanoseconds < began + polling - bench.kernel.nanosecondsPerEnter {
            let polls = bench.counters[.busyPolls]
            bench.run(rounds: 1)
            #expect(bench.counters[.busyPolls] == polls + 1)
        }
        #expect(bench.kernel.yields == Int(bench.counters[.busyPolls]))
        bench.run(rounds: 2)
        let sleeps = bench.counters[.sleeps]
        bench.run(rounds: 1)
        #expect(bench.counters[.sleeps] == sleeps + 1)
    }

    @Test func pollingRestsAfterLoadAndAfterAnAcknowledgementInItsMidst() {
        var bench = Bench(busyPollMicroseconds: 1_000_000)
        let packet = Packets.udp(pod(1), pod(3), payload: [1])
        for _ in 0..<200 { bench.fromPod(packet) }
        while !bench.kernel.tunnelQueue.isEmpty { bench.run(rounds: 1) }
        bench.run(rounds: 1)
        let loadEnded = bench.kernel.nowNanoseconds
        // The first packet of all came alone.
        let polls = bench.counters[.busyPolls]
        bench.run()
        #expect(bench.counters[.busyPolls] == polls)
        bench.fromPod(packet)
        bench.run()
        #expect(bench.counters[.busyPolls] == polls)
        #expect(bench.kernel.nowNanoseconds < loadEnded + WorkerLimits.pollingRestNanoseconds / 2)

        bench.kernel.nowNanoseconds = loadEnded + WorkerLimits.pollingRestNanoseconds
        bench.fromPod(packet)
        bench.run()
        #expect(bench.counters[.busyPolls] > polls)
    }

    @Test func aTunnelThatFailsIsLeftAloneForAWhile() {
        var bench = Bench()
        bench.kernel.readError = EBADFD
        let rest = WorkerRest.microseconds * 1000
        let began = bench.kernel.nowNanoseconds
        bench.run(rounds: 50)
        // One read is asked for in each rest; the worker sleeps for as long, and not for ever.
        let reads = bench.kernel.failedReads
        #expect(reads.count >= 24)
        for (read, next) in zip(reads, reads.dropFirst()) { #expect((rest...2 * rest).contains(next - read)) }
        #expect(bench.kernel.nowNanoseconds - began >= (reads.count - 1) * rest)
        // What comes from peers meanwhile is not left alone.
        bench.kernel.failedReads = []
        bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [1]))
        bench.run(rounds: 2)
        #expect(bench.kernel.written.count == 1 && bench.kernel.failedReads.count <= 1)
        // The device is up again: after the rest it is read from as ever.
        bench.kernel.readError = 0
        bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1]))
        bench.run()
        #expect(bench.kernel.sent.count == 1)
    }

    @Test func anEngineThatCannotGoOnEndsTheRound() {
        var bench = Bench()
        bench.kernel.enterError = ENXIO
        let result = bench.worker.round()
        #expect(result == -ENXIO)
    }

    @Test func aWakeUpIsCounted() {
        var bench = Bench()
        bench.kernel.isWoken = true
        bench.run(rounds: 3)
        #expect(bench.counters[.wakes] == 1)
    }

    @Test func aReceiveThatBroughtNothingCostsNoBuffer() {
        var bench = Bench()
        bench.kernel.receiveFailurePercent = 50
        for index in 0..<200 { bench.fromPeer(3, Packets.udp(pod(3), pod(1), payload: [UInt8(index)])) }
        bench.drain()
        #expect(bench.kernel.receiveFailures > 50)
        #expect(bench.counters[.receives] == 200)
        #expect(bench.counters[.packetsDelivered] == 200)
        #expect(bench.counters[.receiveBuffersFree] == UInt64(Tuning().receiveBuffers))
    }
}
