import Health

/// How often the packet threads ended by themselves of late, and how long the next start is put off.
struct RestartWatch {
    /// What counts.
    private static let window = Duration.seconds(600)
    /// So many in the window are a problem.
    private static let tooMany = 3
    /// The longest pause before a start, in seconds; it doubles from 1, after a first start at once.
    private static let pauseLimitSeconds = 30

    private var ends: [(time: ContinuousClock.Instant, reason: String)] = []

    /// Notes an end; gives the seconds to wait before the next start.
    mutating func record(_ reason: String, now: ContinuousClock.Instant) -> Int {
        forget(before: now)
        ends.append((now, reason))
        // A shift by more than 5 is over the limit anyway.
        return ends.count == 1 ? 0 : min(RestartWatch.pauseLimitSeconds, 1 << min(ends.count - 2, 5))
    }

    /// What is wrong at `now`; nil where the threads ended seldom or never.
    mutating func problem(now: ContinuousClock.Instant) -> Problem? {
        forget(before: now)
        guard ends.count >= RestartWatch.tooMany, let last = ends.last else { return nil }
        return Problem(
            .degraded,
            "the packet threads ended by themselves \(ends.count) times in the last ten minutes, the "
                + "last time by: "
                + "\(last.reason); packets are lost each time",
            remedy: "report it with the log")
    }

    private mutating func forget(before now: ContinuousClock.Instant) {
        ends.removeAll { now - $0.time > RestartWatch.window }
    }
}
