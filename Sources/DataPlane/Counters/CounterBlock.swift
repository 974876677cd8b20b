import Synchronization

/// The counters of one worker: written by that worker's thread alone, read by anybody at any time.
///
/// A block is a reference to memory that `allocate` made and `deallocate` ends; copies refer to the same
/// memory. Additions are a relaxed load and a relaxed store (plain moves on x86-64 and arm64), which is
/// enough with one writer; a reader sees each counter whole, but not all counters of one instant.
/// Counters wrap at 2^64.
@frozen
public struct CounterBlock: @unchecked Sendable {
    // Three parts of one allocation. Each part's place follows from the number of cases before it, looked up once in
    // `allocate`: a case more, wherever it is put, moves the others and overlaps none.
    @usableFromInline let counters: UnsafeMutablePointer<Atomic<UInt64>>
    @usableFromInline let histograms: UnsafeMutablePointer<Atomic<UInt64>>
    @usableFromInline let gauges: UnsafeMutablePointer<Atomic<UInt64>>

    static let cellCount =
        Counter.allCases.count + CounterHistogram.allCases.count * CounterHistogram.cellCount
        + CounterGauge.allCases.count

    /// Makes a block of zeros.
    public static func allocate() -> CounterBlock {
        // In cache lines of its own (pairs of them, which x86-64 fetches together): its neighbour is another
        // worker's.
        let line = 128
        let bytes = (cellCount * MemoryLayout<Atomic<UInt64>>.stride + line - 1) / line * line
        let cells = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: line)
            .bindMemory(to: Atomic<UInt64>.self, capacity: cellCount)
        for index in 0..<cellCount { (cells + index).initialize(to: Atomic(0)) }
        return CounterBlock(cells: cells)
    }

    /// - Parameter cells: `cellCount` of them.
    private init(cells: UnsafeMutablePointer<Atomic<UInt64>>) {
        counters = cells
        histograms = counters + Counter.allCases.count
        gauges = histograms + CounterHistogram.allCases.count * CounterHistogram.cellCount
    }

    /// Frees the memory; neither the writer nor a reader may use the block any more.
    public func deallocate() {
        counters.deinitialize(count: CounterBlock.cellCount)
        counters.deallocate()
    }

    /// Adds to a counter. For the block's one writer.
    @inlinable @inline(__always)
    public func add(_ counter: Counter, _ amount: Int = 1) {
        CounterBlock.add(UInt64(truncatingIfNeeded: amount), to: counters + counter.rawValue)
    }

    /// Sets a counter that something else counts. For the block's one writer.
    @inlinable @inline(__always)
    public func set(_ counter: Counter, _ value: Int) {
        counters[counter.rawValue].store(UInt64(truncatingIfNeeded: value), ordering: .relaxed)
    }

    /// Sets a gauge. For the block's one writer.
    @inlinable @inline(__always)
    public func set(_ gauge: CounterGauge, _ value: Int) {
        gauges[gauge.rawValue].store(UInt64(truncatingIfNeeded: value), ordering: .relaxed)
    }

    /// Takes one observation, over 0, into a histogram; others are not counted. For the block's one writer.
    @inlinable @inline(__always)
    public func record(_ histogram: CounterHistogram, _ value: Int) {
        guard value > 0 else { return }
        let first = histogram.firstCell
        CounterBlock.add(1, to: histograms + (first &+ histogram.bucket(of: value)))
        CounterBlock.add(
            UInt64(truncatingIfNeeded: value), to: histograms + (first &+ CounterHistogram.bucketLimit))
    }

    @inlinable @inline(__always)
    static func add(_ amount: UInt64, to cell: UnsafeMutablePointer<Atomic<UInt64>>) {
        let value = cell.pointee.load(ordering: .relaxed)
        cell.pointee.store(value &+ amount, ordering: .relaxed)
    }

    /// The counter's value now.
    public subscript(_ counter: Counter) -> UInt64 { counters[counter.rawValue].load(ordering: .relaxed) }

    /// The gauge's value now.
    public subscript(_ gauge: CounterGauge) -> UInt64 { gauges[gauge.rawValue].load(ordering: .relaxed) }

    /// The histogram now.
    public subscript(_ histogram: CounterHistogram) -> HistogramTotals {
        let first = histogram.firstCell
        var totals = HistogramTotals(histogram)
        for index in totals.counts.indices {
            totals.counts[index] = histograms[first + index].load(ordering: .relaxed)
        }
        totals.sum = histograms[first + CounterHistogram.bucketLimit].load(ordering: .relaxed)
        return totals
    }
}

/// What all workers have counted, at about one instant.
public struct CounterTotals: Sendable {
    private var values = [UInt64](repeating: 0, count: Counter.allCases.count)
    private var histograms = CounterHistogram.allCases.map { HistogramTotals($0) }
    private var gauges = [UInt64](repeating: 0, count: CounterGauge.allCases.count)

    /// Sums the blocks of all workers, and what was counted before them.
    public init(_ blocks: [CounterBlock], beside before: CounterTotals? = nil) {
        if let before {
            values = before.values
            histograms = before.histograms
        }
        for block in blocks {
            for counter in Counter.allCases { values[counter.rawValue] &+= block[counter] }
            for histogram in CounterHistogram.allCases {
                histograms[histogram.rawValue].add(block[histogram])
            }
            for gauge in CounterGauge.allCases { gauges[gauge.rawValue] &+= block[gauge] }
        }
    }

    /// What whoever goes on with the counting adds to its own: fallbacks, and what only stands at a level, it finds out
    /// for itself.
    public var carried: CounterTotals {
        var totals = CounterTotals([])
        for counter in Counter.allCases where !counter.isFallback {
            totals.values[counter.rawValue] = self[counter]
        }
        totals.histograms = histograms
        return totals
    }

    /// The counters that are not 0, by their names, for another process.
    public var named: [String: UInt64] {
        var named: [String: UInt64] = [:]
        for counter in Counter.allCases where self[counter] > 0 { named[counter.name] = self[counter] }
        return named
    }

    /// The histograms, by their names: the observations in each bucket, and then the sum of all.
    public var namedHistograms: [String: [UInt64]] {
        Dictionary(
            uniqueKeysWithValues: CounterHistogram.allCases.map {
                ($0.name, self[$0].counts + [self[$0].sum])
            })
    }

    /// Goes on with what another process counted. What it counted by other names, or in other buckets, is left out.
    public init(named: [String: UInt64], histograms namedHistograms: [String: [UInt64]]) {
        for counter in Counter.allCases { values[counter.rawValue] = named[counter.name] ?? 0 }
        for histogram in CounterHistogram.allCases {
            guard let numbers = namedHistograms[histogram.name],
                numbers.count == histograms[histogram.rawValue].counts.count + 1
            else { continue }
            histograms[histogram.rawValue].counts = Array(numbers.dropLast())
            histograms[histogram.rawValue].sum = numbers[numbers.count - 1]
        }
    }

    /// The sum of a counter.
    public subscript(_ counter: Counter) -> UInt64 { values[counter.rawValue] }

    /// The sums of a histogram.
    public subscript(_ histogram: CounterHistogram) -> HistogramTotals { histograms[histogram.rawValue] }

    /// The sum of a gauge.
    public subscript(_ gauge: CounterGauge) -> UInt64 { gauges[gauge.rawValue] }
}
