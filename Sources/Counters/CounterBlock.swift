import Synchronization

/// The counters of one worker: written by that worker's thread alone, read by anybody at any time.
///
/// A block is a reference to memory that `allocate` made and `deallocate` ends; copies refer to the same
/// memory. Additions are a relaxed load and a relaxed store (plain moves on x86-64 and arm64), which is
/// enough with one writer; a reader sees each counter whole, but not all counters of one instant.
/// Counters wrap at 2^64.
@frozen
public struct CounterBlock: @unchecked Sendable {
    @usableFromInline let cells: UnsafeMutablePointer<Atomic<UInt64>>

    /// Buckets of a histogram: batch sizes 1, 2, 3–4, 5–8, …, 65 and more.
    public static let histogramBuckets = 8
    static let cellCount = Counter.allCases.count + CounterHistogram.allCases.count * histogramBuckets

    /// Makes a block of zeros.
    public static func allocate() -> CounterBlock {
        // In cache lines of its own (pairs of them, which x86-64 fetches together): its neighbour is another worker's.
        let line = 128
        let bytes = (cellCount * MemoryLayout<Atomic<UInt64>>.stride + line - 1) / line * line
        let cells = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: line)
            .bindMemory(to: Atomic<UInt64>.self, capacity: cellCount)
        for index in 0..<cellCount { (cells + index).initialize(to: Atomic(0)) }
        return CounterBlock(cells: cells)
    }

    @usableFromInline
    init(cells: UnsafeMutablePointer<Atomic<UInt64>>) { self.cells = cells }

    /// Frees the memory; neither the writer nor a reader may use the block any more.
    public func deallocate() {
        cells.deinitialize(count: CounterBlock.cellCount)
        cells.deallocate()
    }

    /// Adds to a counter. For the block's one writer.
    @inlinable @inline(__always)
    public func add(_ counter: Counter, _ amount: Int = 1) {
        addToCell(counter.rawValue, UInt64(truncatingIfNeeded: amount))
    }

    /// Sets a counter that something else counts. For the block's one writer.
    @inlinable @inline(__always)
    public func set(_ counter: Counter, _ value: Int) {
        cells[counter.rawValue].store(UInt64(truncatingIfNeeded: value), ordering: .relaxed)
    }

    /// Counts a batch of `size` in a histogram. For the block's one writer.
    @inlinable @inline(__always)
    public func record(_ histogram: CounterHistogram, size: Int) {
        guard size > 0 else { return }
        let bucket = min(Int.bitWidth - (size - 1).leadingZeroBitCount, CounterBlock.histogramBuckets - 1)
        addToCell(CounterHistogram.firstCell + histogram.rawValue * CounterBlock.histogramBuckets + bucket, 1)
    }

    @inlinable @inline(__always)
    func addToCell(_ index: Int, _ amount: UInt64) {
        let value = cells[index].load(ordering: .relaxed)
        cells[index].store(value &+ amount, ordering: .relaxed)
    }

    /// The counter's value now.
    public subscript(_ counter: Counter) -> UInt64 { cells[counter.rawValue].load(ordering: .relaxed) }

    /// The histogram's buckets now.
    public func buckets(_ histogram: CounterHistogram) -> [UInt64] {
        (0..<CounterBlock.histogramBuckets).map {
            cells[CounterHistogram.firstCell + histogram.rawValue * CounterBlock.histogramBuckets + $0]
                .load(ordering: .relaxed)
        }
    }
}

/// The histograms of a worker, in powers of two.
public enum CounterHistogram: Int, CaseIterable, Sendable {
    /// Packets read from the TUN device in one round.
    case readBatch
    /// Datagrams in one send.
    case sendBatch
    /// Datagrams in one receive.
    case receiveBatch
    /// Packets in one write to the TUN device.
    case writeBatch

    // A stored constant would be reached through an initializer that runs once, on the packet path.
    @inlinable @inline(__always)
    static var firstCell: Int { Counter.dropInboundError.rawValue &+ 1 }

    /// The name in text output.
    public var name: String {
        switch self {
        case .readBatch: "read_batch"
        case .sendBatch: "send_batch"
        case .receiveBatch: "receive_batch"
        case .writeBatch: "write_batch"
        }
    }
}

/// What all workers have counted, at about one instant.
public struct CounterTotals: Sendable {
    private var values = [UInt64](repeating: 0, count: Counter.allCases.count)
    private var histograms = [[UInt64]](
        repeating: [UInt64](repeating: 0, count: CounterBlock.histogramBuckets),
        count: CounterHistogram.allCases.count)

    /// Sums the blocks of all workers.
    public init(_ blocks: [CounterBlock]) {
        for block in blocks {
            for counter in Counter.allCases { values[counter.rawValue] &+= block[counter] }
            for histogram in CounterHistogram.allCases {
                for (index, count) in block.buckets(histogram).enumerated() {
                    histograms[histogram.rawValue][index] &+= count
                }
            }
        }
    }

    /// The sum of a counter.
    public subscript(_ counter: Counter) -> UInt64 { values[counter.rawValue] }

    /// The sums of a histogram's buckets: sizes 1, 2, 3–4, 5–8, …, 65 and more.
    public subscript(_ histogram: CounterHistogram) -> [UInt64] { histograms[histogram.rawValue] }
}
