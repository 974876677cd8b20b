import Health
import LeaseTesting
import Leases
import Testing

private let hour = Duration.seconds(3_600)

@Suite("K5: who this node is, by evidence")
struct IdentityEvidenceTests {
    @Test("the identity lost, subnet.env and address kept: the subnet stays, and the lease is this node's")
    func identityLost() {
        let simulation = Simulation(seed: 201)
        let before = simulation.addNode("198.18.9.2")
        let other = simulation.addNode("198.18.9.3")
        simulation.run(for: .seconds(5))
        let subnet = before.subnet!
        before.isStopped = true
        let problem = Problem(.degraded, "the identity was damaged", remedy: "nothing")
        let again = simulation.addNode("198.18.9.2", identity: 77, previous: subnet, identityProblem: problem)
        simulation.run(for: .seconds(5))
        #expect(again.subnet == subnet)
        #expect(simulation.entries[subnet]?.holder == again.identity)
        #expect(other.table.peers.map(\.subnet.key) == [subnet])
        #expect(again.table.conditions[Component(.identity)] == problem)
        #expect(again.count(.addressAnnouncedByAnother) == 0)
        #expect(again.count(.leaseSkipped) == 0)
        simulation.run(for: .seconds(120))
        #expect(again.table.problems == [])
        #expect(simulation.entries.count == 2)
    }

