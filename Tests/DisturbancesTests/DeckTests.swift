import Seeded
import Testing

@testable import Disturbances

@Suite struct DeckTests {
    private func cards(_ count: Int, seed: UInt64, nodes: Int = 3) -> [DisturbanceDeck.Card] {
        var deck = DisturbanceDeck(seed: seed, nodes: nodes)
        return (0..<count).map { _ in deck.next() }
    }

    @Test func aSeedHasOneOrderOfCards() {
        let (one, other) = (cards(200, seed: 7), cards(200, seed: 7))
        #expect(one.map(\.disturbance) == other.map(\.disturbance))
        #expect(one.map(\.isAwaited) == other.map(\.isAwaited))
        #expect(one.map(\.disturbance) != cards(200, seed: 8).map(\.disturbance))
    }

    @Test func everyKindComesOnceBeforeOneComesAgain() {
        let kinds = Disturbance.Kind.allCases.count
        let cards = cards(3 * kinds, seed: 3)
        for first in stride(from: 0, to: cards.count, by: kinds) {
            #expect(Set(cards[first..<first + kinds].map(\.kind)).count == kinds)
        }
    }

    @Test func theFirstNodesDaemonIsNeverEnded() {
        for card in cards(2_000, seed: 11, nodes: 4) {
            switch card.disturbance {
            case .daemonKilled(let node, _), .daemonRestarted(let node), .daemonTakenOver(let node),
                .daemonCrashes(let node), .successorKilled(let node, _), .nodeReplaced(let node),
                .nodeLeavesAndJoins(let node):
                #expect((2...4).contains(node))
            default: break
            }
        }
    }

    @Test func threeQuartersAreWaitedFor() {
        let awaited = cards(4_000, seed: 5).count { $0.isAwaited }
        #expect((2_800...3_200).contains(awaited))
    }

    /// What a card's dice are used for changes no later card.
    @Test func dependentDrawsAreACardsOwn() {
        var network = DisturbedNetwork(nodes: 3)
        var deck = DisturbanceDeck(seed: 9, nodes: 3)
        for expected in cards(60, seed: 9) {
            var card = deck.next()
            #expect(card.disturbance == expected.disturbance)
            _ = network.addForeign(card.number % 7, &card.dice)
            _ = network.moveForeign(&card.dice)
            _ = network.removeForeign(&card.dice)
        }
        #expect(!network.foreign.isEmpty)
    }

    @Test func aDifferenceNamesWhatIsMissingAndWhatIsTooMuch() {
        #expect(DisturbedNetwork.difference(expected: ["a", "b"], actual: ["b", "a"]) == nil)
        #expect(
            DisturbedNetwork.difference(expected: ["a", "b", "b"], actual: ["b", "c"])
                == "missing: a; missing: b; there is: c")
    }

    @Test func noMoreThanAThirdOfThePeersGoAtOnce() {
        var dice = SeededRandom(seed: 1)
        for _ in 0..<50 {
            var network = DisturbedNetwork(nodes: 3)
            _ = network.addForeign(30, &dice)
            let known = network.foreign.count + 2
            #expect(network.removeForeign(&dice).count * 3 <= known)
        }
    }
}
