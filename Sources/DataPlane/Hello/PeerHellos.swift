// How it works. A node asks each peer whether it takes kernel-path datagrams in, and lets the kernel path have those that
// say so, each time for as long as it takes to ask anew and to miss three answers:
//
//   asked ── answered ──► able: asked anew after `interval`
//     │                     │ no answer: asked twice more, `retryMilliseconds` apart; then it is not able
//     │ no answer           ▼
//     └─ asked twice more ─► quiet: asked after 1 s, 2 s, … an hour; at once where the peer asks
//
// flannel and twills of before the kernel path never answer: they get 15 hellos in the first hour, and one an hour
// after that, which such a twill counts as too short. A peer that has learnt it since asks by itself.

import Addresses

/// The times and bounds of hellos, milliseconds unless said.
public enum HelloLimits {
    /// Between two questions to an able peer: a peer that no longer takes kernel-path datagrams in, and cannot say so,
    /// loses packets for so long and three retries at worst. It is a twill of before the kernel path then.
    public static let shortestInterval = 2_000
    /// With many peers the questions are so far apart that there are `questionsPerSecond`; but a grant of the kernel
    /// path is for a minute at most.
    public static let longestInterval = 50_000
    /// Questions a second to peers that answer, on the whole: some 0.1 % of a CPU, answers included.
    public static let questionsPerSecond = 50
    /// Between a question that is not answered and the next, three times: more than a round trip on any underlay that
    /// pods could bear.
    public static let retry = 250
    /// Questions in a row that are not answered before a peer is not able.
    public static let questionsUnanswered = 3
    /// How long a peer that never answered is left alone at first, and at most; twice as long each time.
    public static let quiet = 1_000
    /// See `quiet`: 24 datagrams a day.
    public static let longestQuiet = 3_600_000
    /// How soon a peer that is not able is asked once more because it asked: so many who forge its address make no more
    /// questions than that.
    public static let pauseBeforeAsking = 1_000
    /// Between two looks at who is to be asked: each goes over all peers, 0.2 ms with 10,000.
    public static let turn = 100
    /// Questions of one look, 400 a second: the first to each of 10,000 peers within 25 s.
    static let questionsPerTurn = 40
    /// How long nobody is asked where this node takes no kernel-path datagrams in.
    static let rest = 1_000
    /// Answers a second: those of 10,000 peers twice over.
    static let answersPerSecond = 500
    /// Answers at once.
    static let answersAtOnce = 100
}

/// The hellos of one node with all of its peers: what is to be sent, and which peers are able. It knows no socket and
/// no clock; times are milliseconds of a clock that only goes forward.
public struct PeerHellos {
    /// What is to be done.
    public enum Action: Sendable, Equatable {
        /// Send a hello.
        case send(HelloMessage, to: Endpoint)
        /// The peer is able for so long from now.
        case allow(Endpoint, milliseconds: Int)
        /// The peer is not able (any longer).
        case disallow(Endpoint)
    }

    private struct Peer {
        /// The numbers of the last two questions: the answer to the first may come after the second was asked.
        var numbers: (UInt64, UInt64) = (0, 0)
        var questionsAsked = 0
        /// Of those since the last answer.
        var unanswered = 0
        var askedAt = Int.min / 2
        var dueAt: Int
        var isAble = false
        /// How long it is left alone next.
        var quiet = HelloLimits.quiet
    }

    private var peers: [Endpoint: Peer] = [:]
    private var addresses: Set<IPAddress> = []
    private var tokens = HelloLimits.answersAtOnce
    private var tokensAt = 0
    private var nextTurn = Int.min
    private var drawNumber: () -> UInt64

    /// Makes one without peers.
    ///
    /// - Parameter drawNumber: gives the questions' numbers, which nobody else may guess.
    public init(drawNumber: @escaping () -> UInt64 = { UInt64.random(in: 0...UInt64.max) }) {
        self.drawNumber = drawNumber
    }

    /// How many peers are able.
    public var ableCount: Int { peers.values.reduce(0) { $0 + ($1.isAble ? 1 : 0) } }

    /// When `turn` has something to do, if no hello comes before; nil for never.
    public private(set) var due: Int?

    /// Knows these peers from here on, and no others.
    public mutating func follow(_ endpoints: some Sequence<Endpoint>, at now: Int) {
        let before = peers
        peers = [:]
        addresses = []
        for endpoint in endpoints {
            addresses.insert(endpoint.address)
            if peers[endpoint] == nil { peers[endpoint] = before[endpoint] ?? Peer(dueAt: now) }
        }
        due = peers.isEmpty ? nil : max(now, nextTurn)
    }

    /// Between two questions to a peer that answers.
    var interval: Int {
        min(
            max(HelloLimits.shortestInterval, peers.count &* 1000 / HelloLimits.questionsPerSecond),
            HelloLimits.longestInterval)
    }

