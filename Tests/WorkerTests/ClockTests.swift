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

    @Test func underLoadItWaitsForMoreAtATimeAndNotForLong() throws {
        var bench = Bench(minimumWaitMicroseconds: 100)
        let datagram = Packets.udp(pod(3), pod(1), payload: [UInt8](repeating: 7, count: 1392))
        for _ in 0..<4 {
            bench.fromPeer(3, (0..<20).flatMap { _ in datagram }, segmentBytes: datagram.count)
        }
        bench.run(rounds: 1)
        bench.kernel.waits = []
        bench.run(rounds: 1)
        let wait = try #require(bench.kernel.waits.first)
        let gathered = try WorkerLimits(Tuning()).gatheredCompletions
        // Beside the writes, which end in the same enter.
        #expect(wait.timeoutMicroseconds == 100)
        #expect(wait.wanted == bench.kernel.written.count + gathered)
        bench.run(rounds: 4)
        // At rest it sleeps until something comes, whatever it is.
        let last = try #require(bench.kernel.waits.last)
        #expect(last.timeoutMicroseconds < 0 && last.wanted == 1)
    }

    @Test func errorsAreAsManyAsTheirRateAllows() {
        var replies = ErrorReplies()
        func admitted(of tries: Int, atMilliseconds now: Int, _ replies: inout ErrorReplies) -> Int {
            (0..<tries).filter { _ in replies.admit(atNanoseconds: now * 1_000_000) }.count
        }
        let atOnce = admitted(of: 200, atMilliseconds: 5000, &replies)
        #expect(atOnce == WorkerLimits.errorBurst)
        for millisecond in 1...100 {
            let next = admitted(of: 3, atMilliseconds: 5000 + millisecond, &replies)
            #expect(next == 1)
        }
        let afterAPause = admitted(of: 200, atMilliseconds: 60_000, &replies)
        #expect(afterAPause == WorkerLimits.errorBurst)
    }

    @Test func errorsToPodsAreLimitedInTime() {
        var bench = Bench()
        let began = bench.kernel.nowNanoseconds
        for round in 0..<400 {
            for _ in 0..<4 { bench.fromPod(Packets.udp(pod(1), pod(200), payload: [UInt8(round & 0xFF)])) }
            bench.run(rounds: 1)
        }
        bench.drain()
        let milliseconds = (bench.kernel.nowNanoseconds - began) / 1_000_000
        let most = WorkerLimits.errorBurst + milliseconds * WorkerLimits.errorsPerSecond / 1000 + 1
        #expect(Int(bench.counters[.unreachablesSent]) <= most)
        #expect(Int(bench.counters[.unreachablesSent]) >= WorkerLimits.errorBurst)
        #expect(bench.counters[.dropOutboundNoRoute] == 1600)
    }

    @Test func whatOthersTakeOfTheProcessorIsNotTheRoundsTime() {
        var bench = Bench()
        let kernel = bench.kernel
        kernel.nanosecondsPerYield = 100_000
        // Short rounds of bulk, which yield and never sleep.
        bench.worker.shortRoundsUntilNanoseconds = .max
        var bulk = BulkTraffic()
        bulk.fill(&bench)
        bench.run(rounds: 10)
        let began = (kernel.nowNanoseconds, kernel.yields, Int(bench.counters[.roundTime].sum))
        bench.run(rounds: 100)
        let yields = kernel.yields - began.1
        let elapsed = kernel.nowNanoseconds - began.0
        let counted = Int(bench.counters[.roundTime].sum) - began.2
        #expect(yields > 5)
        #expect(counted > 0 && counted <= elapsed - yields * kernel.nanosecondsPerYield)
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
