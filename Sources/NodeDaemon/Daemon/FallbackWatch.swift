import Counters

/// Notices what a data plane's packet threads gave up for a slower way at run time: they count it, and can tell nobody.
struct FallbackWatch {
    private var told: Set<Counter> = []

    /// The fallbacks that were taken and not told of before: each once, however often it is counted.
    mutating func news(in totals: CounterTotals) -> [Counter] {
        Counter.allCases.filter { $0.isFallback && totals[$0] > 0 && told.insert($0).inserted }
    }
}
