import Counters
import Glibc
import Worker

/// What a data plane had counted a few seconds ago: what rates are computed from.
struct TrafficSamples {
    /// Rates are means over two to four seconds.
    private static let intervalNanoseconds: UInt64 = 2_000_000_000

    /// What was counted at one moment.
    struct Sample {
        var counters: CounterTotals
        var peers: PeerTotals
        var nanoseconds: UInt64
    }

    private var older: Sample?
    private var newer: Sample?

    /// Whether the last sample is old enough for another one.
    func isDue(nowNanoseconds now: UInt64) -> Bool {
        newer.map { now - $0.nanoseconds >= TrafficSamples.intervalNanoseconds } ?? true
    }

    /// Keeps a sample that is due.
    mutating func take(_ sample: Sample) {
        older = newer
        newer = sample
    }

    /// What `now` is compared with, and how many seconds before it that was; nil before the second sample.
    func reference(nowNanoseconds now: UInt64) -> (sample: Sample, seconds: Double)? {
        older.map { ($0, Double(now - $0.nanoseconds) / 1e9) }
    }
}

/// The clock that peers' packets are timed with.
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_nsec)
}
