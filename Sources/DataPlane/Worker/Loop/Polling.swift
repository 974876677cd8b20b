// How it works. After sparse traffic, a request that will be answered say, a worker may look again and again instead
// of sleeping, for as long as it was tuned to. Bulk traffic (super-packets, long batches) keeps the worker busy by
// itself, and needs the processor for the programs that it is for. So there is no polling for a while after a round
// of load, nor after a round of a few acknowledgements in the midst of it.

/// When a worker polls instead of sleeping.
struct Polling {
    private var endsNanoseconds = 0
    private var restsUntilNanoseconds = 0

    /// Whether it polls now.
    @inline(__always)
    func isDue(atNanoseconds now: Int) -> Bool { now < endsNanoseconds }

    /// Notes a round that brought packets.
    ///
    /// - Parameters:
    ///   - isLoad: whether they were many, or super-packets.
    ///   - duration: how long to poll after sparse ones, nanoseconds.
    @inline(__always)
    mutating func note(isLoad: Bool, duration: Int, atNanoseconds now: Int) {
        if isLoad { restsUntilNanoseconds = now &+ WorkerLimits.pollingRestNanoseconds }
        endsNanoseconds = now >= restsUntilNanoseconds ? now &+ duration : 0
    }
}
