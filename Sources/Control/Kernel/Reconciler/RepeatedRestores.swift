import Health

/// Notices when something is put back again and again: then somebody else sets it too, and each loses packets to the
/// other meanwhile. Once is no news; a daemon that fights is.
struct RepeatedRestores {
    /// How far back is counted.
    private static let period = Duration.seconds(60)
    /// How many times in that period are a fight.
    private static let limit = 5

    private var times: [String: [ContinuousClock.Instant]] = [:]
    private var deviations: [String: String] = [:]

    /// Takes a restore in. What it was put back from is kept where it names somebody, until the period is over.
    mutating func note(_ item: String, _ deviation: String, now: ContinuousClock.Instant) {
        var recent = recent(item, now)
        // What was there in its place says more than that nothing was.
        if recent.isEmpty || deviation != "missing" { deviations[item] = deviation }
        recent.append(now)
        times[item] = recent.suffix(1000)
    }

    /// What is wrong with an item for having been put back so often; nil where it was not.
    mutating func problem(of item: String, now: ContinuousClock.Instant) -> Problem? {
        guard times[item] != nil else { return nil }
        let recent = recent(item, now)
        times[item] = recent.isEmpty ? nil : recent
        guard recent.count >= RepeatedRestores.limit else { return nil }
        return Problem(
            .degraded,
            """
            \(item) is changed by somebody else again and again, and was put back \(RepeatedRestores.limit) times or more \
            within a minute; it was: \(deviations[item] ?? "changed")
            """,
            remedy:
                "find the program that does it (a routing daemon, NetworkManager, a script), and tell it to leave this alone"
        )
    }

    private func recent(_ item: String, _ now: ContinuousClock.Instant) -> [ContinuousClock.Instant] {
        (times[item] ?? []).filter { now - $0 < RepeatedRestores.period }
    }
}
