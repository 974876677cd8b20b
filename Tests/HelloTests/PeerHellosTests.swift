import Addresses
import Hello
import Seeded
import Testing

/// Nodes of one network in simulated time: what they send arrives `delay` milliseconds later, unless it is lost.
private struct Network {
    struct Node {
        var hellos: PeerHellos
        /// Whether its kernel path takes datagrams in; nil for a flannel, or a twill of before the kernel path.
        var receives: Bool?
        /// Until when each peer is able, as the kernel path goes by.
        var grants: [Endpoint: Int] = [:]

    }

    private struct Flight {
        var at: Int
        var message: HelloMessage
        var from: Endpoint
        var to: Endpoint
    }

    var now = 0
    var delay = 3
    /// Whether what goes from one node to another arrives.
    var arrives: (Endpoint, Endpoint) -> Bool = { _, _ in true }
    var nodes: [Endpoint: Node] = [:]
    private var order: [Endpoint] = []
    private var flights: [Flight] = []
    private(set) var log: [(at: Int, from: Endpoint, to: Endpoint, message: HelloMessage)] = []

    static func endpoint(_ number: Int) -> Endpoint {
        Endpoint(address: IPv4Address("10.0.\(number / 250).\(number % 250 + 1)")!, port: 8285)
    }

    /// Node 0 is told of all others, and each of these of node 0 alone: what is asked here is about one node's peers.
    init(nodes count: Int, seed: UInt64 = 1, receives: (Int) -> Bool? = { _ in true }) {
        for number in 0..<count { start(number, seed: seed &+ UInt64(number), receives: receives(number)) }
        follow(count)
    }

    mutating func start(_ number: Int, seed: UInt64, receives: Bool?) {
        var random = SeededRandom(seed: seed)
        if !order.contains(Network.endpoint(number)) { order.append(Network.endpoint(number)) }
        nodes[Network.endpoint(number)] = Node(hellos: PeerHellos { random.next() }, receives: receives)
    }

    mutating func follow(_ count: Int) {
        for number in 0..<count {
            let peers = number == 0 ? Array(1..<count) : [0]
            nodes[Network.endpoint(number)]?.hellos.follow(peers.map(Network.endpoint), at: now)
        }
    }

    /// Whether node `number` may send kernel-path datagrams to node `peer`.
    func isAble(_ peer: Int, at number: Int) -> Bool {
        (nodes[Network.endpoint(number)]?.grants[Network.endpoint(peer)] ?? .min) > now
    }

    func sent(by number: Int, to peer: Int? = nil, since: Int = 0) -> Int {
        log.filter {
            $0.from == Network.endpoint(number) && $0.at >= since
                && (peer == nil || $0.to == Network.endpoint(peer!))
        }.count
    }

    mutating func send(_ message: HelloMessage, from: Endpoint, to: Endpoint) {
        log.append((now, from, to, message))
        if arrives(from, to) { flights.append(Flight(at: now + delay, message: message, from: from, to: to)) }
    }

    private mutating func carryOut(_ actions: [PeerHellos.Action], at endpoint: Endpoint) {
        for action in actions {
            switch action {
            case .send(let message, let peer): send(message, from: endpoint, to: peer)
            case .allow(let peer, let duration):
                #expect((1...60_000).contains(duration))
                nodes[endpoint]?.grants[peer] = now + duration
            case .disallow(let peer): nodes[endpoint]?.grants[peer] = nil
            }
        }
    }