    /// Asks who is to be asked now.
    ///
    /// - Parameter receives: whether this node takes kernel-path datagrams in. While it does not, it asks nobody.
    public mutating func turn(at now: Int, receives: Bool) -> [Action] {
        guard let due, now >= due else { return [] }
        nextTurn = now &+ HelloLimits.turn
        guard receives else {
            self.due = now &+ HelloLimits.rest
            return []
        }
        var actions: [Action] = []
        // Those that carry something first: what a long list of silent ones takes is not theirs.
        var waiting = peers.filter { $1.dueAt <= now }.sorted { $0.value.isAble && !$1.value.isAble }[...]
        for (endpoint, peer) in waiting.prefix(HelloLimits.questionsPerTurn) {
            var peer = peer
            if peer.isAble, peer.unanswered >= HelloLimits.questionsUnanswered {
                peer.isAble = false
                actions.append(.disallow(endpoint))
            }
            actions.append(.send(ask(&peer, at: now), to: endpoint))
            peers[endpoint] = peer
        }
        waiting = waiting.dropFirst(HelloLimits.questionsPerTurn)
        let earliest = waiting.isEmpty ? peers.values.lazy.map(\.dueAt).min() : now
        self.due = earliest.map { max($0, nextTurn) }
        return actions
    }

    private mutating func ask(_ peer: inout Peer, at now: Int) -> HelloMessage {
        peer.numbers = (drawNumber(), peer.numbers.0)
        peer.questionsAsked = min(peer.questionsAsked + 1, 2)
        peer.unanswered += 1
        peer.askedAt = now
        if peer.unanswered < HelloLimits.questionsUnanswered || peer.isAble {
            peer.dueAt = now &+ HelloLimits.retry
        } else {
            peer.dueAt = now &+ spread(peer.quiet)
            peer.quiet = min(peer.quiet &* 2, HelloLimits.longestQuiet)
        }
        return HelloMessage(.question, receives: true, number: peer.numbers.0)
    }

    /// Up to an eighth less, by lot: what many nodes began at once does not stay at once.
    private func spread(_ milliseconds: Int) -> Int {
        // checked: the remainder is below an eighth of what fits an Int.
        milliseconds &- Int(truncatingIfNeeded: drawNumber() % UInt64(max(milliseconds / 8, 1)))
    }

    /// Takes a hello.
    ///
    /// - Parameters:
    ///   - sender: its datagram's source.
    ///   - receives: whether this node takes kernel-path datagrams in.
    public mutating func take(
        _ message: HelloMessage, from sender: Endpoint, at now: Int, receives: Bool
    ) -> [Action] {
        guard addresses.contains(sender.address) else { return [] }
        switch message.kind {
        case .question:
            if var peer = peers[sender], !peer.isAble, message.receives {
                // It may have learnt it only now.
                peer.dueAt = min(peer.dueAt, max(now, peer.askedAt &+ HelloLimits.pauseBeforeAsking))
                peers[sender] = peer
                due = min(due ?? Int.max, max(peer.dueAt, nextTurn))
            }
            guard admitAnswer(at: now) else { return [] }
            return [.send(HelloMessage(.answer, receives: receives, number: message.number), to: sender)]
        case .answer:
            return takeAnswer(message, from: sender, at: now)
        }
    }

    private mutating func takeAnswer(_ message: HelloMessage, from sender: Endpoint, at now: Int) -> [Action]
    {
        guard var peer = peers[sender], peer.questionsAsked > 0,
            message.number == peer.numbers.0 || peer.questionsAsked > 1 && message.number == peer.numbers.1
        else { return [] }
        // Each question is answered once.
        peer.questionsAsked = 0
        peer.unanswered = 0
        defer { peers[sender] = peer }
        guard message.receives else {
            peer.dueAt = now &+ spread(peer.quiet)
            peer.quiet = min(peer.quiet &* 2, HelloLimits.longestQuiet)
            guard peer.isAble else { return [] }
            peer.isAble = false
            return [.disallow(sender)]
        }
        peer.isAble = true
        peer.quiet = HelloLimits.quiet
        peer.dueAt = now &+ spread(interval)
        let grant = interval &+ HelloLimits.questionsUnanswered &* HelloLimits.retry &+ HelloLimits.turn
        return [.allow(sender, milliseconds: grant)]
    }

    private mutating func admitAnswer(at now: Int) -> Bool {
        let refill = (now &- tokensAt) &* HelloLimits.answersPerSecond / 1000
        if refill > 0 {
            tokens = min(tokens &+ refill, HelloLimits.answersAtOnce)
            tokensAt = now
        }
        guard tokens > 0 else { return false }
        tokens -= 1
        return true
    }
}