    @Test(
        "a write of the run before arrives after its end: the subnet stays, the identity lost or not",
        arguments: [1, 77] as [UInt32])
    func lateWriteOfTheRunBefore(identity: UInt32) {
        // With some, the watch tells of the write before the store refuses this node's own; with others after it.
        for seed in UInt64(205)..<225 {
            let simulation = Simulation(seed: seed)
            let before = simulation.addNode("198.18.9.2", identity: 1)
            simulation.run(for: .seconds(5))
            let subnet = before.subnet!
            let value = simulation.entries[subnet]!.value
            before.isStopped = true
            simulation.remove(subnet)
            let again = simulation.addNode("198.18.9.2", identity: identity, previous: subnet)
            for _ in 0..<1_000 where again.count(.leaseDecision) == 0 {
                simulation.run(for: .milliseconds(1))
            }
            simulation.put(subnet, value, holder: 1, timeToLive: .seconds(86_400))
            simulation.run(for: .seconds(5))
            #expect(again.subnet == subnet)
            #expect(
                simulation.entries.count == 1 && simulation.entries[subnet]?.holder == again.identity)
        }
    }

    @Test("no subnet.env, or one of another subnet, or another address: no evidence, the lease is left alone")
    func noEvidence() {
        for (address, previous) in [
            ("198.18.9.2", nil), ("198.18.9.2", "10.66.77.0-24"), ("198.18.9.4", "same"),
        ] {
            let simulation = Simulation(seed: 202)
            let before = simulation.addNode("198.18.9.2")
            simulation.run(for: .seconds(5))
            before.isStopped = true
            let again = simulation.addNode(
                address, identity: 77, previous: previous == "same" ? before.subnet : previous)
            simulation.run(for: .seconds(5))
            #expect(again.subnet != nil && again.subnet != before.subnet)
            #expect(simulation.entries[before.subnet!]?.holder == before.identity)
        }
    }

    @Test(
        "the former self turns out to live: it takes its lease back, the other one yields, and both stay so")
    func formerSelfLives() {
        let simulation = Simulation(seed: 203)
        let first = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let subnet = first.subnet!
        let second = simulation.addNode("198.18.9.2", identity: 77, previous: subnet)
        simulation.run(for: .seconds(20))
        #expect(first.subnet == subnet)
        #expect(second.subnet != nil && second.subnet != subnet)
        #expect(simulation.entries[subnet]?.holder == first.identity)
        let reports = first.reports.count + second.reports.count
        simulation.run(for: hour * 12)
        #expect(first.subnet == subnet && second.subnet != subnet)
        #expect(first.reports.count + second.reports.count - reports < 10)
        #expect(second.table.problems.contains { $0.contains("announces this node's address") })
    }

    @Test(
        "a copied state directory: the copy takes another identity and another subnet, the original keeps its own"
    )
    func copiedDirectory() {
        let simulation = Simulation(seed: 204)
        let original = simulation.addNode("198.18.9.2", identity: 42)
        simulation.run(for: .seconds(5))
        let subnet = original.subnet!
        let copy = simulation.addNode("198.18.9.3", identity: 42, previous: subnet)
        simulation.run(for: .seconds(20))
        #expect(original.subnet == subnet && original.identity.number == 42)
        #expect(copy.subnet != nil && copy.subnet != subnet)
        #expect(copy.identity.number != 42)
        #expect(original.table.peers.map(\.subnet.key) == [copy.subnet!])
        #expect(copy.table.peers.map(\.subnet.key) == [subnet])
        for (node, other) in [(original, "198.18.9.3"), (copy, "198.18.9.2")] {
            let problem = node.table.conditions[Component(.identity)]
            #expect(problem?.cause.contains(other) == true, "\(node.table.problems)")
        }
        #expect(original.table.conditions[Component(.identity)]?.cause.contains("198.18.9.2") == true)
        simulation.run(for: hour * 48)
        #expect(original.subnet == subnet && copy.identity.number != 42)
        #expect(original.table.problems == [] && copy.table.problems == [])
        #expect(simulation.entries.count == 2)
    }

    @Test(
        "copies that start at once: each gets a subnet of its own, whoever comes first",
        arguments: 0..<10 as Range<UInt64>)
    func copiesStartTogether(seed: UInt64) {
        let simulation = Simulation(seed: 300 + seed)
        for number in 1...3 { simulation.addNode("198.18.9.\(number)", identity: 42) }
        simulation.run(for: .seconds(1_200))
        #expect(Set(simulation.nodes.compactMap(\.subnet)).count == 3)
        #expect(Set(simulation.nodes.map(\.identity)).count == 3)
        for node in simulation.nodes { #expect(node.table.peers.count == 2) }
        let subnets = simulation.nodes.map(\.subnet)
        let requests = simulation.requests.count
        simulation.run(for: hour * 12)
        #expect(simulation.nodes.map(\.subnet) == subnets)
        #expect(simulation.requests.count - requests < 3 * 12 * 6 * 2 + 50)
    }

    @Test("a copy that never yields (an older twill): the entry is not fought over")
    func copyThatNeverYields() {
        let simulation = Simulation(seed: 205)
        let original = simulation.addNode("198.18.9.2", identity: 42)
        simulation.run(for: .seconds(5))
        let subnet = original.subnet!
        let requests = simulation.requests.count
        for _ in 0..<3_600 {
            if simulation.entries[subnet]?.value.contains("198.18.9.3") != true {
                simulation.put(
                    subnet, #"{"PublicIP":"198.18.9.3","PublicIPv6":null}"#, holder: 42, timeToLive: hour * 24
                )
            }
            simulation.run(for: .seconds(1))
        }
        #expect(original.subnet == subnet)
        #expect(original.table.conditions[Component(.identity)] != nil)
        #expect(simulation.requests.count - requests < 60)
    }

    @Test("the same node with another address, also across a store that was restored to before, is no copy")
    func addressChanges() {
        let simulation = Simulation(seed: 206)
        let node = simulation.addNode("198.18.9.2", identity: 42)
        simulation.run(for: .seconds(5))
        let subnet = node.subnet!
        let backup = simulation.backup
        node.isStopped = true
        let again = simulation.addNode("198.18.9.3", identity: 42, previous: subnet)
        simulation.run(for: .seconds(5))
        again.announce("198.18.9.4")
        again.announce("198.18.9.5")
        simulation.run(for: .seconds(5))
        #expect(simulation.entries[subnet]?.value.contains("198.18.9.5") == true)
        simulation.restore(backup)
        simulation.run(for: .seconds(30))
        #expect(again.subnet == subnet && again.identity.number == 42)
        #expect(simulation.entries[subnet]?.value.contains("198.18.9.5") == true)
        #expect(again.table.problems == [])
    }

    @Test("flanneld's lease is taken over without a line about an own address")
    func nothingSkippedOnTheWay() {
        let simulation = Simulation(seed: 207)
        simulation.put("10.66.28.0-24", #"{"PublicIP":"198.18.9.2"}"#, timeToLive: hour)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        #expect(node.subnet == "10.66.28.0-24")
        #expect(node.count(.leaseSkipped) == 0)
    }
}
