// How it works. Beside `PeerHellos`, which decides who is asked when, this measures what is asked anyway: each question
// that was sent is remembered by its number until its answer has come, or until several more were sent. The number is
// drawn by lot, so that an answer counts once, for the question it repeats, and only from whom that went to.

import Addresses

/// What became of the questions to one peer.
public struct AnsweredHellos: Sendable, Equatable {
    /// Questions that were sent to it.
    public var asked: UInt64
    /// Of those, how many it answered.
    public var answered: UInt64
    /// The shortest of the last round trips (`PeerRoundTrips.remembered`), nanoseconds.
    public var roundTripNanoseconds: Int

    /// Makes one.
    public init(asked: UInt64, answered: UInt64, roundTripNanoseconds: Int) {
        self.asked = asked
        self.answered = answered
        self.roundTripNanoseconds = roundTripNanoseconds
    }
}

/// How soon each peer answers the questions that it is sent, and how many it leaves unanswered. It knows no socket and no
/// clock; times are nanoseconds of a clock that only goes forward.
public struct PeerRoundTrips {
    /// Of so many last answers the one that took shortest counts: some ten seconds' with up to a hundred peers. One in
    /// which a host was slow to run a program is not what a path takes.
    public static let remembered = 5
    /// So many questions to a peer may be under way, with `HelloLimits.retry` between them: an answer that comes within
    /// a second counts as one.
    static let underWay = 4

    private struct Peer {
        var asked: UInt64 = 0
        var answered: UInt64 = 0
        /// The last questions that are not answered, the oldest first.
        var questions: [(number: UInt64, askedAt: Int)] = []
        /// The last round trips, the oldest first, nanoseconds.
        var roundTrips: [Int] = []

        mutating func ask(_ number: UInt64, at now: Int) {
            asked += 1
            if questions.count == PeerRoundTrips.underWay { questions.removeFirst() }
            questions.append((number, now))
        }

        mutating func take(_ number: UInt64, at now: Int) {
            guard let index = questions.firstIndex(where: { $0.number == number }) else { return }
            answered += 1
            if roundTrips.count == PeerRoundTrips.remembered { roundTrips.removeFirst() }
            roundTrips.append(now &- questions.remove(at: index).askedAt)
        }
    }

    private var peers: [Endpoint: Peer] = [:]

    /// Makes one that knows of no question.
    public init() {}

    /// Forgets all peers but these.
    public mutating func follow(_ endpoints: some Sequence<Endpoint>) {
        let before = peers
        peers = [:]
        for endpoint in endpoints { if let peer = before[endpoint] { peers[endpoint] = peer } }
    }

    /// Takes note of a question that is sent to a peer now.
    public mutating func noteQuestion(_ number: UInt64, to endpoint: Endpoint, at now: Int) {
        peers[endpoint, default: Peer()].ask(number, at: now)
    }

    /// Takes note of an answer that came at `now`. One that repeats no question to its sender is nobody's.
    public mutating func noteAnswer(_ number: UInt64, from sender: Endpoint, at now: Int) {
        peers[sender]?.take(number, at: now)
    }

    /// What is known of each peer that has answered at all. Those that know no hellos (flannel) are not in it, nor those
    /// of which nothing was heard yet.
    public var answered: [Endpoint: AnsweredHellos] {
        peers.compactMapValues { peer in
            peer.roundTrips.min().map {
                AnsweredHellos(asked: peer.asked, answered: peer.answered, roundTripNanoseconds: $0)
            }
        }
    }
}
