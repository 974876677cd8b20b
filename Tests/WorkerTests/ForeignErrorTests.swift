import Addresses
import CLinux
import Counters
import Engines
import Glibc
import Offload
import Testing

@testable import Worker

/// Errors that others cause: what they say of the packet at hand, and what they may cost.
@Suite struct ForeignErrorTests {
    /// What an ICMP message leaves on a connected socket (`__udp4_lib_err`, net/ipv4/udp.c).
    static let errorsOfMessages = [
        ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EPROTO, ENOPROTOOPT, EOPNOTSUPP, EHOSTDOWN, ENONET,
    ]

    @Test(arguments: errorsOfMessages)
    func anErrorThatWaitedOnTheSocketCostsNoPacket(error: Int32) {
        var bench = Bench()
        for index in 0..<40 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0])) }
        for _ in 0..<20 {
            // One at a time: what is sent again meets none.
            bench.kernel.pendingErrors = [error]
            bench.run(rounds: 6)
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: [99, 0, 0]))
        }
        bench.kernel.pendingErrors = []
        bench.drain()
        #expect(bench.kernel.sent.count == 60)
        #expect(bench.counters[.packetsSent] == 60)
        #expect(bench.counters[.resentAfterErrors] > 0)
        #expect(bench.counters[.segmentationFallbacks] == 0)
        for counter in Counter.allCases where counter.isDrop {
            #expect(bench.counters[counter] == 0, "\(counter)")
        }
    }

    @Test(arguments: [ECONNREFUSED, EMSGSIZE, EPROTO])
    func howeverManyAreForgedNothingIsSwitchedOff(error: Int32) {
        var bench = Bench()
        // Half of all sends meet one, so a quarter of the messages twice.
        bench.kernel.sendFailurePercent = 50
        bench.kernel.sendErrors = [error]
        for _ in 0..<100 {
            for index in 0..<100 {
                bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8(index), 0, 0]))
            }
            bench.run(rounds: 4)
        }
        bench.drain()
        #expect(bench.counters[.segmentationFallbacks] == 0)
        #expect(bench.worker.segmentLimit == 64)
    }

    @Test func aPathThatIsTooNarrowForMostIsNoEvidenceAgainstSegmentation() {
        var bench = Bench()
        bench.kernel.pathLimit = 1000
        for _ in 0..<400 {
            for _ in 0..<2 {
                bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8](repeating: 7, count: 1200)))
            }
            // Ends the message, and passes alone.
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: [UInt8](repeating: 7, count: 100)))
        }
        bench.drain()
        #expect(bench.kernel.sent.count == 400)
        #expect(bench.counters[.dropOutboundTooLarge] == 800)
        #expect(bench.counters[.segmentationFallbacks] == 0)
    }

    @Test func anErrorThatAnICMPMessageCanCauseIsNoEvidenceAgainstSegmentation() {
        var bench = Bench()
        bench.kernel.refusesSegmentation = true
        bench.kernel.segmentationError = EMSGSIZE
        for index in 0..<2000 {
            bench.fromPod(Packets.udp(pod(1), pod(3), payload: Packets.bytes(UInt32(index))))
        }
        bench.drain()
        // Every segment passed alone, which for another error would say that it is segmentation that fails.
        #expect(bench.kernel.sent.count == 2000)
        #expect(bench.counters[.replayedSegments] > UInt64(WorkerLimits.failedSegmentsBeforeFallback))
        #expect(bench.counters[.segmentationFallbacks] == 0)
        #expect(bench.worker.segmentLimit == 64)
    }

    @Test func segmentationThatWasGivenUpIsTriedAgain() {
        var bench = Bench()
        func feed(_ bench: inout Bench) {
            for index in 0..<600 {
                bench.fromPod(Packets.udp(pod(1), pod(3), payload: Packets.bytes(UInt32(index))))
            }
            bench.drain()
        }
        bench.kernel.refusesSegmentation = true
        feed(&bench)
        #expect(bench.worker.segmentLimit == 1)
        // It still does not go: that costs no packet, and is given up once more.
        let fellBack = bench.kernel.nowNanoseconds
        feed(&bench)
        #expect(bench.counters[.segmentationFallbacks] == 1)
        bench.kernel.nowNanoseconds = fellBack + WorkerLimits.offloadRestNanoseconds
        feed(&bench)
        #expect(bench.worker.segmentLimit == 1)
        #expect(bench.counters[.segmentationFallbacks] == 2)
        bench.kernel.refusesSegmentation = false
        // Twice as long as the first time.
        bench.kernel.nowNanoseconds += WorkerLimits.offloadRestNanoseconds
        bench.run()
        #expect(bench.worker.segmentLimit == 1)
        bench.kernel.nowNanoseconds += WorkerLimits.offloadRestNanoseconds
        let sends = bench.counters[.sends]
        feed(&bench)
        #expect(bench.worker.segmentLimit == 64)
        #expect(bench.counters[.sends] - sends < 100)
        #expect(bench.kernel.sent.count == 2400)
        #expect(bench.counters[.segmentationFallbacks] == 2)
    }

    @Test func aRestGrowsToAMinuteAndEndsOnce() {
        var rest = OffloadRest()
        let second = 1_000_000_000
        let isOverBefore = rest.isOver(atNanoseconds: .max - 1)
        #expect(!isOverBefore)
        for seconds in [10, 20, 40, 60, 60] {
            rest.begin(atNanoseconds: 5 * second)
            let end = (5 + seconds) * second
            let answers = [end - 1, end, end].map { rest.isOver(atNanoseconds: $0) }
            #expect(answers == [false, true, false])
        }
    }

    /// Gives the worker bundles of eight datagrams, the last one shorter.
    private func deliver(bundles: Int, to bench: inout Bench) {
        for bundle in 0..<bundles {
            var merged: [UInt8] = []
            for index in 0..<8 {
                merged += Packets.udp(
                    pod(3), pod(1), identification: UInt16(bundle * 8 + index),
                    payload: [UInt8](repeating: 7, count: index == 7 ? 20 : 100))
            }
            bench.fromPeer(3, merged, segmentBytes: 128)
            bench.run(rounds: 12)
        }
    }

    @Test func mergedWritesThatWereRefusedAreTriedAgain() {
        var bench = Bench()
        bench.kernel.refusesMergedWrites = true
        deliver(bundles: 40, to: &bench)
        #expect(bench.counters[.mergedWriteFallbacks] == 1)
        bench.kernel.refusesMergedWrites = false
        let writes = bench.kernel.written.count
        deliver(bundles: 5, to: &bench)
        #expect(bench.kernel.written.count == writes + 40)
        // Two kinds were refused, so the rest was begun twice.
        bench.kernel.nowNanoseconds += 2 * WorkerLimits.offloadRestNanoseconds
        deliver(bundles: 5, to: &bench)
        #expect(bench.kernel.written.count == writes + 45)
        #expect(bench.kernel.written.last?[1] != 0)
    }

    @Test func aPacketThatTheKernelHasNoHeaderForDoesNotHoldUpTheOthers() {
        var bench = Bench()
        bench.kernel.readErrors = [EINVAL, EINVAL]
        for _ in 0..<5 { bench.fromPod(Packets.udp(pod(1), pod(3), payload: [1])) }
        let began = bench.kernel.nowNanoseconds
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == 5)
        #expect(bench.kernel.nowNanoseconds - began < 1000 * WorkerRest.microseconds)
        #expect(bench.counters[.dropOutboundError] == 2)
    }
}
