import Addresses
import Seeded
import Testing

@testable import Hello

@Suite struct PeerRoundTripsTests {
    private let peer = Endpoint(address: IPv4Address("10.0.0.2")!, port: 8285)
    private let other = Endpoint(address: IPv4Address("10.0.0.3")!, port: 8285)

    @Test func oneThatNeverAnswersIsNotToldOf() {
        var roundTrips = PeerRoundTrips()
        for number in 0..<20 { roundTrips.noteQuestion(UInt64(number), to: peer, at: number) }
        #expect(roundTrips.answered.isEmpty)
    }

    @Test func theShortestOfTheLastCounts() {
        var roundTrips = PeerRoundTrips()
        for (number, time) in [70, 90, 80, 60, 95, 85, 75, 99].enumerated() {
            roundTrips.noteQuestion(UInt64(number), to: peer, at: 1_000 * number)
            roundTrips.noteAnswer(UInt64(number), from: peer, at: 1_000 * number + time)
        }
        #expect(
            roundTrips.answered == [peer: AnsweredHellos(asked: 8, answered: 8, roundTripNanoseconds: 60)])
        // What was short is forgotten once enough has come after it.
        roundTrips.noteQuestion(8, to: peer, at: 9_000)
        roundTrips.noteAnswer(8, from: peer, at: 9_090)
        #expect(roundTrips.answered[peer]?.roundTripNanoseconds == 75)
    }

    /// Each answer is that to its own question, though another was asked meanwhile.
    @Test func anAnswerAfterTheNextQuestionIsMeasuredFromItsOwn() {
        var roundTrips = PeerRoundTrips()
        roundTrips.noteQuestion(1, to: peer, at: 0)
        roundTrips.noteQuestion(2, to: peer, at: 250)
        roundTrips.noteAnswer(1, from: peer, at: 400)
        #expect(
            roundTrips.answered == [peer: AnsweredHellos(asked: 2, answered: 1, roundTripNanoseconds: 400)])
        roundTrips.noteAnswer(2, from: peer, at: 640)
        #expect(
            roundTrips.answered == [peer: AnsweredHellos(asked: 2, answered: 2, roundTripNanoseconds: 390)])
    }

    @Test func oneThatComesAfterSeveralMoreQuestionsIsLost() {
        var roundTrips = PeerRoundTrips()
        for number in 0...PeerRoundTrips.underWay {
            roundTrips.noteQuestion(UInt64(number), to: peer, at: number)
        }
        roundTrips.noteAnswer(0, from: peer, at: 100)
        #expect(roundTrips.answered.isEmpty)
        roundTrips.noteAnswer(1, from: peer, at: 100)
        #expect(roundTrips.answered[peer]?.answered == 1)
    }

    /// A wrong number, another's number, an answer said twice, and one of somebody who was not asked.
    @Test func forgedAnswersCountForNobody() {
        var roundTrips = PeerRoundTrips()
        roundTrips.noteQuestion(1, to: peer, at: 0)
        roundTrips.noteQuestion(2, to: other, at: 0)
        roundTrips.noteAnswer(3, from: peer, at: 1)
        roundTrips.noteAnswer(2, from: peer, at: 1)
        roundTrips.noteAnswer(1, from: other, at: 1)
        roundTrips.noteAnswer(1, from: Endpoint(address: peer.address, port: 99), at: 1)
        #expect(roundTrips.answered.isEmpty)
        roundTrips.noteAnswer(1, from: peer, at: 7)
        roundTrips.noteAnswer(1, from: peer, at: 8)
        #expect(roundTrips.answered == [peer: AnsweredHellos(asked: 1, answered: 1, roundTripNanoseconds: 7)])
    }

    @Test func whoIsNoPeerAnyMoreIsForgotten() {
        var roundTrips = PeerRoundTrips()
        for (number, endpoint) in [peer, other].enumerated() {
            roundTrips.noteQuestion(UInt64(number), to: endpoint, at: 0)
            roundTrips.noteAnswer(UInt64(number), from: endpoint, at: 5)
        }
        roundTrips.follow([other])
        #expect(Array(roundTrips.answered.keys) == [other])
    }

    /// What `PeerHellos` asks of a peer over a way that loses some, its retries included: of the questions those are
    /// unanswered that the way lost.
    @Test(arguments: [0, 10, 40]) func lossIsWhatTheWayLost(percent: Int) {
        var random = SeededRandom(seed: 3)
        var hellos = PeerHellos { random.next() }
        var lots = SeededRandom(seed: 4)
        var roundTrips = PeerRoundTrips()
        hellos.follow([peer], at: 0)
        var lost: UInt64 = 0
        var answers: [(at: Int, message: HelloMessage)] = []
        for now in 0..<600_000 {
            while let first = answers.first, first.at <= now {
                answers.removeFirst()
                roundTrips.noteAnswer(first.message.number, from: peer, at: first.at * 1_000_000)
                _ = hellos.take(first.message, from: peer, at: now, receives: true)
            }
            for case .send(let question, _) in hellos.turn(at: now, receives: true) {
                roundTrips.noteQuestion(question.number, to: peer, at: now * 1_000_000)
                if lots.next() % 100 < UInt64(percent) {
                    lost += 1
                } else {
                    answers.append((now + 3, HelloMessage(.answer, receives: true, number: question.number)))
                }
            }
        }
        let known = roundTrips.answered[peer]
        #expect(known?.roundTripNanoseconds == 3_000_000)
        #expect((known?.asked ?? 0) > 300)
        #expect((known?.asked ?? 0) - (known?.answered ?? 0) - UInt64(answers.count) == lost)
    }
}
