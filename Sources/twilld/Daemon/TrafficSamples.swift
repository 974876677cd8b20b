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

    /// Takes a sample where the last is old enough.
    mutating func take(_ sample: @autoclosure () -> Sample, nowNanoseconds now: UInt64) {
        if let newer, now - newer.nanoseconds < TrafficSamples.intervalNanoseconds { return }
        older = newer
        newer = sample()
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
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
