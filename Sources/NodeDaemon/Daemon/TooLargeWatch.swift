import Health

/// Notices that packets keep being larger than the interface that they leave by carries. A few are lost until a path is
/// learnt; what goes on was not found by the routes, nor by probes, and somebody must be told.
struct TooLargeWatch {
    /// How long it goes on before it is told, and how long it must have ended before it is over.
    private static let patience = Duration.seconds(30)

    private var count: UInt64 = 0
    private var began: (time: ContinuousClock.Instant, count: UInt64)?
    private var last: ContinuousClock.Instant?

    /// Takes the count of a data plane, and says whether it grew.
    mutating func grew(to count: UInt64, at now: ContinuousClock.Instant) -> Bool {
        defer { self.count = count }
        if let last, now - last >= TooLargeWatch.patience { began = nil }
        // Counters begin at zero with each data plane.
        if count < self.count { began = nil }
        guard count > self.count else { return false }
        if began == nil { began = (now, self.count) }
        last = now
        return true
    }

    /// What is wrong; nil where nothing is.
    ///
    /// - Parameter interface: the underlay's name.
    func problem(interface: String, at now: ContinuousClock.Instant) -> Problem? {
        guard let began, let last, last - began.time >= TooLargeWatch.patience else { return nil }
        return Problem(
            .degraded,
            "packets to some peers are larger than the interface carries that they leave by, and are lost: "
                + "\(count &- began.count) in \((last - began.time).components.seconds) s",
            remedy:
                "look whether the peers are reached over \(interface) and what MTU that interface has; or set --mtu"
        )
    }
}
