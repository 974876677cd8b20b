import Counters
import Testing
import Worker

@testable import NodeDaemon

@Suite struct TrafficSamplesTests {
    private func sample(_ packets: Int, seconds: UInt64) -> TrafficSamples.Sample {
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        block.add(.packetsSent, packets)
        return TrafficSamples.Sample(
            counters: CounterTotals([block]), peers: PeerTotals(), nanoseconds: seconds * 1_000_000_000)
    }

    @Test func ratesAreOverTwoSecondsAndMore() throws {
        var samples = TrafficSamples()
        #expect(samples.reference(nowNanoseconds: 10) == nil)
        for second in 1...10 as ClosedRange<UInt64> {
            if samples.isDue(nowNanoseconds: second * 1_000_000_000) {
                samples.take(sample(Int(second) * 100, seconds: second))
            }
            if second < 3 { #expect(samples.reference(nowNanoseconds: second * 1_000_000_000) == nil) }
        }
        // Samples of seconds 1, 3, 5, 7, 9 were kept: the last but one counts.
        let reference = try #require(samples.reference(nowNanoseconds: 10_000_000_000))
        #expect(reference.seconds == 3)
        #expect(reference.sample.counters[.packetsSent] == 700)
    }

    @Test func aFallbackIsNewsOnce() {
        var watch = FallbackWatch()
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        block.add(.packetsSent)
        #expect(watch.news(in: CounterTotals([block])) == [])
        block.add(.segmentationFallbacks)
        #expect(watch.news(in: CounterTotals([block])) == [.segmentationFallbacks])
        block.add(.segmentationFallbacks)
        #expect(watch.news(in: CounterTotals([block, block])) == [])
    }
}
