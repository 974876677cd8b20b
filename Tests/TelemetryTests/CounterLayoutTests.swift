import Testing

@testable import Counters

/// The cells of a block and the names of counters, held to the cases.
@Suite struct CounterLayoutTests {
    @Test func everyCellIsItsOwn() {
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        for (index, counter) in Counter.allCases.enumerated() { block.set(counter, 1000 + index) }
        for (index, gauge) in CounterGauge.allCases.enumerated() { block.set(gauge, 2000 + index) }
        for (index, histogram) in CounterHistogram.allCases.enumerated() {
            // One observation in each bucket, and as many more in the first as tell this histogram from the others.
            for exponent in 0..<histogram.bucketCount {
                block.record(histogram, 1 << (histogram.firstExponent + exponent))
            }
            for _ in 0..<index { block.record(histogram, 1) }
            #expect(histogram.bucketCount <= CounterHistogram.bucketLimit)
        }
        for (index, counter) in Counter.allCases.enumerated() {
            #expect(block[counter] == 1000 + UInt64(index))
        }
        for (index, gauge) in CounterGauge.allCases.enumerated() {
            #expect(block[gauge] == 2000 + UInt64(index))
        }
        for (index, histogram) in CounterHistogram.allCases.enumerated() {
            var expected = [UInt64](repeating: 1, count: histogram.bucketCount)
            expected[0] += UInt64(index)
            #expect(block[histogram].counts == expected)
            let sum = (0..<histogram.bucketCount).reduce(0) { $0 + 1 << (histogram.firstExponent + $1) }
            #expect(block[histogram].sum == UInt64(sum + index))
        }
    }

    @Test func dropsAreNamedDropsAndFallbacksFallbacks() {
        for counter in Counter.allCases {
            #expect(counter.isDrop == counter.name.hasPrefix("drop_"))
            #expect(counter.isFallback == counter.name.hasSuffix("_fallbacks"))
        }
    }

    @Test func noTwoCountersShareAName() {
        #expect(Set(Counter.allCases.map(\.name)).count == Counter.allCases.count)
        for counter in Counter.allCases {
            #expect(counter.name.allSatisfy { $0 == "_" || ("a"..."z").contains($0) })
        }
    }

    /// Names are public: what scrapes them breaks where one changes.
    @Test func someNamesAsTheyHaveBeen() {
        #expect(Counter.outboundPassed.name == "outbound_passed")
        #expect(Counter.dropInboundHeaderChecksum.name == "drop_inbound_header_checksum")
        #expect(Counter.mergedWriteFallbacks.name == "merged_write_fallbacks")
    }
}
