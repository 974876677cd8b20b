import Addresses

/// How long datagrams are taken in on the port that a node had before: other nodes hear of the new one within a second, and
/// those whose store does not answer, when it does again.
struct FormerPort {
    static let lifetime = Duration.seconds(60)

    private var known: (port: Endpoint, end: ContinuousClock.Instant)?

    /// Looks whether it is over; it stays so until another port follows, or there is none of before any more.
    ///
    /// - Parameters:
    ///   - port: the port that the node has now beside one of before; nil where it has none of before.
    ///   - now: the time of the look.
    mutating func isOver(besides port: Endpoint?, at now: ContinuousClock.Instant) -> Bool {
        guard let port else {
            known = nil
            return false
        }
        if let known, known.port == port { return known.end <= now }
        known = (port, now + FormerPort.lifetime)
        return false
    }
}
