import Testing

@testable import Counters

/// The cells of a block are numbered by arithmetic; here it is held to the cases.
@Suite struct CounterLayoutTests {
    @Test func noTwoCellsAreOne() {
        #expect(Counter.count == Counter.allCases.count)
        #expect(CounterHistogram.count == CounterHistogram.allCases.count)
        var cells = Counter.allCases.map(\.rawValue)
        for histogram in CounterHistogram.allCases {
            cells += histogram.firstCell..<histogram.firstCell + CounterHistogram.cellCount
            #expect(histogram.bucketCount <= CounterHistogram.bucketLimit)
        }
        cells += CounterGauge.allCases.map(\.cell)
        #expect(cells.sorted() == Array(0..<CounterBlock.cellCount))
    }

    @Test func dropsAreNamedDrops() {
        for counter in Counter.allCases { #expect(counter.isDrop == counter.name.hasPrefix("drop_")) }
    }
}