    /// Lets time go by, from event to event.
    mutating func run(_ milliseconds: Int) {
        let end = now + milliseconds
        while true {
            let dues = nodes.values.compactMap { $0.receives == nil ? nil : $0.hellos.due }
            let next = (dues + flights.map(\.at)).min().map { max($0, now) } ?? end
            guard next < end else { break }
            now = next
            let arrived = flights.filter { $0.at <= now }
            flights.removeAll { $0.at <= now }
            for flight in arrived {
                guard let receives = nodes[flight.to]?.receives else { continue }
                let actions =
                    nodes[flight.to]?.hellos.take(
                        flight.message, from: flight.from, at: now, receives: receives) ?? []
                carryOut(actions, at: flight.to)
            }
            for endpoint in order {
                guard let receives = nodes[endpoint]?.receives else { continue }
                carryOut(nodes[endpoint]?.hellos.turn(at: now, receives: receives) ?? [], at: endpoint)
            }
        }
        now = end
    }
}

@Suite struct PeerHellosTests {
    @Test func twoNodesAreAbleAfterOneRoundTripAndStaySo() {
        var network = Network(nodes: 2)
        network.run(10)
        #expect(network.isAble(1, at: 0) && network.isAble(0, at: 1))
        for _ in 0..<3_600 {
            network.run(1_000)
            #expect(network.isAble(1, at: 0) && network.isAble(0, at: 1))
        }
        // A question and an answer each way in two seconds, a little oftener by the lot.
        #expect((1_800...2_200).contains(network.sent(by: 0) / 2))
    }

    @Test func whoAnswersLateIsAbleToo() {
        var network = Network(nodes: 2)
        // More than a retry away: the answer to a question comes after the next was asked.
        network.delay = 200
        network.run(2_000)
        for _ in 0..<100 {
            network.run(500)
            #expect(network.isAble(1, at: 0))
        }
    }

    @Test func threeMissedAndTheRingCarriesAgain() {
        var network = Network(nodes: 2)
        network.run(10_000)
        network.nodes[Network.endpoint(1)]?.receives = nil
        let before = network.now
        network.run(HelloLimits.shortestInterval + 3 * HelloLimits.retry + HelloLimits.turn + 10)
        #expect(!network.isAble(1, at: 0))
        #expect((3...5).contains(network.sent(by: 0, to: 1, since: before)))
    }

    @Test func twoMissedAreNothing() {
        var network = Network(nodes: 2)
        network.run(10_000)
        let lost = network.now
        var dropped = 0
        var random = SeededRandom(seed: 5)
        // Of three in a row one arrives.
        network.arrives = { _, _ in
            dropped += 1
            return dropped % 3 == 0 || random.oneIn(2)
        }
        var able = 0
        for _ in 0..<600 {
            network.run(100)
            able += network.isAble(1, at: 0) ? 1 : 0
        }
        #expect(able > 500, "\(network.now - lost)")
    }

    @Test func whoNoLongerReceivesSaysSoWithItsNextAnswer() {
        var network = Network(nodes: 2)
        network.run(10_000)
        network.nodes[Network.endpoint(1)]?.receives = false
        let before = network.now
        network.run(HelloLimits.shortestInterval + 100)
        #expect(!network.isAble(1, at: 0))
        // And asks nobody itself.
        let questions = network.log.filter {
            $0.from == Network.endpoint(1) && $0.at >= before && $0.message.kind == .question
        }
        #expect(questions.isEmpty)
        network.nodes[Network.endpoint(1)]?.receives = true
        network.run(5_000)
        #expect(network.isAble(1, at: 0) && network.isAble(0, at: 1))
    }

    /// Fifteen datagrams in the first hour, then one an hour: what an old twill counts as too short.
    @Test func whoNeverAnswersIsLeftAlone() {
        var network = Network(nodes: 2) { $0 == 0 ? true : nil }
        network.run(3_600_000)
        #expect((12...16).contains(network.sent(by: 0)))
        network.run(24 * 3_600_000)
        #expect((12 + 22...16 + 29).contains(network.sent(by: 0)))
    }

    @Test func whoLearntItSinceIsAbleAtOnce() {
        var network = Network(nodes: 2) { $0 == 0 ? true : nil }
        network.run(5 * 3_600_000)
        network.start(1, seed: 77, receives: true)
        network.follow(2)
        network.run(1_100)
        #expect(network.isAble(1, at: 0) && network.isAble(0, at: 1))
    }

    /// Towards node 1 datagrams without a checksum are eaten, back they are not: neither is able, and neither sends any.
    @Test(arguments: [true, false])
    func aPathThatEatsThemMakesNobodyAble(bothWays: Bool) {
        var network = Network(nodes: 2)
        network.arrives = { from, _ in !bothWays && from == Network.endpoint(1) }
        for _ in 0..<600 {
            network.run(1_000)
            #expect(!network.isAble(1, at: 0) && !network.isAble(0, at: 1))
        }
    }

    @Test func answersThatNobodyAskedForMakeNobodyAble() {
        var network = Network(nodes: 2) { $0 == 0 ? true : nil }
        var random = SeededRandom(seed: 9)
        network.run(10)
        for _ in 0..<1_000 {
            network.send(
                HelloMessage(.answer, receives: true, number: random.next()), from: Network.endpoint(1),
                to: Network.endpoint(0))
            network.run(10)
            #expect(!network.isAble(1, at: 0))
        }
    }

    /// Who saw the number may send it from where he is, and not again: from another address it is nothing.
    @Test func anAnswerIsForItsQuestionAndItsPeer() {
        var random = SeededRandom(seed: 1)
        var hellos = PeerHellos { random.next() }
        let (peer, other) = (Network.endpoint(1), Network.endpoint(2))
        hellos.follow([peer, other], at: 0)
        let questions = hellos.turn(at: 0, receives: true).compactMap {
            if case .send(let message, to: peer) = $0 { message } else { nil }
        }
        #expect(questions.count == 1)
        let answer = HelloMessage(.answer, receives: true, number: questions[0].number)
        #expect(hellos.take(answer, from: other, at: 1, receives: true).isEmpty)
        #expect(hellos.take(answer, from: Network.endpoint(3), at: 1, receives: true).isEmpty)
        #expect(hellos.take(answer, from: peer, at: 1, receives: true).count == 1)
        #expect(hellos.take(answer, from: peer, at: 2, receives: true).isEmpty)
    }

    @Test func strangersAreNotAnswered() {
        var hellos = PeerHellos()
        hellos.follow([Network.endpoint(1)], at: 0)
        let question = HelloMessage(.question, receives: true, number: 4)
        #expect(hellos.take(question, from: Network.endpoint(2), at: 0, receives: true).isEmpty)
        let answer = PeerHellos.Action.send(
            HelloMessage(.answer, receives: true, number: 4), to: Network.endpoint(1))
        #expect(hellos.take(question, from: Network.endpoint(1), at: 0, receives: true) == [answer])
    }

    /// Somebody forges a peer's questions, 10,000 a second for a minute.
    @Test func aFloodOfQuestionsIsAnsweredInPart() {
        var random = SeededRandom(seed: 1)
        var hellos = PeerHellos { random.next() }
        hellos.follow([Network.endpoint(1)], at: 0)
        var answers = 0
        var questions = 0
        for now in 0..<60_000 {
            var actions: [PeerHellos.Action] = []
            for _ in 0..<10 {
                actions += hellos.take(
                    HelloMessage(.question, receives: true, number: 4), from: Network.endpoint(1), at: now,
                    receives: true)
            }
            actions += hellos.turn(at: now, receives: true)
            for case .send(let message, _) in actions {
                if message.kind == .answer { answers += 1 } else { questions += 1 }
            }
        }
        #expect(answers <= 60 * 500 + 100)
        #expect(questions <= 62)
    }

    /// A node with many peers, of which those answer that `answers` says.
    private struct Crowd {
        var hellos: PeerHellos
        var now = 0
        var grants: [Endpoint: Int] = [:]
        var questions = 0
        let answers: (Endpoint) -> Bool

        init(_ count: Int, seed: UInt64 = 1, answers: @escaping (Endpoint) -> Bool) {
            var random = SeededRandom(seed: seed)
            hellos = PeerHellos { random.next() }
            hellos.follow((1...count).map(Network.endpoint), at: 0)
            self.answers = answers
        }

        mutating func run(_ milliseconds: Int) {
            let end = now + milliseconds
            while now < end {
                for case .send(let question, let peer) in hellos.turn(at: now, receives: true) {
                    questions += 1
                    guard answers(peer) else { continue }
                    let answer = HelloMessage(.answer, receives: true, number: question.number)
                    for case .allow(_, let duration) in hellos.take(
                        answer, from: peer, at: now + 2, receives: true)
                    {
                        grants[peer] = now + 2 + duration
                    }
                }
                now += 10
            }
        }

        var ableCount: Int { grants.values.filter { $0 > now }.count }
    }

    /// The whole of a large network becomes able, stays so, and is asked no oftener than it may be.
    @Test(arguments: [300, 3_000])
    func manyPeersShareTheQuestions(count: Int) {
        var crowd = Crowd(count) { _ in true }
        crowd.run(40_000)
        #expect(crowd.ableCount == count)
        let before = crowd.questions
        for _ in 0..<40 {
            crowd.run(500)
            #expect(crowd.ableCount == count)
        }
        // A little oftener than in turn, by the lot.
        #expect(crowd.questions - before < 20 * HelloLimits.questionsPerSecond * 5 / 4)
    }

    /// Half of the peers are flannels: they do not keep those from being asked that answer.
    @Test func silentPeersAreInNobodysWay() {
        let flannels = Set((1...2_000).filter { $0 % 2 == 1 }.map(Network.endpoint))
        var crowd = Crowd(2_000) { !flannels.contains($0) }
        crowd.run(30_000)
        for _ in 0..<30 {
            crowd.run(1_000)
            #expect(crowd.ableCount == 1_000)
        }
    }

    @Test func whoIsNoPeerAnyMoreIsNotAskedAndWhoComesBackIs() {
        var network = Network(nodes: 3)
        network.run(5_000)
        network.follow(2)
        let left = network.now
        network.run(60_000)
        #expect(network.sent(by: 0, to: 2, since: left + 1) == 0)
        #expect(!network.isAble(2, at: 0) && network.isAble(1, at: 0))
        network.follow(3)
        network.run(200)
        #expect(network.isAble(2, at: 0))
    }

    @Test(arguments: 0..<6)
    func anySequenceOfEventsLeavesNobodyAbleForLongerThanHeSaidSo(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var network = Network(nodes: 6, seed: seed)
        var loss = 0
        var draw = SeededRandom(seed: seed &+ 99)
        for _ in 0..<400 {
            switch random.below(5) {
            case 0:
                network.nodes[Network.endpoint(1 + random.below(5))]?.receives =
                    [true, false, nil][random.below(3)]
            case 1:
                network.start(
                    1 + random.below(5), seed: random.next(), receives: random.oneIn(3) ? nil : true)
            case 2: network.follow(4 + random.below(3))
            case 3:
                loss = random.below(60)
                let share = loss
                var lot = draw
                network.arrives = { _, _ in !lot.chance(share) }
                draw = SeededRandom(seed: random.next())
            default: break
            }
            network.run(random.below(4_000))
        }
        network.arrives = { _, _ in true }
        for number in 1..<6 {
            network.nodes[Network.endpoint(number)]?.receives = number % 2 == 0 ? nil : true
        }
        network.follow(6)
        network.run(HelloLimits.shortestInterval + 1_000)
        #expect((1..<6).filter { network.isAble($0, at: 0) && $0 % 2 == 0 }.isEmpty)
        // Those who answer, and are left alone for as long as they did not, ask by themselves.
        network.run(10_000)
        #expect((1..<6).allSatisfy { network.isAble($0, at: 0) == ($0 % 2 == 1) })
    }
}
